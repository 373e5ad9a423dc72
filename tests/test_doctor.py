"""flowprep doctor on machines with GPUs and without: what it finds, marks, and compiles."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

from flowprep import devices, doctor, flow, nvidia, opencv
from flowprep.cli import flowprep as group
from flowprep.errors import RefusedError, UsageError
from flowprep.flow import cpu, opencv_build
from flowprep.nvidia import GPU, Driver
from tests.opencv_cuda_double import opencv_with_cuda

H100 = GPU("0", "NVIDIA H100 80GB HBM3", 81559, "9.0", "580.95.05")


# The driver


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an nvidia-smi that runs the given lines of a shell in the place of the machine's own."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return write


def test_what_nvidia_smi_says(smi: Callable[[str], None], tmp_path: Path) -> None:
    smi(
        'echo "0, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05"\n'
        'echo "1, NVIDIA GB10, [N/A], 12.1, 580.95.05"\n'
        'echo "a warning of some kind"'
    )
    found, trouble = nvidia.describe(tmp_path)
    assert found == [H100, GPU("1", "NVIDIA GB10", 0, "12.1", "580.95.05")] and not trouble
    assert str(found[0]) == "NVIDIA H100 80GB HBM3, 79.6 GiB, compute capability 9.0, driver 580.95.05"
    assert str(found[1]) == "NVIDIA GB10, compute capability 12.1, driver 580.95.05"


def test_odd_things_that_nvidia_smi_may_say(smi: Callable[[str], None], tmp_path: Path) -> None:
    smi(
        r"""printf '0, Tesla, the "fast" one, 81559, 9.0, 580.95.05\n'
        printf '1, [Unknown Error], [GPU is lost], [N/A], 580.95.05\n'
        printf '2, A \033[31mred\007 one\377, 99999999999999999999, 9.0, 580\n'
        printf 'x, A, 1, 9.0, 580\n\n,,,,\n'
        for n in 3 4 5; do for m in 0 1 2 3 4 5 6 7 8 9; do echo "$n$m, B, 1024, 9.0, 580"; done; done"""
    )
    found = nvidia.describe(tmp_path).gpus
    assert [gpu.number for gpu in found[:3]] == ["0", "1", "2"] and len(found) == 33
    assert found[0] == H100._replace(name='Tesla, the "fast" one')
    assert str(found[1]) == "a GPU, driver 580.95.05"
    assert str(found[2]) == "A ?[31mred? one\ufffd, compute capability 9.0, driver 580"
    assert all(str(gpu).isprintable() for gpu in found)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo "no such field"; exit 2', "fails (exit code 2): no such field"),
        ("exec sleep 60", "has not answered for 0.5 s: it hangs, or the GPU does"),
        ("sleep 5 & wait", "has not answered for 0.5 s"),
        ("kill -9 $$", "fails (SIGKILL): "),
        (
            r"printf 'Failed to initialize NVML:\nDriver/library version \033mismatch\n'; exit 18",
            "fails (exit code 18): Failed to initialize NVML: Driver/library version ?mismatch",
        ),
        ("echo No devices were found", "lists no GPU: No devices were found"),
    ],
)
def test_where_nvidia_smi_does_not_answer_the_kernel_does(
    script: str, words: str, smi: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(script)
    if "sleep" in script:
        monkeypatch.setattr(nvidia, "SECONDS", 0.5)
    proc = tmp_path / "proc"
    start = time.monotonic()
    found, trouble = nvidia.describe(proc)
    assert found == [] and trouble.startswith(words)
    assert time.monotonic() - start < 4
    for number, model in enumerate(("NVIDIA H100 80GB HBM3", "NVIDIA L4")):
        folder = proc / f"gpus/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 100\nGPU UUID: \t GPU-1\n")
    monkeypatch.setattr(nvidia, "SECONDS", 0.1)
    assert nvidia.describe(proc).gpus == []  # without a version it is not the driver's folder
    (proc / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12\n"
    )
    found = nvidia.describe(proc).gpus
    assert found == [GPU("0", "NVIDIA H100 80GB HBM3", driver="580.95.05"), GPU("1", "NVIDIA L4", driver="580.95.05")]
    assert str(found[1]) == "NVIDIA L4, driver 580.95.05"
    (proc / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun\n")
    (proc / "gpus/0000:01:00.0/information").write_bytes(b"Model: \xff\x1b[31m\n")
    found = nvidia.describe(proc).gpus
    assert found[0].driver == "535.54.03" and found[1].name == "\ufffd?[31m"


# What the doctor makes of it


def test_without_a_gpu_nothing_is_amiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "describe", lambda: Driver([]))
    monkeypatch.setattr(devices, "_seen", lambda: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list(doctor._gpus()) == [("gpu", "none, or no NVIDIA driver for it", None)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert list(doctor._gpus()) == [("gpu", "none, or no NVIDIA driver for it", None)]
    words = "fails (exit code 9): NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    monkeypatch.setattr(nvidia, "describe", lambda: Driver([], words))
    assert next(doctor._gpus()) == ("nvidia-smi", words, None)  # as on a machine whose software others use, too


def test_the_gpus_and_which_of_them_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "describe", lambda: Driver([H100, H100._replace(number="1")]))
    monkeypatch.setattr(devices, "_seen", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list(doctor._gpus()) == [
        ("gpu 0", str(H100), True),
        ("gpu 1", str(H100), True),
        ("gpus tried", "0 alone, by what follows; to try another: CUDA_VISIBLE_DEVICES=1 flowprep doctor", True),
    ]
    for visible, seen, found, good in (
        ("1", 1, "number 1 (CUDA_VISIBLE_DEVICES=1)", True),
        ("GPU-8f", 1, "GPU-8f (CUDA_VISIBLE_DEVICES=GPU-8f)", True),
        ("", 0, "none (CUDA_VISIBLE_DEVICES=)", None),
        ("-1", 0, "none (CUDA_VISIBLE_DEVICES=-1)", None),
        ("7", 0, "none: CUDA_VISIBLE_DEVICES=7: CUDA stops at 7, which is no GPU", False),
        ("1,7", 1, "number 1: CUDA_VISIBLE_DEVICES=1,7: CUDA stops at 7, which is no GPU", False),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(devices, "_seen", lambda seen=seen: seen)
        ((what, said, mark),) = list(doctor._gpus())[2:]
        assert what == "gpus in use" and said.startswith(found) and mark is good


def test_what_is_wrong_with_nvidia_smi_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvidia, "describe", lambda: Driver([H100], "fails (exit code 18): Driver/library mismatch"))
    monkeypatch.setattr(devices, "_seen", lambda: 1)
    assert list(doctor._gpus())[1:] == [("nvidia-smi", "fails (exit code 18): Driver/library mismatch", False)]
    # In WSL2 and in containers it need not be there, nor what the kernel says.
    monkeypatch.setattr(devices, "_seen", lambda: 2)
    monkeypatch.setattr(nvidia, "describe", lambda: Driver([]))
    assert next(doctor._gpus()) == ("gpus in use", "number 0, number 1; nvidia-smi does not say what they are", True)
    monkeypatch.setattr(nvidia, "describe", lambda: Driver([H100] * 3000))
    found = list(doctor._gpus())
    assert [what for what, _, _ in found[9:]] == ["gpu 0", "gpus", "gpus in use", "gpus tried"]
    assert found[10:12] == [
        ("gpus", "and 2,990 more", True),
        ("gpus in use", "number 0, number 1: CUDA shows no others to this process", True),
    ]


@pytest.mark.parametrize(("count", "words"), [(-1, "0 devices"), (0, "0 devices"), (1, "1 device"), (2, "2 devices")])
def test_opencvs_cuda(count: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = opencv_with_cuda(count)
    monkeypatch.setattr(opencv, "load", lambda: module)
    monkeypatch.setattr(opencv_build, "_opened_in", 0)
    ((_, found, good),) = doctor._opencv()
    assert found == f"5.0.0, without contrib (no TV-L1, no DeepFlow), CUDA 13.0 with {words}" and not good


class Cuda(cpu.TVL1):
    backend = "cuda"
    gpu = True
    reason: ClassVar[str] = "no GPU."
    fault: ClassVar[Exception | None] = None

    @classmethod
    def unavailable(cls) -> str:
        return cls.reason

    def warm(self, say: Callable[[str], None] | None = None) -> None:
        if self.fault:
            raise self.fault
        if say:
            say("Compiling for the GPU.")

    def _flow(self, frames: flow.Greys) -> flow.NDArray[flow.np.float32]:
        if self.fault:
            raise self.fault
        return super()._flow(frames)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the backend cuda, the only one beside cpu, is like."""
    monkeypatch.setattr(doctor, "METHODS", ("tvl1",))
    monkeypatch.setitem(flow.BACKENDS, "tvl1", {"cpu": flow.BACKENDS["tvl1"]["cpu"], "cuda": f"{__name__}:Cuda"})

    def be(reason: str = "", fault: Exception | None = None) -> None:
        monkeypatch.setattr(Cuda, "reason", reason)
        monkeypatch.setattr(Cuda, "fault", fault)

    return be


