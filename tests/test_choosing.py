"""``--backend auto``: what it takes, how a dataset remembers it, and that a dataset never gets a second backend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

import flowprep
from flowprep import flow
from flowprep.cli import flowprep as group
from flowprep.config import (
    ExtractConfig,
    FlowConfig,
    RunConfig,
    Settings,
    SourceConfig,
    StorageConfig,
    VideoConfig,
)
from flowprep.errors import RefusedError, UsageError
from flowprep.flow import cpu
from flowprep.flow.choosing import choose
from flowprep.flow.opencv_cuda import TVL1Parameters
from flowprep.run import driver
from flowprep.run.product import resolve
from tests.in_process import BATCH, derive, make_dataset, stack, write_clips
from tests.in_process import SETTINGS as SMALL
from tests.test_fingerprint import SETTINGS

QUICK = {"warps": "1"}  # a warp at each level


class Cuda(cpu.TVL1):
    """Stands in for flowprep's CUDA kernels."""

    backend = "cuda"
    gpu = False  # so that it runs where there is none
    reason: ClassVar[str] = ""

    @classmethod
    def unavailable(cls) -> str:
        return cls.reason

    @classmethod
    def engine(cls) -> str:
        return f"kernels of {cls.backend}"


class OpenCVCuda(Cuda):
    backend = "opencv-cuda"
    parameters_type = TVL1Parameters
    reason: ClassVar[str] = ""


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which everything runs."""
    ours = {"cuda": f"{__name__}:Cuda", "opencv-cuda": f"{__name__}:OpenCVCuda"}
    monkeypatch.setitem(flow.BACKENDS, "tvl1", {**flow.BACKENDS["tvl1"], **ours})


@dataclass
class Machine:
    """What works here: "" or a reason why not."""

    patch: pytest.MonkeyPatch

    def has(self, *, cuda: str = "", opencv_cuda: str = "", cpu_engine: str = "") -> None:
        self.patch.setattr(Cuda, "reason", cuda)
        self.patch.setattr(OpenCVCuda, "reason", opencv_cuda)
        self.patch.setattr(cpu.TVL1, "unavailable", classmethod(lambda _: cpu_engine))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


# What it takes


def test_the_fastest_that_works(machine: Machine) -> None:
    assert choose("tvl1", {}) == (Cuda, "cuda (kernels of cuda)")
    machine.has(cuda="no GPU.")
    assert choose("tvl1", {}) == (OpenCVCuda, "opencv-cuda (kernels of opencv-cuda), because cuda: no GPU")
    machine.has(cuda="no GPU.", opencv_cuda="no CUDA in it.")
    chosen = choose("tvl1", {})
    assert chosen.algorithm is cpu.TVL1
    assert chosen.why == "cpu (flowprep kernels 1), because cuda: no GPU; opencv-cuda: no CUDA in it"
    machine.has(cuda="no GPU.", opencv_cuda="no CUDA in it.", cpu_engine="no kernels.")
    assert choose("tvl1", {}).algorithm.backend == "opencv"
    assert choose("dis", {}).why.startswith("opencv (opencv ")  # there is nothing else


def test_where_nothing_works(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(cuda="no GPU.", opencv_cuda="no CUDA.", cpu_engine="no kernels.")
    monkeypatch.delitem(flow.BACKENDS["tvl1"], "opencv")
    with pytest.raises(
        RefusedError, match="tvl1 cannot run here. cuda: no GPU. opencv-cuda: no CUDA. cpu: no kernels."
    ):
        choose("tvl1", {})
    with pytest.raises(UsageError, match="Did you mean 'tvl1'"):
        choose("tvl2", {})


def test_only_backends_with_the_parameters_that_were_given(machine: Machine) -> None:
    chosen = choose("tvl1", {"iterations": 20})
    assert chosen.algorithm is OpenCVCuda
    assert "because cuda: tvl1 has no parameter 'iterations' on the backend cuda. Did you mean" in chosen.why
    machine.has(cuda="no GPU.")
    assert choose("tvl1", {"preset": "ipol"}).algorithm is cpu.TVL1
    assert choose("tvl1", {"preset": "opencv-cuda"}).algorithm is OpenCVCuda
    with pytest.raises(UsageError, match="no parameter 'warp' on the backend opencv-cuda. Did you mean 'warps'"):
        choose("tvl1", {"warp": 3})


def test_without_a_backend_a_gpu_is_never_taken(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cuda, "gpu", True)
    assert flow.find("tvl1").backend == "cpu"
    machine.has(cpu_engine="no kernels.")
    assert flow.find("tvl1").backend == "opencv"
    monkeypatch.delitem(flow.BACKENDS["tvl1"], "opencv")
    with pytest.raises(RefusedError, match="cpu: no kernels.$"):
        flow.find("tvl1")


def test_clusters_and_jobs_need_a_name(tmp_path: Path) -> None:
    """What their machines have is not seen from here."""
    (tmp_path / "videos").mkdir()
    for command in (
        ["extract", "--scheduler", "tcp://127.0.0.1:1"],
        ["submit", "--to", "slurm", "--dry-run"],
    ):
        done = CliRunner().invoke(
            group, [*command, str(tmp_path / "videos"), str(tmp_path / "out.zarr"), "--backend", "auto"]
        )
        assert isinstance(done.exception, UsageError) or done.exit_code == 2
        said = str(done.exception) + done.output
        assert "--backend auto takes what this machine has, but the" in said and "--backend cuda" in said


# What a dataset remembers


def test_the_choice_has_no_part_in_the_fingerprint() -> None:
    chosen = Settings(
        *(getattr(SETTINGS, name) for name in ("video", "flow", "storage", "engine")), auto="cpu, because"
    )
    assert chosen.fingerprint() == SETTINGS.fingerprint() and SETTINGS.differences(chosen) == []
    assert Settings.from_json(chosen.to_json()) == chosen
    assert "auto" not in SETTINGS.to_json()
    with pytest.raises(UsageError, match="settings: auto"):
        Settings.from_json({**SETTINGS.to_json(), "auto": [1]})


def extraction(folder: Path, backend: str, said: list[str], method: str = "tvl1") -> driver.Extraction:
    config = ExtractConfig(
        SourceConfig(str(folder / "videos")),
        str(folder / "out.zarr"),
        VideoConfig(),
        FlowConfig(method, backend, parameters=QUICK if method == "tvl1" else {}),
        StorageConfig(rgb=False),
        cluster=BATCH,
    )
    return driver.Extraction(config, said.append, quiet=True)


@pytest.fixture
def begun(tmp_path: Path, machine: Machine) -> Path:
    """A dataset that was begun with auto on a machine with a GPU."""
    write_clips(tmp_path / "videos")
    said: list[str] = []
    run = extraction(tmp_path, "auto", said)
    assert said == ["auto: cuda (kernels of cuda)"]  # once, before anything else
    derive(run)
    assert not any("auto" in line for line in said[1:])
    machine.has()
    return tmp_path


def test_what_was_chosen_and_why_is_in_the_dataset(begun: Path) -> None:
    settings = flowprep.open(begun / "out.zarr").settings
    assert settings.flow.backend == "cuda" and settings.auto == "cuda (kernels of cuda)"
    done = CliRunner().invoke(group, ["info", str(begun / "out.zarr")], catch_exceptions=False)
    assert "\nauto         cuda (kernels of cuda)\n" in done.output
    done = CliRunner().invoke(group, ["info", "--json", str(begun / "out.zarr")], catch_exceptions=False)
    assert '"auto": "cuda (kernels of cuda)"' in done.output


def test_a_dataset_keeps_its_backend(begun: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where something faster has come since; and the reason that it was chosen for."""
    monkeypatch.setattr("flowprep.flow.choosing.FASTEST_FIRST", ("opencv-cuda", "cuda", "cpu"))
    machine.has()
    said: list[str] = []
    run = extraction(begun, "auto", said)
    assert said == [f"auto: cuda (kernels of cuda), with which {begun / 'out.zarr'} was begun"]
    assert run.settings.auto == "cuda (kernels of cuda)"
    assert derive(run).shards_run == 0
    assert derive(extraction(begun, "cuda", [])).shards_run == 0  # the same settings, by name


