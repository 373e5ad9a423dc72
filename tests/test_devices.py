"""Which GPUs a process may use: one answer, CUDA's own, for ``--backend auto``, runs and ``flowprep doctor``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowprep import devices, libcuda, opencv
from flowprep.errors import RefusedError
from flowprep.flow import opencv_build
from flowprep.flow.opencv_cuda import TVL1
from flowprep.gpu.owner import GPUProcess
from flowprep.synthetic import write_demo_videos
from tests import idle_gpu
from tests.command import flowprep
from tests.opencv_cuda_double import opencv_with_cuda

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Sets how many GPUs CUDA shows; None: there is no driver."""
    devices._turns.cache_clear()
    yield lambda count: monkeypatch.setattr(devices, "_seen", lambda: count)
    devices._turns.cache_clear()


@pytest.mark.parametrize(
    ("count", "visible", "expected", "stop"),
    [
        (2, None, ["0", "1"], ""),
        (2, "1,0", ["1", "0"], ""),
        (2, " 1 , 0 ", ["1", "0"], ""),
        (1, "GPU-8f6b", ["GPU-8f6b"], ""),
        (1, "0,7,1", ["0"], "7"),
        (0, "7", [], "7"),
        (0, "abc", [], "abc"),
        (0, "0,0", [], "0"),
        (1, "0,GPU-8f6b", ["0"], "GPU-8f6b"),
        (1, "MIG-1a/2/3,MIG-4b", ["MIG-1a/2/3", "MIG-4b"], ""),  # a process sees one of them
        (0, "MIG-1a", [], "MIG-1a"),
        (1, "0,-1,1", ["0"], ""),  # whoever writes these means the end
        (1, "0,", ["0"], ""),
        (0, "-1", [], ""),
        (0, "", [], ""),
        (0, "NoDevFiles", [], ""),
        (0, "\x1b[2J", [], "?[2J"),
        (None, None, [], ""),
        (None, "0", [], ""),  # nobody can tell; that there is no driver is said elsewhere
    ],
)
def test_cuda_judges_the_list(
    count: int | None, visible: str | None, expected: list[str], stop: str, seen: Callable[[int | None], None]
) -> None:
    seen(count)
    environment = {} if visible is None else {VISIBLE: visible}
    assert devices.gpus(environment) == expected
    wrong = devices.objection(environment)
    assert bool(wrong) == bool(stop) and wrong.isprintable()
    assert not stop or f": CUDA stops at {stop}, which is no GPU that this process may use" in wrong


def test_gpus_take_turns(seen: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch) -> None:
    seen(2)
    monkeypatch.setenv(VISIBLE, "1,2")
    assert [devices.next_gpu() for _ in range(5)] == ["1", "2", "1", "2", "1"]


def test_no_gpu(seen: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch) -> None:
    seen(0)
    monkeypatch.setenv(VISIBLE, "")
    with pytest.raises(RefusedError, match="has no GPU that can be used: see nvidia-smi, and CUDA_VISIBLE_DEVICES"):
        devices.next_gpu()
    seen(1)
    monkeypatch.setenv(VISIBLE, "0,7")
    with pytest.raises(RefusedError, match="CUDA_VISIBLE_DEVICES=0,7: CUDA stops at 7"):
        devices.next_gpu()


def test_opencvs_cuda_is_told_of_them_as_well(
    seen: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencv, "load", lambda: opencv_with_cuda(1))
    monkeypatch.setattr(opencv_build, "_opened_in", 0)
    seen(1)
    monkeypatch.setenv(VISIBLE, "0")
    assert not TVL1.unavailable()
    monkeypatch.setenv(VISIBLE, "0,7")
    assert "CUDA_VISIBLE_DEVICES=0,7: CUDA stops at 7" in TVL1.unavailable()


