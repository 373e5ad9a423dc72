"""OpenCV's flow methods on NVIDIA GPUs, Dual TV-L1 and Brox, for an OpenCV that was built with CUDA.

No package of PyPI is; docs/opencv-cuda.md says how to build one. What OpenCV 4.12 to 5.0 leaves to its callers:

    ranges      Brox takes float32 in [0, 1] and nothing else. TV-L1 takes 8 bits, or float32 in [0, 1].
    streams     On the null stream TV-L1 waits for the GPU after every kernel: it gets a stream of its own. Parts of
                Brox run on the null stream whatever one says, and race with streams that do not wait for it: it gets
                none at all, so that everything is on that one.
    sizes       TV-L1 lowers its number of levels on a small frame, for good: a new solver for every size.
    pitch       Brox reads rows as textures: only of memory that a GpuMat has laid out, and never of one row or column,
                which it lays out otherwise. Frames have at least 16 of both.
    start       useInitialFlow reads memory that nobody wrote: it is never set.
    textures    TV-L1 gives each warp's texture back right after launching the kernel that reads it. What keeps the next
                warp from getting its place is the wait for the GPU in the test of epsilon, at the second iteration.
                Nothing done from outside can stand in for that, so no epsilon, or one iteration, is refused.
    processes   CUDA does not survive a fork: a process that was forked after its use is refused.
    errors      Without a driver, calc() may end the process: where unavailable() says no, nothing is called.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.errors import UsageError
from flowprep.flow import FlowAlgorithm, Greys, Parameters
from flowprep.flow.batch import too_large
from flowprep.flow.brox import PRESETS as BROX_PRESETS
from flowprep.flow.opencv_build import use_cuda, without_cuda


class Workspace(NamedTuple):
    """What serves frames of one size."""

    height: int
    width: int
    solver: Any
    stream: tuple[Any, ...]  # one or none
    frames: tuple[Any, Any]  # GpuMat each
    field: Any  # GpuMat


class OpenCVCudaFlow(FlowAlgorithm):
    """Pair by pair, in the order of frames: each is uploaded once, for all pairs that it belongs to."""

    backend: ClassVar[str] = "opencv-cuda"
    gpu: ClassVar[bool] = True
    solver_name: ClassVar[str]  # in cv2.cuda
    modules: ClassVar[tuple[str, ...]]  # that OpenCV must have been built with
    own_stream: ClassVar[bool]
    bytes_a_pixel: ClassVar[int]  # of the GPU's memory

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._workspace: Workspace | None = None

    @classmethod
    def unavailable(cls) -> str:
        return without_cuda(cls.solver_name, cls.modules)

    @classmethod
    def engine(cls) -> str:
        return f"opencv {opencv.load().__version__} on CUDA"

    @abstractmethod
    def _solver(self, cuda: Any) -> Any:
        """A new cv2.cuda.DenseOpticalFlow with the parameters set."""

    @abstractmethod
    def _prepare(self, frame: Greys) -> Greys:
        """One frame (H, W) in the type and range that the solver takes, C-contiguous."""

    def __getstate__(self) -> dict[str, Any]:
        """Without the workspace: what is on the GPU stays with the process that put it there."""
        return {**self.__dict__, "_workspace": None}

    def _workspace_for(self, height: int, width: int) -> Workspace:
        use_cuda()
        found = self._workspace
        if found is None or (found.height, found.width) != (height, width):
            self._workspace = None  # the old one goes before the new one comes
            cuda = opencv.load().cuda
            found = self._workspace = Workspace(
                height,
                width,
                self._solver(cuda),
                (cuda.Stream(),) if self.own_stream else (),
                (cuda.GpuMat(), cuda.GpuMat()),
                cuda.GpuMat(),
            )
        return found

    def _flow(self, frames: Greys) -> NDArray[np.float32]:
        before, behind = _neighbours(len(frames))
        return self.fields(frames, before, behind)

    def _both(self, frames: Greys) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        before, behind = _neighbours(len(frames))
        found = self.fields(frames, np.concatenate([before, behind]), np.concatenate([behind, before]))
        return found[: len(before)], found[len(before) :]

    def fields(self, frames: Greys, first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.float32]:
        height, width = frames.shape[1:]
        found = np.empty((len(first), 2, height, width), np.float32)
        with self._errors(f"{width}x{height}"):
            work = self._workspace_for(height, width)
            free, uploaded = list(work.frames), dict[int, Any]()  # by number of the frame
            for pair in np.lexsort([np.maximum(first, second), np.minimum(first, second)]):
                wanted = int(first[pair]), int(second[pair])
                free += [uploaded.pop(number) for number in list(uploaded) if number not in wanted]
                for number in wanted:
                    if number not in uploaded:
                        uploaded[number] = free.pop()
                        uploaded[number].upload(self._prepare(frames[number]), *work.stream)
                found[pair] = _solve(work, *(uploaded[number] for number in wanted))
        return found

    def pairs_in_a_batch(self, height: int, width: int) -> int:
        use_cuda()
        needed, there = height * width * self.bytes_a_pixel, opencv.load().cuda.DeviceInfo().totalGlobalMem()
        if needed >= there:
            raise too_large(height, width, needed, there)
        return self.pairs_in_a_call(height, width)

    @contextmanager
    def _errors(self, size: str) -> Iterator[None]:
        """Raises MemoryError where the GPU's memory is too small; other errors of OpenCV pass as what they are."""
        error_type = opencv.load().error
        try:
            yield
        except (error_type, SystemError) as error:
            self._workspace = None
            inner = error.__cause__ if isinstance(error.__cause__, error_type) else error
            if "out of memory" in str(inner):
                raise MemoryError(f"The GPU's memory is too small for flow of {size} frames.") from error
            raise inner from None