def test_a_backend_on_gpus_need_not_be_there(cuda: Callable[..., None]) -> None:
    cuda("no GPU.")
    (_, _, good), missing, choice = doctor._methods(print)
    assert good and missing == ("flow tvl1", "cuda: no GPU.", None)
    assert choice == ("auto tvl1", "cpu (flowprep kernels 1), because cuda: no GPU", True)


def test_one_that_is_there_has_to_work(
    cuda: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda()
    _, (what, found, good), choice = doctor._methods(print)
    assert (what, good) == ("flow tvl1", True) and found.startswith("cuda: works (a shift of 2.00, 0.00 px")
    assert "Compiling for the GPU." in capsys.readouterr().out
    assert choice == ("auto tvl1", "cuda (flowprep kernels 1)", True)
    for fault, words in (
        (RefusedError("it is broken."), "cuda: it is broken."),
        (UsageError("MEMORY=abc: give a number."), "cuda: MEMORY=abc: give a number."),
        (OSError(5, "I/O"), "cuda: fails: OSError: [Errno 5] I/O"),
    ):
        cuda(fault=fault)
        _, (_, found, good), choice = doctor._methods(print)
        assert found == words and good is False
        assert choice[1:] == (
            "takes cuda (flowprep kernels 1); but that fails: name another one, with --backend",
            False,
        )
    cuda()
    monkeypatch.setattr(Cuda, "_flow", lambda _, frames: np.zeros((len(frames) - 1, 2, *frames.shape[1:]), np.float32))
    _, (_, found, good), _ = doctor._methods(print)
    assert found == "cuda: computes what is not there: a shift of 2.00, 0.00 px is measured as 0.00, 0.00." and not good


def test_kernels_for_the_gpu_are_compiled_where_one_is(
    cuda: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warmed() -> list[doctor.Finding]:
        return [finding for finding in doctor.warm(print) if "cuda" in finding[0]]

    cuda()
    monkeypatch.setattr(devices, "_seen", lambda: None)
    assert warmed() == []
    monkeypatch.setattr(devices, "_seen", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ((what, found, good),) = warmed()
    assert (what, good) == ("kernels tvl1 cuda", True) and re.match("ready in .* s, kept in /", found)
    cuda("numba-cuda is not installed.")
    assert warmed() == [("kernels tvl1 cuda", "numba-cuda is not installed.", None)]
    cuda(fault=RefusedError("the driver is too old."))
    assert warmed() == [("kernels tvl1 cuda", "the driver is too old.", False)]
    monkeypatch.setattr("flowprep.flow.cuda.device.code_folder", lambda: "/proc/x: No such file or directory")
    assert warmed() == [("kernels tvl1 cuda", "cannot be kept: /proc/x: No such file or directory", False)]


def test_marks_and_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [("a", "works", True), ("b", "is not here", None)]
    monkeypatch.setattr(doctor, "diagnose", lambda *_: iter(findings))
    done = CliRunner().invoke(group, ["doctor"], catch_exceptions=False)
    assert done.exit_code == 0 and done.output.endswith("Everything works.\n")
    assert [line.split()[:2] for line in done.output.splitlines()[:2]] == [["ok", "a"], ["--", "b"]]
    findings.append(("c", "is broken", False))
    done = CliRunner().invoke(group, ["doctor"], catch_exceptions=False)
    assert done.exit_code == 65 and "BAD  c" in done.output and "1 thing to mend." in done.output
