"""TV-L1 and Brox flow on the CPU, by kernels of our own.

    __init__        the two methods, as the rest of the package sees them; imports nothing heavy
    tvl1, brox      workspace and schedule: levels, warps, iterations
    pyramid         what both share: a frame at every level, flow carried from one to the next
    *_kernels       the iterations: the mathematics, written for vectors (of Brox also brox_data_term)
    median, sampling, resampling, rearranging, images     the kernels around them
    stripes         the memory layout of the iterations, drawn
    simd, llvm      the vector type, as wide as the processor's registers, and what it is built of
    compiling       machine code, kept on disk

One thread computes one field; a workspace belongs to one object, so one object a thread. Kernels let go of the GIL. The
result depends on the pair of frames alone, not on threads, batches or what was computed before; between types of
processors (other vectors, other roundings) it differs by rounding, which iterations that stop by themselves can
amplify.
"""

from __future__ import annotations

import platform
from abc import abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import RefusedError
from flowprep.flow import FlowAlgorithm, Greys
from flowprep.flow.brox import BroxParameters
from flowprep.flow.tvl1 import TVL1Parameters

REVISION = 1  # of the numbers that the kernels give; raised with every change that shows in them
PROCESSORS = ("x86_64", "AMD64", "aarch64", "arm64")


class Solver(Protocol):
    """Workspace and schedule for frames of one size."""

    def frame(self) -> Any:
        """Room for one prepared frame."""

    def prepare(self, grey: Greys, frame: Any) -> None:
        """Fill ``frame`` from grey levels (H, W)."""

    def solve(self, first: Any, second: Any, field: NDArray[np.float32]) -> None:
        """Flow from one prepared frame to the other into ``field`` (2, H, W), px."""


class Workspace(NamedTuple):
    height: int
    width: int
    solver: Solver
    frames: tuple[Any, Any]


class CPUFlow(FlowAlgorithm):
    """Pair by pair; each frame is prepared once, for the pair before it and the pair behind it, and for both
    directions."""

    backend: ClassVar[str] = "cpu"

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._workspace: Workspace | None = None

    @classmethod
    def unavailable(cls) -> str:
        if platform.machine() not in PROCESSORS:
            return f"there are no kernels for this type of processor ({platform.machine()})."
        if find_spec("numba") is None:
            return "Numba is not installed: pip install numba"
        return ""

    @classmethod
    def engine(cls) -> str:
        return f"flowprep kernels {REVISION}"

    @abstractmethod
    def _make_solver(self, height: int, width: int) -> Solver:
        """Workspace for frames of that size."""

    def warm(self, say: Callable[[str], None] | None = None) -> None:
        try:
            from flowprep.flow.cpu.compiling import ensure_compiled
        except ImportError as error:
            raise RefusedError(
                f"Numba cannot be loaded: {error}. Install one that fits: pip install --upgrade numba."
            ) from error

        def run() -> None:
            # The default parameters, whatever the user's: one set of kernels serves all.
            solver = type(self)(self.parameters_type().completed())._make_solver(40, 48)  # several levels
            frames = [solver.frame(), solver.frame()]
            for frame in frames:
                solver.prepare(np.zeros((40, 48), np.uint8), frame)
            solver.solve(frames[0], frames[1], np.empty((2, 40, 48), np.float32))

        ensure_compiled(self.method, run, say)

    def __getstate__(self) -> dict[str, Any]:
        """Without the workspace: a copy of it would not be aligned as the kernels need it."""
        return {**self.__dict__, "_workspace": None}

    def _workspace_for(self, height: int, width: int) -> Workspace:
        found = self._workspace
        if found is None or (found.height, found.width) != (height, width):
            self._workspace = None  # the old one goes before the new one comes
            if found is None:
                self.warm()
            solver = self._make_solver(height, width)
            found = self._workspace = Workspace(height, width, solver, (solver.frame(), solver.frame()))
        return found

    def _flow(self, frames: Greys) -> NDArray[np.float32]:
        return self._fields(frames, forward=True, backward=False)[0]

    def _both(self, frames: Greys) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._fields(frames, forward=True, backward=True)

    def _fields(
        self, frames: Greys, *, forward: bool, backward: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        count, height, width = frames.shape
        solver, (first, second) = self._workspace_for(height, width)[2:]
        there = np.empty((count - 1 if forward else 0, 2, height, width), np.float32)
        back = np.empty((count - 1 if backward else 0, 2, height, width), np.float32)
        solver.prepare(frames[0], first)
        for t in range(count - 1):
            solver.prepare(frames[t + 1], second)
            if forward:
                solver.solve(first, second, there[t])
            if backward:
                solver.solve(second, first, back[t])
            first, second = second, first
        return there, back


class TVL1(CPUFlow):
    """TV-L1 (flow/tvl1.py)."""

    method = "tvl1"
    parameters_type = TVL1Parameters
    parameters: TVL1Parameters

    def _make_solver(self, height: int, width: int) -> Solver:
        from flowprep.flow.cpu.tvl1 import TVL1Solver

        return TVL1Solver(self.parameters, height, width)

    def seconds_per_megapixel(self) -> float:
        return (0.25 if self.parameters.preset == "ipol" else 0.55) * self.parameters.warps / 5


class Brox(CPUFlow):
    """Brox flow (flow/brox.py)."""

    method = "brox"
    parameters_type = BroxParameters
    parameters: BroxParameters

    def _make_solver(self, height: int, width: int) -> Solver:
        from flowprep.flow.cpu.brox import BroxSolver

        return BroxSolver(self.parameters, height, width)

    def seconds_per_megapixel(self) -> float:
        p = self.parameters
        sweeps = p.warps * p.inner_iterations * p.solver_iterations
        return 0.1 + 0.0025 * sweeps * (1 if p.tolerance == 0 else 0.2)  # most stop long before
