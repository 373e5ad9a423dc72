"""Flow on an NVIDIA GPU by kernels of this package: TV-L1 and Brox, a batch of frame pairs at a time.

    tvl1.py, brox.py   who launches what, in which order              pyramid.py    frames at all levels
    tvl1_kernels.py    TV-L1: iterations, and when each pair stops    images.py     changes of size, derivatives
    tvl1_data_term.py  its warps                                      sampling.py   values between pixels
    brox_kernels.py    Brox: robust weights                           median.py     the median filter of TV-L1
    brox_sweeps.py     its sweeps of over-relaxation                  watch.py      who is still going
    brox_data_term.py  its warps                                      memory.py     one piece, cut up for each size
    tile.py            how iterations stay on the chip                device.py     decorators, threads, code on disk
    fields.py          what comes back: statistics, levels, floats    driver.py     whether there is a GPU, and which
    fields_kernels.py  its kernels                                    launch.py     kernels with their arguments
    workspaces.py      all for the sizes that came last               solver.py     schedules of launches, for a batch

The reference is the CPU engine (flow/cpu/): the same presets, parameters and conventions, and fields that agree with
its own to 0.02 px in the mean. On one GPU a field is the same to the last bit each time, whatever its batch.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import RefusedError, UsageError
from flowprep.flow import FlowAlgorithm, Greys, Parameters
from flowprep.flow.batch import DeviceFields, too_large
from flowprep.flow.brox import BroxParameters
from flowprep.flow.cuda import driver
from flowprep.flow.tvl1 import TVL1Parameters

if TYPE_CHECKING:
    from flowprep.flow.cuda.workspaces import Workspace, Workspaces

REVISION = 1  # of what the kernels compute: raised when fields change by more than rounding
MOST_PAIRS = 128  # of a batch: no GPU is filled better by more
AT_ONCE = 2  # objects of one process that compute at the same time, each with half of the memory
SHARE = 0.8  # of what is free on the GPU when the process starts


_warming = threading.Lock()
_warm: set[str] = set()  # methods whose kernels are on the GPU of this process


class CudaFlow(FlowAlgorithm):
    """What both methods have in common."""

    backend = "cuda"
    gpu = True
    at_once = AT_ONCE
    kernels: ClassVar[tuple[str, ...]]  # modules that have them
    solver: ClassVar[str]  # "module:name" of what computes a batch

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        _given()  # said before anything is begun
        self._workspaces: Workspaces | None = None  # once there is work

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
                capability, folder = device.capability(), device.code_folder()
                what = f"the kernels of {self.method} for GPUs of compute capability {capability}"
                ensure_compiled(f"{self.method}-{capability}", self._load_kernels, say, folder, what)
                if not isinstance(folder, Path):
                    self._load_kernels()
                gc.collect()  # exceptions within Numba: they refer to all that called it, and so to memory of the GPU
            _warm.add(self.method)

    def announce(self, say: Callable[[str], None]) -> None:
        from flowprep.flow.cuda import device

        folder = device.code_folder()
        if device.SIMULATED or (isinstance(folder, Path) and any(folder.glob(f"{self.method}-*.compiled"))):
            return
        once = "once" if isinstance(folder, Path) else f"each time: they cannot be kept ({folder})"
        say(f"The process of each GPU compiles the kernels of {self.method} first, about 10 seconds, {once}.")

    def _load_kernels(self) -> None:
        for name in self.kernels:
            for kernel, signatures in import_module(f"{__name__}.{name}").signatures().items():
                for types in signatures:
                    kernel.compile(types).bind()

    @classmethod
    def _solver_type(cls) -> Any:
        module, _, name = cls.solver.partition(":")
        return getattr(import_module(f"{__name__}.{module}"), name)

    def pairs_in_a_batch(self, height: int, width: int) -> int:
        fixed, pair = self._bytes(height, width)
        free, whole = _memory()
        there, at_best = (_allowed(memory) // AT_ONCE for memory in (free, whole))
        if fixed + pair > at_best:
            more = "more FLOWPREP_GPU_MEMORY, of which a batch has half, " if _given() else ""
            raise too_large(height, width, fixed + pair, at_best, more)
        if fixed + pair > there:
            raise RefusedError(
                f"{socket.gethostname()}: others have the memory of the GPU. {free / 2**20:.0f} of {whole / 2**20:.0f} "
                f"MiB are free, of which a batch may take {there / 2**20:.0f}; a pair of {width}x{height} pixels takes "
                f"{(fixed + pair) / 2**20:.0f}. nvidia-smi shows who has it: wait for that; or, with "
                f"FLOWPREP_GPU_MEMORY={max(1, free // 2**20)} in the environment, leave out videos that need more."
            )
        return min(MOST_PAIRS, (there - fixed) // pair)

    def fields(self, frames: Greys, first: NDArray[np.int32], second: NDArray[np.int32]) -> DeviceFields:
        from flowprep.flow.cuda.fields import CudaFields

        space, stream = self._workspace(frames, len(first))
        batch = [np.ascontiguousarray(array) for array in (frames, first, second)]
        for host, device in zip(batch, (space.batch.frames, space.batch.first, space.batch.second), strict=True):
            device[: len(host)].copy_to_device(host, stream=stream)
        space.solver.solve(len(frames), len(first))
        return CudaFields(space.fields, len(first), stream, batch)

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
        return {**self.__dict__, "_workspaces": None}

    def give_back(self) -> None:
        from flowprep.flow.cuda.device import release

        self._workspaces = None
        release()

    def _bytes(self, height: int, width: int) -> tuple[int, int]:
        """Device memory of a batch: fixed, and for each pair with its frames."""
        from flowprep.flow.cuda.fields import FieldsMemory
        from flowprep.flow.cuda.workspaces import FRAMES_A_PAIR, PADDING

        tables, frame, pair = self._solver_type().bytes_needed(self.parameters, height, width)
        frames = FRAMES_A_PAIR * (frame + 4 * height * width)
        return tables + PADDING, frames + pair + FieldsMemory.bytes_needed(height, width) + 2 * 4

    def _workspace(self, frames: Greys, pairs: int) -> tuple[Workspace, Any]:
        """Memory for a batch, and its stream."""
        from flowprep.flow.cuda.workspaces import FRAMES_A_PAIR, Workspaces

        if self._workspaces is None:
            self.warm()
            self._workspaces = Workspaces(partial(self._solver_type(), self.parameters))
        count, height, width = frames.shape
        most, (_, each) = self.pairs_in_a_batch(height, width), self._bytes(height, width)
        needed = max(pairs, -(-count // FRAMES_A_PAIR))
        space = self._workspaces.get(height, width, frames.dtype, needed=needed, most=most, each=each)
        return space, self._workspaces.stream


class TVL1(CudaFlow):
    """TV-L1 (flow/tvl1.py)."""

    method = "tvl1"
    kernels = ("fields_kernels", "images", "median", "tvl1_kernels", "tvl1_data_term")
    solver = "tvl1:TVL1Solver"
    parameters_type = TVL1Parameters
    parameters: TVL1Parameters


class Brox(CudaFlow):
    """Brox flow (flow/brox.py)."""

    method = "brox"
    kernels = ("fields_kernels", "images", "brox_kernels", "brox_sweeps", "brox_data_term")
    solver = "brox:BroxSolver"
    parameters_type = BroxParameters
    parameters: BroxParameters


@cache
def _memory() -> tuple[int, int]:
    """Bytes of the GPU that are free when this process begins, and all."""
    from flowprep.flow.cuda.device import memory

    return memory()


def _allowed(memory: int) -> int:
    """Of so many bytes on the GPU those that this process may use: what FLOWPREP_GPU_MEMORY says, or most of them."""
    return min(_given() or int(SHARE * memory), memory)


def _given() -> int:
    """Bytes that FLOWPREP_GPU_MEMORY says, 0 without it; raises UsageError."""
    given = os.environ.get("FLOWPREP_GPU_MEMORY")
    if not given:
        return 0
    if not given.isdecimal() or int(given) == 0:
        raise UsageError(f"FLOWPREP_GPU_MEMORY={given}: give a number of MiB.")
    return int(given) * 2**20
