"""Optical flow stacking (eq. 1): which number stands where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowprep.config import Stacking
from flowprep.errors import UsageError
from flowprep.stacks import (
    bidirectional_flow_stack,
    bidirectional_trajectory_stack,
    mean_flow,
    of_planes,
    optical_flow_stack,
    reach,
    reference,
    stack_fields,
    trajectory_stack,
)
from tests.flow_fields import constant, mirrored, smooth

FIELDS = smooth(12, 9, 11)


def numbered(count: int = 12) -> np.ndarray:
    """Field t is (t, 100 + t) everywhere."""
    return np.stack([constant(1, 4, 5, (t, 100 + t))[0] for t in range(count)])


def test_planes_are_interleaved():
    stack = optical_flow_stack(numbered(), 5, 3)
    assert stack.shape == (6, 4, 5) and stack.dtype == np.float32
    assert [plane.tolist() for plane in stack] == [[[value] * 5] * 4 for value in (5, 105, 6, 106, 7, 107)]


def test_first_component_of_a_stack_is_that_of_its_field():
    for tau in range(3):
        stack = optical_flow_stack(FIELDS, tau, 10)
        for k in range(10):
            np.testing.assert_array_equal(stack[0::2][k], optical_flow_stack(FIELDS, tau + k, 1)[0])


@pytest.mark.parametrize("length", range(1, 33))
def test_every_length_is_the_reference(length):
    fields = smooth(33, 3, 4, seed=length)
    np.testing.assert_array_equal(
        optical_flow_stack(fields, 1, length), reference.optical_flow_stack(fields, 1, length)
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_all_options_are_the_reference(data):
    stride, half = data.draw(st.integers(1, 3), "stride"), data.draw(st.integers(1, 3), "half")
    height, width = data.draw(st.integers(1, 6), "height"), data.draw(st.integers(1, 6), "width")
    span = (2 * half - 1) * stride + 1
    fields = smooth(span + data.draw(st.integers(0, 3), "more"), height, width)
    start = data.draw(st.integers(0, len(fields) - span), "start")
    for subtract in (False, True):
        means = mean_flow(fields) if subtract else None
        np.testing.assert_array_equal(
            optical_flow_stack(fields, start, 2 * half, stride=stride, means=means),
            reference.optical_flow_stack(fields, start, 2 * half, stride=stride, mean_subtract=subtract),
        )


def test_without_means_each_plane_has_none():
    stack = optical_flow_stack(FIELDS, 2, 10, means=mean_flow(FIELDS))
    assert np.abs(stack).max() > 0.5
    np.testing.assert_allclose(stack.mean(axis=(1, 2)), 0, atol=1e-6)


def test_camera_motion_is_subtracted():
    moved = FIELDS + np.float32([3.5, -2])[None, :, None, None]
    still, moving = (optical_flow_stack(flow, 0, 10, means=mean_flow(flow)) for flow in (FIELDS, moved))
    np.testing.assert_allclose(still, moving, atol=2e-6)


def test_means_are_summed_exactly_enough():
    """In float32 the sum of a million such values is wrong in the third digit."""
    flow = np.full((1, 2, 1200, 1000), 1000.1, np.float32)
    np.testing.assert_array_equal(mean_flow(flow), flow[:, :, 0, 0])


@pytest.mark.parametrize("stack", [optical_flow_stack, trajectory_stack])
def test_mirrored_flow_makes_the_mirrored_stack(stack):
    straight, turned = stack(FIELDS, 1, 8), stack(mirrored(FIELDS), 1, 8)
    assert np.abs(straight - turned).max() > 0.5
    np.testing.assert_allclose(turned, mirrored(straight), atol=1e-5)


@pytest.mark.parametrize("stack", [bidirectional_flow_stack, bidirectional_trajectory_stack])
def test_both_directions_of_constant_motion(stack):
    there, back = constant(12, 6, 7, (1.5, -0.5)), constant(12, 6, 7, (-1.5, 0.5))
    planes = stack(there, back, 6, 10)[:, 2, 3]
    assert planes.tolist() == [1.5, -0.5] * 5 + [-1.5, 0.5] * 5


def test_backward_fields_go_outwards_from_the_frame():
    stack = bidirectional_flow_stack(numbered(), -numbered(), 6, 6)
    assert stack[:, 0, 0].tolist() == [6, 106, 7, 107, 8, 108, -5, -105, -4, -104, -3, -103]
    strided = bidirectional_flow_stack(numbered(), -numbered(), 6, 6, stride=2)
    assert strided[:, 0, 0].tolist() == [6, 106, 8, 108, 10, 110, -5, -105, -3, -103, -1, -101]


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_both_directions_are_the_reference(stride, subtract):
    backward = smooth(12, 9, 11, seed=1)
    means = {"means": mean_flow(FIELDS), "backward_means": mean_flow(backward)} if subtract else {}
    for fast, slow in (
        (bidirectional_flow_stack, reference.optical_flow_stack),
        (bidirectional_trajectory_stack, reference.trajectory_stack),
    ):
        expected = reference.bidirectional(FIELDS, backward, 6, 6, slow, stride=stride, mean_subtract=subtract)
        np.testing.assert_array_equal(fast(FIELDS, backward, 6, 6, stride=stride, **means), expected)


def test_temporal_stride():
    assert optical_flow_stack(numbered(), 1, 4, stride=3)[::2, 0, 0].tolist() == [1, 4, 7, 10]


def test_a_short_video_repeats_its_last_field():
    stacking = Stacking(length=5, short="repeat-last", mean_subtract=False)
    stack = stack_fields(stacking, numbered(3)[list(reach(stacking, 3, 0).forward)], None)
    assert stack[::2, 0, 0].tolist() == [0, 1, 2, 2, 2]


def test_values_of_planes_are_those_of_their_fields():
    pairs = np.arange(14, dtype=np.float32).reshape(7, 2)
    assert of_planes(Stacking(length=7, temporal_stride=2), pairs).tolist() == list(range(14))
    followed = Stacking("trajectory", 4, 2)
    assert of_planes(followed, pairs).tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    both = Stacking("trajectory", 4, 2, bidirectional=True)
    assert of_planes(both, pairs[:3], -pairs[:3]).tolist() == [0, 1, 4, 5, 0, -1, -4, -5]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: optical_flow_stack(FIELDS, 7, 10), "frame 7, length 10: a video of 12 fields .* 0 to 2"),
        (lambda: trajectory_stack(FIELDS, -1, 10), "frame -1, length 10: a video of 12 fields .* 0 to 2"),
        (lambda: trajectory_stack(FIELDS, 0, 7, stride=2), "12 fields is too short.* stride of 2 needs 13"),
        (lambda: optical_flow_stack(FIELDS, 0, 0), "stack.length 0: give 1 to 32"),
        (lambda: optical_flow_stack(FIELDS, 0, 33), "stack.length 33: give 1 to 32"),
        (lambda: optical_flow_stack(FIELDS, 0, 3, stride=0), "stride 0: give 1"),
        (lambda: bidirectional_flow_stack(FIELDS, FIELDS, 5, 5), "stack.length 5: .*even"),
        (lambda: bidirectional_flow_stack(FIELDS, FIELDS, 4, 10), "frames 5 to 7"),
        (lambda: bidirectional_flow_stack(FIELDS, FIELDS[1:], 5, 10), "must be of one video"),
        (lambda: optical_flow_stack(FIELDS.astype(np.float64), 0, 3), "type float64: give float32"),
        (lambda: optical_flow_stack(FIELDS[:, :1], 0, 3), r"give \(3, 2, height, width\)"),
        (lambda: trajectory_stack(FIELDS[..., :0], 0, 3), r"give \(3, 2, height, width\)"),
        (lambda: optical_flow_stack(FIELDS[:, 0], 0, 3), r"give \(3, 2, height, width\)"),
        (lambda: optical_flow_stack(FIELDS, 0, 3, means=mean_flow(FIELDS[:3])), r"mean .* give float32 \(12, 2\)"),
        (lambda: optical_flow_stack(FIELDS, 0, 3, means=mean_flow(FIELDS)[:, :1]), r"mean .* give float32 \(12, 2\)"),
        (lambda: trajectory_stack(FIELDS, 0, 3, means=mean_flow(FIELDS[:3])), r"mean .* give float32 \(12, 2\)"),
        (
            lambda: bidirectional_flow_stack(FIELDS, FIELDS, 5, 4, backward_means=mean_flow(FIELDS)),
            "backward_means without means",
        ),
        (
            lambda: bidirectional_flow_stack(
                FIELDS, FIELDS, 5, 4, means=mean_flow(FIELDS), backward_means=mean_flow(FIELDS[:2])
            ),
            r"mean .* give float32 \(12, 2\)",
        ),
        (lambda: stack_fields(Stacking(length=3), FIELDS[:3], None), "mean of the fields is missing"),
        (lambda: stack_fields(Stacking(length=3), FIELDS, None), r"give \(3, 2, height, width\)"),
        (lambda: stack_fields(Stacking(length=2), FIELDS[:2], FIELDS[:2]), "backward fields belong to bidirectional"),
        (
            lambda: stack_fields(Stacking(length=2, bidirectional=True), FIELDS[:1], FIELDS[:1, :, 1:]),
            r"shape \(1, 2, 8, 11\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, text):
    with pytest.raises(UsageError, match=text):
        call()
