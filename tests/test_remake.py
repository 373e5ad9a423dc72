"""The flow that a video is given for a network, where what computed that of its dataset is not on this machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowprep import devices, flow
from flowprep.config import FlowConfig, StreamConfig
from flowprep.errors import RefusedError
from flowprep.train.remake import Stream, recipes
from tests.in_process import SETTINGS


def test_a_backend_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    before = FlowConfig("tvl1", "opencv", "forward", {"warps": 3, "gamma": 0.0})
    settings = replace(SETTINGS, flow=before, engine="opencv 3.1.0")
    stream = Stream(StreamConfig("temporal"), settings)
    monkeypatch.setattr("flowprep.flow.opencv.TVL1.unavailable", classmethod(lambda _: "no optflow"))
    said: list[str] = []
    ((found,),) = recipes([stream], said.append)
    assert found.flow.backend == "cpu" and found.flow.parameters["warps"] == 3
    assert len(said) == 1 and "opencv 3.1.0" in said[0] and flow.find("tvl1", "cpu").engine() in said[0]
    ((found,),) = recipes(
        [Stream(stream.config, replace(settings, flow=replace(before, backend="later")))], said.append
    )
    assert found.flow.backend == "cpu"
    # Frames do not need it.
    said.clear()
    monkeypatch.setattr("flowprep.flow.cpu.TVL1.unavailable", classmethod(lambda _: "no compiler"))
    recipes([Stream(StreamConfig("spatial"), settings)], said.append)
    assert not said
    with pytest.raises(RefusedError, match="tvl1 cannot run here.*no compiler"):
        recipes([stream], said.append)


def test_gpus_that_somebody_wants_and_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is a mistake, not a machine without a GPU; a network that was trained on another backend does not mind."""
    monkeypatch.setattr(devices, "_seen", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7")
    monkeypatch.setattr("flowprep.flow.cuda.CudaFlow.unavailable", classmethod(lambda _: devices.objection()))
    full = flow.find("tvl1", "cuda", elsewhere=True).parameters_type.of("tvl1", {}).to_json()
    with pytest.raises(RefusedError, match="tvl1 cannot run here. cuda: CUDA_VISIBLE_DEVICES=0,7: CUDA stops at 7"):
        flow_of(FlowConfig("tvl1", "cuda", "forward", full))
    assert flow_of(FlowConfig("tvl1", "cpu", "forward", full))[0].backend == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("flowprep.flow.cuda.CudaFlow.unavailable", classmethod(lambda _: "no GPU."))
    assert flow_of(FlowConfig("tvl1", "cuda", "forward", full))[0].backend == "cpu"


FULL = {"preset": "opencv-cuda", "tau": 0.25, "lambda": 0.1, "theta": 0.3, "nscales": 5, "warps": 2, "epsilon": 0.02}


def flow_of(trained: FlowConfig) -> tuple[FlowConfig, list[str]]:
    """The flow that is computed here for a network that was trained on another, and what is said of it."""
    said: list[str] = []
    settings = replace(SETTINGS, flow=trained, engine="opencv 5.0.0 on CUDA")
    ((found,),) = recipes([Stream(StreamConfig("temporal"), settings)], said.append)
    return found.flow, said


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.CudaFlow", "opencv_cuda.OpenCVCudaFlow"):
        monkeypatch.setattr(f"flowprep.flow.{name}.unavailable", classmethod(lambda _: "no GPU."))


@pytest.mark.usefixtures("no_gpu")
def test_parameters_by_the_name_that_they_have_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's class for GPUs has one block of iterations in a warp, and no median filter."""
    given = {**FULL, "iterations": 120, "scale_step": 0.7, "gamma": 0.0}
    found, said = flow_of(FlowConfig("tvl1", "opencv-cuda", "forward", given))
    same = {name: value for name, value in given.items() if name not in ("iterations", "gamma")}
    block = {"inner_iterations": 120, "outer_iterations": 1, "median_filtering": 1, "presmoothing": 0.0}
    assert (found.backend, found.parameters) == ("cpu", {**same, **block})
    assert len(said) == 1 and said[0].endswith("scores may differ a little.")

    found, said = flow_of(FlowConfig("tvl1", "opencv-cuda", "forward", {**given, "gamma": 0.5}))
    assert found.parameters == {**same, **block}
    assert len(said) == 1 and said[0].endswith("which has no gamma=0.5: scores may differ.")

    # OpenCV's class for processors has other samples between pixels.
    monkeypatch.setattr("flowprep.flow.cpu.TVL1.unavailable", classmethod(lambda _: "no compiler."))
    with pytest.raises(RefusedError, match="by opencv 5.0.0 on CUDA, here .* by opencv .* no preset=opencv-cuda"):
        flow_of(FlowConfig("tvl1", "opencv-cuda", "forward", given))
    ours = {**same, **block, "preset": "opencv"}
    found, said = flow_of(FlowConfig("tvl1", "cuda", "forward", ours))
    assert found.backend == "opencv" and found.parameters["inner_iterations"] == 120 and len(said) == 1
    _, said = flow_of(FlowConfig("tvl1", "cuda", "forward", {**ours, "presmoothing": 0.8}))
    assert "which has no presmoothing=0.8: scores may differ." in said[0]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("method", "backend"), [("tvl1", "cuda"), ("brox", "cuda"), ("brox", "opencv-cuda")])
def test_parameters_of_the_same_name_are_taken_over(method: str, backend: str) -> None:
    full = flow.find(method, backend, elsewhere=True).parameters_type.of(method, {"preset": "opencv-cuda"}).to_json()
    found, said = flow_of(FlowConfig(method, backend, "forward", full))
    assert found.backend == "cpu" and found.parameters.items() >= full.items()
    assert len(said) == 1 and said[0].endswith("scores may differ a little.")


def test_parameters_that_are_not_taken_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowprep.flow.opencv.TVL1.unavailable", classmethod(lambda _: "no optflow"))
    with pytest.raises(RefusedError, match="by flowprep kernels .*, which does not take its parameters: tvl1.tau=0.00"):
        flow_of(FlowConfig("tvl1", "opencv", "forward", {"tau": 0.0001}))
    _, said = flow_of(FlowConfig("tvl1", "later", "forward", {"warps": 3, "sharpness": 2}))
    assert "which has no sharpness=2: scores may differ." in said[0]
