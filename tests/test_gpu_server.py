"""The process that computes for many: its conversation with children, and what its owner does when it ends."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from flowprep import flow, quantise
from flowprep.config import FlowConfig, Settings, StorageConfig, VideoConfig
from flowprep.errors import RefusedError, UnfinishedError, VideoError
from flowprep.gpu import wire
from flowprep.gpu.client import RemoteFlow
from flowprep.gpu.memory import SharedMemory
from flowprep.gpu.owner import FAILURES, GPUProcess
from flowprep.gpu.wire import ServerLostError
from tests.command import FAULTS
from tests.gpu_data import DIS, HEIGHT, STORAGES, VIDEO, WIDTH, fields_of, request, settings


def never() -> None:
    """Nothing ends a wait."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", FAULTS)
        patch.setenv("FLOWPREP_TEST_GPU", str(tmp_path_factory.mktemp("gpu") / "log"))
        yield patch


@pytest.fixture(scope="module")
def process(environment: pytest.MonkeyPatch) -> Iterator[GPUProcess]:  # noqa: ARG001
    process = GPUProcess("7")
    yield process
    process.close()


def deaf(_waits: bool) -> None:
    """Hears of no wait."""


def remote(process: GPUProcess, chosen: Settings | None = None, waits: Any = deaf, patience: float = 60) -> RemoteFlow:
    return RemoteFlow(process.connect(patience, never).connection, chosen or settings(), waits)


def check(computer: RemoteFlow, frames: np.ndarray, chosen: Settings) -> None:
    """What ``computer`` makes of ``frames`` in parts, two on their way at a time, is what this process makes."""
    step = computer.pairs_in_a_call(*frames.shape[1:])
    starts = range(0, len(frames) - 1, step)
    waiting, found = [], []
    for start in [*starts, None, None]:
        if start is not None:
            waiting.append(computer.begin(frames[start : start + step + 1], -start % 16, 16))
        if waiting and (start is None or len(waiting) == 2):
            taken = computer.take(waiting.pop(0))
            found.append({way: (part.quantised.levels.copy(), part.stats.copy()) for way, part in taken.items()})
    for way in ("forward", "backward") if chosen.flow.direction == "both" else (chosen.flow.direction,):
        fields = fields_of(frames, way)
        expected = quantise.quantise(fields, chosen.storage)
        assert np.array_equal(np.concatenate([part[way][0] for part in found]), expected.levels)
        assert np.array_equal(
            np.concatenate([part[way][1] for part in found]), quantise.statistics(fields, expected.extremes)
        )


def test_several_children_at_once(process: GPUProcess) -> None:
    chosen = [settings(STORAGES[name], way) for name in ("field", "blosc") for way in ("forward", "both")]
    clients = [remote(process, one) for one in chosen * 2]

    def work(number: int) -> None:
        for turn in range(3):
            frames = np.roll(np.concatenate([VIDEO] * 4), number + turn, axis=0)[: 30 + number]
            check(clients[number], frames[:, : 24 + turn], clients[number]._settings)

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(work, range(len(clients))))
    log = Path(os.environ["FLOWPREP_TEST_GPU"]).read_text().splitlines()
    pairs = [int(line.split("\t")[1]) for line in log]
    assert {line.split("\t")[0] for line in log} == {"7"}  # the one GPU that it sees
    assert max(pairs) <= 24


def test_backward_flow_as_floats(process: GPUProcess) -> None:
    assert np.array_equal(remote(process).backward(VIDEO[:5]), DIS.backward(VIDEO[:5]))
    floats = VIDEO[:5].astype(np.float32)
    assert np.array_equal(remote(process).backward(floats), DIS.backward(floats))