def test_of_two_machines_that_begin_it_one_is_refused(tmp_path: Path, machine: Machine) -> None:
    write_clips(tmp_path / "videos")
    machine.has(cuda="no GPU.", opencv_cuda="no CUDA in it.")
    said: list[str] = []
    run = extraction(tmp_path, "auto", said)
    assert said == ["auto: cpu (flowprep kernels 1), because cuda: no GPU; opencv-cuda: no CUDA in it"]
    machine.has()
    derive(extraction(tmp_path, "auto", []))
    with pytest.raises(RefusedError) as error:
        derive(run)
    text = str(error.value)
    assert f"{tmp_path / 'out.zarr'} was begun on the backend cuda" in text
    assert "would now take cpu (flowprep kernels 1), because cuda: no GPU" in text
    assert "--backend cuda, where that runs, or write to another folder with --backend cpu" in text


@pytest.mark.parametrize("backend", ["cuda", "auto"])
def test_a_complete_dataset_needs_its_backend_no_more(backend: str, begun: Path, machine: Machine) -> None:
    """Only what is left to do does; then nothing is planned."""
    machine.has(cuda="no GPU.", cpu_engine="no kernels.")

    def again(run: RunConfig) -> driver.Extraction:
        source, chosen = SourceConfig(str(begun / "videos")), FlowConfig("tvl1", backend, parameters=QUICK)
        storage = StorageConfig(rgb=False)
        config = ExtractConfig(source, str(begun / "out.zarr"), flow=chosen, storage=storage, run=run)
        return driver.Extraction(config, lambda _: None, quiet=True)

    assert derive(again(RunConfig())).shards_run == derive(again(RunConfig(retry_status="crashed"))).shards_run == 0
    plans = sorted((begun / "out.zarr/.flowprep").glob("plan.*"))
    words = "tvl1 cannot run here. cuda: no GPU. Continue .*out.zarr where cuda works, or write another dataset with"
    with pytest.raises(RefusedError, match=words):
        derive(again(RunConfig(retry_status="undecodable")))
    assert sorted((begun / "out.zarr/.flowprep").glob("plan.*")) == plans
    next((begun / "out.zarr/.flowprep/commits").iterdir()).unlink()
    with pytest.raises(RefusedError, match=words):
        derive(again(RunConfig()))
    (begun / "out.zarr").rename(begun / "old.zarr")
    if backend == "cuda":
        with pytest.raises(RefusedError, match="tvl1 cannot run here. cuda: no GPU"):
            again(RunConfig())


