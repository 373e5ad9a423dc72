"""Small datasets for tests of loading, made once: three classes that differ in size, all of it training data."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from flowprep.config import Stacking, StorageConfig
from flowprep.store.reader import Dataset
from flowprep.synthetic import write_demo_videos
from flowprep.types import Video
from tests.in_process import SETTINGS, make_dataset

HEIGHT, WIDTH, FRAMES, CROP = 48, 64, 12, 32
STACKING = Stacking(length=4)
CLASSES = {
    "heighten/heighten_00.avi": "alone",
    "left/left_00.avi": "large",
    "more/left/left_00.avi": "large",
    "zoom_out/zoom_out_00.avi": "large",
    "more/zoom_out/zoom_out_00.avi": "small",
    "short/left/left_00.avi": "large",
}
SHORT = "short/left/left_00.avi"  # three frames: too short for a stack of four fields


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@cache
def flow_folder(codec: str = "jpeg") -> Path:
    """A dataset of flow in both directions and RGB, stored by ``codec``."""
    videos, out = Path(_kept().name) / f"videos-{codec}", Path(_kept().name) / f"{codec}.zarr"
    write_demo_videos(videos, clips_per_class=1, frames=FRAMES, height=HEIGHT, width=WIDTH)
    write_demo_videos(videos / "more", clips_per_class=1, frames=FRAMES + 1, height=HEIGHT, width=WIDTH)
    write_demo_videos(videos / "short", clips_per_class=1, frames=3, height=HEIGHT, width=WIDTH)
    found = [
        Video(id, label, ("train", "test", ""), (videos / id).stat().st_size) for id, label in sorted(CLASSES.items())
    ]
    settings = replace(SETTINGS, storage=StorageConfig(codec=codec, rgb_short_side=HEIGHT))
    return make_dataset(out, videos, found, settings=settings)


def flow_dataset(codec: str = "jpeg") -> Dataset:
    return Dataset(flow_folder(codec))
