"""Videos that are there when the process of the GPU ends or falls silent: which is to blame, and which is not."""

from __future__ import annotations

import io
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flowprep import sandbox
from flowprep.errors import GPUError, UnfinishedError, Verdict
from flowprep.gpu import owner
from flowprep.gpu.owner import FAILURES, GPUProcess
from flowprep.gpu.turns import Turns
from flowprep.processes import last_line, last_words
from flowprep.sandbox import LOSSES, End, Limits, Sandbox
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
    assert row.reason == (
        f"the process of GPU 0 of {socket.gethostname()} ended 3 times with this video: exit code 1. "
        "RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS"
    )
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


@pytest.mark.parametrize("kills", [2, pytest.param(sandbox.KILLS, marks=pytest.mark.system)])
def test_a_video_with_which_the_process_is_killed_each_time(
    kills: int, folder: Path, gpu: GPUProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a kernel that is short of memory: the last time it is alone, and the next one is computed."""
    monkeypatch.setitem(sandbox.MOST, End.GPU_KILL, kills)
    monkeypatch.setenv("FLOWPREP_TEST_GPU_FAULT", "killed bright")
    alone = []
    monkeypatch.setattr(gpu, "turn", lambda give_up, **how: alone.append(how["alone"]) or Turns().turn(give_up, **how))
    row = extract(folder, "bright.avi", gpu)
    assert (row.verdict, row.attempt) == (Verdict.MEMORY, kills)
    assert row.reason.endswith(f"was killed {kills} times with this video, by the system or a user")
    assert alone == [False] * (kills - 1) + [True]
    assert extract(folder, "dim.avi", gpu).verdict is Verdict.OK


def test_a_gpu_that_fails_on_every_video_is_no_videos_fault(
    folder: Path, gpu: GPUProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes the frames of the trial, and then what is no number."""
    monkeypatch.setitem(sandbox.MOST, End.LOSS, 1)
    monkeypatch.setenv("FLOWPREP_TEST_GPU_FAULT", "nan bright")
    words = "exit code 1. FloatingPointError: the computed flow holds values that are not finite"
    for _ in range(FAILURES - 1):
        row = extract(folder, "bright.avi", gpu)
        assert row.verdict is Verdict.CRASHED and row.reason.endswith(words)
    with pytest.raises(GPUError, match=rf"fails again and again, and no video was done meanwhile: {words}. See"):
        extract(folder, "bright.avi", gpu)


@pytest.mark.system
def test_a_gpu_that_computes_nothing_at_all_is_no_videos_fault(
    folder: Path, gpu: GPUProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPREP_TEST_GPU_FAULT", "die")
    with pytest.raises(GPUError, match="no video was done meanwhile: exit code 1.*CUDA_ERROR_ILLEGAL_ADDRESS"):
        extract(folder, "dim.avi", gpu)
    assert len(gpu._losses) == LOSSES - 1 + FAILURES


def test_a_child_that_finds_it_ended_does_not_excuse_the_others(folder: Path, gpu: GPUProcess) -> None:  # noqa: ARG001
    link = gpu.connect(60, lambda: None)
    assert gpu._process
    gpu._process.send_signal(signal.SIGSEGV)
    assert gpu._process.wait(10) == -signal.SIGSEGV
    assert gpu.connect(60, lambda: None).start == link.start + 1
    assert not gpu.lost(link.start, lambda: None, blameless=False).blameless


def test_what_a_process_said_last() -> None:
    """In a line: of all else only programs that are no Python's are quoted."""
    said = io.BytesIO(b"NVRM: noise\nTraceback (most recent call last):\n  File x\n\nOSError: no  disk\n\n")
    assert last_line(said) == "OSError: no disk"
    assert last_words(said).startswith("NVRM: noise Traceback")
    assert last_line(io.BytesIO(b" \n")) == last_line(None) == ""


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
