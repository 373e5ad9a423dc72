"""How much loading costs beside decoding, in CPU time, interleaved; benchmarks/loader.py prints the figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr

from flowprep.config import Stacking, StorageConfig
from flowprep.stacks.augment import Augmentation
from flowprep.stacks.loader import StackLoader
from flowprep.store.reader import Dataset
from flowprep.types import Video
from tests.in_process import SETTINGS, make_dataset, transcode
from tests.loader_data import CROP, flow_dataset

SAMPLES = 32


class Rig:
    """One batch of SAMPLES stacks of ten fields, read in three ways."""

    def __init__(self, dataset: Dataset, crop: int) -> None:
        self.loader = StackLoader(dataset, Stacking(), part="", batch_size=SAMPLES, augmentation=Augmentation(crop))
        self.loader.batch(0, 0)  # what is cached is
        self.codec, self.rows = dataset.rows.codec, dataset.rows
        self.drawn = [self.loader.sampler.sample(0, number) for number in range(SAMPLES)]
        self.places = [
            (sample.clip.array, range(sample.clip.start + sample.frame, sample.clip.start + sample.frame + 10))
            for sample in self.drawn
        ]
        self.payloads = [(array, self.rows.payloads(array, numbers)) for array, numbers in self.places]
        self.arrays = {array: zarr.open_array(dataset.path / str(array), mode="r") for array, _ in self.places}

    def load(self) -> None:
        self.loader.batch(0, 0)

    def decode(self) -> None:
        for array, payloads in self.payloads:
            field = np.empty(array.row_shape(), self.codec.dtype)
            for payload in payloads:
                self.codec.decode(payload, field.shape, field)

    def zarr_python(self) -> None:
        for array, numbers in self.places:
            self.arrays[array][numbers.start : numbers.stop]

    def ratio(self, one: Callable[[], None], other: Callable[[], None], rounds: int = 7) -> float:
        """Median of the CPU time of ``one`` over that of ``other``."""
        return float(np.median([cpu_seconds(one) / cpu_seconds(other) for _ in range(rounds)]))


def cpu_seconds(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def test_twice_as_quick_as_zarr_python() -> None:
    rig = Rig(flow_dataset(), CROP)
    assert rig.ratio(rig.zarr_python, rig.load, 3) > 2  # eight, of fields as small as these


def test_little_is_done_beside_decoding() -> None:
    rig = Rig(flow_dataset(), CROP)
    costs = [cpu_seconds(rig.load) - cpu_seconds(rig.decode) for _ in range(7)]
    assert np.median(costs) / SAMPLES < 600e-6  # s a sample; a fifth of that on a quiet machine


@pytest.mark.system
@pytest.mark.parametrize(("codec", "share"), [("jpeg", 0.75), ("htj2k", 0.75)])
def test_at_the_speed_of_the_decoder(data: Path, tmp_path: Path, codec: str, share: float) -> None:
    """Crops of 224x224 from real flow of 240x320 px; on a quiet machine 0.87 (jpeg) and 0.9 (htj2k)."""
    folder = data / "ucf10/videos"
    paths = sorted(folder.rglob("*.avi"))[:4]
    videos = [Video(path.relative_to(folder).as_posix(), size=path.stat().st_size) for path in paths]
    source = make_dataset(tmp_path / "flow.zarr", folder, videos, settings=SETTINGS)
    if codec != "jpeg":
        transcode(source, tmp_path / "other.zarr", StorageConfig(codec))
        source = tmp_path / "other.zarr"
    rig = Rig(Dataset(source), 224)
    assert rig.ratio(rig.decode, rig.load, 15) > share
    if codec == "jpeg":
        assert rig.ratio(rig.zarr_python, rig.load) > 2


@pytest.mark.system
@pytest.mark.timeout(600)
def test_memory_stays_as_it_is() -> None:
    """Ten thousand batches of eight."""
    loader = StackLoader(
        flow_dataset(), Stacking(), part="", batch_size=8, batches=10_000, augmentation=Augmentation(CROP)
    )
    process = psutil.Process()
    used = [process.memory_info().rss for number, _ in enumerate(loader) if number % 1000 == 999]
    assert len(used) == 10
    assert max(used) - used[0] < 10e6
