"""What only a GPU can show. Without one all of this is skipped, and says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep import flow
from flowprep.config import StorageConfig, VideoConfig
from flowprep.flow.cuda import driver
from flowprep.flow.metrics import mean_epe
from flowprep.store.reader import Dataset
from flowprep.video import VideoReader

pytestmark = [
    pytest.mark.skipif(bool(driver.unavailable()), reason=f"no GPU to run kernels on: {driver.unavailable()}"),
    pytest.mark.system,
]

PRESETS = [
    (method, preset)
    for method, presets in (
        ("tvl1", ("opencv", "opencv-cuda", "ipol")),
        ("brox", ("opencv-cuda", "opencv-default", "ipol")),
    )
    for preset in presets
]
AGREEMENT = 0.02  # px, mean
BATCH = 128
MS = 0.6  # a pair of 320x240


@pytest.fixture(scope="module")
def clip(data: Path) -> NDArray[np.uint8]:
    """(T, 240, 320) grey frames of a real video."""
    path = sorted((data / "ucf10").rglob("*.avi"))[0]
    blocks = VideoReader(path, VideoConfig(), StorageConfig(rgb=False)).blocks()
    return np.concatenate([block.grey for block in blocks])


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_fields_are_the_cpu_engines(clip: NDArray[np.uint8], method: str, preset: str) -> None:
    part = clip[:6]
    ours = flow.get(method, "cuda", preset=preset).flow(part)
    cpu = flow.get(method, "cpu", preset=preset).flow(part)
    assert max(mean_epe(a, b) for a, b in zip(ours, cpu, strict=True)) < AGREEMENT


def test_brox_is_opencv_cudas(clip: NDArray[np.uint8]) -> None:
    reason = flow.backends("brox")["opencv-cuda"]
    if reason:
        pytest.skip(f"no OpenCV with CUDA to compare with: {reason}")
    ours, theirs = (flow.get("brox", backend).flow(clip[:6]) for backend in ("cuda", "opencv-cuda"))
    assert max(mean_epe(a, b) for a, b in zip(ours, theirs, strict=True)) < 0.01


@pytest.mark.parametrize("method", ["tvl1", "brox"])
def test_a_field_is_the_same_each_time_and_in_any_batch(clip: NDArray[np.uint8], method: str) -> None:
    algorithm = flow.get(method, "cuda")
    whole = algorithm.flow(clip[:40])
    np.testing.assert_array_equal(algorithm.flow(clip[:40]), whole)
    np.testing.assert_array_equal(algorithm.flow(clip[17:19])[0], whole[17])
    first = np.array([30, 3, 3, 12], np.int32)
    mixed = algorithm.fields(clip[:40], first, first + np.int32(1))[range(4)]
    np.testing.assert_array_equal(mixed, whole[first])


@pytest.mark.parametrize("method", ["tvl1", "brox"])
def test_levels_are_those_of_the_host(clip: NDArray[np.uint8], method: str) -> None:
    from flowprep import quantise
    from flowprep.quantise.host_fields import HostFields

    pairs = np.arange(20, dtype=np.int32)
    on_device = flow.get(method, "cuda").fields(clip[:21], pairs, pairs + np.int32(1))
    on_host = HostFields(on_device[range(20)])
    np.testing.assert_array_equal(on_device.extremes(), on_host.extremes())
    np.testing.assert_allclose(on_device.means(), on_host.means(), rtol=1e-6, atol=1e-9)
    for storage in (StorageConfig(), StorageConfig("htj2k"), StorageConfig(range="fixed", rounding="round")):
        coding = quantise.scaling(on_host.extremes(), storage).coding
        np.testing.assert_array_equal(on_device.levels(coding), on_host.levels(coding))


@pytest.mark.parametrize("method", ["tvl1", "brox"])
def test_a_pair_of_a_batch_takes_less_than_its_time(clip: NDArray[np.uint8], method: str) -> None:
    from benchmarks.gpu import seconds

    frames = np.concatenate([clip] * -(-(BATCH + 1) // len(clip)))[: BATCH + 1]
    pairs = np.arange(BATCH, dtype=np.int32)
    algorithm = flow.get(method, "cuda")
    times = [seconds(lambda: algorithm.fields(frames, pairs, pairs + np.int32(1))) for _ in range(4)]
    assert 1e3 * min(times[1:]) / BATCH < MS


def test_two_processes_on_one_gpu_are_right(clip: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", clip[:33])
    script = (
        "import sys, numpy as np; from flowprep import flow; frames = np.load(sys.argv[1]);"
        "np.save(sys.argv[2], np.stack([flow.get('tvl1', 'cuda').flow(frames) for _ in range(5)]))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path / "frames.npy", tmp_path / f"{number}.npy"])
        for number in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    wanted = flow.get("tvl1", "cuda").flow(clip[:33])
    for number in range(2):
        for found in np.load(tmp_path / f"{number}.npy"):
            np.testing.assert_array_equal(found, wanted)


def test_extract_on_the_gpu(data: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in sorted((data / "ucf10").rglob("*.avi"))[:3]:
        shutil.copy(path, videos)
    for name in ("a", "b"):
        command = [sys.executable, "-c", "from flowprep.cli import main; main()", "extract", "--backend", "cuda"]
        subprocess.run([*command, str(videos), str(tmp_path / f"{name}.zarr")], check=True)
    one, two = (Dataset(tmp_path / f"{name}.zarr") for name in ("a", "b"))
    assert len(one.videos) == 3
    for video, again in zip(one.videos, two.videos, strict=True):
        assert video.row.content_sha256 == again.row.content_sha256


@pytest.mark.parametrize("method", ["tvl1", "brox"])
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.timeout(900)
def test_compute_sanitizer_finds_nothing(method: str, tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if not sanitizer:
        pytest.skip("compute-sanitizer is not installed")
    script = (
        "import numpy as np; from flowprep import flow; rng = np.random.default_rng(0);"
        f"flow.get('{method}', 'cuda').flow(rng.integers(0, 256, (3, 70, 90)).astype(np.uint8))"
    )
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
