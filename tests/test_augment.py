"""Crops lie where they should, mirrors turn the motion, resizing scales it: shown on flow whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowprep.errors import UsageError
from flowprep.stacks.augment import (
    TSN_SCALES,
    Augmentation,
    Jitter,
    fit,
    geometry,
    mirror_columns,
    ten_crops,
)
from flowprep.stacks.sampler import Draws

uniform = st.floats(0, 1, exclude_max=True)
draws = st.builds(Draws, uniform, uniform, uniform, uniform, uniform, st.tuples(*[uniform] * 8))
MIDDLE = Draws(0.5, 0.5, 0.5, 0.5, 0.5, (0.5,) * 8)


@given(
    draws,
    st.integers(40, 90),
    st.integers(40, 90),
    st.sampled_from(["random", "centre", "corners"]),
    st.sampled_from([(), TSN_SCALES]),
)
def test_crops_lie_in_the_frame(draw: Draws, height: int, width: int, position: str, scales: tuple[float, ...]) -> None:
    window = Augmentation(40, position, scales).window(height, width, draw)
    assert 0 <= window.top <= height - window.height
    assert 0 <= window.left <= width - window.width
    shorter = min(height, width)
    assert {window.height, window.width} <= ({int(shorter * scale) for scale in scales} or {40})


def test_random_crops_come_from_the_whole_frame() -> None:
    augmentation = Augmentation(224)
    lowest = augmentation.window(256, 340, MIDDLE._replace(top=0.0, left=0.0))
    highest = augmentation.window(256, 340, MIDDLE._replace(top=1 - 2**-53, left=1 - 2**-53))
    assert lowest == (0, 0, 224, 224)
    assert highest == (32, 116, 224, 224)


def test_corners_and_centre() -> None:
    augmentation = Augmentation(224, "corners")
    places = [augmentation.window(256, 340, MIDDLE._replace(place=k / 5 + 0.01))[:2] for k in range(5)]
    assert places == [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
    assert Augmentation(224, "centre").window(256, 340, MIDDLE)[:2] == (16, 58)


def test_sides_of_scaled_crops_are_neighbours() -> None:
    augmentation = Augmentation(224, scales=TSN_SCALES)
    found = {augmentation.window(256, 340, MIDDLE._replace(scale=k / 100))[2:] for k in range(100)}
    sides = [int(256 * scale) for scale in TSN_SCALES]
    assert found == {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8, np.int16])
def test_a_mirror_image_is_one(dtype: type) -> None:
    levels = np.random.default_rng(0).integers(0, 100, (4, 6, 7)).astype(dtype)
    planes = levels.copy()
    mirror_columns(planes)
    assert np.array_equal(planes, levels[:, :, ::-1])
    mirror_columns(planes)
    assert np.array_equal(planes, levels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8, np.int16])
@pytest.mark.parametrize("mirror", [False, True])
def test_resizing_keeps_a_ramp(dtype: type, mirror: bool) -> None:
    """u = x, seen in a window that becomes half as large: the ramp, twice as steep in the new pixels."""
    ramp = np.broadcast_to(np.arange(80), (2, 80, 80)).astype(dtype)
    out = np.empty((2, 40, 40), dtype)
    fit(ramp, out, mirror=mirror)
    expected = 2 * np.arange(40) + 0.5
    assert np.abs(out[0, 5].astype(float) - (expected[::-1] if mirror else expected)).max() <= 0.5


def test_motion_grows_with_the_picture() -> None:
    window = Augmentation(224, "centre", (0.5,)).window(256, 340, MIDDLE)
    assert geometry(window, 224, 224, mirror=False) == (1.75, 1.75)
    assert geometry(window._replace(width=112), 224, 224, mirror=True) == (-2.0, 1.75)


def test_ten_crops() -> None:
    flow = np.random.default_rng(1).normal(size=(2, 4, 20, 30)).astype(np.float32)
    crops = ten_crops(flow, 16, flow=True)
    assert crops.shape == (10, 2, 4, 16, 16)
    assert np.array_equal(crops[0], flow[..., :16, :16])
    assert np.array_equal(crops[3], flow[..., 4:, 14:])
    assert np.array_equal(crops[4], flow[..., 2:18, 7:23])
    sign = np.array([-1, 1, -1, 1], np.float32)[:, None, None]
    assert np.array_equal(crops[5:], crops[:5, ..., ::-1] * sign)
    assert np.array_equal(ten_crops(flow, 16, flow=False)[5:], crops[:5, ..., ::-1])
    with pytest.raises(UsageError, match="do not fit into 30x20"):
        ten_crops(flow, 21, flow=True)


def test_ten_crops_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    flow = np.random.default_rng(1).normal(size=(2, 4, 20, 30)).astype(np.float32)
    crops = ten_crops(torch.from_numpy(flow), 16, flow=True)
    assert np.array_equal(crops.numpy(), ten_crops(flow, 16, flow=True))


def test_colour_noise_has_the_spread_of_the_axes() -> None:
    """Covariance of the shifts: that of ImageNet's colours, times 0.01."""
    numbers = np.random.default_rng(2).random((20_000, 8))
    shifts = np.array([Jitter().of(tuple(row))[1] for row in numbers])
    assert np.abs(shifts.mean(0)).max() < 0.15
    assert np.sqrt(np.linalg.eigvalsh(np.cov(shifts.T))) == pytest.approx([0.1148, 0.4794, 5.546], rel=0.03)
    assert {Jitter().of(tuple(row))[0] for row in numbers[:100]} == {1.0}


def test_brightness_and_contrast() -> None:
    jitter = Jitter(pca=0, brightness=0.2, contrast=0.5)
    assert jitter.of((0.5,) * 8)[0] == 1
    factor, shift = jitter.of((0.0,) * 7 + (0.0,))
    assert factor == pytest.approx(0.4)
    assert 127.5 * factor + shift == pytest.approx(0.8 * 127.5)  # contrast leaves mid-grey, brightness does not


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmentation(0), "crop 0"),
        (lambda: Augmentation((224, 224)), r"crop \(224, 224\): give a whole number"),  # type: ignore[arg-type]
        (lambda: Augmentation(22.4), r"crop 22\.4: give a whole number"),  # type: ignore[arg-type]
        (lambda: Augmentation(position="middle"), "position 'middle'"),
        (lambda: Augmentation(scales=(1.5,)), "scales"),
        (lambda: Augmentation(65).window(64, 80, MIDDLE), "does not fit into 80x64"),
    ],
)
def test_mistakes(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]
