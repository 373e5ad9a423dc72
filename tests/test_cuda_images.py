"""The GPU kernels around the iterations, in Numba's simulator: resampling, derivatives, sampling, medians, pyramids.

Functions that begin with an underscore run in the simulator's process.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import and_, or_
from typing import Any

import numpy as np
import pytest
from numba import cuda
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.flow import taps
from flowprep.flow.brox import BroxParameters
from flowprep.flow.cpu import brox as cpu_brox
from flowprep.flow.cpu import tvl1 as cpu_tvl1
from flowprep.flow.cpu.sampling import BORDER
from flowprep.flow.cuda import images, median, sampling
from flowprep.flow.cuda.device import kernel, pixels
from flowprep.flow.cuda.pyramid import Pyramid, PyramidTables
from flowprep.flow.cuda.workspaces import PADDING
from flowprep.flow.reference import brox as reference_brox
from flowprep.flow.reference import sampling as reference
from flowprep.flow.reference import tvl1 as reference_tvl1
from flowprep.flow.taps import Taps
from flowprep.flow.tvl1 import TVL1Parameters
from tests.cuda_simulator import simulated

Floats = NDArray[np.float32]
GREY_LEVELS = 1e-4  # that results may differ by; float32 has steps of 1.5e-5 at 255


def noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


# Changes of size, and derivatives


def _resampled(source: NDArray[Any], rows: Taps, columns: Taps, factor: float) -> Floats:
    """Into the second half of its target; the first stays as it is: 7."""
    table = images.Table(*(cuda.to_device(part) for part in images.table_of(rows, columns, factor)))
    target = cuda.to_device(np.full((2, len(source), len(rows.start), len(columns.start)), 7, np.float32))
    images.resampling(cuda.to_device(source), table, target[1], 0)(len(source))
    return np.asarray(target.copy_to_host())


@pytest.mark.parametrize(
    "make",
    [
        partial(taps.bilinear, step=1.25),
        partial(taps.bilinear_from_corner, step=1.25),
        partial(taps.supersampled, step=1.25),
        partial(taps.smaller, scale=0.8),
    ],
    ids=lambda make: make.func.__name__,
)
def test_resampling_is_a_product_with_matrices(make):
    planes = noise(2, 9, 13)
    rows, columns = make(9, 7), make(13, 10)
    found = simulated(_resampled, planes, rows, columns, 1.5)
    assert np.all(found[0] == 7)
    expected = 1.5 * rows.matrix(9) @ planes @ columns.matrix(13).T
    np.testing.assert_allclose(found[1], expected, atol=GREY_LEVELS)


def test_frames_become_floats():
    frames = noise(3, 5, 9).astype(np.uint8)
    assert np.array_equal(simulated(_resampled, frames, taps.same(5), taps.same(9), 1.0)[1], frames)


@pytest.mark.parametrize("shape", [(4, 4), (5, 4), (9, 13)])
@pytest.mark.parametrize("slopes", ["GRADIENT", "IPOL_SLOPES", "NCV_SLOPES"])
def test_derivatives_are_the_references(slopes, shape):
    """The tables; what the kernel makes of tables is tested above."""
    image = noise(*shape).astype(np.float64)
    jet = reference_brox.five_point_jet(image) if slopes == "NCV_SLOPES" else reference_brox.three_point_jet(image)
    parts = (jet.Ix, jet.Iy) if slopes == "GRADIENT" else (jet.Ix, jet.Iy, jet.Ixx, jet.Ixy, jet.Iyy)
    for (rows, columns), expected in zip(getattr(images, slopes), parts, strict=True):
        found = rows(shape[0]).matrix(shape[0]) @ image @ columns(shape[1]).matrix(shape[1]).T
        np.testing.assert_allclose(found, expected, atol=GREY_LEVELS)


# The range of grey levels


def _ranges(frames: NDArray[Any], first: int, second: int) -> tuple[Floats, Floats, Floats]:
    low, high = (cuda.device_array(len(frames), np.float32) for _ in range(2))
    images.low_and_high[(1, 1, len(frames)), images.SEARCHERS](cuda.to_device(frames), low, high)
    factor = cuda.device_array(1, np.float32)
    _stretch[1, 1](low, high, first, second, factor)
    return low.copy_to_host(), high.copy_to_host(), factor.copy_to_host()


@kernel
def _stretch(low, high, first, second, factor):
    factor[0] = images.stretch(low, high, first, second)


@pytest.mark.parametrize("shape", [(4, 9, 13), (3, 1, 3)])  # also of fewer pixels than threads
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_ranges_of_frames(dtype, shape):
    frames = noise(*shape).astype(dtype)
    frames[1] = 50
    low, high, factor = simulated(_ranges, frames, 0, 2)
    assert np.array_equal(low, frames.min((1, 2))) and np.array_equal(high, frames.max((1, 2)))
    both = frames[[0, 2]].astype(np.float64)
    assert factor[0] == pytest.approx(255 / np.ptp(both), rel=1e-6)
    assert simulated(_ranges, frames, 1, 1)[2] == 1  # constant


# Values between pixels


@kernel
def _sample_3(grey, slopes, flow, a, zeros, out):
    x, y = cuda.grid(2)
    if x < flow.shape[2] and y < flow.shape[1]:
        x1, y1 = np.float32(x) + flow[0, y, x], np.float32(y) + flow[1, y, x]
        out[0, y, x], out[1, y, x], out[2, y, x] = sampling.cubic_3(grey, slopes, 1, x1, y1, a, zeros)
        out[3, y, x] = sampling.inside(x1, y1, grey.shape[1], grey.shape[2])


@kernel
def _sample_6(grey, slopes, flow, bicubic, out):
    x, y = cuda.grid(2)
    if x < flow.shape[2] and y < flow.shape[1]:
        x1, y1 = np.float32(x) + flow[0, y, x], np.float32(y) + flow[1, y, x]
        if bicubic:
            values = sampling.cubic_6(grey, slopes, 1, x1, y1, np.float32(-0.5), False)
        else:
            values = sampling.bilinear_6(grey, slopes, 1, x1, y1)
        for i in range(6):
            out[i, y, x] = values[i]


def _sampled(planes: Floats, flow: Floats, *how: Any) -> Floats:
    """Of the second of two frames: planes (C, H, W); the first one is no number at all."""
    stack = np.stack([np.full_like(planes, np.nan), planes])
    grey, slopes = cuda.to_device(stack[:, 0].copy()), cuda.to_device(stack[:, 1:].swapaxes(0, 1).copy())
    out = cuda.device_array((6, *flow.shape[1:]), np.float32)
    sample = _sample_3 if len(planes) == 3 else _sample_6
    sample[(*pixels(*flow.shape[1:], 1), 0)](grey, slopes, cuda.to_device(flow), *how, out)
    return np.asarray(out.copy_to_host())


def field() -> Floats:
    """Flow (2, 9, 13) that leads all over the frame, out of it at every side, and exactly onto pixels."""
    far = np.array([20, 14])[:, None, None]
    flow = far * np.random.default_rng(5).uniform(-1, 1, (2, 9, 13))
    flow[:, ::3] = np.round(flow[:, ::3])
    flow[:, 4] = np.linspace(-0.9, 0.9, 13)
    flow[:, 5, :4] = [[0, 1000, -1000, 3e4], [1e3, 0, 2e4, -4e4]]
    return flow.astype(np.float32)


@pytest.mark.parametrize(
    ("warped", "a", "zeros"),
    [(reference_tvl1.warped_in_zeros, -0.75, True), (reference_tvl1.warped_in_repetition, -0.5, False)],
)
def test_cubic_samples_are_the_references(warped, a, zeros):
    planes, flow = noise(3, 9, 13), field()
    found = simulated(_sampled, planes, flow, np.float32(a), zeros)
    for plane, values in zip(planes, found[:3], strict=True):
        np.testing.assert_allclose(values, warped(plane.astype(np.float64), flow.astype(np.float64)), atol=3e-4)


def test_samples_of_six_planes_are_the_references():
    planes, flow = noise(6, 9, 13), field()
    bilinear, bicubic = (simulated(_sampled, planes, flow, bicubic) for bicubic in (False, True))
    for plane, linear, cubic in zip(planes.astype(np.float64), bilinear, bicubic, strict=True):
        near = np.abs(flow).max(axis=0) < 100  # far away, positions themselves are rounded
        np.testing.assert_allclose(linear[near], reference_brox.warped_in_mirror(plane, flow)[near], atol=3e-3)
        np.testing.assert_allclose(cubic, reference_tvl1.warped_in_repetition(plane, flow), atol=3e-4)


def test_inside_is_where_all_pixels_exist():
    planes, flow = np.ones((3, 9, 13), np.float32), field()
    inside = simulated(_sampled, planes, flow, np.float32(-0.5), True)[3]
    assert 0 < inside.sum() < inside.size
    assert np.array_equal(inside, reference.warped_whole(planes[0], flow) > 0.5)


@pytest.mark.parametrize("size", [(4, 4), (9, 13)])
def test_no_flow_leads_out_of_memory(size):
    """The simulator refuses an index that is not in the array, as a GPU would not."""
    flow = np.random.default_rng(1).uniform(-20, 20, (2, *size)).astype(np.float32)
    flow[0, 0, :4] = np.nan, np.inf, -np.inf, 1e30
    flow[1, 1, :4] = np.nan, np.inf, -np.inf, -1e30
    levels = 255 * np.ones((6, *size), np.float32)
    assert np.isfinite(simulated(_sampled, levels[:3], flow, np.float32(-0.75), False)[:3]).all()
    for bicubic in (False, True):
        np.testing.assert_allclose(simulated(_sampled, levels, flow, bicubic), 255, rtol=1e-5)


# Medians


def _filtered(state: Floats, turn: NDArray[np.int32], active: NDArray[np.int32], width: int) -> Floats:
    on_device = cuda.to_device(state)
    median.median(on_device, cuda.to_device(turn), cuda.to_device(active), width, 0)(len(turn))
    return np.asarray(on_device.copy_to_host())


@pytest.mark.parametrize("size", [(5, 4), (17, 13)])
@pytest.mark.parametrize("width", [3, 5])
def test_medians_of_the_pairs_that_go_on(width, size):
    state = noise(2, 3, 6, *size)
    state[:, :, :, 1::2, ::2] = 100  # equal values
    turn, active = np.array([1, 0, 1], np.int32), np.array([1, 1, 0], np.int32)
    found = simulated(_filtered, state, turn, active, width)
    assert np.array_equal(found[:, 2], state[:, 2])  # has stopped
    for pair in (0, 1):
        before, after = state[turn[pair], pair], found[1 - turn[pair], pair]
        assert np.array_equal(found[turn[pair], pair], before)
        assert np.array_equal(after[2:], before[2:])
        for u in (0, 1):
            assert np.array_equal(after[u], opencv.load().medianBlur(before[u], width))


def test_networks_find_the_median_of_all_values(monkeypatch):
    """By the 0-1 principle: a network of minima and maxima that is right for zeros and ones is right for all values.

    All 2^25 windows of zeros and ones at once, as bits of long integers; minimum is "and", maximum is "or".
    """
    monkeypatch.setattr(median, "min", lambda *values: reduce(and_, values), raising=False)
    monkeypatch.setattr(median, "max", lambda *values: reduce(or_, values), raising=False)
    networks = "sorted_3 sorted_5 middle_of_9 merged_2_2 merged_5_5 middle_of_5_5 middle_6_of_20 middle_of_25"
    for name in networks.split():
        monkeypatch.setattr(median, name, getattr(median, name).py_func)
    every, values = ~np.uint64(0), []
    words = np.arange(2**19, dtype=np.uint64)  # window w is bit w % 64 of word w // 64
    for digit in range(6):
        pattern = sum(1 << bit for bit in range(64) if bit >> digit & 1)
        values.append(np.full(len(words), pattern, np.uint64))
    values += [np.where(words >> np.uint64(digit) & np.uint64(1), every, np.uint64(0)) for digit in range(19)]
    ones = np.bitwise_count(words)[:, None] + np.bitwise_count(np.arange(64, dtype=np.uint64))

    rows = [median.sorted_5(*values[5 * y : 5 * y + 5]) for y in range(5)]
    pairs = median.merged_5_5(rows[0], rows[1]), median.merged_5_5(rows[2], rows[3])
    found = median.middle_of_25(median.middle_6_of_20(*pairs), rows[4])
    assert np.array_equal(np.unpackbits(found.view(np.uint8), bitorder="little").reshape(-1, 64), ones >= 13)

    words, ones = words[:8], ones[:8]  # of 9 values
    rows = [median.sorted_3(*(value[:8] for value in values[3 * y : 3 * y + 3])) for y in range(3)]
    found = median.middle_of_9(*rows)
    assert np.array_equal(np.unpackbits(found.view(np.uint8), bitorder="little").reshape(-1, 64), ones >= 5)


# Pyramids


def _levels(made: PyramidTables, frames: NDArray[Any]) -> tuple[list[Floats], list[Floats], Floats, Floats]:
    pyramid = Pyramid(made, cuda.to_device(np.concatenate([frames, frames[:1]])), cuda.stream())
    pyramid.build(len(frames))
    grey = [level.copy_to_host()[:-1] for level in pyramid.grey]
    slopes = [level.copy_to_host().swapaxes(0, 1)[:-1] for level in pyramid.slopes]
    return grey, slopes, pyramid.low.copy_to_host()[:-1], pyramid.high.copy_to_host()[:-1]


def _carried(made: PyramidTables, flow: Floats) -> Floats:
    pyramid = Pyramid(made, cuda.device_array((1, *made.sizes[0]), np.uint8), cuda.stream())
    fine = cuda.device_array((len(flow), *made.sizes[0]), np.float32)
    pyramid.carrying(0, cuda.to_device(flow), fine)(len(flow) // 2)
    return np.asarray(fine.copy_to_host())


TVL1_SIZES = {"opencv": (20, 25), "opencv-cuda": (20, 20), "ipol": (20, 26)}
BROX_SIZES = {"opencv-cuda": (18, 20), "ipol": (22, 23)}


def tvl1(preset: str) -> tuple[Any, PyramidTables]:
    """The CPU engine's solver for a size of two levels, and the tables of its pyramid."""
    p = TVL1Parameters.of("tvl1", {"preset": preset})
    size = TVL1_SIZES[preset]
    sampled, step = cpu_tvl1.SAMPLED[preset], p.scale_step
    down = partial(taps.smaller, scale=step) if preset == "ipol" else partial(sampled, step=1 / step)
    made = PyramidTables(
        p.level_sizes(*size),
        down,
        lambda n_in, n_out: sampled(n_in, n_out, n_in / n_out),
        1 / step,
        p.presmoothing,
        images.GRADIENT,
    )
    return cpu_tvl1.TVL1Solver(p, *size), made


