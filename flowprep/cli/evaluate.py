"""flowprep evaluate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowprep.cli.training import crops_option, frames_option

if TYPE_CHECKING:
    from flowprep.train.scores import Scores


@click.command("evaluate")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True, type=click.Path())
@click.argument("dataset", type=click.Path())
@click.option("--split", type=click.IntRange(1, 3), help="Split of the dataset. [default: the one trained on]")
@click.option("--part", default="test", show_default=True, help="Part of the split; --part '' takes every video.")
@frames_option
@crops_option
@click.option("-o", "--output", type=click.Path(), help="Folder for the scores. [default: beside the checkpoint]")
@click.option("--name", help="Of the scores, in files and tables; of one checkpoint. [default: its stream]")
@click.option(
    "--on-damage",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="Videos that are damaged or too short: stop, or leave them out and say so.",
)
@click.option("--device", default="", help="cpu, cuda or cuda:1. [default: a GPU where there is one]")
@click.option("--batch", default=250, show_default=True, metavar="N", help="Inputs at once on the device.")
@click.option("--workers", default=0, metavar="N", help="Threads that read ahead. [default: one a processor, up to 8]")
@click.option("-q", "--quiet", is_flag=True, help="No progress display; warnings are shown.")
def command(
    checkpoints: tuple[str, ...], dataset: str, output: str | None, name: str | None, quiet: bool, **given: Any
) -> None:
    """Score the videos of DATASET by the streams of CHECKPOINTs (checkpoint.pt, or the folder of a run).

    25 frames of each video, ten crops of each: the score of a video is the mean softmax of its 250 inputs. Scores are
    saved as NAME-split1-test.npz, for flowprep fuse and report.

    \b
    flowprep evaluate runs/spatial-split1 runs/temporal-split1 ucf101.zarr
    flowprep evaluate runs/temporal-split1 ucf101.zarr --part train --crops 1
    """
    from flowprep.cli.running import check_target, told
    from flowprep.cli.training import require_torch
    from flowprep.errors import UnfinishedError, UsageError

    possible = name is None or (name not in ("", "..") and "/" not in name and name.isprintable())
    if not possible or (name is not None and len(checkpoints) > 1):
        raise UsageError(f"--name {name!r}: give one checkpoint, and a name that a file can have.")
    require_torch()
    from flowprep.train.checkpoint import Checkpoint, load
    from flowprep.train.evaluate import evaluate

    runs: dict[Path, tuple[Path, Checkpoint]] = {}  # by the file to write
    for path in map(Path, checkpoints):
        checkpoint = load(path)
        config = checkpoint.config
        folder = Path(output) if output else path if path.is_dir() else path.parent
        split = given["split"] or config.data.split
        target = folder / f"{name or config.stream}-split{split}-{given['part'] or 'all'}.npz"
        check_target("-o" if output else "scores", target, new_folder=True)
        if target in runs:
            raise UsageError(
                f"{target} would hold the scores of {runs[target][0]} and of {path}: give one, and --name."
            )
        runs[target] = path, checkpoint
    for target, (path, checkpoint) in runs.items():
        try:
            options = given | {"crops": int(given["crops"]), "name": name or ""}
            scores = evaluate(path, dataset, checkpoint=checkpoint, **options, say=told(), quiet=quiet)
        except (KeyboardInterrupt, SystemExit):  # SystemExit: the command line's answer to SIGTERM
            raise UnfinishedError(f"stopped; nothing of {path} is saved. Run the same command again.") from None
        _tell_replaced(target, scores, told())
        scores.save(target)
        click.echo(f"{scores}\nsaved: {target}")


def _tell_replaced(target: Path, scores: Scores, say: Callable[[str], None]) -> None:
    """Say it where the scores in the file to write are of another dataset."""
    from flowprep.errors import RefusedError
    from flowprep.train.scores import Scores

    try:
        before = Scores.load(target)
    except RefusedError:  # none, or nothing to be missed
        return
    if before.dataset != scores.dataset and before.fingerprint != scores.fingerprint:
        say(f"{target}: had the scores of {before.dataset}, which these replace.")
