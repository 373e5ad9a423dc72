"""OpenCV's methods on GPUs, against a double of cv2 that holds them to OpenCV's rules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep import flow, opencv
from flowprep.config import FlowConfig
from flowprep.errors import RefusedError, UsageError, VideoError
from flowprep.flow import brox, opencv_build
from flowprep.flow.opencv_cuda import Brox
from flowprep.synthetic import Motion
from tests.flow_contract import FlowContract, clip, frames, grey  # noqa: F401 - frames is a fixture
from tests.opencv_cuda_double import MODULES, GpuMat, Solver, failure, opencv_with_cuda

METHODS = ("tvl1", "brox")


@pytest.fixture(scope="module", autouse=True)
def on_a_gpu() -> Iterator[None]:
    """A machine with a GPU and an OpenCV for it."""
    with pytest.MonkeyPatch.context() as patch:
        double = opencv_with_cuda()
        patch.setattr(opencv, "load", lambda: double)
        patch.setattr(opencv_build, "_opened_in", 0)
        yield


@pytest.fixture
def moving() -> NDArray[np.uint8]:
    return grey(clip(Motion("shift", velocity=(1, 0)), frames=4, height=24, width=32))


@pytest.fixture(autouse=True)
def fresh_counts() -> Iterator[None]:
    GpuMat.uploads = 0
    Solver.made.clear()
    yield
    Solver.fails = None


class TestTVL1(FlowContract):
    method = "tvl1"
    backend = "opencv-cuda"
    parameters: ClassVar[dict[str, Any]] = {"warps": 2}  # quicker, and exact enough for the contract
    float_tolerance = 0.01  # px: floats are divided by 255, and multiplied again


class TestBrox(FlowContract):
    method = "brox"
    backend = "opencv-cuda"
    affine_tolerance = 0.15


# The GPU


@pytest.mark.parametrize("method", METHODS)
def test_each_frame_is_uploaded_once(method: str, moving: NDArray[np.uint8]) -> None:
    algorithm = flow.get(method, "opencv-cuda")
    algorithm.flow(moving)
    assert GpuMat.uploads == 4
    algorithm.both(moving)
    assert GpuMat.uploads == 8
    algorithm.backward(moving)
    assert GpuMat.uploads == 12


@pytest.mark.parametrize("method", METHODS)
def test_any_pairs_in_any_order(method: str, moving: NDArray[np.uint8]) -> None:
    """Two videos of two frames in one batch, forward and backward."""
    algorithm = flow.get(method, "opencv-cuda")
    found = algorithm.fields(moving, np.array([3, 0, 2, 1], np.int32), np.array([2, 1, 3, 0], np.int32))
    assert GpuMat.uploads == 4
    forward, backward = algorithm.both(moving)
    assert np.array_equal(found, [backward[2], forward[0], forward[2], backward[0]])


@pytest.mark.parametrize("method", METHODS)
def test_a_solver_serves_one_size(method: str, moving: NDArray[np.uint8]) -> None:
    algorithm = flow.get(method, "opencv-cuda")
    for part in (moving, moving[:, :20], moving[:2, :20], moving):
        algorithm.flow(part)
    assert [solver.size for solver in Solver.made] == [(24, 32), (20, 32), (24, 32)]


@pytest.mark.parametrize("method", METHODS)
def test_want_of_memory_is_told_from_other_errors(method: str, moving: NDArray[np.uint8]) -> None:
    algorithm = flow.get(method, "opencv-cuda")
    algorithm.flow(moving)
    hidden = SystemError("<class 'cv2.cuda.GpuMat'> returned a result with an exception set")
    hidden.__cause__ = failure("out of memory")
    for error in (failure("out of memory"), hidden):
        Solver.fails = error
        with pytest.raises(MemoryError, match="too small for flow of 32x24 frames"):
            algorithm.flow(moving)
    Solver.fails = failure("an illegal memory access was encountered")
    with pytest.raises(opencv.load().error, match="illegal memory access"):
        algorithm.flow(moving)
    Solver.fails = None
    assert np.array_equal(algorithm.flow(moving), flow.get(method, "opencv-cuda").flow(moving))
    assert len(Solver.made) == 5  # one for each error, too: nothing of before is used after it


@pytest.mark.parametrize("method", METHODS)
def test_batches_of_frames_that_fit(method: str) -> None:
    """Into the 4 GiB of the double."""
    algorithm = flow.get(method, "opencv-cuda")
    assert algorithm.pairs_in_a_batch(240, 320) == algorithm.pairs_in_a_call(240, 320) > 1
    assert algorithm.pairs_in_a_batch(2160, 3840) == 1
    with pytest.raises(VideoError, match="a pair of 8000x9000 pixels takes [0-9]+ MiB .* memory, 4096 are there"):
        algorithm.pairs_in_a_batch(9000, 8000)


@pytest.mark.parametrize("method", METHODS)
def test_a_forked_process_is_refused(method: str, moving: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = flow.get(method, "opencv-cuda")
    algorithm.flow(moving)
    monkeypatch.setattr(opencv_build, "_opened_in", os.getpid() + 1)
    with pytest.raises(RefusedError, match='forked.*"spawn"'):
        algorithm.flow(moving)
    assert "forked" in algorithm.unavailable()


def test_settings_name_it() -> None:
    algorithm = flow.configured(FlowConfig("brox", "opencv-cuda"))
    assert isinstance(algorithm, Brox) and algorithm.gpu
    assert algorithm.engine() == "opencv 5.0.0 on CUDA"
    assert flow.get("brox").backend == flow.get("tvl1").backend == "cpu"  # never without being asked for


def test_estimates_grow_with_the_work() -> None:
    for method, more in (("tvl1", {"warps": 10}), ("brox", {"inner_iterations": 20})):
        usual, slow = (flow.get(method, "opencv-cuda", **given) for given in ({}, more))
        assert slow.seconds_per_megapixel() == pytest.approx(2 * usual.seconds_per_megapixel())


# Parameters


def test_tvl1_has_opencvs_defaults_and_names(moving: NDArray[np.uint8]) -> None:
    flow.get("tvl1", "opencv-cuda").flow(moving)
    flow.get("tvl1", "opencv-cuda", **{"preset": "opencv-cuda", "lambda": 0.3, "iterations": 20}).flow(moving)
    defaults = {"tau": 0.25, "lambda_": 0.15, "theta": 0.3, "nscales": 5, "warps": 5, "epsilon": 0.01}
    assert Solver.made[0].options == {**defaults, "iterations": 300, "scaleStep": 0.8}
    assert Solver.made[1].options == {**defaults, "iterations": 20, "scaleStep": 0.8, "lambda_": 0.3}


def test_brox_has_the_presets_of_the_other_backends(moving: NDArray[np.uint8]) -> None:
    for given in ({}, {"preset": "opencv-default", "alpha": 0.3}):
        flow.get("brox", "opencv-cuda", **given).flow(moving)
    for solver, preset, other in zip(Solver.made, ("opencv-cuda", "opencv-default"), ({}, {"alpha": 0.3}), strict=True):
        names = ("alpha", "gamma", "scale_factor", "inner_iterations", "outer_iterations", "solver_iterations")
        assert solver.options == {name: brox.PRESETS[preset][name] for name in names} | other


@pytest.mark.parametrize(
    ("method", "name", "value", "words"),
    [
        ("tvl1", "epsilon", 0, "0.000001 to 1000 px; with 0, OpenCV gives back memory"),
        ("tvl1", "iterations", 1, "2 to 10000; with 1, OpenCV gives back memory"),
        ("tvl1", "preset", "ipol", "has the preset opencv-cuda alone"),
        ("tvl1", "scale_step", 1.0, "0.1 to below 1"),
        ("tvl1", "nscales", 0, "1 to 10000"),
        ("tvl1", "warps", 0, "1 to 10000"),
        ("tvl1", "lambda", 0, "lambda=0"),
        ("tvl1", "gamma", -1, "0 to 1000"),
        ("brox", "preset", "ipol", "has opencv-cuda and opencv-default"),
        ("brox", "scale_factor", 1.0, "0.25 to 0.95"),
        ("brox", "inner_iterations", 0, "1 to 10000"),
        ("brox", "alpha", 0, "1e-6 to 1e6"),
        ("brox", "gamma", -2, "0 to 1e6"),
    ],
)
def test_values_out_of_range_are_refused(method: str, name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        flow.get(method, "opencv-cuda", **{name: value})


# Where it cannot run


def reason(patch: pytest.MonkeyPatch, module: Any, method: str = "tvl1") -> str:
    patch.setattr(opencv, "load", lambda: module)
    why = flow.backends(method)["opencv-cuda"]
    if why:
        with pytest.raises(RefusedError) as error:
            flow.get(method, "opencv-cuda")
        assert why in str(error.value)
    return why


def cpu_wheel() -> Any:
    """As those of PyPI: it has cv2.cuda, and counts no GPU."""
    cuda = SimpleNamespace(getCudaEnabledDeviceCount=lambda: 0)
    return SimpleNamespace(__version__="5.0.0", getBuildInformation=lambda: "General configuration", cuda=cuda)


def test_a_wheel_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"opencv-contrib-python"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return "5.0.0.93"

    monkeypatch.setattr(opencv_build, "version", version)
    why = reason(monkeypatch, cpu_wheel())
    assert "built without CUDA, as all packages of PyPI are: docs/opencv-cuda.md" in why
    installed.add("opencv-python-headless")
    why = reason(monkeypatch, cpu_wheel())
    assert "opencv-contrib-python and opencv-python-headless are installed over each other" in why
    assert "docs/opencv-cuda.md" in why


@pytest.mark.parametrize(
    ("count", "visible", "words"),
    [
        (-1, None, "CUDA 13.0, but the NVIDIA driver is missing or too old for it (it needs 580 or newer)"),
        (0, None, "CUDA 13.0, but sees no GPU; nvidia-smi"),
        (0, "-1", "CUDA 13.0, but sees no GPU (CUDA_VISIBLE_DEVICES=-1)"),
    ],
)
def test_no_gpu(count: int, visible: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert words in reason(monkeypatch, opencv_with_cuda(count))


def test_a_gpu_of_another_type(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "built for GPUs of other types than this one (90)" in reason(monkeypatch, opencv_with_cuda(fits=False))


def test_cuda_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise failure("system not yet initialized")

    module = opencv_with_cuda()
    module.cuda.getCudaEnabledDeviceCount = fail
    assert "CUDA 13.0, which fails here: system not yet initialized." in reason(monkeypatch, module)
    assert opencv_build.cuda_devices(module) == 0


def test_a_build_without_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    lean = opencv_with_cuda(modules=MODULES.replace("cudalegacy ", ""))
    assert reason(monkeypatch, lean) == ""  # for Brox alone
    assert "built without its modules cudalegacy" in reason(monkeypatch, lean, "brox")
    without = opencv_with_cuda()
    del without.cuda.BroxOpticalFlow_create
    assert "built without cv2.cuda.BroxOpticalFlow_create" in reason(monkeypatch, without, "brox")


def test_an_opencv_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = opencv.explain("libnppial.so.13: cannot open shared object file: No such file or directory")
    assert "built with CUDA and needs the libraries NPP" in text and "LD_LIBRARY_PATH" in text

    def fail() -> None:
        raise RefusedError(text)

    monkeypatch.setattr(opencv, "load", fail)
    assert flow.backends("brox")["opencv-cuda"] == text
