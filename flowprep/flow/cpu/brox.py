"""Brox flow on the CPU: frames prepared once, then pair by pair from the coarsest level to the finest."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from flowprep.flow.brox import BroxParameters
from flowprep.flow.cpu import brox_kernels as kernels
from flowprep.flow.cpu.brox_data_term import linearise
from flowprep.flow.cpu.images import filter_along, filter_down, join_8
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.pyramid import Frame, Pyramid, stretch
from flowprep.flow.cpu.stripes import aligned, to_stripes
from flowprep.flow.taps import (
    CENTRAL,
    FOURTH_ORDER,
    SECOND,
    bicubic,
    bicubic_inside,
    border_mirrored_as_ncv,
    border_repeated,
    smaller,
    supersampled,
)


class BroxSolver:
    """Workspace and schedule for frames of one size. One object a thread."""

    def __init__(self, parameters: BroxParameters, height: int, width: int) -> None:
        self.parameters = p = parameters
        self.ipol = p.preset == "ipol"
        step = p.scale_factor
        self.pyramid = Pyramid(
            p.level_sizes(height, width),
            partial(smaller, scale=step) if self.ipol else partial(supersampled, step=1 / step),
            (lambda n_in, n_out: bicubic(n_in, n_out, n_in / n_out))
            if self.ipol
            else partial(bicubic_inside, step=step),
            1 / step,
            p.presmoothing,
            even=True,
        )
        levels = self.pyramid.levels
        self._terms = 2 if self.ipol else 1
        self._rows = [kernels.state_row(level.n) for level in levels]
        lengths = [kernels.state_length(level.height, row) for row, level in zip(self._rows, levels, strict=True)]
        self._states = [aligned(max(lengths[i::2], default=0)) for i in range(2)]  # of even and of odd levels
        top = levels[0]
        self._data = aligned(max(level.height * level.n for level in levels) * kernels.data_block(self._terms))
        self._psi = aligned(max(level.n for level in levels) * LANES)
        self._derivatives = [aligned(top.height * top.pitch) for _ in range(5)]
        self._line = aligned(top.pitch + 2 * LANES)
        self._changes = np.zeros(kernels.STAIRS, np.float32)

    def frame(self) -> Frame:
        return Frame(self.pyramid, planes=3, channels=8)

    def prepare(self, grey: NDArray[np.uint8] | NDArray[np.float32], frame: Frame) -> None:
        """Fill ``frame`` from grey levels (H, W)."""
        x, y, xx, xy, yy = self._derivatives
        first, border = (CENTRAL, border_repeated) if self.ipol else (FOURTH_ORDER, border_mirrored_as_ncv)

        def use(k: int, plane: NDArray[np.float32]) -> None:
            level = self.pyramid.levels[k]
            size = (level.height, level.width, level.pitch)
            across, down = border(level.width), border(level.height)
            filter_along(plane, x, self._line, *size, first, across)
            filter_down(plane, y, *size, first, down)
            filter_along(y, xy, self._line, *size, first, across)
            if self.ipol:
                filter_along(plane, xx, self._line, *size, SECOND, across)
                filter_down(plane, yy, *size, SECOND, down)
            else:
                filter_along(x, xx, self._line, *size, first, across)
                filter_down(y, yy, *size, first, down)
            for i, part in enumerate((plane, x, y)):
                to_stripes(part, frame.sources[k][i * LANES :], *size, level.n, 3 * LANES, level.n * 3 * LANES)
            join_8(plane, x, y, xx, xy, yy, frame.images[k], *size, True)

        self.pyramid.planes(grey, use)
        frame.low, frame.high = float(grey.min()), float(grey.max())

    def solve(self, first: Frame, second: Frame, field: NDArray[np.float32]) -> None:
        """Flow from ``first`` to ``second`` into ``field`` (2, H, W), px."""
        p = self.parameters
        gamma, omega = np.float32(p.gamma), np.float32(p.omega)
        weights = np.float32(1 / p.alpha), np.float32(p.gamma / p.alpha)
        factor = stretch(first, second) if self.ipol else 1 / 255  # on grey levels
        for k in range(len(self.pyramid.levels) - 1, -1, -1):
            level, row = self.pyramid.levels[k], self._rows[k]
            state, coarser = self._states[k % 2], self._states[(k + 1) % 2]
            state[: kernels.state_length(level.height, row)] = 0
            if k + 1 < len(self.pyramid.levels):
                for plane in (kernels.A, kernels.B):
                    coarse_row = self._rows[k + 1]
                    begin = kernels.BLOCK + plane  # behind the halo
                    self.pyramid.carry(k, coarser[begin:], coarse_row, state[begin:], row, kernels.BLOCK)
            size = (level.height, level.width, level.n, row)
            limit = np.float32(p.tolerance**2 * level.pixels)
            for _ in range(p.warps):
                linearise(
                    state,
                    self._data,
                    first.sources[k],
                    second.images[k],
                    level.exists,
                    *size,
                    self._terms,
                    gamma,
                    np.float32(factor),
                    self.ipol,
                )
                for inner in range(p.inner_iterations):
                    # IPOL's diffusivity is that of the flow before the warp, OpenCV's follows the increments.
                    diffusing = (2 if inner == 0 else 0) if self.ipol else 1
                    masks = (level.has_left, level.exists)
                    kernels.prepare(
                        state, self._data, self._psi, *masks, *size, self._terms, diffusing, *weights, omega
                    )
                    kernels.solve(state, level.height, level.n, row, p.solver_iterations, omega, limit, self._changes)
        for d, plane in enumerate((kernels.A, kernels.B)):
            self.pyramid.finish(self._states[0][kernels.BLOCK + plane :], self._rows[0], kernels.BLOCK, 1.0, field[d])
