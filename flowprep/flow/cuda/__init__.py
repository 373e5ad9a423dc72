"""Flow on an NVIDIA GPU by kernels of this package: TV-L1 and Brox, a batch of frame pairs at a time.

    tvl1.py, brox.py   who launches what, in which order              pyramid.py    frames at all levels
    tvl1_kernels.py    TV-L1: iterations, and when each pair stops    images.py     changes of size, derivatives
    tvl1_data_term.py  its warps                                      sampling.py   values between pixels
    brox_kernels.py    Brox: robust weights                           median.py     the median filter of TV-L1
    brox_sweeps.py     its sweeps of over-relaxation                  watch.py      who is still going
    brox_data_term.py  its warps                                      memory.py     one piece, cut up for each size
    tile.py            how iterations stay on the chip                device.py     decorators, launching
    fields.py          what comes back: statistics, levels, floats    driver.py     whether there is a GPU, and which

The reference is the CPU engine (flow/cpu/): the same presets, parameters and conventions, and fields that agree with
its own to 0.02 px in the mean. On one GPU a field is the same to the last bit each time, whatever its batch.
"""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import UsageError, Verdict, VideoError
from flowprep.flow import FlowAlgorithm, Greys, Parameters
from flowprep.flow.batch import DeviceFields
from flowprep.flow.brox import BroxParameters
from flowprep.flow.cuda import driver
from flowprep.flow.tvl1 import TVL1Parameters

REVISION = 1  # of what the kernels compute: raised when fields change by more than rounding
MOST_PAIRS = 128  # of a batch: no GPU is filled better by more
FRAMES_A_PAIR = 2  # that a batch has room for: requests for one pair each may come together
AT_ONCE = 2  # objects of one process that compute at the same time, each with half of the memory
SHARE = 0.8  # of what is free on the GPU when the process starts
PADDING = 2**16  # bytes: what arrays are padded by


_warming = threading.Lock()
_warm: set[str] = set()  # methods whose kernels are on the GPU of this process


class Solver(Protocol):
    """Workspace and schedule for batches of frames of one size."""

    def solve(self, frames: Any, count: int, first: Any, second: Any, pairs: int, flow: Any, stream: Any) -> None:
        """Enqueue the flow of ``pairs`` pairs of ``count`` frames, in px, into ``flow`` (P, 2, H, W) on the device."""


class _Workspace(NamedTuple):
    """Everything on the device for frames of one size and dtype."""

    shape: tuple[int, int, str]  # height, width, dtype of the frames
    frames: Any  # (F, H, W)
    first: Any  # (P,) int32
    second: Any
    fields: Any  # FieldsMemory
    solver: Solver


