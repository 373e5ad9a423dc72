"""Videos that are there when the process of the GPU ends or falls silent: which is to blame, and which is not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flowprep.errors import RefusedError, UnfinishedError, Verdict
from flowprep.gpu import owner
from flowprep.gpu.owner import FAILURES, GPUProcess
from flowprep.gpu.turns import Turns
from flowprep.sandbox import LOSSES, Limits, Sandbox
from flowprep.types import LedgerRow
from flowprep.video import write_video
from tests.command import FAULTS, await_
from tests.gpu_data import HEIGHT, WIDTH, settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two videos; the frames of one are so bright that a fault may take offence at them."""
    for name in ("marks", "rows"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PYTHONPATH", FAULTS)
    monkeypatch.setenv("FLOWPREP_TEST_GPU", str(tmp_path / "log"))
    monkeypatch.setenv("FLOWPREP_TEST_MARKS", str(tmp_path / "marks"))
    monkeypatch.setattr(owner, "FAREWELL_SECONDS", 0.5)
    noise = np.random.default_rng(2).integers(0, 40, (6, HEIGHT, WIDTH, 3), np.uint8)
    write_video(tmp_path / "dim.avi", noise + np.uint8(80))
    write_video(tmp_path / "bright.avi", noise + np.uint8(210))
    return tmp_path


@pytest.fixture
def gpu() -> Iterator[GPUProcess]:
    process = GPUProcess("0")
    yield process
    process.close()


def extract(folder: Path, name: str, gpu: GPUProcess, silence: float = 30) -> LedgerRow:
    rows = folder / "rows" / name
    rows.mkdir(exist_ok=True)
    box = Sandbox(Limits(silence), gpu)
    try:
        return box.extract(settings(), folder / name, name, rows, lambda _: None)
    finally:
        box.close()


def test_a_process_that_is_stopped_is_replaced(folder: Path, gpu: GPUProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPREP_TEST_GPU_FAULT", "stopped once")
    row = extract(folder, "dim.avi", gpu, silence=6)
    assert (row.verdict, row.attempt) == (Verdict.OK, 2)
    assert gpu._losses[1].words == "it gave no sign of life."


def test_a_child_that_is_silent_is_not_the_processs_fault(folder: Path, gpu: GPUProcess) -> None:
    (folder / "dim.avi").rename(folder / "hang.avi")
    row = extract(folder, "hang.avi", gpu, silence=1)
    assert (row.verdict, row.attempt) == (Verdict.TIMEOUT, 2)
    assert not gpu._losses


def test_a_video_that_ends_the_process_each_time(
    folder: Path, gpu: GPUProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets its verdict, though no other video was done before; the next one is computed."""
    monkeypatch.setenv("FLOWPREP_TEST_GPU_FAULT", "die bright")
    row = extract(folder, "bright.avi", gpu)
    assert (row.verdict, row.attempt) == (Verdict.CRASHED, LOSSES)
    assert row.reason.startswith("the process of the GPU ended 3 times with this video: exit code 1. ")
    assert row.reason.endswith("RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS")
    assert extract(folder, "dim.avi", gpu).verdict is Verdict.OK
    assert len(gpu._losses) == LOSSES


@pytest.mark.system
def test_of_many_videos_at_once_just_that_one(folder: Path, gpu: GPUProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPREP_TEST_GPU_FAULT", "slow, die bright")
    names = ["bright.avi"] + [f"dim{number}.avi" for number in range(6)]
    for name in names[1:]:
        (folder / name).symlink_to(folder / "dim.avi")
    with ThreadPoolExecutor(3) as pool:
        rows = list(pool.map(lambda name: extract(folder, name, gpu), names))
    assert [row.verdict for row in rows] == [Verdict.CRASHED] + [Verdict.OK] * 6


@pytest.mark.system
def test_a_process_that_is_killed_from_outside_is_no_videos_fault(
    folder: Path, gpu: GPUProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPREP_TEST_GPU_FAULT", "killed bright")
    with pytest.raises(RefusedError, match="has failed 3 times, and no video was done meanwhile: SIGKILL"):
        extract(folder, "bright.avi", gpu)
    assert len(gpu._losses) == FAILURES


@pytest.mark.system
def test_a_gpu_that_computes_nothing_at_all_is_no_videos_fault(
    folder: Path, gpu: GPUProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPREP_TEST_GPU_FAULT", "die")
    with pytest.raises(RefusedError, match="no video was done meanwhile: exit code 1.*CUDA_ERROR_ILLEGAL_ADDRESS"):
        extract(folder, "dim.avi", gpu)
    assert len(gpu._losses) == LOSSES - 1 + FAILURES


def test_a_child_that_finds_it_ended_does_not_excuse_the_others(folder: Path, gpu: GPUProcess) -> None:  # noqa: ARG001
    link = gpu.connect(60, lambda: None)
    assert gpu._process
    gpu._process.send_signal(signal.SIGSEGV)
    assert gpu._process.wait(10) == -signal.SIGSEGV
    assert gpu.connect(60, lambda: None).start == link.start + 1
    assert not gpu.lost(link.start, lambda: None, blameless=False).blameless


def test_turns() -> None:
    """One that wants to be alone waits for all others, and they for that one."""
    turns, log = Turns(), list[str]()
    go_on = {name: threading.Event() for name in ("a", "b", "alone", "c")}

    def use(name: str) -> None:
        with turns.turn(lambda: None, alone=name == "alone"):
            log.append(name)
            go_on[name].wait(10)
            log.append(f"{name} ends")

    threads = {name: threading.Thread(target=use, args=(name,)) for name in go_on}
    for name in ("a", "b"):
        threads[name].start()
    await_(lambda: len(log) == 2, "two at once")
    threads["alone"].start()
    await_(lambda: turns._loners, "one that waits")
    threads["c"].start()
    for name in ("a", "b", "c", "alone"):
        go_on[name].set()
    for thread in threads.values():
        thread.join(10)
    assert log[-4:] == ["alone", "alone ends", "c", "c ends"] and len(log) == 8


def test_a_wait_for_a_turn_can_be_given_up() -> None:
    def stop() -> None:
        raise UnfinishedError("stopped")

    turns = Turns()
    with turns.turn(stop, alone=False):
        with pytest.raises(UnfinishedError), turns.turn(stop, alone=True):
            pass
        with turns.turn(stop, alone=False):  # the other one waits no more
            pass