def brox(preset: str) -> tuple[Any, PyramidTables]:
    p = BroxParameters.of("brox", {"preset": preset})
    size, step = BROX_SIZES[preset], p.scale_factor
    if preset == "ipol":
        down, up, slopes = partial(taps.smaller, scale=step), partial(taps.bicubic, step=step), images.IPOL_SLOPES
    else:
        down, up = partial(taps.supersampled, step=1 / step), partial(taps.bicubic_inside, step=step)
        slopes = images.NCV_SLOPES
    return cpu_brox.BroxSolver(p, *size), PyramidTables(
        p.level_sizes(*size), down, up, 1 / step, p.presmoothing, slopes
    )


@pytest.mark.parametrize(
    ("method", "preset", "dtype"),
    [
        (tvl1, "opencv", np.uint8),
        (tvl1, "opencv-cuda", np.float32),
        (tvl1, "ipol", np.uint8),
        (brox, "opencv-cuda", np.uint8),
        (brox, "ipol", np.float32),
    ],
)
def test_pyramids_are_the_cpu_engines(method, preset, dtype):
    solver, pyramid = method(preset)
    assert len(pyramid.sizes) == 2
    frames = noise(2, *pyramid.sizes[0]).astype(dtype)
    grey, slopes, low, high = simulated(_levels, pyramid, frames)
    for n, frame in enumerate(frames):
        expected = solver.frame()
        solver.prepare(frame, expected)
        assert (low[n], high[n]) == (expected.low, expected.high)
        for k, (height, width) in enumerate(pyramid.sizes):
            channels = 4 if method is tvl1 else 8
            bordered = expected.images[k][: (height + 2 * BORDER) * (width + 2 * BORDER) * channels]
            planes = bordered.reshape(height + 2 * BORDER, -1, channels)[BORDER:-BORDER, BORDER:-BORDER]
            count = 1 + slopes[k].shape[1]
            assert count == (3 if method is tvl1 else 6)
            found = np.concatenate([grey[k][n][None], slopes[k][n]])
            np.testing.assert_allclose(found, np.moveaxis(planes[..., :count], 2, 0), atol=2 * GREY_LEVELS)


