"""Which videos a network has learned from: to evaluate it on those is no test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flowprep.errors import FlowprepError
from flowprep.store.reader import VideoRow
from flowprep.train import checkpoint as checkpoints
from flowprep.train.checkpoint import Checkpoint


def identity(row: VideoRow) -> str:
    """What a video is known again by, in whatever dataset and under whatever name: the sha256 of its file."""
    return row.row.sha256 or row.id


def learned_from(checkpoint: Checkpoint, say: Callable[[str], None]) -> set[str]:
    """:func:`identity` of all videos that a network has learned from, and the runs that its first weights are of.

    ``say`` is told of a run that has not written them down.
    """
    found: set[str] = set()
    for run in _runs(checkpoint):
        if run.learned is None:
            say(f"{run.config.output}: of an older version; which videos it was trained on is not known.")
        found.update(*(run.learned or ()))
    return found


def _runs(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The run, then the one that its weights were taken from, and so on."""
    seen = {""}
    yield checkpoint
    while (weights := checkpoint.config.net.weights) not in seen:
        seen.add(weights)
        try:
            checkpoint = checkpoints.load(Path(weights))
        except (FlowprepError, ValueError):  # weights from elsewhere; a name that no file can have
            return
        yield checkpoint
