"""Brox flow on the GPU: a batch of pairs from the coarsest level to the finest, all of them in step."""

from __future__ import annotations

from functools import cache, lru_cache, partial
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
    begin_sweeps,
    judge,
    sweep,
    sweep_measured,
    tiles,
)
from flowprep.flow.cuda.images import IPOL_SLOPES, NCV_SLOPES, rest
from flowprep.flow.cuda.launch import Launch
from flowprep.flow.cuda.memory import Arena
from flowprep.flow.cuda.pyramid import PyramidTables
from flowprep.flow.cuda.solver import Batch, Solver, Step, UntilStopped
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


class BroxSolver(Solver):
    """Brox flow for batches of frames of one size."""

    def __init__(self, parameters: BroxParameters, batch: Batch, arena: Arena, stream: Any) -> None:
        pairs, _, height, width = batch.flow.shape
        super().__init__(_tables(parameters, height, width), batch, arena, stream)
        self.parameters = parameters
        self.ipol = parameters.preset == "ipol"
        across, down = tiles(height, width)
        top, data = pairs * height * width, _data(parameters)
        memory = tuple(arena.array(planes * top, np.float32) for planes in (FLOW, data, kernels.SYSTEM))
        errors = arena.array(pairs * across * down, np.float32)
        sizes = [level.shape[1:] for level in self.pyramid.grey]
        self._levels = [_level(memory, errors, data, pairs, *size) for size in sizes]
        self._control = arena.array((2, pairs), np.int32)
        self._watch = Watch(self._control[kernels.GOING], stream)
        self.schedule = self._planned()

    @staticmethod
    @lru_cache(256)
    def bytes_needed(parameters: BroxParameters, height: int, width: int) -> tuple[int, int, int]:
        """Bytes of device memory: of tables, for each frame, and for each pair."""
        across, down = tiles(height, width)
        planes = FLOW + _data(parameters) + kernels.SYSTEM
        pair = 4 * (planes * height * width + across * down + 2)
        return *_tables(parameters, height, width).bytes_needed(), pair

    def _planned(self) -> list[Step]:
        """What is done for a number of pairs, one after the other."""
        p, control = self.parameters, self._control
        begin_level = self.per_pair(kernels.begin_level, control)
        steps: list[Step] = [self.per_pixel(rest, self._levels[-1], self._levels[-1].start)]
        for k in range(len(self._levels) - 1, -1, -1):
            level = self._levels[k]
            steps.append(begin_level)
            # What comes again is the same launch again.
            linearising, preparing = cache(partial(self._linearising, k)), cache(partial(self._preparing, level))
            sweeping = cache(partial(self._sweeping if p.tolerance == 0 else self._converging, level))
            odd = 0  # launches of sweeps since the flow was in the buffer that ``control`` says, modulo 2
            for _ in range(p.warps):
                steps.append(linearising(odd))
                for inner in range(p.inner_iterations):
                    sweeps, behind = sweeping(odd)
                    steps += [*preparing(odd, inner == 0), *sweeps]
                    odd = behind
            target = level.field if k else self.batch.flow
            steps.append(self.per_pixel(kernels.end_level, level, level.flow, control, odd, target))
            if k:
                finer = self._levels[k - 1].start_planes
                steps.append(self.pyramid.carrying(k - 1, level.field_planes, finer))
        return steps

    def _linearising(self, k: int, odd: int) -> Launch:
        level, pyramid = self._levels[k], self.pyramid
        flow, pairs = (level.flow, self._control, odd), (self.batch.first, self.batch.second)
        frames = pyramid.grey[k], pyramid.slopes[k]
        if self.ipol:
            ranges = pyramid.low, pyramid.high
            return self.per_pixel(linearise_apart, level, *flow, *frames, *ranges, *pairs, level.data)
        return self.per_pixel(linearise, level, *flow, *frames, *pairs, np.float32(self.parameters.gamma), level.data)

    def _preparing(self, level: _Level, odd: int, warped: bool) -> list[Launch]:
        p = self.parameters
        flow = level.flow, self._control, odd
        weight, weight_2, omega = np.float32(1 / p.alpha), np.float32(p.gamma / p.alpha), np.float32(p.omega)
        if not self.ipol:
            return [self.per_pixel(kernels.prepare, level, *flow, level.data, weight, omega, level.system)]
        weights = weight, weight_2, omega
        prepare = self.per_pixel(kernels.prepare_apart, level, *flow, level.data, *weights, level.system)
        # IPOL's diffusivity is that of the flow before the warp, OpenCV's follows the increments.
        return [self.per_pixel(kernels.diffuse, level, *flow, level.system), prepare] if warped else [prepare]

    def _sweeping(self, level: _Level, odd: int) -> tuple[list[Step], int]:
        """All sweeps, and the ``odd`` behind them."""
        count = self.parameters.solver_iterations
        across, down = tiles(level.height, level.width)
        at_once = SWEEPS if across * down > 1 else count  # a single tile overlaps with no other
        steps: list[Step] = []
        for done in range(0, count, at_once):
            steps.append(self._sweep(sweep, level, odd, min(at_once, count - done)))
            odd ^= 1
        return steps, odd

    def _converging(self, level: _Level, odd: int) -> tuple[list[Step], int]:
        """Sweeps until the change of every pair is small enough; ``odd``, which is 0, stays."""
        p, control = self.parameters, self._control
        limit = np.float32(p.tolerance**2 * level.height * level.width)
        across, down = tiles(level.height, level.width)
        judging = self.per_pair(judge, level.errors, across * down, limit, control, threads=(ADDERS, 1))
        starts = range(0, p.solver_iterations, SWEEPS)
        sweeps = [self._sweep(sweep_measured, level, odd, min(SWEEPS, p.solver_iterations - done)) for done in starts]
        rounds = [[sweep, judging] for sweep in sweeps]
        rounds[0].insert(0, self.per_pair(begin_sweeps, control))
        return [UntilStopped(rounds, self._watch, LOOK_EVERY)], odd

    def _sweep(self, kernel: Any, level: _Level, odd: int, sweeps: int) -> Launch:
        omega = np.float32(self.parameters.omega)
        blocks = (*tiles(level.height, level.width), 1)
        flow = level.flow, self._control, odd
        return Launch(kernel, blocks, (ACROSS, STRIPS), self.stream, *flow, level.system, sweeps, omega, level.errors)


def _data(p: BroxParameters) -> int:
    """Planes of the data term."""
    return kernels.FIRST_TERM + (2 if p.preset == "ipol" else 1) * kernels.TERM


@lru_cache(64)
def _tables(p: BroxParameters, height: int, width: int) -> PyramidTables:
    sizes, step = p.level_sizes(height, width), p.scale_factor
    if p.preset == "ipol":
        down, up, slopes = partial(smaller, scale=step), _from_corner, IPOL_SLOPES
    else:
        down, up, slopes = partial(supersampled, step=1 / step), partial(bicubic_inside, step=step), NCV_SLOPES
    return PyramidTables(sizes, down, up, 1 / step, p.presmoothing, slopes)


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
