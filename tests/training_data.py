"""Small datasets and small networks for tests of training, made once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from flowprep.config import StorageConfig, StreamConfig
from flowprep.schema import merged
from flowprep.synthetic import write_demo_videos
from flowprep.train.checkpoint import Checkpoint, load
from flowprep.train.loop import Outcome, train
from flowprep.types import Video
from tests.in_process import SETTINGS, make_dataset, stack

HEIGHT, WIDTH, FRAMES, CROP = 48, 64, 6, 32
CLASSES = {
    "first": ("heighten", "left", "rotate", "zoom_in"),
    "second": ("left", "widen", "zoom_out"),
}
TINY: dict[str, Any] = {
    "stream": "temporal",
    "data": {"crop": CROP, "workers": 1, "flip": False},
    "stack": {"length": 2},
    "net": {"width": 0.05, "dropout": 0.5, "init": "he"},
    "solver": {"iterations": 6, "batch": 8, "log_every": 1, "checkpoint_every": 2, "device": "cpu"},
}


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@cache
def _videos() -> Path:
    """Three clips of each class."""
    videos = Path(_kept().name) / "videos"
    write_demo_videos(videos, clips_per_class=3, frames=FRAMES, height=HEIGHT, width=WIDTH)
    return videos


@cache
def dataset(name: str = "first") -> Path:
    """In split 1 two clips of each class are for training, one for testing; in the others none has a part."""
    paths = [path for path in sorted(_videos().rglob("*")) if path.parent.name in CLASSES[name]]
    found = []
    for path in paths:
        part = "test" if path.stem.endswith("_02") else "train"
        id = path.relative_to(_videos()).as_posix()
        found.append(Video(id, path.parent.name, (part, "", ""), path.stat().st_size))
    settings = replace(SETTINGS, storage=StorageConfig(rgb_short_side=HEIGHT))
    return make_dataset(Path(_kept().name) / f"{name}.zarr", _videos(), found, settings=settings, per_shard=20)


@cache
def stacks() -> Path:
    """Of the first dataset: trajectories of three fields, with their means."""
    path = Path(_kept().name) / "stacks.zarr"
    stack(dataset(), path, length=3, kind="trajectory", mean_subtract=False)
    return path


def tiny(output: Path, **changes: Any) -> StreamConfig:
    """A run of seconds; ``changes`` are sections, put over :data:`TINY`."""
    tree = merged(TINY, {"dataset": str(dataset()), "output": str(output)})
    return StreamConfig.from_json(merged(tree, changes))


def run(config: StreamConfig, say: Callable[[str], None] = lambda _: None) -> tuple[Outcome, Checkpoint]:
    """Train, on one thread, so that sums are always made in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome = train(config, say)
    finally:
        torch.set_num_threads(threads)
    return outcome, load(outcome.checkpoint)


def kill_at(iteration: int, number: int) -> Callable[[str], None]:
    """A listener that sends this process a signal when it hears of an iteration."""

    def say(text: str) -> None:
        if text.startswith(f"{iteration}/"):
            os.kill(os.getpid(), number)

    return say


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two networks have bit-identical weights."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