def _neighbours(frames: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Numbers of the frames that have one behind them, and of those behind them."""
    numbers = np.arange(frames, dtype=np.int32)
    return numbers[:-1], numbers[1:]


def _solve(work: Workspace, first: Any, second: Any) -> NDArray[np.float32]:
    """Flow (2, H, W) from one uploaded frame to the other. When it is back, the GPU reads neither of them any more."""
    field = work.solver.calc(first, second, work.field, *work.stream)
    for stream in work.stream:
        stream.waitForCompletion()
    down: NDArray[np.float32] = field.download()  # (H, W, 2)
    return down.transpose(2, 0, 1)


# The methods


@dataclass(frozen=True)
class TVL1Parameters(Parameters):
    """Parameters of cv2.cuda.OpticalFlowDual_TVL1, with its defaults."""

    preset: str = "opencv-cuda"  # the only one; named, so that the same settings serve the other backends
    tau: float = 0.25  # time step of the dual update
    lambda_: float = 0.15  # weight of the data term; smaller is smoother
    theta: float = 0.3  # coupling of u and v
    nscales: int = 5  # pyramid levels, at most
    warps: int = 5  # warps at each level
    epsilon: float = 0.01  # px: stop when the root of the mean squared change is at most this
    iterations: int = 300  # in a warp, at most
    scale_step: float = 0.8  # size ratio of neighbouring levels
    gamma: float = 0.0  # weight of the illumination field; 0 = none

    def completed(self) -> TVL1Parameters:
        if self.preset != "opencv-cuda":
            raise UsageError(f"tvl1.preset={self.preset}: the backend opencv-cuda has the preset opencv-cuda alone.")
        if not 0.1 <= self.scale_step < 1:
            raise UsageError(f"tvl1.scale_step={self.scale_step}: give a number from 0.1 to below 1.")
        for name in ("nscales", "warps"):
            if not 1 <= getattr(self, name) <= 10_000:
                raise UsageError(f"tvl1.{name}={getattr(self, name)}: give 1 to 10000.")
        for name in ("tau", "lambda_", "theta"):
            if not 1e-3 <= getattr(self, name) <= 1e3:
                raise UsageError(f"tvl1.{name.rstrip('_')}={getattr(self, name)}: give a number from 0.001 to 1000.")
        if not 0 <= self.gamma <= 1000:
            raise UsageError(f"tvl1.gamma={self.gamma}: give 0 to 1000.")
        if not 2 <= self.iterations <= 10_000:
            raise UsageError(
                f"tvl1.iterations={self.iterations}: give 2 to 10000; with 1, OpenCV gives back memory of the GPU that "
                "is being read."
            )
        if not 1e-6 <= self.epsilon <= 1000:
            raise UsageError(
                f"tvl1.epsilon={self.epsilon}: give 0.000001 to 1000 px; with 0, OpenCV gives back memory of the GPU "
                "that is being read, and a very small one iterates as long."
            )
        return self


class TVL1(OpenCVCudaFlow):
    """cv2.cuda.OpticalFlowDual_TVL1."""

    method = "tvl1"
    parameters_type = TVL1Parameters
    parameters: TVL1Parameters
    solver_name = "OpticalFlowDual_TVL1_create"
    modules = ("cudaoptflow",)
    own_stream = True
    bytes_a_pixel = 22 * 4 + 16  # the solver's, and two frames and a field

    def _solver(self, cuda: Any) -> Any:
        p = self.parameters
        return cuda.OpticalFlowDual_TVL1_create(
            tau=p.tau,
            lambda_=p.lambda_,
            theta=p.theta,
            nscales=p.nscales,
            warps=p.warps,
            epsilon=p.epsilon,
            iterations=p.iterations,
            scaleStep=p.scale_step,
            gamma=p.gamma,
        )

    def _prepare(self, frame: Greys) -> Greys:
        return np.ascontiguousarray(frame if frame.dtype == np.uint8 else frame / np.float32(255))

    def seconds_per_megapixel(self) -> float:
        return 0.12 * self.parameters.warps / 5  # by the number of its launches; not measured


@dataclass(frozen=True)
class BroxParameters(Parameters):
    """Parameters of cv2.cuda.BroxOpticalFlow, with the presets of flow/brox.py after it; -1 = as the preset has it."""

    preset: str = "opencv-cuda"  # as the flow tools of the field call it; or opencv-default
    alpha: float = -1.0  # weight of smoothness
    gamma: float = -1.0  # weight of gradient constancy
    scale_factor: float = -1.0  # size ratio of neighbouring levels
    inner_iterations: int = -1  # fixed-point iterations of the robust weights at each level
    outer_iterations: int = -1  # pyramid levels, at most
    solver_iterations: int = -1  # sweeps of over-relaxation in each inner iteration

    def completed(self) -> BroxParameters:
        presets = [name for name in BROX_PRESETS if name.startswith("opencv")]
        if self.preset not in presets:
            raise UsageError(f"brox.preset={self.preset}: the backend opencv-cuda has {' and '.join(presets)}.")
        names = [item.name for item in fields(self) if getattr(self, item.name) == -1]
        full = replace(self, **{name: BROX_PRESETS[self.preset][name] for name in names})
        if not 0.25 <= full.scale_factor <= 0.95:
            raise UsageError(f"brox.scale_factor={full.scale_factor}: give a number from 0.25 to 0.95.")
        for name in ("inner_iterations", "outer_iterations", "solver_iterations"):
            if not 1 <= getattr(full, name) <= 10_000:
                raise UsageError(f"brox.{name}={getattr(full, name)}: give 1 to 10000.")
        if not 1e-6 <= full.alpha <= 1e6:
            raise UsageError(f"brox.alpha={full.alpha}: give a number from 1e-6 to 1e6.")
        if not 0 <= full.gamma <= 1e6:
            raise UsageError(f"brox.gamma={full.gamma}: give 0 to 1e6.")
        return full


class Brox(OpenCVCudaFlow):
    """cv2.cuda.BroxOpticalFlow."""

    method = "brox"
    parameters_type = BroxParameters
    parameters: BroxParameters
    solver_name = "BroxOpticalFlow_create"
    modules = ("cudaoptflow", "cudalegacy")  # it throws without the second
    own_stream = False
    bytes_a_pixel = 29 * 4 + 16  # likewise

    def _solver(self, cuda: Any) -> Any:
        p = self.parameters
        return cuda.BroxOpticalFlow_create(
            alpha=p.alpha,
            gamma=p.gamma,
            scale_factor=p.scale_factor,
            inner_iterations=p.inner_iterations,
            outer_iterations=p.outer_iterations,
            solver_iterations=p.solver_iterations,
        )

    def _prepare(self, frame: Greys) -> Greys:
        return np.ascontiguousarray(frame / np.float32(255))

    def seconds_per_megapixel(self) -> float:
        return 0.18 * self.parameters.inner_iterations * self.parameters.solver_iterations / 100  # like that of TV-L1