def test_kernels_of_the_cpu_engine_computed_there(process: GPUProcess) -> None:
    here = flow.get("tvl1", "cpu", warps=1)
    config = FlowConfig("tvl1", "gpu", "forward", {"warps": 1})
    there = remote(process, Settings(VideoConfig(), config, STORAGES["htj2k"], here.engine()))
    part = there.take(there.begin(VIDEO, 0, 4))["forward"]
    fields = here.flow(VIDEO)
    assert np.array_equal(part.quantised.levels, quantise.quantise(fields, STORAGES["htj2k"]).levels)
    assert sorted(part.originals) == [0, 4, 8]
    assert all(np.array_equal(original, fields[i]) for i, original in part.originals.items())


def test_large_frames(process: GPUProcess) -> None:
    frames = np.zeros((2, 2160, 3840), np.uint8)
    frames[:, ::7, ::5] = 200
    computer = remote(process)
    check(computer, frames, settings())
    with pytest.raises(VideoError, match="a pair of 4000x4000 pixels takes 5120 MiB of the GPU's memory, 2048 are"):
        computer.pairs_in_a_call(4000, 4000)
    check(computer, VIDEO, settings())


def test_room_for_one_pair_alone(environment: pytest.MonkeyPatch) -> None:
    """Both directions are computed, one after the other."""
    environment.setenv("FLOWPREP_TEST_GPU_PAIRS", "1")
    little = GPUProcess("0")
    try:
        check(remote(little, settings(direction="both")), VIDEO[:4], settings(direction="both"))
    finally:
        environment.delenv("FLOWPREP_TEST_GPU_PAIRS")
        little.close()


def test_a_video_that_is_given_up_leaves_nothing_for_the_next(process: GPUProcess) -> None:
    computer = remote(process)
    computer.pairs_in_a_call(HEIGHT, WIDTH)
    for _ in range(2):
        for start in range(3):
            computer.begin(VIDEO[start : start + 3], 0, 16)
        check(computer, VIDEO, settings())


def test_children_that_go_or_run_wild_do_no_harm(process: GPUProcess) -> None:
    steady = remote(process)
    check(steady, VIDEO, settings())
    good = request(VIDEO[:3], "forward", STORAGES["field"]).to_json()
    packets: list[dict[str, Any]] = [
        {"open": settings().to_json()},
        {"most": [HEIGHT, WIDTH]},
        {"compute": good, "memory": 0},  # without having sent one
        {"compute": good, "memory": -1},
        {"compute": {**good, "frames": 60_000}, "memory": 0},
        {"most": "x"},
        {"open": {"flow": 1}},
        {},
    ]
    connection = process.connect(60, never).connection

    def answer(packet: dict[str, Any], handle: int | None = None) -> dict[str, Any]:
        wire.send(connection, packet, handle)
        while "alive" in (found := wire.receive(connection)[0]):
            pass
        return found

    assert "failed" not in answer(packets[0]) and "failed" not in answer(packets[1])
    for packet in packets[2:]:
        failed = answer(packet)
        assert failed["failed"] == "value" and failed["text"]
    _, handle = SharedMemory.make(4096)
    assert "do not fit" in answer({"compute": good, "memory": 0}, handle)["text"]
    os.close(handle)
    connection.send(b"no packet")
    assert wire.receive(connection)[0]["failed"] == "value"
    assert answer(packets[1]) == {"pairs": 24}
    connection.close()
    for _ in range(3):  # gone while its frames are computed
        going = remote(process)
        going.pairs_in_a_call(HEIGHT, WIDTH)
        going.begin(VIDEO, 0, 16)
        going._connection.close()
    check(steady, VIDEO, settings())


def test_another_engine_is_refused(process: GPUProcess) -> None:
    other = Settings(VideoConfig(), settings().flow, StorageConfig(), "opencv 1.0")
    with pytest.raises(RefusedError, match=r"computes dis with .*, the run was started with opencv 1.0: install"):
        remote(process, other)
    unknown = Settings(VideoConfig(), FlowConfig("brox", "opencv-cuda"), StorageConfig(), "x")
    with pytest.raises(RefusedError):
        remote(process, unknown)


