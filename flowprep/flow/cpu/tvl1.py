"""TV-L1 on the CPU: frames prepared once, then pair by pair from the coarsest level to the finest."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from flowprep.flow.cpu import tvl1_kernels as kernels
from flowprep.flow.cpu.images import filter_along, filter_down, join_4
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.median import scratch_length
from flowprep.flow.cpu.pyramid import Frame, Pyramid, stretch
from flowprep.flow.cpu.stripes import aligned, to_stripes
from flowprep.flow.taps import CENTRAL, bicubic, bilinear, bilinear_from_corner, border_repeated, smaller
from flowprep.flow.tvl1 import TVL1Parameters

SAMPLED = {"opencv": bilinear, "opencv-cuda": bilinear_from_corner, "ipol": bicubic}  # for another size
CUBIC = {"opencv": -0.75, "opencv-cuda": -0.5, "ipol": -0.5}  # "a" of cubic convolution


class TVL1Solver:
    """Workspace and schedule for frames of one size. One object a thread."""

    def __init__(self, parameters: TVL1Parameters, height: int, width: int) -> None:
        self.parameters = p = parameters
        sampled, step = SAMPLED[p.preset], p.scale_step
        self.pyramid = Pyramid(
            p.level_sizes(height, width),
            partial(smaller, scale=step) if p.preset == "ipol" else partial(sampled, step=1 / step),
            lambda n_in, n_out: sampled(n_in, n_out, n_in / n_out),
            1 / step,
            p.presmoothing,
            even=False,
        )
        levels = self.pyramid.levels
        self._rows = [kernels.row_length(level.n) for level in levels]
        lengths = [row * level.height for row, level in zip(self._rows, levels, strict=True)]
        self._states = [aligned(max(lengths[i::2], default=0)) for i in range(2)]  # of even and of odd levels
        top = levels[0]
        self._gradient = [aligned(top.height * top.pitch) for _ in range(2)]
        self._line = aligned(top.pitch + 2 * LANES)
        self._median = aligned(scratch_length(top.n))
        self._errors = np.zeros(kernels.STAIRS, np.float32)
        self.iterations = 0.0  # pixel-iterations of the last pair

    def frame(self) -> Frame:
        return Frame(self.pyramid, planes=1, channels=4)

    def prepare(self, grey: NDArray[np.uint8] | NDArray[np.float32], frame: Frame) -> None:
        """Fill ``frame`` from grey levels (H, W)."""
        repeat = self.parameters.preset == "opencv-cuda"
        x, y = self._gradient

        def use(k: int, plane: NDArray[np.float32]) -> None:
            level = self.pyramid.levels[k]
            size = (level.height, level.width, level.pitch)
            to_stripes(plane, frame.sources[k], *size, level.n, LANES, level.n * LANES)
            filter_along(plane, x, self._line, *size, CENTRAL, border_repeated(level.width))
            filter_down(plane, y, *size, CENTRAL, border_repeated(level.height))
            join_4(plane, x, y, frame.images[k], *size, repeat)

        self.pyramid.planes(grey, use)
        frame.low, frame.high = float(grey.min()), float(grey.max())

    def solve(self, first: Frame, second: Frame, field: NDArray[np.float32]) -> None:
        """Flow from ``first`` to ``second`` into ``field`` (2, H, W), px."""
        p = self.parameters
        tau, scale, limit = np.float32(p.tau), np.float32(p.tau / p.theta), p.lambda_ * p.theta
        inside = p.preset == "ipol"
        if inside:
            # Stretching grey levels by s is the same as weighing the data term with s: rho and its gradient grow alike.
            limit *= stretch(first, second)
        self.iterations = 0.0
        for k in range(len(self.pyramid.levels) - 1, -1, -1):
            level, row = self.pyramid.levels[k], self._rows[k]
            state, coarser = self._states[k % 2], self._states[(k + 1) % 2]
            state[: level.height * row] = 0
            if k + 1 < len(self.pyramid.levels):
                for plane in (kernels.U1, kernels.U2):
                    self.pyramid.carry(k, coarser[plane:], self._rows[k + 1], state[plane:], row, kernels.BLOCK)
            size = (level.height, level.width, level.n, row)
            stop = np.float32(p.epsilon**2 * level.pixels) * scale * scale
            blocks = (p.inner_iterations, p.outer_iterations, p.median_filtering)
            for _ in range(p.warps):
                kernels.warp(
                    state,
                    first.sources[k],
                    second.images[k],
                    level.exists,
                    *size,
                    np.float32(limit),
                    scale,
                    np.float32(CUBIC[p.preset]),
                    inside,
                )
                count = kernels.relax(state, level.has_right, *size, tau, stop, *blocks, self._median, self._errors)
                self.iterations += count * level.pixels
        for d, plane in enumerate((kernels.U1, kernels.U2)):
            self.pyramid.finish(self._states[0][plane:], self._rows[0], kernels.BLOCK, p.theta / p.tau, field[d])
