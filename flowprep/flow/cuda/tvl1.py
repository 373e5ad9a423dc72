"""TV-L1 on the GPU: a batch of pairs from the coarsest level to the finest, all of them in step."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from flowprep.flow.cuda import tvl1_kernels as kernels
from flowprep.flow.cuda.images import GRADIENT, rest
from flowprep.flow.cuda.launch import Launch
from flowprep.flow.cuda.median import median
from flowprep.flow.cuda.memory import Arena
from flowprep.flow.cuda.pyramid import PyramidTables
from flowprep.flow.cuda.solver import Batch, Solver, Step, UntilStopped
from flowprep.flow.cuda.tile import HALO, STRIPS, WIDTH, tiles
from flowprep.flow.cuda.tvl1_data_term import INSIDE, REPEATED, ZEROS, linearise
from flowprep.flow.cuda.watch import Watch
from flowprep.flow.taps import bicubic, bilinear, bilinear_from_corner, smaller
from flowprep.flow.tvl1 import TVL1Parameters

SAMPLED = {"opencv": bilinear, "opencv-cuda": bilinear_from_corner, "ipol": bicubic}  # for another size
CUBIC = {"opencv": -0.75, "opencv-cuda": -0.5, "ipol": -0.5}  # "a" of cubic convolution
BORDER = {"opencv": ZEROS, "opencv-cuda": REPEATED, "ipol": INSIDE}
LOOK_EVERY = 6  # launches of iterations between two looks at who is still going
STATE, DATA, FLOW = 2 * 6, 4, 2 * 2  # planes of a pair


class _Level(NamedTuple):
    """Memory at one level, P pairs."""

    height: int
    width: int
    state: Any  # (2, P, 6, H, W)
    data: Any  # (P, 4, H, W)
    flow: Any  # (P, 2, H, W): where flow from the next coarser level arrives, and from where it goes to the next finer
    planes: Any  # (2 P, H, W): the same memory
    errors: Any  # (P, tiles, HALO)


class TVL1Solver(Solver):
    """TV-L1 for batches of frames of one size."""

    def __init__(self, parameters: TVL1Parameters, batch: Batch, arena: Arena, stream: Any) -> None:
        pairs, _, height, width = batch.flow.shape
        super().__init__(_tables(parameters, height, width), batch, arena, stream)
        self.parameters = parameters
        top = height * width
        across, down = tiles(height, width)
        state, data = (arena.array(planes * pairs * top, np.float32) for planes in (STATE, DATA))
        flows = [arena.array(2 * pairs * top, np.float32) for _ in range(2)]  # of even and of odd levels
        errors = arena.array(pairs * across * down * HALO, np.float32)
        sizes = [level.shape[1:] for level in self.pyramid.grey]
        self._levels = [_level(state, data, flows[k % 2], errors, pairs, *size) for k, size in enumerate(sizes)]
        self._control = arena.array((4, pairs), np.int32)
        self._watch = Watch(self._control[kernels.GOING], stream)
        self.schedule = self._planned()

    @staticmethod
    @lru_cache(256)
    def bytes_needed(parameters: TVL1Parameters, height: int, width: int) -> tuple[int, int, int]:
        """Bytes of device memory: of tables, for each frame, and for each pair."""
        across, down = tiles(height, width)
        pair = 4 * ((STATE + DATA + FLOW) * height * width + across * down * HALO + 4)
        return *_tables(parameters, height, width).bytes_needed(), pair

    def _planned(self) -> list[Step]:
        """What is done for a number of pairs, one after the other."""
        p, control = self.parameters, self._control
        begin_warp = self.per_pair(kernels.begin_warp, control)
        steps: list[Step] = [self.per_pixel(rest, self._levels[-1], self._levels[-1].flow)]
        for k in range(len(self._levels) - 1, -1, -1):
            level = self._levels[k]
            steps.append(self.per_pixel(kernels.begin_level, level, level.flow, level.state, control))
            warp: list[Step] = [begin_warp, self._linearising(k), self._converging(level)]
            steps += p.warps * warp
            factor, target = (np.float32(1), level.flow) if k else (np.float32(p.theta / p.tau), self.batch.flow)
            steps.append(self.per_pixel(kernels.end_level, level, level.state, control, factor, target))
            if k:
                steps.append(self.pyramid.carrying(k - 1, level.planes, self._levels[k - 1].planes))
        return steps

    def _linearising(self, k: int) -> Launch:
        p, level, pyramid = self.parameters, self._levels[k], self.pyramid
        return self.per_pixel(
            linearise,
            level,
            level.state,
            self._control,
            pyramid.grey[k],
            pyramid.slopes[k],
            self.batch.first,
            self.batch.second,
            pyramid.low,
            pyramid.high,
            np.float32(p.lambda_ * p.theta),
            np.float32(p.tau / p.theta),
            np.float32(CUBIC[p.preset]),
            BORDER[p.preset],
            level.data,
        )

    def _converging(self, level: _Level) -> Step:
        """Iterate every pair until its change is small enough, or it has done all that it may."""
        p, control = self.parameters, self._control
        tau, scale = np.float32(p.tau), np.float32(p.tau / p.theta)
        limit = np.float32(p.epsilon**2 * level.height * level.width) * scale * scale
        filtered = p.median_filtering > 1
        across, down = tiles(level.height, level.width)
        begin = [self.per_pair(kernels.begin_iterations, control, p.inner_iterations, int(filtered))]
        if filtered:
            buffer, going = control[kernels.BUFFER], control[kernels.GOING]
            begin.insert(0, median(level.state, buffer, going, p.median_filtering, self.stream))
        relaxed = level.state, level.data, control, tau, level.errors
        relax = Launch(kernels.relax, (across, down, 1), (WIDTH, STRIPS), self.stream, *relaxed)
        judged = level.errors, across * down, limit, control
        judge = self.per_pair(kernels.judge, *judged, threads=(kernels.ADDERS, HALO))
        iterate, again = [relax, judge], -(-p.inner_iterations // HALO)  # launches after the first; one may be in vain
        rounds = p.outer_iterations * [[*begin, *iterate], *again * [iterate]]
        return UntilStopped(rounds, self._watch, LOOK_EVERY)


@lru_cache(64)
def _tables(p: TVL1Parameters, height: int, width: int) -> PyramidTables:
    sampled, step = SAMPLED[p.preset], p.scale_step
    return PyramidTables(
        p.level_sizes(height, width),
        partial(smaller, scale=step) if p.preset == "ipol" else partial(sampled, step=1 / step),
        lambda n_in, n_out: sampled(n_in, n_out, n_in / n_out),
        1 / step,
        p.presmoothing,
        GRADIENT,
    )


def _level(state: Any, data: Any, flow: Any, errors: Any, pairs: int, height: int, width: int) -> _Level:
    """A level of that size in flat arrays."""
    size = pairs * height * width
    across, down = tiles(height, width)
    field = flow[: 2 * size]
    return _Level(
        height,
        width,
        state[: STATE * size].reshape(2, pairs, 6, height, width),
        data[: DATA * size].reshape(pairs, 4, height, width),
        field.reshape(pairs, 2, height, width),
        field.reshape(2 * pairs, height, width),
        errors[: pairs * across * down * HALO].reshape(pairs, across * down, HALO),
    )