@pytest.mark.parametrize(("order", "expected"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_numbers_are_nvidia_smis_or_the_users(
    order: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, env: dict[str, str], **__: object) -> None:
        assert (env["CUDA_DEVICE_ORDER"], env[VISIBLE]) == (expected, "1")
        raise RefusedError("not begun")

    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    if order:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(RefusedError, match="not begun"):
        GPUProcess("1").connect(1.0, lambda: None)


def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, in a process that is ended then; who asks goes on."""
    monkeypatch.setattr(libcuda, "LIBRARY", "libc.so.6")  # that is there
    monkeypatch.setattr(libcuda, "SECONDS", 0.2)
    monkeypatch.setattr(libcuda, "ASK", [sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.delenv(VISIBLE, raising=False)
    libcuda.answer.cache_clear()
    devices._turns.cache_clear()
    try:
        words = "the NVIDIA driver has not answered for 0.2 s: it hangs, or the GPU does"
        assert (devices.gpus(), devices.objection(), libcuda.answer().trouble) == ([], "", words)
        with pytest.raises(RefusedError, match=words):
            devices.next_gpu()
    finally:
        libcuda.answer.cache_clear()
        devices._turns.cache_clear()


# With a stand-in for the driver


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of programs that find it."""
    try:
        return idle_gpu.environment(tmp_path_factory.mktemp("driver"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


ASK = """
import json, os, sys
from flowprep import devices, libcuda
from flowprep.flow.cuda import driver
for case in json.load(sys.stdin):
    os.environ.update(case)
    libcuda.answer.cache_clear()
    print(json.dumps([devices.gpus(), driver.unavailable()]))
    for name in case:
        del os.environ[name]
"""


def test_what_auto_asks_and_what_runs_use_agree(driver: dict[str, str]) -> None:
    """Without /proc/driver/nvidia, as in WSL2, and without nvidia-smi."""
    count = "FLOWPREP_TEST_CUDA"
    cases: list[tuple[dict[str, str], list[str], str]] = [
        ({count: "2"}, ["0", "1"], ""),
        ({count: "2", VISIBLE: "3,1"}, ["3", "1"], ""),
        ({count: "1", VISIBLE: "0,7"}, ["0"], "CUDA stops at 7"),
        ({count: "0", VISIBLE: "7"}, [], "CUDA stops at 7"),
        ({count: "0"}, [], "the driver finds no GPU"),
        ({count: "0", VISIBLE: ""}, [], "the driver finds no GPU"),
        ({count: "2", "FLOWPREP_TEST_CUDA_ERROR": "803", VISIBLE: "0"}, [], "SYSTEM_DRIVER_MISMATCH"),
        ({count: "2", "FLOWPREP_TEST_SECOND": "61"}, ["0", "1"], "has compute capability 6.1, 7.5 is the least; name"),
        ({count: "1", "FLOWPREP_TEST_CAPABILITY": "61"}, ["0"], "has compute capability 6.1, 7.5 is the least"),
        ({count: "1", "FLOWPREP_TEST_CUDA_VERSION": "12040"}, ["0"], "for CUDA 12.4, .* '.[cuda12]'"),
        ({count: "1", "FLOWPREP_TEST_CUDA_VERSION": "11080"}, ["0"], "install a newer driver"),
    ]
    environment = {name: value for name, value in driver.items() if name != VISIBLE}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps([case for case, _, _ in cases]),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    for (case, expected, words), line in zip(cases, done.stdout.splitlines(), strict=True):
        usable, reason = json.loads(line)
        assert usable == expected, case
        assert bool(reason) == bool(words), (case, reason)
        assert all(part in reason for part in words.split(".* ")), (case, reason)


def test_a_run_is_refused_before_it_begins(driver: dict[str, str], tmp_path: Path) -> None:
    write_demo_videos(tmp_path / "videos", clips_per_class=1, frames=2, height=16, width=16)
    environment = {**driver, "FLOWPREP_TEST_CUDA": "1", VISIBLE: "0,7"}
    done = flowprep("extract", tmp_path / "videos", tmp_path / "out.zarr", "--backend", "cuda", env=environment)
    assert done.returncode == 65 and not (tmp_path / "out.zarr").exists()
    (line,) = done.stderr.splitlines()
    assert "CUDA_VISIBLE_DEVICES=0,7: CUDA stops at 7" in line
    command = ("extract", tmp_path / "videos", tmp_path / "out.zarr", "--backend", "auto", "--dry-run")
    done = flowprep(*command, env={**environment, VISIBLE: "0"})
    assert done.returncode == 0 and "auto: cuda (flowprep CUDA kernels" in done.stderr + done.stdout