def test_signs_of_life(environment: pytest.MonkeyPatch) -> None:
    """Every batch takes half a second; it may take no more than ten."""
    environment.setenv("FLOWPREP_TEST_GPU_FAULT", "slow")
    slow = GPUProcess("0")
    try:
        heard: list[tuple[float, bool]] = []
        computer = remote(slow, None, lambda waits: heard.append((time.monotonic(), waits)), patience=10)
        check(computer, np.concatenate([VIDEO] * 5), settings())
        assert len(heard) >= 3 and max(np.diff([moment for moment, _ in heard])) < 8
        assert heard[0][1] and not heard[-1][1]
        assert sum(waits for _, waits in heard) > sum(not waits for _, waits in heard)  # some lasted
    finally:
        environment.delenv("FLOWPREP_TEST_GPU_FAULT")
        slow.close()


WORDS = {
    "die": "exit code 1. .*CUDA_ERROR_ILLEGAL_ADDRESS",
    "killed": "SIGKILL",
    "hang": r"exit code 1. .*a batch of 4 pairs of 40x32 has taken more than 1 s \(--stall-seconds\)",
}


@pytest.mark.parametrize(
    "faults",
    [
        ("killed", "die", "hang"),
        pytest.param(("hang", "killed", "die"), marks=pytest.mark.system),
        pytest.param(("die", "hang", "killed"), marks=pytest.mark.system),
    ],
)
def test_a_process_that_ends_again_and_again(environment: pytest.MonkeyPatch, faults: tuple[str, ...]) -> None:
    process = GPUProcess("3")
    assert len(faults) == FAILURES
    try:
        for number, fault in enumerate(faults, 1):
            environment.setenv("FLOWPREP_TEST_GPU_FAULT", fault)
            link = process.connect(1, never)
            computer = RemoteFlow(link.connection, settings(), deaf)
            computer.pairs_in_a_call(HEIGHT, WIDTH)
            pending = computer.begin(VIDEO[:5], 0, 16)
            with pytest.raises(ServerLostError):
                computer.take(pending)
            if number < FAILURES:
                loss = process.lost(link.start, never, blameless=True)
                assert re.search(WORDS[fault], loss.words)
                assert process.lost(link.start, never, blameless=True) == loss  # of another child: that counts once
        words = rf"flow on GPU 3 of .* fails again and again, .*: {WORDS[faults[-1]]}.*nvidia-smi"
        with pytest.raises(RefusedError, match=words):
            process.lost(link.start, never, blameless=True)
    finally:
        environment.delenv("FLOWPREP_TEST_GPU_FAULT")
        process.close()


def test_a_video_that_is_done_forgives(process: GPUProcess) -> None:
    process.connect(60, never).connection.close()
    for _ in range(2 * FAILURES):
        process.done()
        process._failures += 1
    process.done()
    lost = process.connect(60, never)
    assert process._process
    psutil.Process(process._process.pid).kill()
    process.lost(lost.start, never, blameless=False)
    assert process._failures == 0  # of that video, perhaps
    check(remote(process), VIDEO, settings())
    assert process.connect(60, never).start == lost.start + 1
    process.done()


def test_a_wait_for_it_can_be_given_up(environment: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    def stop() -> None:
        raise UnfinishedError("stopped")

    process = GPUProcess("0")
    with pytest.raises(UnfinishedError):
        process.connect(60, stop)
    assert process._process is None


def test_it_ends_with_its_parent(environment: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """And its memory with the last that has it: no file has a name anywhere."""
    process = GPUProcess("0")
    link = process.connect(60, never)
    assert process._process and process._control
    there = psutil.Process(process._process.pid)
    connections = [socket.socket(fileno=os.dup(link.connection.fileno()))]
    process._control.close()  # what the end of this process would do
    assert there.wait(10) == 0
    with pytest.raises(wire.LostError):
        wire.receive(connections[0])
    process._process.wait()
