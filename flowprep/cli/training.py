"""What the commands of training have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import yaml

from flowprep.config import Stacking, StreamConfig, read_training, stream_config
from flowprep.errors import RefusedError, UsageError
from flowprep.schema import merged

MOST_SHOWN = 200  # characters of what cannot be read


frames_option = click.option(
    "--frames", default=25, show_default=True, metavar="N", help="Frames, or stacks, of a video."
)
crops_option = click.option(
    "--crops",
    type=click.Choice(["1", "2", "5", "10"]),
    default="10",
    show_default=True,
    help="Of each frame: the centre; that and its mirror image; the corners, too; all of them mirrored.",
)


def require_torch() -> None:
    """Raises RefusedError, saying how to install it, where PyTorch is missing."""
    if find_spec("torch") is None:
        raise RefusedError(
            "PyTorch is not installed, which training needs: in flowprep's folder, pip install '.[train]'."
        )


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """``("solver.batch=64", "data.scales=[1, 0.8]")`` as a tree of keys; values are YAML.

    Raises UsageError for anything else.
    """
    tree: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            raise UsageError(f"--set {text}: write SECTION.KEY=VALUE, for example --set solver.batch=64.")
        try:
            branch = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a day like 2000-13-01
            raise UsageError(
                f"--set {text[:MOST_SHOWN]}: the value is not valid YAML: {' '.join(str(error).split())}"
            ) from None
        for key in reversed(name.split(".")):
            branch = {key: branch}
        tree = merged(tree, branch)
    return tree


def stream_of(pipeline: str | None, stream: str, over: dict[str, Any]) -> StreamConfig:
    """The configuration of one stream from a pipeline file, if any, and the keys of the command line.

    What neither says of stacks is as in the dataset, if that is one of stacks.

    Raises UsageError for what is malformed, or names no dataset or no folder.
    """
    from flowprep.store.reader import Dataset

    tree = read_training(Path(pipeline)) if pipeline else {}
    for key, noun in (("dataset", "DATASET"), ("output", "RUN")):
        if not any(part.get(key) for part in (tree, tree.get(stream) or {}, over)):
            raise UsageError(f"no {key}: give {noun} on the command line, or train.{key} in a pipeline file.")
    where = pipeline or "command line"
    for part in (tree, tree.get(stream) or {}, over):
        if (other := part.get("stream") or stream) != stream:
            raise UsageError(f"{where}: stream is {other}, and --stream {stream}: give the same, or only --stream.")
    config = stream_config(tree, stream, where, over)
    stored = Dataset(config.dataset).settings.stack if stream == "temporal" else None
    if stored is None:
        return config
    stacking = Stacking(**{item.name: getattr(stored, item.name) for item in dataclasses.fields(Stacking)})
    return stream_config(tree, stream, where, over, stacking)


def weights_of(text: str | None) -> tuple[float, ...] | None:
    """``--weights "1,1.5"`` as numbers. Raises UsageError for anything else."""
    try:
        return tuple(float(number) for number in text.split(",")) if text is not None else None
    except ValueError:
        raise UsageError(f"--weights {text}: give numbers with commas between them, as in 1,1.5.") from None