@pytest.mark.parametrize(("method", "preset"), [(tvl1, "opencv"), (tvl1, "ipol"), (brox, "opencv-cuda")])
def test_flow_is_carried_to_the_next_level(method, preset):
    solver, pyramid = method(preset)
    (height, width), (h, w) = pyramid.sizes
    flow = noise(4, h, w) / 50
    found = simulated(_carried, pyramid, flow)
    assert found.shape == (4, height, width)
    step = solver.parameters.scale_step if method is tvl1 else solver.parameters.scale_factor
    enlarged = {
        "opencv": reference_tvl1.enlarged_bilinearly(flow, (height, width), shift=0.5),
        "ipol": reference.zoomed_in(flow, (height, width)),
        "opencv-cuda": reference_brox.enlarged_inside(flow, (height, width), step),
    }
    np.testing.assert_allclose(found, enlarged[preset] / step, atol=1e-5)


def test_memory_is_what_is_asked_for():
    _, pyramid = tvl1("opencv")
    _, each = pyramid.bytes_needed()
    taken = simulated(_taken, pyramid, 5)
    assert 5 * each <= taken <= 5 * each + PADDING
    assert each == 4 * (3 * sum(height * width for height, width in pyramid.sizes) + 2)


def _taken(made: PyramidTables, frames: int) -> int:
    """Bytes, arrays beginning at multiples of 256."""
    sizes = []

    def array(shape: tuple[int, ...], dtype: Any) -> Any:
        sizes.append(-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 256) * 256)
        return cuda.device_array(shape, dtype)

    Pyramid(made, cuda.device_array((frames, *made.sizes[0]), np.uint8), cuda.stream(), array)
    return sum(sizes)
