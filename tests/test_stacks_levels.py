"""Stacks of stored levels: what a loader hands on before it knows what the numbers mean."""

from __future__ import annotations

import numpy as np
import pytest

from flowprep.config import Stacking
from flowprep.errors import UsageError
from flowprep.stacks import gather_levels, kernels, of_planes, stack_fields
from tests.flow_fields import smooth, wild

TYPES = [np.uint8, np.uint16, np.int8, np.int16]
both_kinds = pytest.mark.parametrize("kind", ["flow", "trajectory"])
any_type = pytest.mark.parametrize("dtype", TYPES)


def stored(flow: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels, scale and zero of fields, each component with a range of its own."""
    limits = np.iinfo(dtype)
    low, high = (edge(axis=(2, 3)).astype(np.float64) for edge in (flow.min, flow.max))
    scale = ((high - low) / (min(limits.max - limits.min, 30_000) - 2)).astype(np.float32)
    zero = np.rint(limits.min + 1 - low / scale).astype(np.float32)
    levels = np.rint(flow / scale[:, :, None, None]) + zero[:, :, None, None]
    assert levels.min() >= limits.min and levels.max() <= limits.max
    return levels.astype(dtype), scale, zero


def in_px(levels: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    return ((levels - zero[..., None, None]) * scale[..., None, None]).astype(np.float32)


def gathered(stacking, forward, backward=None, window=None):
    height, width = forward[0].shape[2:]
    window = window or (0, 0, height, width)
    out = np.full((2 * stacking.length, *window[2:]), 77, forward[0].dtype)
    gather_levels(stacking, *forward, *(backward or (None, None, None)), window, out)
    return out


def test_the_ranges_here_differ():
    _, scale, zero = stored(smooth(6, 20, 30), np.uint8)
    assert len(set(scale.ravel())) == len(set(zero.ravel())) == 12


@any_type
@both_kinds
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_levels_stand_for_the_stack(dtype, kind, stride, bidirectional):
    stacking = Stacking(kind, 6, stride, bidirectional=bidirectional, mean_subtract=False)
    half = 3 if bidirectional else 6
    count = (half - 1) * stride + 1 if kind == "trajectory" else half
    forward = stored(smooth(count, 20, 30, amplitude=4.0), dtype)
    backward = stored(smooth(count, 20, 30, seed=1, amplitude=4.0), dtype) if bidirectional else None
    expected = stack_fields(stacking, in_px(*forward), in_px(*backward) if backward else None)
    scale, zero = (of_planes(stacking, forward[i], backward[i] if backward else None)[:, None, None] for i in (1, 2))
    window = (5, 7, 11, 13)
    levels = gathered(stacking, forward, backward, window)
    error = np.abs((levels - zero) * scale - expected[:, 5:16, 7:20])
    assert (error <= (0.501 if kind == "trajectory" else 1e-4) * scale + 1e-4).all()
    whole = gathered(stacking, forward, backward)
    np.testing.assert_array_equal(whole[:, 5:16, 7:20], levels)  # trajectories go on beyond the window
    assert kind == "flow" or error.max() > 0.1 * scale.min()


@any_type
def test_flow_is_copied(dtype):
    forward = stored(smooth(5, 9, 10), dtype)
    levels = gathered(Stacking("flow", 5), forward, window=(2, 3, 4, 6))
    np.testing.assert_array_equal(levels, forward[0][:, :, 2:6, 3:9].reshape(10, 4, 6))


@any_type
def test_levels_on_pixels_are_kept(dtype):
    """Where nothing moves every level is read as it is, the extremes too."""
    limits = np.iinfo(dtype)
    levels = np.random.default_rng(0).integers(limits.min, limits.max, (4, 2, 12, 13), dtype, endpoint=True)
    levels[:, :, 0, :2] = limits.min, limits.max
    still = np.zeros((4, 2), np.float32)
    out = gathered(Stacking("trajectory", 4), (levels, still, still))
    np.testing.assert_array_equal(out, levels.reshape(8, 12, 13))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (6, 5)])
def test_violent_flow_stays_in_the_field(size):
    """Every value read is between those of its field."""
    fields = wild(8, *size)
    limits = np.iinfo(np.uint8)
    random = np.random.default_rng(2)
    levels = random.integers(100, 140, fields.shape, np.uint8)
    scale = random.choice([1e-3, 1, 1e6, np.inf, np.nan], (8, 2)).astype(np.float32)
    zero = random.uniform(limits.min, limits.max, (8, 2)).astype(np.float32)
    out = gathered(Stacking("trajectory", 8), (levels, scale, zero)).reshape(8, 2, *size)
    low, high = (edge(axis=(2, 3), keepdims=True) for edge in (levels.min, levels.max))
    assert ((low <= out) & (out <= high)).all()


def test_a_batch_is_filled_in_place():
    """Into part of a larger array; of fields that may not be written to, without compiling again."""
    kernels.warm()
    before = set(kernels.follow_levels.signatures)
    forward = stored(smooth(3, 10, 11), np.uint8)
    for array in forward:
        array.flags.writeable = False
    batch = np.zeros((3, 6, 10, 11), np.uint8)
    stacking = Stacking("trajectory", 3)
    gather_levels(stacking, *forward, None, None, None, (0, 0, 10, 11), batch[1])
    np.testing.assert_array_equal(batch[1], gathered(stacking, forward))
    assert not batch[0].any() and not batch[2].any() and batch[1].any()
    assert set(kernels.follow_levels.signatures) == before


LEVELS = stored(smooth(3, 10, 11), np.uint8)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"window": (0, 0, 11, 5)}, "window .*10 x 11"),
        ({"window": (-1, 0, 5, 5)}, "window .*10 x 11"),
        ({"window": (0, 7, 5, 5)}, "window .*10 x 11"),
        ({"out": np.zeros((6, 5, 4), np.uint8)}, r"give a contiguous array, uint8 \(6, 5, 5\)"),
        ({"out": np.zeros((6, 5, 5), np.int8)}, "give a contiguous array"),
        ({"out": np.zeros((6, 5, 10), np.uint8)[..., ::2]}, "give a contiguous array"),
        ({"forward": LEVELS[0].astype(np.float32)}, "type float32: give uint8, uint16, int8, int16"),
        ({"forward": LEVELS[0][:2]}, r"give \(3, 2, height, width\)"),
        ({"scale": LEVELS[1][:2]}, r"scale .* give float32 \(3, 2\)"),
        ({"zero": LEVELS[1].astype(np.float64)}, r"zero .* give float32 \(3, 2\)"),
        ({"backward": LEVELS[0]}, "backward fields belong to bidirectional stacks"),
    ],
)
def test_what_does_not_fit_is_refused(change, text):
    good = {
        **dict(zip(("forward", "scale", "zero"), LEVELS, strict=True)),
        **dict.fromkeys(("backward", "backward_scale", "backward_zero")),
        "window": (2, 3, 5, 5),
        "out": np.zeros((6, 5, 5), np.uint8),
    }
    gather_levels(Stacking("trajectory", 3), **good)
    with pytest.raises(UsageError, match=text):
        gather_levels(Stacking("trajectory", 3), **{**good, **change})
