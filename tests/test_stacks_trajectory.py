"""Trajectory stacking (eq. 2): values are those that a moving point meets."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowprep.flow
from flowprep.flow.cpu import compiling
from flowprep.stacks import kernels, mean_flow, optical_flow_stack, reference, trajectory_stack
from tests.flow_fields import constant, smooth, wild

COLUMN, ROW = (axis.astype(np.float64) for axis in np.meshgrid(np.arange(96), np.arange(80)))


def end(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points have arrived after the last field: p_1 and all the steps."""
    height, width = stack.shape[1:]
    steps = stack.astype(np.float64)
    return COLUMN[:height, :width] + steps[0::2].sum(0), ROW[:height, :width] + steps[1::2].sum(0)


def test_values_are_read_where_the_motion_has_led():
    random = np.random.default_rng(0).normal(size=(1, 2, 5, 20)).astype(np.float32)
    for k in range(1, 8):
        fields = np.concatenate([constant(k - 1, 5, 20, (1, 0)), random])
        stack = trajectory_stack(fields, 0, k)
        np.testing.assert_array_equal(stack[-2:, :, : 21 - k], random[0, :, :, k - 1 :])


def test_whole_pixels_are_walked_exactly():
    fields = np.random.default_rng(1).integers(-2, 3, (10, 2, 15, 17)).astype(np.float32)
    stack = trajectory_stack(fields, 0, 10)
    y, x = np.mgrid[:15, :17]
    for k, field in enumerate(fields):
        u, v = field[:, y, x]
        np.testing.assert_array_equal(stack[2 * k : 2 * k + 2], [u, v])
        x, y = np.clip(x + u, 0, 16).astype(int), np.clip(y + v, 0, 14).astype(int)


def test_between_pixels_values_are_bilinear():
    fields = np.concatenate([constant(1, 3, 3, (0.25, 0.5)), np.zeros((1, 2, 3, 3), np.float32)])
    fields[1, 0] = [[0, 4, 8], [10, 14, 18], [20, 24, 28]]
    assert trajectory_stack(fields, 0, 2)[2].tolist() == [[6, 10, 13], [16, 20, 23], [21, 25, 28]]


def test_a_point_that_leaves_goes_on_from_the_border():
    fields = np.concatenate([constant(1, 4, 6, (100, -100)), constant(1, 4, 6, (-1, 1)), smooth(1, 4, 6)])
    np.testing.assert_array_equal(trajectory_stack(fields, 0, 3)[4:].std(axis=(1, 2)), 0)  # all at one pixel, which is
    np.testing.assert_array_equal(trajectory_stack(fields, 0, 3)[4:, 0, 0], fields[2, :, 1, 4])


def test_on_constant_motion_both_equations_agree():
    fields = np.concatenate([constant(1, 12, 13, (0.7, -1.1))] * 10)
    np.testing.assert_array_equal(trajectory_stack(fields, 0, 10), optical_flow_stack(fields, 0, 10))
    # also where only the fields differ from each other
    fields = np.concatenate([constant(1, 12, 13, (0.3 * k, 1 - k)) for k in range(10)])
    np.testing.assert_array_equal(trajectory_stack(fields, 0, 10), optical_flow_stack(fields, 0, 10))


def test_of_one_field_both_equations_agree():
    fields = wild(3, 14, 15)
    for start in range(3):
        np.testing.assert_array_equal(trajectory_stack(fields, start, 1), optical_flow_stack(fields, start, 1))


