"""A cv2 with CUDA for machines without a GPU. It computes with the CPU engine, and holds its callers to OpenCV's rules:

types and ranges, one size for each solver, which streams, what may be read when, laid-out memory, one thread.
"""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any, ClassVar

import cv2
import numpy as np

from flowprep import flow

BUILD = """
  OpenCV modules:
    To be built:                 {modules}
    Disabled:                    world
  NVIDIA CUDA:                   YES (ver 13.0, no extra features)
    NVIDIA GPU arch:             90
    NVIDIA PTX archs:
"""
MODULES = "core cudaarithm cudafilters cudaimgproc cudalegacy cudaoptflow cudawarping cudev imgproc video"


def failure(text: str) -> Exception:
    """What OpenCV raises when a call of CUDA fails."""
    return cv2.error(f"OpenCV(5.0.0) /build/gpu_mat.cu:118: error: (-217:Gpu API call) {text} in function 'allocate'\n")


class Stream:
    """Work that was begun on it is not done until it was waited for."""

    def __init__(self) -> None:  # without flags: a blocking stream
        self.begun: list[GpuMat] = []

    def waitForCompletion(self) -> None:  # noqa: N802 - OpenCV's name
        for mat in self.begun:
            mat.busy = False
        self.begun.clear()


class GpuMat:
    """Memory of the GPU. ``busy``: work that reads or writes it may still be under way."""

    uploads: ClassVar[int] = 0

    def __init__(self) -> None:
        self.array: np.ndarray[Any, Any] | None = None
        self.busy = False
        self.stream: Stream | None = None

    def upload(self, array: np.ndarray[Any, Any], stream: Stream | None = None) -> None:
        assert not self.busy, "it is still read"
        assert array.ndim == 2 and min(array.shape) > 1, "a single row or column is laid out in another way"
        assert array.flags.c_contiguous
        self.array, self.stream = array.copy(), stream
        GpuMat.uploads += 1

    def download(self) -> np.ndarray[Any, Any]:
        assert not self.busy, "the stream was not waited for"
        assert self.array is not None
        return self.array.copy()


class Solver:
    """What both classes have in common."""

    made: ClassVar[list[Solver]] = []
    fails: ClassVar[Exception | None] = None
    method: ClassVar[str]
    types: ClassVar[tuple[type, ...]]
    renamed: ClassVar[dict[str, str]] = {}

    def __init__(self, **options: float) -> None:
        self.options = options
        self.size: tuple[int, ...] = ()
        self.home = os.getpid(), threading.get_ident()
        names = {self.renamed.get(name, name): value for name, value in options.items()}
        self.engine = flow.get(self.method, "cpu", preset="opencv-cuda", **names)
        Solver.made.append(self)

    def calc(self, first: GpuMat, second: GpuMat, field: GpuMat, *streams: Stream) -> GpuMat:
        assert self.home == (os.getpid(), threading.get_ident())
        if Solver.fails:
            raise Solver.fails
        pair = [first.array, second.array]
        assert pair[0] is not None and pair[1] is not None
        assert pair[0].shape == pair[1].shape and pair[0].dtype == pair[1].dtype
        assert self.size in ((), pair[0].shape), "an object for each size"
        self.size = pair[0].shape
        assert pair[0].dtype.type in self.types
        self.check_streams(streams, first, second)
        grey = np.stack(pair)
        if grey.dtype == np.float32:
            assert grey.min() >= 0 and grey.max() <= 1, "floats are from 0 to 1"
            grey = np.minimum(grey * np.float32(255), np.float32(255))
        field.array = self.engine.flow(grey)[0].transpose(1, 2, 0).copy()
        for stream in streams:
            stream.begun += [first, second, field]
            first.busy = second.busy = field.busy = True
        return field

    def check_streams(self, streams: tuple[Stream, ...], first: GpuMat, second: GpuMat) -> None:
        raise NotImplementedError


class TVL1(Solver):
    method = "tvl1"
    types = (np.uint8, np.float32)
    renamed: ClassVar[dict[str, str]] = {"iterations": "inner_iterations", "scaleStep": "scale_step"}

    def __init__(
        self,
        *,
        tau: float = 0.25,
        lambda_: float = 0.15,
        theta: float = 0.3,
        nscales: int = 5,
        warps: int = 5,
        epsilon: float = 0.01,
        iterations: int = 300,
        scaleStep: float = 0.8,
        gamma: float = 0.0,
    ) -> None:
        assert epsilon > 0 and iterations > 1, "nothing then hides that it gives textures back too early"
        assert gamma == 0, "the CPU engine has none"
        options = locals()
        super().__init__(**{name: options[name] for name in TVL1.__init__.__kwdefaults__ if name != "gamma"})

    def check_streams(self, streams: tuple[Stream, ...], first: GpuMat, second: GpuMat) -> None:
        assert len(streams) == 1 and isinstance(streams[0], Stream), "it waits after every kernel without one"
        assert first.stream is second.stream is streams[0], "uploads are in order with the work"


class Brox(Solver):
    method = "brox"
    types = (np.float32,)

    def __init__(
        self,
        *,
        alpha: float = 0.197,
        gamma: float = 50.0,
        scale_factor: float = 0.8,
        inner_iterations: int = 5,
        outer_iterations: int = 150,
        solver_iterations: int = 10,
    ) -> None:
        options = locals()
        super().__init__(**{name: options[name] for name in Brox.__init__.__kwdefaults__})

    def check_streams(self, streams: tuple[Stream, ...], first: GpuMat, second: GpuMat) -> None:
        assert not streams and first.stream is second.stream is None, "parts of it run on the null stream anyway"


def opencv_with_cuda(count: int = 1, *, modules: str = MODULES, fits: bool = True) -> Any:
    """The module ``cv2`` of such a build, on a machine with ``count`` GPUs; -1: with no driver, or an old one."""

    def counted() -> int:
        return count

    def created(kind: type[Solver]) -> Any:
        def create(**options: float) -> Solver:
            assert count > 0, "without a driver OpenCV may end the process"
            return kind(**options)

        return create

    return SimpleNamespace(
        __version__="5.0.0",
        error=cv2.error,
        getBuildInformation=lambda: BUILD.format(modules=modules),
        cuda=SimpleNamespace(
            getCudaEnabledDeviceCount=counted,
            DeviceInfo=lambda _=0: SimpleNamespace(isCompatible=lambda: fits, totalGlobalMem=lambda: 4 * 2**30),
            Stream=Stream,
            GpuMat=GpuMat,
            OpticalFlowDual_TVL1_create=created(TVL1),
            BroxOpticalFlow_create=created(Brox),
        ),
    )
