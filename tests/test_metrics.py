"""The error measures, against hand-computed values, Middlebury ground truth and their own definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flowprep.flow.files import read_flo
from flowprep.flow.metrics import angular_error, end_point_error, known, mean_aae, mean_epe

SHAPE = (2, 3, 4)
flows = arrays(np.float32, SHAPE, elements=st.floats(-100, 100, width=32))


def uniform(u: float, v: float) -> np.ndarray:
    return np.broadcast_to(np.array([u, v], np.float32)[:, None, None], SHAPE).copy()


def test_end_point_error_is_the_length_of_the_difference() -> None:
    error = end_point_error(uniform(4, 1), uniform(1, 5))
    assert error.dtype == np.float32 and error.shape == SHAPE[1:]
    assert np.all(error == 5)


@pytest.mark.parametrize(
    ("flow", "truth", "degrees"),
    [
        ((0, 0), (1, 0), 45),  # (0,0,1) against (1,0,1)
        ((1, 0), (-1, 0), 90),
        ((1, 0), (0, 1), 60),
        ((3, -4), (3, -4), 0),
        ((1e6, 0), (-1e6, 0), 180),
    ],
)
def test_angular_error_is_measured_between_u_v_1(
    flow: tuple[float, float], truth: tuple[float, float], degrees: float
) -> None:
    assert mean_aae(uniform(*flow), uniform(*truth)) == pytest.approx(degrees, abs=2e-4)


def test_angular_error_resolves_small_angles_in_float32() -> None:
    """arccos in float32 cannot tell apart angles under 0.02 degrees."""
    assert mean_aae(uniform(0.0001, 0), uniform(0, 0)) == pytest.approx(np.degrees(0.0001), rel=1e-4)


@settings(deadline=None)
@given(flows, flows)
def test_both_agree_with_their_definition_in_float64(flow: np.ndarray, truth: np.ndarray) -> None:
    (u, v), (tu, tv) = flow.astype(np.float64), truth.astype(np.float64)
    np.testing.assert_allclose(end_point_error(flow, truth), np.hypot(u - tu, v - tv), rtol=1e-5, atol=1e-6)
    cosine = (u * tu + v * tv + 1) / np.sqrt((u**2 + v**2 + 1) * (tu**2 + tv**2 + 1))
    np.testing.assert_allclose(angular_error(flow, truth), np.degrees(np.arccos(np.clip(cosine, -1, 1))), atol=0.002)


@settings(deadline=None)
@given(flows, flows)
def test_both_are_symmetric_and_zero_only_for_equal_fields(a: np.ndarray, b: np.ndarray) -> None:
    for error in (end_point_error, angular_error):
        np.testing.assert_allclose(error(a, b), error(b, a), rtol=1e-5, atol=1e-4)
        assert np.all(error(a, a) == 0)


@pytest.mark.parametrize("unknown", [np.nan, 1.666e9, -1.666e9, np.inf])
def test_pixels_unknown_in_the_truth_count_nowhere(unknown: float) -> None:
    flow, truth = uniform(1, 0), uniform(0, 0)
    truth[1, 0, 0] = unknown
    assert np.isnan(end_point_error(flow, truth)[0, 0]) and np.isnan(angular_error(flow, truth)[0, 0])
    assert np.count_nonzero(np.isnan(end_point_error(flow, truth))) == 1
    assert known(truth).sum() == 11
    assert mean_epe(flow, truth) == 1
    assert mean_aae(flow, truth) == pytest.approx(45)


def test_a_nan_in_the_estimate_is_not_taken_for_unknown() -> None:
    flow = uniform(1, 0)
    flow[0, 0, 0] = np.nan
    assert np.isnan(mean_epe(flow, uniform(0, 0)))


def test_a_batch_is_the_mean_over_all_known_pixels_and_the_mask_chooses_among_them() -> None:
    flow = np.stack([uniform(1, 0), uniform(3, 0)])
    truth = np.zeros_like(flow)
    assert end_point_error(flow, truth).shape == (2, 3, 4)
    assert mean_epe(flow, truth) == 2
    valid = np.ones((2, 3, 4), bool)
    valid[1, :, 1:] = False  # 12 pixels of 1 px, 3 of 3 px
    assert mean_epe(flow, truth, valid) == pytest.approx((12 + 9) / 15)
    truth[0, 0] = np.nan  # and now the first field is unknown
    assert mean_epe(flow, truth, valid) == 3


def test_what_cannot_be_compared_is_refused_with_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(2, 4, 3\)"):
        mean_epe(np.zeros((2, 3, 4)), np.zeros((2, 4, 3)))
    with pytest.raises(ValueError, match=r"\(3, 4, 2\)"):
        end_point_error(np.zeros((3, 4, 2)), np.zeros((3, 4, 2)))
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(2, 3, 4\)"):
        mean_aae(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="not one pixel"):
        mean_epe(np.zeros((2, 3, 4)), np.full((2, 3, 4), np.nan))


@pytest.mark.parametrize(
    ("sequence", "epe", "aae"),
    [("Dimetrodon", 2.058, 62.07), ("Grove2", 3.090, 71.72), ("RubberWhale", 1.256, 49.64), ("Venus", 3.802, 71.09)],
)
def test_zero_flow_on_middlebury_has_the_published_error(data: Path, sequence: str, epe: float, aae: float) -> None:
    truth = read_flo(data / "middlebury" / sequence / "flow10.flo")
    still = np.zeros_like(truth)
    assert mean_epe(still, truth) == pytest.approx(epe, abs=0.001)
    assert mean_aae(still, truth) == pytest.approx(aae, abs=0.01)


def test_golden_tvl1_field_has_its_known_error(data: Path) -> None:
    truth = read_flo(data / "middlebury" / "RubberWhale" / "flow10.flo")
    flow = read_flo(data / "goldens" / "opencv-tvl1" / "tvl1_flow.flo")
    assert mean_epe(flow, truth) == pytest.approx(0.1563, abs=0.0001)
