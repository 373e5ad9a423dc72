"""The NumPy references of TV-L1 and Brox flow, formula by formula: exact cases, properties, and OpenCV beside them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.flow.reference import brox as rb
from flowprep.flow.reference import sampling as rs
from flowprep.flow.reference import tvl1 as rt
from flowprep.flow.reference.relaxation import Neighbours, System, relaxed, solved

Array = NDArray[np.float64]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# Resizing and smoothing

SHRINKING = {
    "bilinear": partial(rt.shrunk_bilinearly, shift=0.5),
    "bilinear, no shift": partial(rt.shrunk_bilinearly, shift=0),
    "supersampled": rb.shrunk_by_supersampling,
    "zoomed_out": rs.zoomed_out,
}
ENLARGING = {
    "bilinear": lambda field, shape, _: rt.enlarged_bilinearly(field, shape, shift=0.5),
    "bilinear, no shift": lambda field, shape, _: rt.enlarged_bilinearly(field, shape, shift=0),
    "bicubic_inside": rb.enlarged_inside,
    "zoomed_in": lambda field, shape, _: rs.zoomed_in(field, shape),
}
sizes = st.tuples(st.integers(16, 60), st.integers(16, 60))
scales = st.floats(0.5, 0.95)


@pytest.mark.parametrize("name", SHRINKING)
@settings(deadline=None)
@given(size=sizes, scale=scales)
def test_shrinking_a_constant_gives_the_constant(name: str, size: tuple[int, int], scale: float) -> None:
    smaller = tuple(round(side * scale) for side in size)
    np.testing.assert_allclose(SHRINKING[name](np.full(size, 7.0), smaller, scale), np.full(smaller, 7.0))


@pytest.mark.parametrize("name", ENLARGING)
@settings(deadline=None)
@given(size=sizes, scale=scales)
def test_enlarging_a_constant_gives_the_constant(name: str, size: tuple[int, int], scale: float) -> None:
    larger = tuple(round(side / scale) for side in size)
    field = np.stack([np.full(size, 7.0), np.full(size, -2.0)])
    expected = np.stack([np.full(larger, 7.0), np.full(larger, -2.0)])
    np.testing.assert_allclose(ENLARGING[name](field, larger, scale), expected)


@settings(deadline=None)
@given(sizes, st.floats(0.1, 30))
def test_smoothing_a_constant_gives_the_constant(size: tuple[int, int], sigma: float) -> None:
    np.testing.assert_allclose(rs.smoothed(np.full(size, 7.0), sigma), np.full(size, 7.0))


def test_smoothing_widens_a_point_by_sigma() -> None:
    point = np.zeros((61, 61))
    point[30, 30] = 1
    blurred = rs.smoothed(point, 2.5)
    distance = np.arange(61) - 30
    assert blurred.sum() == pytest.approx(1)
    assert (blurred.sum(axis=0) * distance**2).sum() == pytest.approx(2.5**2, rel=1e-3)


def test_borders() -> None:
    positions = np.arange(-5.0, 9)
    assert rs.repeated(positions, 4).tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert rs.mirrored(positions, 4).tolist() == [3, 3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0, 0]
    assert rs.half_mirrored(positions, 4).tolist() == [2, 3, 3, 2, 1, 0, 1, 2, 3, 3, 2, 1, 0, 1]
    assert rb.crookedly_mirrored(positions[3:-3], 4).tolist() == [3, 2, 0, 1, 2, 3, 3, 2]


def test_supersampling_weighs_as_opencv_does() -> None:
    """Output 4 covers samples 3.75 to 6.25: a quarter of sample 3, three whole ones, and three quarters of sample 7."""
    matrix = rb.supersampled(16, 20, 1.25)
    assert matrix[4, 3:8] == pytest.approx(np.array([0.25, 1, 1, 1, 0.75]) / 4) and matrix[4].sum() == pytest.approx(1)
    assert matrix[0, :3] == pytest.approx(np.array([1, 1, 0.75]) / 2.75)
    assert matrix[15, 17:] == pytest.approx(np.array([0.5, 1, 0]) / 1.5)  # 17.5 to 19, and 19 itself weighs 0


@settings(deadline=None)
@given(sizes)
def test_bilinear_resizing_is_opencvs(size: tuple[int, int]) -> None:
    cv2 = opencv.load()
    image = noise(*size).astype(np.float32)
    smaller = cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(rt.shrunk_bilinearly(image, smaller.shape, 0.8, shift=0.5), smaller, atol=1e-5)
    larger = cv2.resize(smaller, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(rt.enlarged_bilinearly(np.stack([smaller] * 2), size, shift=0.5)[1], larger, atol=1e-5)


# Values between pixels

WARPING = {
    "zeros": rt.warped_in_zeros,
    "repetition": rt.warped_in_repetition,
    "whole": rs.warped_whole,
    "mirror": rb.warped_in_mirror,
}


@pytest.mark.parametrize("name", WARPING)
def test_a_whole_shift_finds_the_pixels_themselves(name: str) -> None:
    image = noise(20, 24)
    u = np.stack([np.full((20, 24), 3.0), np.full((20, 24), -2.0)])
    warped = WARPING[name](image, u)
    np.testing.assert_allclose(warped[4:-3, 1:-6], image[2:-5, 4:-3])


def test_what_lies_outside() -> None:
    image = np.arange(1.0, 21) * np.ones((16, 1))  # column x holds x + 1
    right = np.stack([np.full((16, 20), 2.0), np.zeros((16, 20))])
    assert rt.warped_in_zeros(image, right)[8, -3:] == pytest.approx([20, 0, 0])
    assert rt.warped_in_repetition(image, right)[8, -3:] == pytest.approx([20, 20, 20])
    assert rb.warped_in_mirror(image, right)[8, -3:] == pytest.approx([20, 20, 19])
    still = rs.warped_whole(image, np.zeros((2, 16, 20)))
    assert (still[1:-2, 1:-2] == image[1:-2, 1:-2]).all()
    assert not still[0].any() and not still[-2:].any() and not still[:, 0].any() and not still[:, -2:].any()


@pytest.mark.parametrize("name", ["repetition", "mirror"])
def test_warping_a_constant_gives_the_constant(name: str) -> None:
    np.testing.assert_allclose(WARPING[name](np.full((16, 20), 7.0), 30 * noise(2, 16, 20)), np.full((16, 20), 7.0))


def test_catmull_rom_is_exact_for_a_parabola() -> None:
    x = np.arange(24.0)
    u = np.stack([np.full((16, 24), 0.3), np.full((16, 24), -0.6)])
    warped = rs.warped_whole(x**2 * np.ones((16, 1)), u)
    np.testing.assert_allclose(warped[3:-3, 3:-3], ((x + 0.3) ** 2 * np.ones((16, 1)))[3:-3, 3:-3])


def test_cubic_warping_is_opencvs() -> None:
    """At multiples of 1/32 px, which OpenCV 4 rounds positions to and OpenCV 5 does not."""
    cv2 = opencv.load()
    image = noise(30, 40)
    u = np.rint(32 * 6 * noise(2, 30, 40, seed=1)) / 32
    x, y = (position.astype(np.float32) for position in rs.displaced(u))
    expected = cv2.remap(image.astype(np.float32), x, y, cv2.INTER_CUBIC)
    np.testing.assert_allclose(rt.warped_in_zeros(image, u), expected, atol=2e-5)


def test_derivatives_of_polynomials() -> None:
    x, y = np.arange(20.0), np.arange(16.0)[:, None]
    jet = rb.three_point_jet(2 * x**2 + 3 * x * y + 5 * y**2)
    centre = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(jet.Ix[centre], (4 * x + 3 * y)[centre])
    np.testing.assert_allclose(jet.Iy[centre], (3 * x + 10 * y)[centre])
    assert [np.unique(part[centre]).tolist() for part in (jet.Ixx, jet.Ixy, jet.Iyy)] == [[4], [3], [10]]

    jet = rb.five_point_jet(x**4 + x**2 * y**2 - y**4)
    centre = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(jet.Ix[centre], (4 * x**3 + 2 * x * y**2)[centre])
    np.testing.assert_allclose(jet.Iy[centre], (2 * x**2 * y - 4 * y**3)[centre])
    np.testing.assert_allclose(jet.Ixx[centre], (12 * x**2 + 2 * y**2)[centre])
    np.testing.assert_allclose(jet.Ixy[centre], (4 * x * y)[centre])
    np.testing.assert_allclose(jet.Iyy[centre], (2 * x**2 - 12 * y**2)[centre])


def test_derivatives_at_the_border() -> None:
    gradient = rs.central_gradient(np.array([[1.0, 3, 9], [2, 2, 2]]))
    assert gradient.tolist() == [[[1, 4, 3], [0, 0, 0]], [[0.5, -0.5, -3.5]] * 2]
    row = np.arange(8.0) ** 2
    jet = rb.five_point_jet(row * np.ones((8, 1)))
    assert jet.Ix[0, 0] == pytest.approx((9 - 8 * 4 + 8 * 1 - 4) / 12)  # pixels -2, -1 are pixels 3, 2
    assert jet.Ix[0, 7] == pytest.approx((25 - 8 * 36 + 8 * 49 - 36) / 12)  # pixels 8, 9 are pixels 7, 6


# TV-L1, formula by formula


def test_divergence_is_minus_the_adjoint_of_the_gradient() -> None:
    u, p = noise(2, 6, 7), noise(2, 2, 6, 7, seed=1)
    p[:, 0, :, -1] = 0  # where the forward gradient is 0, p stays 0
    p[:, 1, -1, :] = 0
    assert (rt.forward_gradient(u) * p).sum() == pytest.approx(-(u * rt.divergence(p)).sum())


def test_thresholding_minimises_the_data_term() -> None:
    """v is the minimum of |u - v|^2 / (2 theta) + lambda |rho(v)| at each pixel: no other v nearby is better."""
    u, g, rho = noise(2, 30, 30), 5 * noise(2, 30, 30, seed=1), 2 * noise(30, 30, seed=2)
    g[:, :3] = 0
    lambda_, theta = 0.15, 0.3

    def energy(v: Array) -> Array:
        return ((u - v) ** 2).sum(axis=0) / (2 * theta) + lambda_ * np.abs(rho + (g * (v - u)).sum(axis=0))

    v = rt.thresholded(u, g, rho, lambda_ * theta)
    assert (v[:, :3] == u[:, :3]).all()
    for seed in range(20):
        assert (energy(v) <= energy(v + 0.03 * noise(2, 30, 30, seed=3 + seed)) + 1e-12).all()


def test_the_dual_variable_stays_in_the_unit_disc() -> None:
    p = np.zeros((2, 2, 12, 12))
    for _ in range(50):
        p = rt.projected(p, 10 * noise(2, 12, 12), step=0.8)
    assert 0.99 < np.hypot(p[:, 0], p[:, 1]).max() < 1 + 1e-12
    assert (rt.projected(p, np.full((2, 12, 12), 3.0), step=0.8) == p).all()  # no gradient, no change


@pytest.mark.parametrize("size", [3, 5])
def test_the_median_is_opencvs(size: int) -> None:
    u = noise(2, 17, 20).astype(np.float32)
    filtered = rt.median_filtered(u, size)
    assert all(np.array_equal(filtered[d], opencv.load().medianBlur(u[d], size)) for d in (0, 1))


# The solver of Brox


def system(height: int, width: int) -> tuple[System, Array]:
    """A system like those of the method, and its solution."""
    weights = Neighbours.inside(1 + noise(height, width - 1) ** 2, 1 + noise(height - 1, width) ** 2)
    Ix, Iy = noise(2, height, width, seed=1)
    data = np.stack([Ix**2, Iy**2]) + 0.1
    made = System(data + weights.total(), Ix * Iy, noise(2, height, width, seed=2), weights)

    def left(dw: Array) -> Array:
        return made.diagonal * dw + made.c * dw[::-1] - weights.weighted(dw)

    size = 2 * height * width
    matrix = np.stack([left(unit.reshape(2, height, width)).ravel() for unit in np.eye(size)], axis=1)
    return made, np.linalg.solve(matrix, made.right.ravel()).reshape(2, height, width)


def test_over_relaxation_solves_the_system() -> None:
    made, expected = system(5, 6)
    np.testing.assert_allclose(solved(made, np.zeros((2, 5, 6)), 1.5, 200, 0), expected, atol=1e-9)
    np.testing.assert_allclose(solved(made, expected, 1.99, 1, 0), expected, atol=1e-9)


def test_over_relaxation_stops_at_the_tolerance() -> None:
    made, _ = system(5, 6)
    start = np.zeros((2, 5, 6))
    first = solved(made, start, 1.5, 1, 0)
    change = np.sqrt(((first - start) ** 2).sum(axis=0).mean())
    assert np.array_equal(solved(made, start, 1.5, 9, change), first)
    assert not np.array_equal(solved(made, start, 1.5, 9, 0.99 * change), first)


def test_a_sweep_is_red_then_black() -> None:
    made, _ = system(4, 5)
    red = relaxed(made, np.zeros((2, 4, 5)), 1.99, 0)
    even = (np.arange(5) + np.arange(4)[:, None]) % 2 == 0
    assert red[:, even].all() and not red[:, ~even].any()
    assert np.array_equal(relaxed(made, red, 1.99, 1), solved(made, np.zeros((2, 4, 5)), 1.99, 1, 0))


def test_smoothness_weights_see_each_derivative() -> None:
    """At a slope of 2 px a pixel in x alone, u is 2 steeper between columns, and so is the mean slope between rows."""
    ramp = np.stack([2 * np.arange(12.0) * np.ones((10, 1)), np.zeros((10, 12))])
    for weights in (rb.staggered_smoothness_weights(ramp / 2, ramp / 2), rb.averaged_smoothness_weights(ramp, ramp)):
        np.testing.assert_allclose(weights.x[2:-2, 3:-3], 0.5 / np.sqrt(4 + 1e-6))
        np.testing.assert_allclose(weights.y[2:-2, 3:-3], 0.5 / np.sqrt(4 + 1e-6))
        assert not weights.x[:, [0, -1]].any() and not weights.y[[0, -1]].any()