class CudaFlow(FlowAlgorithm):
    """What both methods have in common."""

    backend = "cuda"
    gpu = True
    at_once = AT_ONCE
    kernels: ClassVar[tuple[str, ...]]  # modules that have them

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        _given()  # said before anything is begun
        self._arena: Any = None
        self._stream: Any = None
        self._workspace: _Workspace | None = None

    @classmethod
    def unavailable(cls) -> str:
        return driver.unavailable()

    @classmethod
    def engine(cls) -> str:
        return f"flowprep CUDA kernels {REVISION}"

    def warm(self, say: Callable[[str], None] | None = None) -> None:
        """Have all kernels compiled and on the GPU of this process: to load them from disk is for one thread alone."""
        with _warming:
            if self.method in _warm:
                return
            from flowprep.flow.cpu.compiling import ensure_compiled
            from flowprep.flow.cuda import device

            if not device.SIMULATED:
                name = f"{self.method}-{device.capability()}"
                ensure_compiled(name, self._load_kernels, say, device.code_folder())
            _warm.add(self.method)

    def _load_kernels(self) -> None:
        for name in self.kernels:
            for kernel, signatures in import_module(f"{__name__}.{name}").signatures().items():
                for types in signatures:
                    kernel.compile(types).bind()

    @abstractmethod
    def _bytes_needed(self, height: int, width: int) -> tuple[int, int, int]:
        """Bytes of the solver's memory on the device: whatever the batch, for each frame, and for each pair."""

    @abstractmethod
    def _make_solver(self, height: int, width: int, frames: int, pairs: int, arena: Any, stream: Any) -> Solver:
        """For batches of at most so many frames and pairs."""

    def pairs_in_a_batch(self, height: int, width: int) -> int:
        fixed, pair = self._bytes(height, width)
        return max(0, min(MOST_PAIRS, (_budget() // AT_ONCE - fixed) // pair))

    def fields(self, frames: Greys, first: NDArray[np.int32], second: NDArray[np.int32]) -> DeviceFields:
        from flowprep.flow.cuda.fields import CudaFields

        space = self._workspace_for(frames)
        for host, device in ((frames, space.frames), (first, space.first), (second, space.second)):
            device[: len(host)].copy_to_device(np.ascontiguousarray(host), stream=self._stream)
        flow = space.fields.flow
        space.solver.solve(space.frames, len(frames), space.first, space.second, len(first), flow, self._stream)
        return CudaFields(space.fields, len(first), self._stream)

    def _flow(self, frames: Greys) -> NDArray[np.float32]:
        found = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
        most = self._most(*frames.shape[1:])
        for start in range(0, len(found), most):
            count = min(most, len(found) - start)
            pairs = np.arange(count, dtype=np.int32)
            fields = self.fields(frames[start : start + count + 1], pairs, pairs + np.int32(1))
            found[start : start + count] = fields[range(count)]
        return found

    def seconds_per_megapixel(self) -> float:
        return 0.005

    def __getstate__(self) -> dict[str, Any]:
        """Without what lies on the device."""
        return {**self.__dict__, "_arena": None, "_stream": None, "_workspace": None}

    def _most(self, height: int, width: int) -> int:
        most = self.pairs_in_a_batch(height, width)
        if most == 0:
            needed, there = sum(self._bytes(height, width)) / 2**20, _budget() / AT_ONCE / 2**20
            raise VideoError(
                Verdict.TOO_LARGE,
                f"a pair of {width}x{height} pixels takes {needed:.0f} MiB of the GPU's memory, {there:.0f} are there "
                "for it; give --short-side, or --backend cpu",
            )
        return most

    def _bytes(self, height: int, width: int) -> tuple[int, int]:
        """Device memory of a batch: fixed, and for each pair with its frames."""
        from flowprep.flow.cuda.fields import FieldsMemory

        fixed, frame, pair = self._bytes_needed(height, width)
        frames = FRAMES_A_PAIR * (frame + 4 * height * width)
        return fixed + PADDING, frames + pair + FieldsMemory.bytes_needed(height, width) + 2 * 4

    def _workspace_for(self, frames: Greys) -> _Workspace:
        from numba import cuda

        from flowprep.flow.cuda.fields import FieldsMemory
        from flowprep.flow.cuda.memory import Arena

        height, width = frames.shape[1:]
        shape = (height, width, str(frames.dtype))
        if self._workspace is None or self._workspace.shape != shape:
            self._workspace = None
            self.warm()
            if self._arena is None:
                self._arena, self._stream = Arena(), cuda.stream()
            pairs = self._most(height, width)
            arena = self._arena
            fixed, pair = self._bytes(height, width)
            arena.clear(fixed + pairs * pair)
            count = FRAMES_A_PAIR * pairs
            self._workspace = _Workspace(
                shape,
                arena.array((count, height, width), frames.dtype),
                arena.array(pairs, np.int32),
                arena.array(pairs, np.int32),
                FieldsMemory(pairs, height, width, arena),
                self._make_solver(height, width, count, pairs, arena, self._stream),
            )
        return self._workspace


class TVL1(CudaFlow):
    """TV-L1 (flow/tvl1.py)."""

    method = "tvl1"
    kernels = ("fields_kernels", "images", "median", "tvl1_kernels", "tvl1_data_term")
    parameters_type = TVL1Parameters
    parameters: TVL1Parameters

    def _bytes_needed(self, height: int, width: int) -> tuple[int, int, int]:
        from flowprep.flow.cuda.tvl1 import TVL1Solver

        return TVL1Solver.bytes_needed(self.parameters, height, width)

    def _make_solver(self, height: int, width: int, frames: int, pairs: int, arena: Any, stream: Any) -> Solver:
        from flowprep.flow.cuda.tvl1 import TVL1Solver

        return TVL1Solver(self.parameters, height, width, frames, pairs, arena, stream)


class Brox(CudaFlow):
    """Brox flow (flow/brox.py)."""

    method = "brox"
    kernels = ("fields_kernels", "images", "brox_kernels", "brox_sweeps", "brox_data_term")
    parameters_type = BroxParameters
    parameters: BroxParameters

    def _bytes_needed(self, height: int, width: int) -> tuple[int, int, int]:
        from flowprep.flow.cuda.brox import BroxSolver

        return BroxSolver.bytes_needed(self.parameters, height, width)

    def _make_solver(self, height: int, width: int, frames: int, pairs: int, arena: Any, stream: Any) -> Solver:
        from flowprep.flow.cuda.brox import BroxSolver

        return BroxSolver(self.parameters, height, width, frames, pairs, arena, stream)


@cache
def _budget() -> int:
    """Bytes on the GPU that this process may use: what FLOWPREP_GPU_MEMORY says, MiB, or most of what is free now."""
    from flowprep.flow.cuda.device import free_memory

    return _given() or int(SHARE * free_memory())


def _given() -> int:
    """Bytes that FLOWPREP_GPU_MEMORY says, 0 without it; raises UsageError."""
    given = os.environ.get("FLOWPREP_GPU_MEMORY")
    if not given:
        return 0
    if not given.isdecimal() or int(given) == 0:
        raise UsageError(f"FLOWPREP_GPU_MEMORY={given}: give a number of MiB.")
    return int(given) * 2**20
