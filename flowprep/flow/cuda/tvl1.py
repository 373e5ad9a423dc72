"""TV-L1 on the GPU: a batch of pairs from the coarsest level to the finest, all of them in step."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from flowprep.flow.cuda import tvl1_kernels as kernels
from flowprep.flow.cuda.device import pixels
from flowprep.flow.cuda.images import GRADIENT, rest
from flowprep.flow.cuda.median import median
from flowprep.flow.cuda.memory import Arena
from flowprep.flow.cuda.pyramid import Pyramid
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


class TVL1Solver:
    """Workspace and schedule for batches of at most ``frames`` frames and ``pairs`` pairs of one size."""

    def __init__(
        self,
        parameters: TVL1Parameters,
        height: int,
        width: int,
        frames: int,
        pairs: int,
        arena: Arena,
        stream: Any,
    ) -> None:
        self.parameters = p = parameters
        self.pyramid = _pyramid(p, height, width)
        self.pyramid.place(frames, stream, arena.array)
        top = height * width
        across, down = tiles(height, width)
        state, data = (arena.array(planes * pairs * top, np.float32) for planes in (STATE, DATA))
        flows = [arena.array(2 * pairs * top, np.float32) for _ in range(2)]  # of even and of odd levels
        errors = arena.array(pairs * across * down * HALO, np.float32)
        self._levels = []
        for k, (h, w) in enumerate(self.pyramid.sizes):
            across, down = tiles(h, w)
            flow = flows[k % 2][: 2 * pairs * h * w]
            self._levels.append(
                _Level(
                    h,
                    w,
                    state[: STATE * pairs * h * w].reshape(2, pairs, 6, h, w),
                    data[: DATA * pairs * h * w].reshape(pairs, 4, h, w),
                    flow.reshape(pairs, 2, h, w),
                    flow.reshape(2 * pairs, h, w),
                    errors[: pairs * across * down * HALO].reshape(pairs, across * down, HALO),
                )
            )
        self._control = arena.array((4, pairs), np.int32)
        self._turn, self._going = self._control[kernels.TURN], self._control[kernels.GOING]
        self._watch = Watch(pairs)

    @staticmethod
    def bytes_needed(parameters: TVL1Parameters, height: int, width: int) -> tuple[int, int, int]:
        """Bytes of device memory: whatever the batch, for each frame, and for each pair."""
        across, down = tiles(height, width)
        pair = 4 * ((STATE + DATA + FLOW) * height * width + across * down * HALO + 4)
        return *_pyramid(parameters, height, width).bytes_needed(), pair

    def solve(self, frames: Any, count: int, first: Any, second: Any, pairs: int, flow: Any, stream: Any) -> None:
        """Flow of ``pairs`` pairs of ``count`` frames, in px, into ``flow`` (P, 2, H, W).

        frames (F, H, W) uint8 or float32, first and second (P,) int32: all on the device. Work is enqueued on
        ``stream``; on return the last of it may not be done yet.
        """
        p = self.parameters
        self.pyramid.build(frames, count, stream)
        coarsest = self._levels[-1]
        rest[*pixels(coarsest.height, coarsest.width, pairs), stream](coarsest.flow)
        for k in range(len(self._levels) - 1, -1, -1):
            level = self._levels[k]
            images = pixels(level.height, level.width, pairs)
            kernels.begin_level[*images, stream](level.flow, level.state, self._control)
            for _ in range(p.warps):
                kernels.begin_warp[pairs, 1, stream](self._control)
                self._linearise(k, first, second, pairs, stream)
                self._converge(level, pairs, stream)
            factor, target = (np.float32(1), level.flow) if k else (np.float32(p.theta / p.tau), flow)
            kernels.end_level[*images, stream](level.state, self._control, factor, target)
            if k:
                self.pyramid.carry(k - 1, level.planes, self._levels[k - 1].planes, 2 * pairs, stream)

    def _linearise(self, k: int, first: Any, second: Any, pairs: int, stream: Any) -> None:
        p, level, pyramid = self.parameters, self._levels[k], self.pyramid
        linearise[*pixels(level.height, level.width, pairs), stream](
            level.state,
            self._control,
            pyramid.grey[k],
            pyramid.slopes[k],
            first,
            second,
            pyramid.low,
            pyramid.high,
            np.float32(p.lambda_ * p.theta),
            np.float32(p.tau / p.theta),
            np.float32(CUBIC[p.preset]),
            BORDER[p.preset],
            level.data,
        )

    def _converge(self, level: _Level, pairs: int, stream: Any) -> None:
        """Iterate every pair until its change is small enough, or it has done all that it may."""
        p, control = self.parameters, self._control
        tau, scale = np.float32(p.tau), np.float32(p.tau / p.theta)
        limit = np.float32(p.epsilon**2 * level.height * level.width) * scale * scale
        filtered = p.median_filtering > 1
        across, down = tiles(level.height, level.width)
        launches = -(-p.inner_iterations // HALO) + 1  # one may be in vain
        done = 0
        self._watch.begin()
        for _ in range(p.outer_iterations):
            if filtered:
                median(level.state, self._turn, self._going, p.median_filtering, pairs, stream)
            kernels.begin_block[pairs, 1, stream](control, p.inner_iterations, int(filtered))
            for _ in range(launches):
                kernels.relax[(across, down, pairs), (WIDTH, STRIPS), stream](
                    level.state, level.data, control, tau, level.errors
                )
                kernels.judge[pairs, (kernels.ADDERS, HALO), stream](level.errors, across * down, limit, control)
                done += 1
                if done % LOOK_EVERY == 0 and self._watch.all_stopped(self._going, pairs, stream):
                    return


def _pyramid(p: TVL1Parameters, height: int, width: int) -> Pyramid:
    sampled, step = SAMPLED[p.preset], p.scale_step
    return Pyramid(
        p.level_sizes(height, width),
        partial(smaller, scale=step) if p.preset == "ipol" else partial(sampled, step=1 / step),
        lambda n_in, n_out: sampled(n_in, n_out, n_in / n_out),
        1 / step,
        p.presmoothing,
        GRADIENT,
    )