def test_stacks_that_flow_is_computed_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SMALL, flow=replace(SMALL.flow, direction="forward"))
    made = make_dataset(
        tmp_path / "flow.zarr", tmp_path / "videos", write_clips(tmp_path / "videos")[:1], settings=settings
    )
    monkeypatch.setattr("flowprep.flow.opencv.DIS.unavailable", classmethod(lambda _: "no OpenCV."))
    words = (
        "dis cannot run here. opencv: no OpenCV. Stack .*flow.zarr where opencv works, or extract .* --direction both"
    )
    with pytest.raises(RefusedError, match=words):
        stack(made, tmp_path / "stacks.zarr", length=2, bidirectional=True)


def test_by_name_the_usual_refusal(begun: Path) -> None:
    with pytest.raises(RefusedError, match=r"what differs:(.|\n)*flow.backend: cuda -> cpu"):
        derive(extraction(begun, "cpu", []))


def test_a_dataset_of_another_method_is_no_reason(begun: Path) -> None:
    said: list[str] = []
    run = extraction(begun, "auto", said, "dis")
    assert said[0].startswith("auto: opencv (")
    with pytest.raises(RefusedError, match="flow.method: tvl1 -> dis"):
        derive(run)


def test_begun_by_name_it_was_not_chosen(tmp_path: Path) -> None:
    write_clips(tmp_path / "videos")
    derive(extraction(tmp_path, "cpu", []))
    said: list[str] = []
    run = extraction(tmp_path, "auto", said)
    assert (run.settings.flow.backend, run.settings.auto) == ("cpu", "")
    assert said == [f"auto: cpu (flowprep kernels 1), with which {tmp_path / 'out.zarr'} was begun"]


def test_the_default_is_none_of_it() -> None:
    settings = resolve(ExtractConfig(SourceConfig("videos"), "no-such.zarr"))
    assert settings.flow.backend == "cpu" and not settings.auto
