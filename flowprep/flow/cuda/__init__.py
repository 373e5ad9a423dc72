"""Flow on an NVIDIA GPU by kernels of this package: TV-L1 and Brox, a batch of frame pairs at a time.

    tvl1.py, brox.py   who launches what, in which order              pyramid.py    frames at all levels
    tvl1_kernels.py    TV-L1: iterations, and when each pair stops    images.py     changes of size, derivatives
    tvl1_data_term.py  its warps                                      sampling.py   values between pixels
    brox_kernels.py    Brox: robust weights                           median.py     the median filter of TV-L1
    brox_sweeps.py     its sweeps of over-relaxation                  watch.py      who is still going
    brox_data_term.py  its warps                                      memory.py     one piece, cut up for each size
    tile.py            how iterations stay on the chip                device.py     decorators, threads, code on disk
    fields.py          what comes back: statistics, levels, floats    driver.py     whether there is a GPU, and which
    launch.py          kernels with their arguments, prepared         solver.py     schedules of them, for a batch

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
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import UsageError
from flowprep.flow import FlowAlgorithm, Greys, Parameters
from flowprep.flow.batch import DeviceFields, too_large
from flowprep.flow.brox import BroxParameters
from flowprep.flow.cuda import driver
from flowprep.flow.tvl1 import TVL1Parameters

if TYPE_CHECKING:
    from flowprep.flow.cuda.solver import Solver

REVISION = 1  # of what the kernels compute: raised when fields change by more than rounding
MOST_PAIRS = 128  # of a batch: no GPU is filled better by more
FRAMES_A_PAIR = 2  # that a batch has room for: requests for one pair each may come together
AT_ONCE = 2  # objects of one process that compute at the same time, each with half of the memory
SHARE = 0.8  # of what is free on the GPU when the process starts
PADDING = 2**16  # bytes: what arrays are padded by
WORKSPACES = 16  # sizes of frames that all is kept prepared for


_warming = threading.Lock()
_warm: set[str] = set()  # methods whose kernels are on the GPU of this process


class _Workspace(NamedTuple):
    """Everything on the device for frames of one size and dtype: tables of its own, arrays in the memory of all."""

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
        self._workspaces: dict[tuple[int, int, str], _Workspace] = {}  # by size and dtype; the last used is the last

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
    def _make_solver(self, frames: Any, first: Any, second: Any, flow: Any, arena: Any, stream: Any) -> Solver:
        """From ``frames`` (F, H, W) and the frames ``first`` and ``second`` (P,) of pairs to ``flow`` (P, 2, H, W)."""

    def pairs_in_a_batch(self, height: int, width: int) -> int:
        fixed, pair = self._bytes(height, width)
        there = _budget() // AT_ONCE
        if fixed + pair > there:
            raise too_large(height, width, fixed + pair, there)
        return min(MOST_PAIRS, (there - fixed) // pair)

    def fields(self, frames: Greys, first: NDArray[np.int32], second: NDArray[np.int32]) -> DeviceFields:
        from flowprep.flow.cuda.fields import CudaFields

        space = self._workspace_for(frames)
        batch = [np.ascontiguousarray(array) for array in (frames, first, second)]
        for host, device in zip(batch, (space.frames, space.first, space.second), strict=True):
            device[: len(host)].copy_to_device(host, stream=self._stream)
        space.solver.solve(len(frames), len(first))
        return CudaFields(space.fields, len(first), self._stream, batch)

    def _flow(self, frames: Greys) -> NDArray[np.float32]:
        found = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
        most = self.pairs_in_a_batch(*frames.shape[1:])
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
        return {**self.__dict__, "_arena": None, "_stream": None, "_workspaces": {}}

    def give_back(self) -> None:
        from flowprep.flow.cuda.device import release

        self._workspaces.clear()
        self._arena = self._stream = None
        release()

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
        space = self._workspaces.pop(shape, None)
        if space is None:
            self.warm()
            if self._arena is None:
                self._arena, self._stream = Arena(), cuda.stream()
            pairs = self.pairs_in_a_batch(height, width)
            arena = self._arena
            fixed, pair = self._bytes(height, width)
            size = fixed + pairs * pair
            if size > arena.size:
                self._workspaces.clear()  # they lie in the memory that goes
            elif len(self._workspaces) == WORKSPACES:
                del self._workspaces[next(iter(self._workspaces))]
            arena.clear(size)
            batch = arena.array((FRAMES_A_PAIR * pairs, height, width), frames.dtype)
            first, second = arena.array(pairs, np.int32), arena.array(pairs, np.int32)
            fields = FieldsMemory(pairs, height, width, arena)
            solver = self._make_solver(batch, first, second, fields.flow, arena, self._stream)
            space = _Workspace(batch, first, second, fields, solver)
        self._workspaces[shape] = space
        return space


class TVL1(CudaFlow):
    """TV-L1 (flow/tvl1.py)."""

    method = "tvl1"
    kernels = ("fields_kernels", "images", "median", "tvl1_kernels", "tvl1_data_term")
    parameters_type = TVL1Parameters
    parameters: TVL1Parameters

    def _bytes_needed(self, height: int, width: int) -> tuple[int, int, int]:
        from flowprep.flow.cuda.tvl1 import TVL1Solver

        return TVL1Solver.bytes_needed(self.parameters, height, width)

    def _make_solver(self, frames: Any, first: Any, second: Any, flow: Any, arena: Any, stream: Any) -> Solver:
        from flowprep.flow.cuda.tvl1 import TVL1Solver

        return TVL1Solver(self.parameters, frames, first, second, flow, arena, stream)


class Brox(CudaFlow):
    """Brox flow (flow/brox.py)."""

    method = "brox"
    kernels = ("fields_kernels", "images", "brox_kernels", "brox_sweeps", "brox_data_term")
    parameters_type = BroxParameters
    parameters: BroxParameters

    def _bytes_needed(self, height: int, width: int) -> tuple[int, int, int]:
        from flowprep.flow.cuda.brox import BroxSolver

        return BroxSolver.bytes_needed(self.parameters, height, width)

    def _make_solver(self, frames: Any, first: Any, second: Any, flow: Any, arena: Any, stream: Any) -> Solver:
        from flowprep.flow.cuda.brox import BroxSolver

        return BroxSolver(self.parameters, frames, first, second, flow, arena, stream)


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
