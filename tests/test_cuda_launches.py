"""The way from Python to the driver of a GPU, on a driver that computes nothing (idle_gpu.py): what it is asked for,
and in which order. Values are for the simulator and for GPUs."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowprep import flow
from flowprep.flow import cuda
from flowprep.flow.cuda import TVL1, device
from flowprep.flow.tvl1 import TVL1Parameters
from flowprep.store.reader import Dataset
from flowprep.synthetic import Motion, render
from flowprep.video import write_video
from tests import idle_gpu

PAIRS = 5
SIZE = 72, 90  # pixels: several tiles, several levels


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In which processes find that driver."""
    try:
        return idle_gpu.environment(tmp_path_factory.mktemp("driver"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


def calls(function: Any, environment: dict[str, str], folder: Path, *arguments: str) -> list[list[str]]:
    """What the driver was asked for by ``function``, which stands at the top of this module, in a process of its own.

    Words of calls; those that ``function`` prints are between them, at their place.
    """
    log = folder / "calls"
    code = f"from {__name__} import {function.__name__} as f; import sys; f(*sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, env={**environment, "FLOWPREP_TEST_DRIVER": str(log)}, check=True)
    return [line.split() for line in log.read_text().splitlines()]


def say(word: str) -> None:
    with Path(os.environ["FLOWPREP_TEST_DRIVER"]).open("a") as log:
        log.write(word + "\n")


# What kernels are given


def launched_twice() -> None:
    """A kernel with arguments of all kinds, by Numba and by :class:`Launch`."""
    from numba import cuda

    from flowprep.flow.cuda.device import kernel
    from flowprep.flow.cuda.launch import Launch

    @kernel(threads=64)
    def anything(frames, numbers, line, plane, state, factor, count, down, part):
        if down and count > frames[0, 0, 0]:
            part[0, 0] = state[0, 0, 0, 0, 1] + plane[0, 0] * factor + line[0] + numbers[0, 0, 0, 0]

    shapes = {"u1": [(2, 3, 5)], "f4": [(2, 2, 3, 4), (7,)], "i4": [(4, 9)], "f4 ": [(2, 2, 3, 4, 5)]}
    arrays = [cuda.device_array(shape, np.dtype(kind.strip())) for kind, several in shapes.items() for shape in several]
    whole = cuda.device_array((3, 4, 5), np.float32)
    arguments = (*arrays, np.float32(-1.5), -3, True, whole[1])
    words = [5 + 2 * array.ndim for array in (*arrays, whole[1])]
    driver = ctypes.CDLL("libcuda.so.1")
    driver.expect(("8" * sum(words[:-1]) + "481" + "8" * words[-1]).encode())
    stream = cuda.stream()
    anything[(2, 3, 4 * 6), (8, 4), stream](*arguments)
    Launch(anything, (2, 3, 4), (8, 4), stream, *arguments)(6)


def test_kernels_are_launched_as_numba_would(environment: dict[str, str], tmp_path: Path) -> None:
    by_numba, by_us = (call for call in calls(launched_twice, environment, tmp_path) if call[0] == "launch")
    assert by_us == by_numba
    assert by_us[2:8] == ["2", "3", "24", "8", "4", "1"]
    assert {"bfc00000", "fffffffffffffffd"} <= set(by_us)  # -1.5 and -3


# What a batch is


def batches(method: str, preset: str) -> None:
    """Two batches of one size, one of another, and one of the first size again."""
    algorithm = flow.get(method, "cuda", preset=preset)
    first = np.arange(PAIRS, dtype=np.int32)
    for shape in (SIZE, SIZE, (64, 80), SIZE):
        say("batch")
        computed = algorithm.fields(np.zeros((PAIRS + 1, *shape), np.uint8), first, first + np.int32(1))
        say("computed")
        assert computed.extremes().shape == (PAIRS, 2, 2)


@pytest.mark.parametrize(
    ("method", "preset"),
    [
        ("tvl1", "ipol"),
        *(
            pytest.param(method, preset, marks=pytest.mark.system)
            for method, preset in (("tvl1", "opencv"), ("brox", "opencv-cuda"), ("brox", "ipol"))
        ),
    ],
)
def test_a_batch_is_enqueued_without_waiting_for_the_gpu(
    environment: dict[str, str], tmp_path: Path, method: str, preset: str
) -> None:
    every = calls(batches, environment, tmp_path, method, preset)
    starts = [i for i, call in enumerate(every) if call == ["batch"]]
    ends = [i for i, call in enumerate(every) if call == ["computed"]]
    first, second, other, again = (every[start + 1 : end] for start, end in zip(starts, ends, strict=True))
    assert {"load", "take", "up"} <= {call[0] for call in first} and {"take", "up"} <= {call[0] for call in other}
    for batch in (second, again):
        # All is prepared: what there is are frames, pairs and kernels, on one stream.
        assert {call[0] for call in batch} <= {"up", "down", "launch", "record", "wait"}
        assert [call[1] for call in batch if call[0] == "up"] == [
            str((PAIRS + 1) * SIZE[0] * SIZE[1]),
            *[str(4 * PAIRS)] * 2,
        ]
        streams = {call[8] for call in batch if call[0] == "launch"} | {call[2] for call in batch if call[0] == "up"}
        assert len(streams) == 1 and "now" not in streams
    assert [call[1:8] for call in again if call[0] == "launch"] == [call[1:8] for call in second if call[0] == "launch"]
    # Whoever waits for an event has enqueued more behind it: the GPU never runs out of work.
    recorded: dict[str, int] = {}
    launches = 0
    for call in second:
        if call[0] == "record":
            recorded[call[1]] = launches
        elif call[0] == "wait":
            assert launches - recorded[call[1]] >= 8
        launches += call[0] == "launch"
    assert launches > 100


# Memory, and what goes wrong


def sizes(method: str, preset: str) -> None:
    """Frames that grow, and after all the memory is not needed any more; nothing is left to Python's collector."""
    gc.disable()
    algorithm = flow.get(method, "cuda", preset=preset)
    pair = np.zeros(1, np.int32)
    for side in (48, 64, 96):
        say("batch")
        algorithm.fields(np.zeros((2, side, side), np.uint8), pair, pair + np.int32(1)).means()
    algorithm.give_back()


@pytest.mark.parametrize(
    ("method", "preset"), [("tvl1", "ipol"), pytest.param("brox", "ipol", marks=pytest.mark.system)]
)
def test_memory_is_given_back_before_more_is_taken(
    environment: dict[str, str], tmp_path: Path, method: str, preset: str
) -> None:
    every = [call[0] for call in calls(sizes, environment, tmp_path, method, preset)]
    for start in (i for i, call in enumerate(every) if call == "batch" and "take" in every[:i]):
        moves = [call for call in every[start:] if call in ("take", "give")]
        assert moves[0] == "give"
    assert every.count("give") == every.count("take") > 3


def scarce() -> None:
    """A batch of few pairs where there is no memory for more, then one of many."""
    algorithm = flow.get("tvl1", "cuda", preset="ipol")
    for count in (2, 100):
        first = np.arange(count, dtype=np.int32)
        frames = np.zeros((count + 1, *SIZE), np.uint8)
        try:
            say("fine" if algorithm.fields(frames, first, first + np.int32(1)).means().shape == (count, 2) else "odd")
        except MemoryError as error:
            say(f"refused {error}")


def test_a_batch_takes_the_memory_that_there_is(environment: dict[str, str], tmp_path: Path) -> None:
    every = calls(scarce, {**environment, "FLOWPREP_TEST_CUDA_ROOM": "20"}, tmp_path)
    said = [call for call in every if call[0] in ("fine", "refused", "odd")]
    assert said[0] == ["fine"] and " ".join(said[1]).endswith("MiB of memory left: nvidia-smi shows who has it")


def test_an_error_of_cuda_keeps_its_name(environment: dict[str, str]) -> None:
    code = f"from {__name__} import batches; batches('tvl1', 'ipol')"
    broken = {**environment, "FLOWPREP_TEST_CUDA_LAUNCHES": "100", "FLOWPREP_TEST_DRIVER": "/dev/null"}
    done = subprocess.run([sys.executable, "-c", code], env=broken, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("CudaAPIError: [719] CUDA says CUDA_ERROR_LAUNCH_FAILED")


def test_kernels_that_cannot_be_kept_are_compiled_before_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(cuda, "_warm", set())
    monkeypatch.setattr(device, "capability", lambda: "9.0")
    monkeypatch.setattr(device, "code_folder", lambda: "a reason")
    monkeypatch.setattr(TVL1, "_load_kernels", lambda algorithm: loaded.append(algorithm.method))
    TVL1(TVL1Parameters()).warm(lambda _: None)
    assert loaded == ["tvl1"]


# A whole run


def test_a_run_goes_all_the_way(environment: dict[str, str], tmp_path: Path) -> None:
    """Frames of three sizes through the process of the GPU; what it computes is nothing at all, flow of 0 px."""
    videos, log = tmp_path / "videos", tmp_path / "calls"
    videos.mkdir()
    for number, height in enumerate((48, 56, 64)):
        clip = render(Motion("right", velocity=(1.0, 0.0)), seed=number, frames=6, height=height, width=64)
        write_video(videos / f"{number}.avi", clip.frames)
    command = [sys.executable, "-c", "from flowprep.cli import main; main()", "extract", "--quiet", "--workers", "2"]
    command += [str(videos), str(tmp_path / "out.zarr"), "--backend", "cuda"]
    subprocess.run(command, env={**environment, "FLOWPREP_TEST_DRIVER": str(log)}, check=True)
    dataset = Dataset(tmp_path / "out.zarr")
    for video in dataset.videos:
        assert video.row.flow and video.row.flow.length == 5
        assert not dataset.flow(video.id).any()
    done = [line.split()[0] for line in log.read_text().splitlines()]
    modules = [importlib.import_module(f"flowprep.flow.cuda.{name}") for name in TVL1.kernels]
    kernels = sum(len(types) for module in modules for types in module.signatures().values())
    assert done.count("load") == kernels  # of one process only, not of every worker
    assert done.count("launch") >= 3 * 700