def rotation(x: np.ndarray, y: np.ndarray, angle: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """The points turned about (47.5, 39.5)."""
    x, y = x - 47.5, y - 39.5
    return x * np.cos(angle) - y * np.sin(angle) + 47.5, x * np.sin(angle) + y * np.cos(angle) + 39.5


def rotating(speed: np.ndarray | float) -> np.ndarray:
    """Ten fields of that rotation, rad per frame."""
    x, y = rotation(COLUMN, ROW, speed)
    return np.repeat([np.float32([x - COLUMN, y - ROW])], 10, axis=0)


def test_a_rotating_disc():
    """A quarter of a turn of a rigid disc of 30 px on a still ground: measured 1.6e-5 px from exact motion."""
    radius = np.hypot(COLUMN - 47.5, ROW - 39.5)
    fields = np.where(radius <= 30, rotating(np.pi / 20), 0).astype(np.float32)
    x, y = end(trajectory_stack(fields, 0, 10))
    exact_x, exact_y = rotation(COLUMN, ROW, np.pi / 2)
    error = np.hypot(x - exact_x, y - exact_y)[radius < 28]  # bilinear values mix disc and ground at the edge
    assert error.size > 2000 and error.max() < 1e-4
    in_place = optical_flow_stack(fields, 0, 10)
    assert np.hypot(end(in_place)[0] - exact_x, end(in_place)[1] - exact_y)[radius < 28].max() > 10


def test_a_vortex():
    """Speed falls with the radius, so values between pixels are not exact: measured 0.034 px from exact motion."""
    speed = 0.2 * np.exp(-((np.hypot(COLUMN - 47.5, ROW - 39.5) / 15) ** 2))
    x, y = end(trajectory_stack(rotating(speed), 0, 10))
    exact_x, exact_y = rotation(COLUMN, ROW, 10 * speed)
    assert np.hypot(exact_x - COLUMN, exact_y - ROW).max() > 10
    assert np.hypot(x - exact_x, y - exact_y).max() < 0.1


# Against the reference


@pytest.mark.parametrize("length", range(1, 33))
def test_every_length_is_the_reference(length):
    fields = smooth(33, 3, 5, seed=length)
    np.testing.assert_array_equal(trajectory_stack(fields, 1, length), reference.trajectory_stack(fields, 1, length))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_flow_is_the_reference(data):
    """To the last bit, because both compute in float32 in the same order."""
    stride, length = data.draw(st.integers(1, 3), "stride"), data.draw(st.integers(1, 4), "length")
    height, width = data.draw(st.integers(1, 9), "height"), data.draw(st.integers(1, 9), "width")
    make = data.draw(st.sampled_from([wild, smooth, partial(smooth, amplitude=50.0)]), "make")
    fields = make((length - 1) * stride + 2, height, width, seed=data.draw(st.integers(0, 99), "seed"))
    for subtract in (False, True):
        means = mean_flow(fields) if subtract else None
        np.testing.assert_array_equal(
            trajectory_stack(fields, 1, length, stride=stride, means=means),
            reference.trajectory_stack(fields, 1, length, stride=stride, mean_subtract=subtract),
        )


def test_rounding_stays_below_a_thousandth_of_a_pixel():
    """Ten steps at the far end of wide frames, where float32 is coarsest, against float64; measured 1.8e-5 px."""
    fields = smooth(10, 2, 1000, amplitude=1.0)
    exact = reference.trajectory_stack(fields.astype(np.float64), 0, 10)
    fast = trajectory_stack(fields, 0, 10)
    assert 0 < np.abs(fast - exact).max() < 1e-3
    ways = [np.add.reduce(stack.reshape(10, 2, 2, 1000), dtype=np.float64) for stack in (fast, exact)]
    assert np.abs(ways[0] - ways[1]).max() < 1e-3


# The kernels as such


def test_what_is_not_a_number_leads_nowhere_else():
    """Positions stay indices, whatever the flow."""
    fields = np.stack([np.full((2, 30, 40), value, np.float32) for value in (np.nan, np.inf, -np.inf, 1, np.nan, 2)])
    stack = trajectory_stack(fields, 0, 6)
    assert stack[6:8].tolist() == fields[3].tolist() and stack[10:].tolist() == fields[5].tolist()


def test_arrays_of_any_kind_need_no_other_code():
    trajectory_stack(smooth(3, 8, 9), 0, 3)
    before = list(kernels.follow.signatures)
    fields = smooth(6, 8, 9)
    expected = trajectory_stack(fields, 0, 3, stride=2)
    frozen = fields.copy()
    frozen.flags.writeable = False
    turned = np.asfortranarray(fields)
    for same in (frozen, turned, np.repeat(fields, 2, axis=3)[..., ::2]):
        np.testing.assert_array_equal(trajectory_stack(same, 0, 3, stride=2), expected)
    assert list(kernels.follow.signatures) == before and len(before) == 1


def test_warming_compiles_for_all_types():
    said: list[str] = []
    kernels.warm(said.append)
    assert len(kernels.follow.signatures) == 1 and len(kernels.follow_levels.signatures) == 4
    assert all("Compiling the kernels of stacks" in text for text in said)


def test_kept_code_is_of_the_sources_at_hand():
    """Every file with kernels counts for the version of the code that is kept."""
    package = Path(flowprep.flow.__file__).parents[1]
    with_kernels = {
        path
        for path in package.rglob("*.py")
        if path.parent.name != "cuda"  # GPUs' have versions of their own
        and re.search(r"^@(kernel|inline)$", path.read_text(), re.MULTILINE)
    }
    assert len(with_kernels) > 5 and with_kernels <= set(compiling.sources())
