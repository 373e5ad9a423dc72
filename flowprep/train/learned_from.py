"""Which videos a network has learned from: to evaluate it on those is no test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flowprep.config import StreamConfig
from flowprep.errors import FlowprepError
from flowprep.store.reader import Dataset
from flowprep.train import checkpoint as checkpoints
from flowprep.train.scores import TRAIN


def learned_from(config: StreamConfig, dataset: Dataset, say: Callable[[str], None]) -> set[str]:
    """Ids of the videos that the run of ``config`` has learned from, and the runs that its first weights are of.

    They are looked up in the datasets that were trained on. Where one of those cannot be opened, ``dataset``, which is
    evaluated, may stand in for its splits; else ``say`` is told that its videos are not known.
    """
    return {id for run in _runs(config) for id in _of_run(run, dataset, say)}


def _runs(config: StreamConfig) -> Iterator[StreamConfig]:
    """The run, then the one that its weights were taken from, and so on."""
    seen = {""}
    yield config
    while (weights := config.net.weights) not in seen:
        seen.add(weights)
        try:
            config = checkpoints.load(Path(weights)).config
        except (FlowprepError, ValueError):  # weights from elsewhere; a name that no file can have
            return
        yield config


def _of_run(config: StreamConfig, dataset: Dataset, say: Callable[[str], None]) -> Iterator[str]:
    data = config.data
    for number, path in enumerate((config.dataset, *data.also, *data.added)):
        all_of_it = data.whole or number > 0
        try:
            videos = dataset.videos if _same(path, dataset) else Dataset(path).videos
        except (FlowprepError, OSError, ValueError) as error:
            if all_of_it:
                say(f"the videos of a dataset that was trained on are not known: {error}")
                continue
            videos = dataset.videos
        left_out = data.leave_out if number else ()
        for row in videos:
            if row.label not in left_out and (all_of_it or row.splits[data.split - 1] == TRAIN):
                yield row.id


def _same(path: str, dataset: Dataset) -> bool:
    return Path(path).resolve() == dataset.path.resolve()
