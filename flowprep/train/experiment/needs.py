"""What rows need of a pipeline file and of its datasets, and what they do not leave to them."""

from __future__ import annotations

from typing import Any

from flowprep.config import STREAMS, StreamConfig
from flowprep.errors import UsageError
from flowprep.stacks.sources import MUST_AGREE
from flowprep.store.reader import Dataset

FIXED = {  # keys that follow from the row of a table
    "stream": [],
    "dataset": [],
    "output": [],
    "data": ["split", "whole", "also", "added", "leave_out"],
    "stack": ["kind", "length", "bidirectional", "mean_subtract"],
    "net": ["dropout", "weights"],
    "solver": ["regime"],
}
WEIGHTS = "train.spatial.net.weights"


def check_free(over: dict[str, Any]) -> None:
    """Raises UsageError for a key that rows set; weights may be given for the spatial network alone."""
    for stream, tree in (("", over), *((f"{stream}.", over.get(stream) or {}) for stream in STREAMS)):
        if not isinstance(tree, dict):
            raise UsageError(f"--set {stream[:-1]}={tree}: a section; give its keys, as in {stream}solver.batch=64.")
        for section, keys in FIXED.items():
            if section not in tree:
                continue
            given = tree[section] if isinstance(tree[section], dict) else {}
            for key in [key for key in keys if key in given] if keys else [""]:
                name = f"{stream}{section}.{key}".rstrip(".")
                if f"train.{name}" != WEIGHTS:
                    raise UsageError(f"--set {name}: the rows of the tables set that key.")


def check_stacks(dataset: Dataset, config: StreamConfig) -> None:
    """Raises UsageError where ``dataset`` has not the stacks that the temporal network of ``config`` reads."""
    if config.stream == "spatial":
        return
    stored, direction = dataset.settings.stack, dataset.settings.flow.direction
    for name in MUST_AGREE if stored else ():
        here, there = getattr(stored, name), getattr(config.stack, name)
        if here != there:
            raise UsageError(f"{dataset.path}: its stacks have {name} {here}, not {there}")
    if stored is None and config.stack.bidirectional and direction != "both":
        raise UsageError(
            f"{dataset.path} holds {direction} flow alone: extract with --direction both, or stack with "
            "--bidirectional, and name that dataset in experiment.bidirectional"
        )
