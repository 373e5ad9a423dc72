"""flowprep doctor on machines with GPUs and without: what it finds, marks, and compiles."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from flowprep import doctor, flow, nvidia, opencv
from flowprep.cli import flowprep as group
from flowprep.errors import RefusedError
from flowprep.flow import cpu, opencv_build
from flowprep.nvidia import GPU
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
    found = nvidia.describe(tmp_path)
    assert found == [H100, GPU("1", "NVIDIA GB10", 0, "12.1", "580.95.05")]
    assert str(found[0]) == "NVIDIA H100 80GB HBM3, 79.6 GiB, compute capability 9.0, driver 580.95.05"
    assert str(found[1]) == "NVIDIA GB10, compute capability 12.1, driver 580.95.05"


@pytest.mark.parametrize("script", ['echo "no such field"; exit 2', "sleep 60", "kill -9 $$"])
def test_where_nvidia_smi_does_not_answer_the_kernel_does(
    script: str, smi: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(f"exec {script}" if script.startswith("sleep") else script)
    monkeypatch.setattr(nvidia, "SECONDS", 0.5)
    proc = tmp_path / "proc"
    assert nvidia.describe(proc) == []
    for number, model in enumerate(("NVIDIA H100 80GB HBM3", "NVIDIA L4")):
        folder = proc / f"gpus/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 100\nGPU UUID: \t GPU-1\n")
    assert nvidia.describe(proc) == []  # without a version it is not the driver's folder
    (proc / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12\n"
    )
    found = nvidia.describe(proc)
    assert found == [GPU("0", "NVIDIA H100 80GB HBM3", driver="580.95.05"), GPU("1", "NVIDIA L4", driver="580.95.05")]
    assert str(found[1]) == "NVIDIA L4, driver 580.95.05"
    (proc / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun\n")
    assert nvidia.describe(proc)[0].driver == "535.54.03"


# What the doctor makes of it


def test_without_a_gpu_nothing_is_amiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "describe", list)
    assert list(doctor._gpus()) == [("gpu", "none, or no NVIDIA driver for it", None)]


def test_the_gpus_and_which_of_them_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "describe", lambda: [H100, H100._replace(number="1")])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list(doctor._gpus()) == [("gpu 0", str(H100), True), ("gpu 1", str(H100), True)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert list(doctor._gpus())[2:] == [("gpus in use", "1 (CUDA_VISIBLE_DEVICES=1)", True)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert list(doctor._gpus())[2:] == [("gpus in use", "none (CUDA_VISIBLE_DEVICES=)", None)]


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
    (_, _, good), missing = doctor._methods(print)
    assert good and missing == ("flow tvl1", "cuda: no GPU.", None)
    assert list(doctor._choices()) == [("auto tvl1", "cpu (flowprep kernels 1), because cuda: no GPU", True)]


def test_one_that_is_there_has_to_work(cuda: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    cuda()
    _, (what, found, good) = doctor._methods(print)
    assert (what, good) == ("flow tvl1", True) and found.startswith("cuda: works (a shift of 2.00, 0.00 px")
    assert "Compiling for the GPU." in capsys.readouterr().out
    assert [found for _, found, _ in doctor._choices()] == ["cuda (flowprep kernels 1)"]
    for fault, words in ((RefusedError("it is broken."), "cuda: it is broken."), (OSError(5, "I/O"), "OSError")):
        cuda(fault=fault)
        _, (_, found, good) = doctor._methods(print)
        assert words in found and good is False


def test_kernels_for_the_gpu_are_compiled_where_one_is(
    cuda: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warmed() -> list[doctor.Finding]:
        return [finding for finding in doctor.warm(print) if "cuda" in finding[0]]

    cuda()
    monkeypatch.setattr(nvidia, "describe", list)
    assert warmed() == []
    monkeypatch.setattr(nvidia, "describe", lambda: [H100])
    ((what, found, good),) = warmed()
    assert (what, good) == ("kernels tvl1 cuda", True) and found.startswith("compiled in ")
    cuda("numba-cuda is not installed.")
    assert warmed() == [("kernels tvl1 cuda", "numba-cuda is not installed.", None)]
    cuda(fault=RefusedError("the driver is too old."))
    assert warmed() == [("kernels tvl1 cuda", "the driver is too old.", False)]


def test_marks_and_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [("a", "works", True), ("b", "is not here", None)]
    monkeypatch.setattr(doctor, "diagnose", lambda *_: iter(findings))
    done = CliRunner().invoke(group, ["doctor"], catch_exceptions=False)
    assert done.exit_code == 0 and done.output.endswith("Everything works.\n")
    assert [line.split()[:2] for line in done.output.splitlines()[:2]] == [["ok", "a"], ["--", "b"]]
    findings.append(("c", "is broken", False))
    done = CliRunner().invoke(group, ["doctor"], catch_exceptions=False)
    assert done.exit_code == 65 and "BAD  c" in done.output and "1 thing to mend." in done.output
