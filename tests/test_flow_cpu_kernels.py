"""The kernels against plain NumPy, for vectors of 4, 8 and 16 lanes."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowprep import flow, opencv
from flowprep.flow import taps
from flowprep.flow.brox import BroxParameters
from flowprep.flow.cpu import median, simd
from flowprep.flow.cpu.compiling import kernel
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.resampling import Resampling
from flowprep.flow.cpu.stripes import aligned, blocks, from_stripes, pitch, to_stripes
from flowprep.flow.reference import brox as reference_brox
from flowprep.flow.reference import sampling as reference_sampling
from flowprep.flow.reference import tvl1 as reference_tvl1
from flowprep.flow.tvl1 import TVL1Parameters
from flowprep.synthetic import Motion, render

OTHER_LANES = [lanes for lanes in (4, 8, 16) if lanes != LANES]
SIZES = [(16, 16), (17, 33), (33, 47), (40, 129), (64, 16)]

not_again = pytest.mark.skipif("FLOWPREP_LANES" in os.environ, reason="vectors of another width change nothing here")


@not_again
@pytest.mark.timeout(400)  # it compiles everything
@pytest.mark.system
@pytest.mark.parametrize("lanes", OTHER_LANES)
def test_with_vectors_of_another_width(lanes):
    """This very file: a processor without such registers computes the same with several of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(
        command, env={**os.environ, "FLOWPREP_LANES": str(lanes)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:]


def moving(height: int, width: int, seed: int = 3) -> NDArray[np.uint8]:
    """A pair of frames that move in no simple way, with noise: (2, H, W)."""
    source = render(
        Motion("any", velocity=(1.2, -0.6), rotation=1.5), seed=seed, frames=2, height=height, width=width
    ).frames[..., 1]
    noise = np.random.default_rng(seed).normal(0, 3, source.shape)
    return (source + noise).clip(0, 255).astype(np.uint8)


# Whole methods. The iterations stop at a fixed number here: where they stop by themselves, roundings decide when.

TVL1_TIGHT = {"epsilon": 0.0, "inner_iterations": 10, "outer_iterations": 2, "nscales": 2, "warps": 2}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", ["opencv", "opencv-cuda", "ipol"])
def test_tvl1_is_the_reference(preset, size):
    pair = moving(*size)
    for more in ({}, {"median_filtering": 3, "presmoothing": 0.7, "scale_step": 0.7}):
        chosen = {"preset": preset, **TVL1_TIGHT, **more}
        expected = reference_tvl1.tvl1(pair[0], pair[1], TVL1Parameters.of("tvl1", chosen))
        difference = np.hypot(*(flow.get("tvl1", "cpu", **chosen).flow(pair)[0] - expected))
        assert difference.mean() < 3e-4
        assert difference.max() < 2e-2
        assert np.hypot(*expected).mean() > 0.3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", ["opencv-cuda", "opencv-default", "ipol"])
def test_brox_is_the_reference(preset, size):
    """Without over-relaxation, which amplifies roundings: from 1.9 to 1.99 a thousandfold."""
    pair = moving(*size)
    for more in ({}, {"warps": 2, "gamma": 5.0, "presmoothing": 0.7, "scale_factor": 0.7}):
        chosen = {"preset": preset, "omega": 1.0, **more}
        if preset == "ipol":
            chosen |= {"warps": 2, "inner_iterations": 2, "solver_iterations": 30, "tolerance": 0.0}
        expected = reference_brox.brox(pair[0], pair[1], BroxParameters.of("brox", chosen))
        difference = np.hypot(*(flow.get("brox", "cpu", **chosen).flow(pair)[0] - expected))
        assert difference.mean() < 5e-5
        assert difference.max() < 5e-3
        assert np.hypot(*expected).mean() > 0.02  # so few sweeps do not get far


def test_a_solver_stops_at_its_tolerance():
    """Sweeps behind the one that would stop are run in vain, but few: the flow is at least as good."""
    pair = moving(48, 64)
    exact, loose, none = (
        flow.get("brox", "cpu", preset="ipol", warps=1, tolerance=tolerance).flow(pair)
        for tolerance in (1e-7, 1e-3, 10.0)
    )
    assert 0 < np.abs(loose - exact).mean() < 0.01 < np.abs(none - exact).mean()


# Changes of size

RESIZINGS = {
    "bilinear": partial(taps.bilinear, step=1.25),
    "bilinear from the corner": partial(taps.bilinear_from_corner, step=1.25),
    "supersampled": partial(taps.supersampled, step=1.25),
    "smaller": partial(taps.smaller, scale=0.8),
}


@pytest.mark.parametrize("name", RESIZINGS)
@given(height=st.integers(16, 40), width=st.integers(16, 70), seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_resampling_is_a_product_with_matrices(name, height, width, seed):
    make = RESIZINGS[name]
    out = round(height * 0.8), round(width * 0.8)
    rows, columns = make(height, out[0]), make(width, out[1])
    plane = np.random.default_rng(seed).uniform(-9, 9, (height, width)).astype(np.float32)
    source, target = (aligned(max(side, LANES) * pitch(across)) for side, across in ((height, width), out))
    source[: height * pitch(width)].reshape(height, -1)[:, :width] = plane
    Resampling(width, *out, rows, columns, scale=2.0)(source, target)
    found = target[: out[0] * pitch(out[1])].reshape(out[0], -1)[:, : out[1]]
    np.testing.assert_allclose(found, 2 * rows.matrix(height) @ plane @ columns.matrix(width).T, rtol=1e-4, atol=1e-4)


@not_again
@pytest.mark.parametrize("n", [16, 17, 40])
def test_tables_of_taps_are_the_references(n):
    out = round(0.8 * n)
    image = np.random.default_rng(n).uniform(0, 255, (n, n))
    shrunk = partial(reference_tvl1.shrunk_bilinearly, image, (out, out), 0.8)
    for table, expected in (
        (taps.bilinear(n, out, 1.25), shrunk(shift=0.5)),
        (taps.bilinear_from_corner(n, out, 1.25), shrunk(shift=0)),
        (taps.gaussian(n, 0.9), reference_sampling.smoothed(image, 0.9)),
        (taps.smaller(n, out, 0.8), reference_sampling.zoomed_out(image, (out, out), 0.8)),
    ):
        dense = table.matrix(n)
        np.testing.assert_allclose(dense @ image @ dense.T, expected, atol=1e-9)
    for table in (taps.bilinear(n, out, 1.25), taps.smaller(n, out, 0.8), taps.bicubic_inside(out, n, 0.8)):
        np.testing.assert_allclose(table.weights.sum(axis=1), 1, atol=1e-12)  # a constant stays what it is


@not_again
@pytest.mark.parametrize("scale", [0.25, 0.3, 0.4, 0.5, 0.6, 0.72, 0.75, 0.8, 0.9, 0.95])
def test_tables_of_brox_are_finite_for_every_size(scale):
    """Sizes are rounded in single precision, so that some levels have a sample more than a step leads to."""
    parameters = BroxParameters.of("brox", {"scale_factor": scale})
    sides = {side for size in range(16, 700) for side, _ in pairwise_sides(parameters, size)}
    assert min(sides) >= 4
    for fine, coarse in {sides for size in range(16, 700) for sides in pairwise_sides(parameters, size)}:
        for table in (taps.supersampled(fine, coarse, 1 / scale), taps.bicubic_inside(coarse, fine, scale)):
            assert np.isfinite(table.weights).all(), (fine, coarse)


def pairwise_sides(parameters: BroxParameters, size: int) -> list[tuple[int, int]]:
    sides = [height for height, _ in parameters.level_sizes(size, size)]
    return list(pairwise(sides))[:3]


# The layout


@pytest.mark.parametrize("width", [16, 31, 32, 33, 100, 129])
@pytest.mark.parametrize("even", [False, True])
def test_stripes_there_and_back(width, even):
    height, n = 5, blocks(width, even=even)
    block, row = 3 * LANES, n * 3 * LANES + 16
    plane, back = aligned((height + 1) * pitch(width)), aligned((height + 1) * pitch(width))
    plane[: height * pitch(width)].reshape(height, -1)[:] = np.arange(height * pitch(width)).reshape(height, -1) + 1
    target = aligned(height * row)
    to_stripes(plane, target, height, width, pitch(width), n, block, row)
    for y, x in [(0, 0), (2, width - 1), (4, width // 2)]:
        assert target[y * row + x % n * block + x // n] == plane[y * pitch(width) + x]
    slots = target[: height * row].reshape(height, row)[:, : n * block].reshape(height, n, 3, LANES)
    assert np.count_nonzero(slots[:, :, 0]) == height * width  # no other slot holds anything
    assert not slots[:, :, 1:].any()
    from_stripes(target, back, height, width, pitch(width), n, block, row)
    first, second = (array[: height * pitch(width)].reshape(height, -1)[:, :width] for array in (plane, back))
    assert np.array_equal(first, second)


# Medians


@kernel
def filtered(state, height, width, n, block, row, size, scratch):
    median.median(state, 0, height, width, n, block, row, size, scratch)


@given(height=st.integers(5, 20), width=st.integers(16, 70), size=st.sampled_from([3, 5]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_median_is_opencvs(height, width, size, seed):
    n = blocks(width)
    generator = np.random.default_rng(seed)
    plane = generator.normal(size=(height, width)).astype(np.float32)
    plane[generator.uniform(size=plane.shape) < 0.3] = 0  # equal values
    padded, back = aligned((height + 1) * pitch(width)), aligned((height + 1) * pitch(width))
    padded[: height * pitch(width)].reshape(height, -1)[:, :width] = plane
    shape = (height, width, pitch(width), n, LANES, n * LANES)
    state = aligned(height * n * LANES)
    to_stripes(padded, state, *shape)
    filtered(state, height, width, n, LANES, n * LANES, size, aligned(median.scratch_length(n)))
    assert np.count_nonzero(state) <= height * width
    from_stripes(state, back, *shape)
    found = back[: height * pitch(width)].reshape(height, -1)[:, :width]
    assert np.array_equal(found, opencv.load().medianBlur(plane, size))


@not_again
def test_the_network_finds_the_median_of_every_25_values(monkeypatch):
    """By the 0-1 principle: a network of minima and maxima that is right for zeros and ones is right for all values.

    All 2^25 windows of zeros and ones at once, as bits of long integers; minimum is "and", maximum is "or".
    """
    monkeypatch.setattr(median, "minimum", lambda a, b: a & b)
    monkeypatch.setattr(median, "maximum", lambda a, b: a | b)
    for name in ("ordered", "sorted_5", "merged_2_2", "merged_5_5", "middle_of_5_5", "middle_6_of_20", "middle_of_25"):
        monkeypatch.setattr(median, name, getattr(median, name).py_func)
    words = np.arange(2**19, dtype=np.uint64)  # window w is bit w % 64 of word w // 64
    every = ~np.uint64(0)
    patterns = [sum(1 << bit for bit in range(64) if bit >> digit & 1) for digit in range(6)]
    values = [np.full(len(words), pattern, np.uint64) for pattern in patterns]
    values += [np.where(words >> np.uint64(digit) & np.uint64(1), every, np.uint64(0)) for digit in range(19)]
    columns = [median.sorted_5(*values[5 * c : 5 * c + 5]) for c in range(5)]
    pairs = median.merged_5_5(columns[0], columns[1]), median.merged_5_5(columns[2], columns[3])
    found = median.middle_of_25(median.middle_6_of_20(*pairs), columns[4])
    ones = np.bitwise_count(words)[:, None] + np.bitwise_count(np.arange(64, dtype=np.uint64))
    assert np.array_equal(np.unpackbits(found.view(np.uint8), bitorder="little").reshape(-1, 64), ones >= 13)


# The vector type


@kernel
def inverses(x, roots, reciprocals):
    for i in range(0, len(x), LANES):
        simd.store(roots, i, simd.inverse_root(simd.load(x, i)))
        simd.store(reciprocals, i, simd.inverse(simd.load(x, i)))


def test_estimates_are_as_good_as_they_say():
    x, roots, reciprocals = aligned(2**16), aligned(2**16), aligned(2**16)
    x[:] = np.geomspace(1e-30, 1e30, len(x))
    inverses(x, roots, reciprocals)
    exact = x.astype(np.float64)
    assert np.abs(roots * np.sqrt(exact) - 1).max() < 4e-4
    assert np.abs(reciprocals * exact - 1).max() < 3e-7


@kernel
def everything(x, y, result):
    a, b = simd.load(x, 0), simd.load(y, 0)
    parts = (
        a + b,
        a - 2,
        1.5 * a,
        a / b,
        -a,
        simd.minimum(a, b),
        simd.maximum(a, b),
        simd.floor(a),
        simd.square_root(b),
        simd.where(a < b, a, b),
        simd.where(a > 1.0, a, simd.splat(0.0)),
        simd.first_lanes(a, 3),
        simd.left_neighbours(b, a),
        simd.right_neighbours(a, b),
        simd.splat(simd.total(a)),
        simd.lane_numbers(),
    )
    for i in range(len(parts)):
        simd.store(result, i * LANES, parts[i])


def test_operators_and_lanes():
    x, y, result = aligned(LANES), aligned(LANES), aligned(16 * LANES)
    x[:] = np.linspace(-3, 5, LANES)
    y[:] = np.linspace(4, 0.5, LANES)
    everything(x, y, result)
    lanes = np.arange(LANES)
    expected = (
        x + y,
        x - 2,
        1.5 * x,
        x / y,
        -x,
        np.minimum(x, y),
        np.maximum(x, y),
        np.floor(x),
        np.sqrt(y),
        np.where(x < y, x, y),
        np.where(x > 1, x, 0),
        np.where(lanes < 3, x, 0),
        np.concatenate([y[-1:], x[:-1]]),
        np.concatenate([x[1:], y[:1]]),
        np.full(LANES, x.sum()),
        lanes,
    )
    np.testing.assert_allclose(result.reshape(16, LANES), expected, rtol=2e-6, atol=1e-6)
