"""Brox flow on the GPU: a batch of pairs from the coarsest level to the finest, all of them in step."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from flowprep.flow.brox import BroxParameters
from flowprep.flow.cuda import brox_kernels as kernels
from flowprep.flow.cuda.brox_data_term import linearise, linearise_apart
from flowprep.flow.cuda.brox_sweeps import (
    ACROSS,
    ADDERS,
    STRIPS,
    SWEEPS,
    begin_solver,
    judge,
    solve,
    solve_measured,
    tiles,
)
from flowprep.flow.cuda.device import pixels
from flowprep.flow.cuda.images import IPOL_SLOPES, NCV_SLOPES, rest
from flowprep.flow.cuda.memory import Arena
from flowprep.flow.cuda.pyramid import Pyramid
from flowprep.flow.cuda.watch import Watch
from flowprep.flow.taps import bicubic, bicubic_inside, smaller, supersampled

LOOK_EVERY = 4  # launches of sweeps between two looks at who is still going
FLOW = 2 * 2  # planes of a pair


class _Level(NamedTuple):
    """Memory at one level, P pairs; symbols are those of brox_kernels.py."""

    height: int
    width: int
    flow: Any  # (2, P, 2, H, W)
    start: Any  # (P, 2, H, W): its buffer 0, where the flow of the next coarser level arrives
    start_planes: Any  # (2 P, H, W): the same
    data: Any  # (P, 2 + 6 T, H, W)
    field: Any  # (P, 2, H, W): memory of ``data``, which is not needed any more when a level is done
    field_planes: Any  # (2 P, H, W): the same
    system: Any  # (P, 7, H, W)
    errors: Any  # (P, tiles)


class BroxSolver:
    """Workspace and schedule for batches of at most ``frames`` frames and ``pairs`` pairs of one size."""

    def __init__(
        self,
        parameters: BroxParameters,
        height: int,
        width: int,
        frames: int,
        pairs: int,
        arena: Arena,
        stream: Any,
    ) -> None:
        self.parameters = parameters
        self.ipol = parameters.preset == "ipol"
        self.pyramid = _pyramid(parameters, height, width)
        self.pyramid.place(frames, stream, arena.array)
        across, down = tiles(height, width)
        top, data = pairs * height * width, _data(parameters)
        memory = tuple(arena.array(planes * top, np.float32) for planes in (FLOW, data, kernels.SYSTEM))
        errors = arena.array(pairs * across * down, np.float32)
        self._levels = [_level(memory, errors, data, pairs, h, w) for h, w in self.pyramid.sizes]
        self._control = arena.array((2, pairs), np.int32)
        self._going = self._control[kernels.GOING]
        self._watch = Watch(pairs)

    @staticmethod
    def bytes_needed(parameters: BroxParameters, height: int, width: int) -> tuple[int, int, int]:
        """Bytes of device memory in any case, for each frame and for each pair."""
        across, down = tiles(height, width)
        planes = FLOW + _data(parameters) + kernels.SYSTEM
        pair = 4 * (planes * height * width + across * down + 2)
        return *_pyramid(parameters, height, width).bytes_needed(), pair

    def solve(self, frames: Any, count: int, first: Any, second: Any, pairs: int, flow: Any, stream: Any) -> None:
        """Flow of ``pairs`` pairs of ``count`` frames, in px, into ``flow`` (P, 2, H, W).

        frames (F, H, W) uint8 or float32, first and second (P,) int32: all on the device. Work is enqueued on
        ``stream``; on return the last of it may not be done yet.
        """
        p, control = self.parameters, self._control
        self.pyramid.build(frames, count, stream)
        coarsest = self._levels[-1]
        rest[*pixels(coarsest.height, coarsest.width, pairs), stream](coarsest.start)
        for k in range(len(self._levels) - 1, -1, -1):
            level = self._levels[k]
            kernels.begin_level[pairs, 1, stream](control)
            turn = 0  # launches of sweeps since the flow was in the buffer that ``control`` says, modulo 2
            for _ in range(p.warps):
                self._linearise(k, turn, first, second, pairs, stream)
                for inner in range(p.inner_iterations):
                    self._prepare(level, turn, inner, pairs, stream)
                    if p.tolerance > 0:
                        self._converge(level, pairs, stream)
                    else:
                        turn = self._sweep(level, turn, pairs, stream)
            images = pixels(level.height, level.width, pairs)
            kernels.end_level[*images, stream](level.flow, control, turn, level.field if k else flow)
            if k:
                self.pyramid.carry(k - 1, level.field_planes, self._levels[k - 1].start_planes, 2 * pairs, stream)

    def _linearise(self, k: int, turn: int, first: Any, second: Any, pairs: int, stream: Any) -> None:
        level, pyramid = self._levels[k], self.pyramid
        images, flow = pixels(level.height, level.width, pairs), (level.flow, self._control, turn)
        frames = pyramid.grey[k], pyramid.slopes[k]
        if self.ipol:
            linearise_apart[*images, stream](*flow, *frames, pyramid.low, pyramid.high, first, second, level.data)
        else:
            linearise[*images, stream](*flow, *frames, first, second, np.float32(self.parameters.gamma), level.data)

    def _prepare(self, level: _Level, turn: int, inner: int, pairs: int, stream: Any) -> None:
        p = self.parameters
        images, flow = pixels(level.height, level.width, pairs), (level.flow, self._control, turn)
        weight, weight_2, omega = np.float32(1 / p.alpha), np.float32(p.gamma / p.alpha), np.float32(p.omega)
        if self.ipol:
            # IPOL's diffusivity is that of the flow before the warp, OpenCV's follows the increments.
            if inner == 0:
                kernels.diffuse[*images, stream](*flow, level.system)
            kernels.prepare_apart[*images, stream](*flow, level.data, weight, weight_2, omega, level.system)
        else:
            kernels.prepare[*images, stream](*flow, level.data, weight, omega, level.system)

    def _sweep(self, level: _Level, turn: int, pairs: int, stream: Any) -> int:
        """All sweeps; returns the new ``turn``."""
        p = self.parameters
        across, down = tiles(level.height, level.width)
        at_once = SWEEPS if across * down > 1 else p.solver_iterations  # a single tile overlaps with no other
        for done in range(0, p.solver_iterations, at_once):
            sweeps = min(at_once, p.solver_iterations - done)
            self._launch(solve, level, turn, sweeps, pairs, stream)
            turn ^= 1
        return turn

    def _converge(self, level: _Level, pairs: int, stream: Any) -> None:
        """Sweeps until the change of every pair is small enough."""
        p, control = self.parameters, self._control
        limit = np.float32(p.tolerance**2 * level.height * level.width)
        across, down = tiles(level.height, level.width)
        begin_solver[pairs, 1, stream](control)
        self._watch.begin()
        for launch, done in enumerate(range(0, p.solver_iterations, SWEEPS)):
            if launch and launch % LOOK_EVERY == 0 and self._watch.all_stopped(self._going, pairs, stream):
                return
            self._launch(solve_measured, level, 0, min(SWEEPS, p.solver_iterations - done), pairs, stream)
            judge[pairs, ADDERS, stream](level.errors, across * down, limit, control)

    def _launch(self, kernel: Any, level: _Level, turn: int, sweeps: int, pairs: int, stream: Any) -> None:
        omega = np.float32(self.parameters.omega)
        blocks = (*tiles(level.height, level.width), pairs)
        flow = level.flow, self._control, turn
        kernel[blocks, (ACROSS, STRIPS), stream](*flow, level.system, sweeps, omega, level.errors)


def _data(p: BroxParameters) -> int:
    """Planes of the data term."""
    return kernels.FIRST_TERM + (2 if p.preset == "ipol" else 1) * kernels.TERM


def _pyramid(p: BroxParameters, height: int, width: int) -> Pyramid:
    sizes, step = p.level_sizes(height, width), p.scale_factor
    if p.preset == "ipol":
        down, up, slopes = partial(smaller, scale=step), _from_corner, IPOL_SLOPES
    else:
        down, up, slopes = partial(supersampled, step=1 / step), partial(bicubic_inside, step=step), NCV_SLOPES
    return Pyramid(sizes, down, up, 1 / step, p.presmoothing, slopes)


def _from_corner(n_in: int, n_out: int) -> Any:
    return bicubic(n_in, n_out, n_in / n_out)


def _level(memory: tuple[Any, ...], errors: Any, planes: int, pairs: int, height: int, width: int) -> _Level:
    """A level of that size in ``memory``: flat arrays for flow, data (of so many planes) and system."""
    flow, data, system = memory
    size = pairs * height * width
    across, down = tiles(height, width)
    start, field = flow[: 2 * size], data[: 2 * size]
    return _Level(
        height,
        width,
        flow[: FLOW * size].reshape(2, pairs, 2, height, width),
        start.reshape(pairs, 2, height, width),
        start.reshape(2 * pairs, height, width),
        data[: planes * size].reshape(pairs, planes, height, width),
        field.reshape(pairs, 2, height, width),
        field.reshape(2 * pairs, height, width),
        system[: kernels.SYSTEM * size].reshape(pairs, kernels.SYSTEM, height, width),
        errors[: pairs * across * down].reshape(pairs, across * down),
    )
