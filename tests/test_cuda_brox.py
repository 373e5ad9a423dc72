"""Brox flow on the GPU, in the simulator: each kernel against the definition, the solver against the CPU engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep import flow
from flowprep.flow.brox import BroxParameters
from flowprep.flow.reference import brox as reference
from flowprep.flow.reference.relaxation import Neighbours, System, relaxed
from tests.cuda_simulator import simulated

Array = NDArray[Any]

PRESETS = ("opencv-cuda", "opencv-default", "ipol")
SMALL = {"inner_iterations": 2, "solver_iterations": 3, "scale_factor": 0.5}
OMEGA = np.float32(1.9)
GAMMA, ALPHA = 7.0, 18.0


def moved(height: int, width: int, *motions: tuple[float, float]) -> Array:
    """Frames (T, H, W) of a smooth pattern that has moved by (u, v) px."""
    y, x = np.mgrid[:height, :width]
    frames = [
        127 + 60 * np.sin(0.7 * (x - u)) * np.cos(0.5 * (y - v)) + 40 * np.sin(0.31 * (x - u) + 0.45 * (y - v))
        for u, v in motions
    ]
    return np.stack(frames).astype(np.float32)


# What runs in the simulator


def equations(preset: str, jets: Array, images: Array, first: Array, second: Array, w: Array, now: Array) -> Array:
    """``system`` of the pairs, from the data term linearised at ``w`` and the flow ``now``, (P, 2, H, W) both."""
    from numba import cuda

    from flowprep.flow.cuda import brox_data_term, brox_kernels
    from flowprep.flow.cuda.device import pixels

    pairs, _, height, width = w.shape
    control = cuda.to_device(np.array([[1, 0], [1, 1]], np.int32))
    # Pair 0 has its flow in buffer 0, pair 1 in buffer 1: TURN is 1 and 0, after one more launch.
    buffers = [
        np.where(np.arange(pairs)[:, None, None, None] == np.array([0, 1])[:, None, None, None, None], f, np.nan)
        for f in (w, now)
    ]
    at, here = (cuda.to_device(buffer.astype(np.float32)) for buffer in buffers)
    terms = 2 if preset == "ipol" else 1
    data = cuda.to_device(np.zeros((pairs, 2 + 6 * terms, height, width), np.float32))
    system = cuda.to_device(np.zeros((pairs, 7, height, width), np.float32))
    launch = pixels(height, width, pairs)
    grey, slopes, first, second = (cuda.to_device(array) for array in (images, jets, first, second))
    if preset == "ipol":
        low, high = (cuda.to_device(extreme) for extreme in (images.min((1, 2)), images.max((1, 2))))
        brox_data_term.linearise_apart[launch](at, control, 1, grey, slopes, low, high, first, second, data)
        brox_kernels.diffuse[launch](at, control, 1, system)
        weights = np.float32(1 / ALPHA), np.float32(GAMMA / ALPHA)
        brox_kernels.prepare_apart[launch](here, control, 1, data, *weights, OMEGA, system)
    else:
        brox_data_term.linearise[launch](at, control, 1, grey, slopes, first, second, np.float32(GAMMA), data)
        brox_kernels.prepare[launch](here, control, 1, data, np.float32(1 / ALPHA), OMEGA, system)
    return np.array(system.copy_to_host())


def swept(fields: Array, system: Array, going: list[int], sweeps: int, limit: float) -> tuple[Array, Array, Array]:
    """``flow`` and ``control`` of the pairs after a launch, and the errors of each; ``limit`` > 0: measured."""
    from numba import cuda

    from flowprep.flow.cuda.brox_sweeps import ACROSS, ADDERS, STRIPS, judge, sweep, sweep_measured, tiles

    pairs, _, height, width = fields.shape
    across, down = tiles(height, width)
    both = cuda.to_device(np.stack([fields, np.full_like(fields, -1)]))
    control = cuda.to_device(np.array([[0] * pairs, going], np.int32))
    errors = cuda.to_device(np.zeros((pairs, across * down), np.float32))
    kernel = sweep_measured if limit > 0 else sweep
    planes = cuda.to_device(system)
    kernel[(across, down, pairs), (ACROSS, STRIPS)](both, control, 0, planes, sweeps, OMEGA, errors)
    if limit > 0:
        judge[(1, 1, pairs), ADDERS](errors, across * down, np.float32(limit), control)
    return both.copy_to_host(), control.copy_to_host(), errors.copy_to_host().sum(axis=1)


def geometry() -> tuple[int, int, int]:
    """SWEEPS of a launch, and the size of a tile in px."""
    from flowprep.flow.cuda.brox_sweeps import HEIGHT, SWEEPS, WIDTH

    return SWEEPS, HEIGHT, WIDTH


def batch(parameters: BroxParameters, frames: Array, pairs: list[tuple[int, int]], capacity: int) -> Array:
    """Flow (P, 2, H, W) of the pairs of frames."""
    from numba import cuda

    from flowprep.flow.cuda.brox import BroxSolver
    from flowprep.flow.cuda.memory import Arena
    from flowprep.flow.cuda.solver import Batch

    size = frames.shape[1:]
    arena, stream = Arena(), cuda.stream()
    fixed, frame, pair = BroxSolver.bytes_needed(parameters, *size)
    arena.clear(fixed + len(frames) * frame + capacity * pair + 2**12)
    found = cuda.to_device(np.zeros((capacity, 2, *size), np.float32))
    first, second = (np.zeros(capacity, np.int32) for _ in range(2))
    first[: len(pairs)], second[: len(pairs)] = zip(*pairs, strict=True)
    arrays = Batch(cuda.to_device(frames), cuda.to_device(first), cuda.to_device(second), found)
    BroxSolver(parameters, arrays, arena, stream).solve(len(frames), len(pairs))
    return np.array(found.copy_to_host()[: len(pairs)])


# The kernels


@pytest.mark.parametrize("preset", ["opencv-cuda", "ipol"])
def test_the_equations_are_the_definitions(preset: str) -> None:
    scheme, generator = reference.SCHEMES[preset], np.random.default_rng(3)
    frames = moved(9, 13, (0, 0), (0.6, -0.4), (1.1, 0.5))
    jets = [scheme.jet(frame.astype(np.float64)) for frame in frames]
    slopes = np.array([[j.Ix, j.Iy, j.Ixx, j.Ixy, j.Iyy] for j in jets], np.float32).swapaxes(0, 1).copy()
    first, second = np.array([1, 2], np.int32), np.array([2, 0], np.int32)
    w, dw = (generator.normal(0, s, (2, 2, 9, 13)).astype(np.float32) for s in (1.5, 0.3))
    w[0, 0, 4, 4], w[1, 1, 5, 5] = -60, 1e9  # px: far outside
    now = np.where(np.abs(w) < 10, w + dw, w)
    found = simulated(equations, preset, slopes, frames, first, second, w, now)
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        normalised = scheme.normalised(*(frames[k].astype(np.float64) for k in (i, j)))
        data = reference.linearised(*(scheme.jet(frame) for frame in normalised), w[pair], scheme.warped)
        increment = (now - w)[pair].astype(np.float64)
        b, g = scheme.data_weights(data, increment, GAMMA)
        s = scheme.smoothness_weights(w[pair].astype(np.float64), increment).times(ALPHA)
        system = reference.assembled(data, b, g, s, w[pair])
        diagonal, (u, v) = system.diagonal - s.total(), w[pair].astype(np.float64)
        n = s.weighted(w[pair]) - s.total() * w[pair] - system.right
        ru, rv = diagonal[0] * u + system.c * v - n[0], diagonal[1] * v + system.c * u - n[1]
        expected = [
            *(s.x[:, :-1] / ALPHA, s.y[:-1] / ALPHA, ru / ALPHA, rv / ALPHA),
            *(OMEGA * ALPHA / system.diagonal[0], OMEGA * ALPHA / system.diagonal[1], system.c / ALPHA),
        ]
        here = np.abs(w[pair]).max(axis=0) < 10
        for plane, wanted in zip(found[pair], expected, strict=True):
            assert np.isfinite(plane).all()
            np.testing.assert_allclose(plane[here], wanted[here], rtol=2e-3, atol=1e-4 * np.abs(wanted[here]).max())


def random_systems(pairs: int, height: int, width: int) -> tuple[list[System], Array]:
    """Equations for total flow, and the same as planes (P, 7, H, W)."""
    generator = np.random.default_rng(5)
    systems, planes = [], []
    for _ in range(pairs):
        s = Neighbours.inside(
            generator.uniform(0, 2, (height, width - 1)), generator.uniform(0, 2, (height - 1, width))
        )
        e_u, e_v = generator.uniform(0.1, 3, (2, height, width))
        c = generator.uniform(-1, 1, (height, width)) * np.sqrt(e_u * e_v)
        right = generator.normal(size=(2, height, width))
        diagonal = np.stack([e_u, e_v]) + s.total()
        systems.append(System(diagonal, c, right, s))
        planes.append([s.x[:, :-1], s.y[:-1], *right, *(OMEGA / diagonal), c])
    return systems, np.array(planes, np.float32)


@pytest.mark.parametrize("size", [(18, 22), (9, 13), (16, 16), (17, 15)])
@pytest.mark.parametrize("limit", [0, 1e-9])
def test_sweeps_are_the_definitions(size: tuple[int, int], limit: float) -> None:
    sweeps, *tile = simulated(geometry)
    if all(side <= most for side, most in zip(size, tile, strict=True)):
        sweeps += 3  # a single tile can do any number at once
    systems, planes = random_systems(2, *size)
    fields = np.random.default_rng(6).normal(size=(2, 2, *size)).astype(np.float32)
    both, control, errors = simulated(swept, fields, planes, [1, 0], sweeps, limit)
    expected = fields[0].astype(np.float64)
    for _ in range(sweeps):
        before = expected
        for colour in (0, 1):
            expected = relaxed(systems[0], expected, OMEGA, colour)
    np.testing.assert_allclose(both[1, 0], expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(both[0], fields)
    assert (both[1, 1] == -1).all()  # this pair had stopped
    if limit:
        assert errors == pytest.approx([((expected - before) ** 2).sum(), 0], rel=1e-4)
        assert control.tolist() == [[1, 0], [1, 0]]


def test_a_pair_stops_at_the_limit() -> None:
    _, planes = random_systems(2, 9, 13)
    fields = np.zeros((2, 2, 9, 13), np.float32)
    planes[1, 2:4] *= 1e-3  # the right-hand side: this pair changes less
    least, most = sorted(simulated(swept, fields, planes, [1, 1], 1, 1e-9)[2])
    assert most > 1e4 * least > 0
    control = simulated(swept, fields, planes, [1, 1], 1, float(10 * least))[1]
    assert control.tolist() == [[1, 1], [1, 0]]


# The solver


@pytest.mark.parametrize("preset", PRESETS)
def test_the_cpu_engine_has_the_same_flow(preset: str) -> None:
    settings = {**SMALL, "preset": preset} | ({"warps": 2, "inner_iterations": 1} if preset == "ipol" else {})
    frames = moved(18, 22, (0, 0), (0.6, -0.4))
    if preset == "opencv-default":
        frames, settings["outer_iterations"] = frames.round().astype(np.uint8), 1
    found = simulated(batch, BroxParameters.of("brox", settings), frames, [(0, 1)], 2)
    expected = flow.get("brox", "cpu", **settings).flow(frames)
    assert np.abs(expected).mean() > 0.05
    assert np.abs(found - expected).mean() < 1e-3


@pytest.mark.parametrize("preset", ["opencv-cuda", "ipol"])
def test_a_pair_does_not_depend_on_its_batch(preset: str) -> None:
    """Of pairs that stop by themselves at different sweeps, too."""
    settings: dict[str, Any] = {"preset": preset, "inner_iterations": 1, "solver_iterations": 3, "outer_iterations": 1}
    if preset == "ipol":
        settings |= {"warps": 1, "alpha": 1, "solver_iterations": 10_000, "tolerance": 0.1}  # for ever, if none looked
    parameters = BroxParameters.of("brox", settings)
    frames = moved(16, 16, (0, 0), (0.9, -0.7))
    both = simulated(batch, parameters, frames, [(0, 0), (0, 1)], 2)
    alone = simulated(batch, parameters, frames[[1, 0]], [(1, 0)], 1)
    assert np.abs(both[0]).max() < 1e-3 < 5e-3 < np.abs(both[1]).mean()
    assert np.array_equal(both[1], alone[0])
