"""Datasets for tests, extracted shard by shard in the test's own process: no children, no scheduler, half a second."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flowprep import shard
from flowprep.config import (
    ClusterConfig,
    FlowConfig,
    Settings,
    StackConfig,
    StackingConfig,
    StorageConfig,
    TranscodeConfig,
    VideoConfig,
)
from flowprep.derive import Deriver
from flowprep.errors import VideoError
from flowprep.extract import Extractor
from flowprep.plan import SHARD_SECONDS, Plan, estimate, make_plan
from flowprep.run import driver
from flowprep.run.expectation import used_blocks
from flowprep.sandbox import Limits
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import read_commits
from flowprep.store.finalise import finalise
from flowprep.store.plans import read_plans, write_plan
from flowprep.synthetic import write_demo_videos
from flowprep.types import LedgerRow, Probe, Video
from flowprep.video import probe

CLIP = "left/left_00.avi"  # moves two pixels to the left in every frame
FAILED = "broken/broken_00.avi"

SETTINGS = Settings(
    VideoConfig(),
    FlowConfig("dis", "opencv", "both", {"preset": "ultrafast"}),
    StorageConfig(rgb_short_side=32),
    "opencv, whichever",
)


BATCH = ClusterConfig("batch", task="0/1")  # without Dask
FINE = StorageConfig("blosc", step=0.001)  # what comes back is what went in, to half a thousandth of a pixel


class InProcess:
    """Stands in for the sandbox: the same work, without a child."""

    def __init__(self, limits: Limits, gpu: str) -> None:  # noqa: ARG002 - the sandbox's signature
        self.limits = limits

    def close(self) -> None: ...

    def extract(
        self,
        settings: Settings,
        path: Path,
        id: str,
        folder: Path,
        progress: Callable[[int], None],
        source: LedgerRow | None = None,
    ) -> LedgerRow:
        if source:
            return Deriver(settings).derive(path, source, folder, progress)
        return Extractor(settings).extract(path, id, folder, progress)


def header(path: Path) -> Probe | None:
    try:
        return probe(path)
    except VideoError:
        return None


@cache
def _clips() -> tempfile.TemporaryDirectory[str]:
    """A folder with the files of :func:`write_clips`, made once."""
    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    write_demo_videos(folder, clips_per_class=1, frames=6, height=48, width=64)
    write_demo_videos(folder / "more", clips_per_class=1, frames=8, height=32, width=40)
    for label in ("rotate", "widen", "zoom_in", "zoom_out"):
        shutil.rmtree(folder / "more" / label)
    (folder / FAILED).parent.mkdir()
    (folder / FAILED).write_bytes(b"no video at all " * 100)
    return kept


def write_clips(folder: Path) -> list[Video]:
    """Six clips of six frames, 64x48 px, two of eight frames, 40x32 px, and one file that is no video.

    The first two have splits, one has a label that is not ASCII.
    """
    shutil.copytree(_clips().name, folder)
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    found = [Video(path.as_posix(), path.parent.name, size=(folder / path).stat().st_size) for path in paths]
    found[0] = replace(found[0], label="Grüße, 世界", splits=("train", "test", ""))
    found[1] = replace(found[1], splits=("test", "train", "val"))
    return found


def plan_more(
    out: Path, folder: Path, videos: Sequence[Video], *, settings: Settings = SETTINGS, per_shard: int = 2
) -> Plan:
    """Plan the next generation of ``out``: about ``per_shard`` videos a shard, each as much work as the others."""
    store = LocalStore(out)
    plan = make_plan(
        [(video, estimate(video, header(folder / video.id), settings)) for video in videos],
        settings,
        str(folder),
        seconds=lambda _: SHARD_SECONDS[0] / per_shard,  # of a few videos, each shard is as short as shards get
        generation=len(read_plans(store)),
        used=used_blocks(read_commits(store)),
    )
    assert write_plan(store, plan)
    return plan


def extract(out: Path, plan: Plan, shards: Sequence[int] | None = None) -> None:
    """Extract and commit some or all shards of ``plan``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "Sandbox", InProcess)
        patch.setattr(shard, "_thread", threading.local())  # where a worker keeps its sandbox
        for number in range(len(plan.shards)) if shards is None else shards:
            shard.extract_shard(shard.Work(str(out), plan.generation, Limits()), number)


def finish(out: Path) -> None:
    store = LocalStore(out)
    finalise(store, read_plans(store), read_commits(store))


def make_dataset(
    out: Path, folder: Path, videos: Sequence[Video], *, settings: Settings = SETTINGS, per_shard: int = 2
) -> Path:
    """A whole dataset of ``videos`` below ``folder``, or, where there is one already, its next generation."""
    extract(out, plan_more(out, folder, videos, settings=settings, per_shard=per_shard))
    finish(out)
    return out


def small_dataset(folder: Path) -> Path:
    """Three videos in two shards, their files beside the dataset."""
    videos = write_clips(folder / "videos")
    return make_dataset(folder / "out.zarr", folder / "videos", videos[:3])


def derive(run: driver.Run) -> driver.Summary:
    """A run of ``flowprep stack`` or ``transcode``, in this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "Sandbox", InProcess)
        patch.setattr(shard, "_thread", threading.local())
        return run.run()


def stack(source: Path, out: Path, storage: StorageConfig = FINE, **stacking: Any) -> driver.Summary:
    config = StackingConfig(str(source), str(out), storage, cluster=BATCH, stack=StackConfig(**stacking))
    return derive(driver.Stacking(config, lambda _: None, quiet=True))


def transcode(source: Path, out: Path, storage: StorageConfig) -> driver.Summary:
    config = TranscodeConfig(str(source), str(out), storage, cluster=BATCH)
    return derive(driver.Transcoding(config, lambda _: None, quiet=True))
