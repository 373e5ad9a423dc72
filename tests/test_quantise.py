"""What is stored as integers reads back in pixels within the bound that the documentation states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from flowprep import codecs
from flowprep.config import StorageConfig
from flowprep.quantise import NEGLIGIBLE, Quantised, dequantise, quantise, statistics

FIELD = StorageConfig()
BOUND = 20.0
SHAPE = (1, 2, 16, 24)

any_flow = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.just(2), st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
    fill=st.floats(-50, 50, width=32),
)


def fixed(rounding: str, bound: float = BOUND) -> StorageConfig:
    return StorageConfig(range="fixed", bound=bound, rounding=rounding)


def restored(stored: Quantised) -> NDArray[np.float32]:
    return dequantise(stored.levels, stored.scale, stored.zero)


def through_jpeg(stored: Quantised) -> NDArray[np.float32]:
    payloads = [
        codecs.encode_field(levels, codecs.table_entry(90, scale))
        for levels, scale in zip(stored.levels, stored.scale, strict=True)
    ]
    levels = np.stack([codecs.decode_field(data, *stored.levels.shape[2:]) for data in payloads])
    return dequantise(levels, stored.scale, stored.zero)


def field(u: float | NDArray[np.floating], v: float | NDArray[np.floating] = 0.0) -> NDArray[np.float32]:
    flow = np.empty(SHAPE, np.float32)
    flow[0, 0], flow[0, 1] = u, v
    return flow


def between(low: float, high: float) -> NDArray[np.float32]:
    """Values that fill a plane evenly from ``low`` to ``high``, both included."""
    return np.linspace(low, high, SHAPE[2] * SHAPE[3], dtype=np.float32).reshape(SHAPE[2:])


def check_own_range(flow: NDArray[np.float32]) -> None:
    """The promises of ``--range field``, for every component of every field."""
    stored = quantise(flow, FIELD)
    assert stored.levels.dtype == np.uint8 and stored.levels.shape == flow.shape
    assert stored.scale.shape == stored.zero.shape == flow.shape[:2]
    assert np.isfinite(stored.scale).all() and (stored.scale >= 0).all()
    assert (stored.zero == np.rint(stored.zero)).all(), "the zero point is an integer"
    error = np.abs(restored(stored).astype(np.float64) - flow)
    # float32: v / scale is exact to 2**-23 of itself, (q - zero) scale to 2**-24
    slack = np.abs(flow).max(axis=(2, 3)) * 2.0**-22 + NEGLIGIBLE
    assert (error.max(axis=(2, 3)) <= stored.scale * (0.5 + 1e-4) + slack).all()
    spread = np.ptp(flow.astype(np.float64), axis=(2, 3))
    assert (stored.scale <= np.maximum(spread / 254, slack) * 1.001)[spread > 0].all(), "no level is wasted"
    near = (stored.zero >= 0) & (stored.zero <= 255)
    nothing = (flow == 0) & near[:, :, None, None]
    assert (restored(stored)[nothing] == 0).all(), "0 px decodes to 0 px"


@given(any_flow)
@settings(deadline=None)
def test_own_range_of_any_field(flow: NDArray[np.float32]) -> None:
    check_own_range(flow)


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-6, 4))
@settings(deadline=None)
def test_own_range_of_noise_at_any_size_and_offset(seed: int, spread: float, offset: float) -> None:
    """Fields as methods make them: noise of 10**spread px around 10**offset px."""
    random = np.random.default_rng(seed)
    check_own_range((random.normal(0, 10**spread, SHAPE) + 10**offset * random.choice([-1, 1])).astype(np.float32))


@pytest.mark.parametrize(
    "flow",
    [
        pytest.param(field(between(-3, 5), between(-0.1, 0.1)), id="usual"),
        pytest.param(field(between(1000, 1001), between(-1e6, -999_999)), id="huge offset: zero outside 0..255"),
        pytest.param(field(between(-1e-6, 1e-6), between(0, 1e-20)), id="tiny range"),
        pytest.param(field(between(1, 1 + 1e-6), between(7, 7.000001)), id="tiny range, far from zero"),
        pytest.param(field(np.eye(*SHAPE[2:]) * 1e-44, np.eye(*SHAPE[2:]) * -1e-44), id="denormal"),
        pytest.param(field(np.eye(*SHAPE[2:]) * 3e38, -3e38), id="largest floats"),
        pytest.param(field(np.where(between(0, 1) == 1, 500, between(-1, 1))), id="one outlier"),
        pytest.param(field(between(0, 20), between(-20, 0)), id="zero at the edge"),
    ],
)
def test_own_range_at_the_limits(flow: NDArray[np.float32]) -> None:
    check_own_range(flow)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -1.5, 1e-6, -1e-6, 20, -12345.678, 3e38, -3e38, 1e-29])
def test_a_constant_field_decodes_to_exactly_itself(value: float) -> None:
    flow = field(value, -value)
    assert (restored(quantise(flow, FIELD)) == flow).all()


def test_what_is_below_all_measure_is_zero() -> None:
    """1 / scale would overflow: values under 1e-30 px become 0 px, without a warning."""
    assert (restored(quantise(field(1e-42, between(-1e-35, 1e-38)), FIELD)) == 0).all()


def test_no_motion_decodes_to_exactly_zero_through_jpeg_too() -> None:
    assert (through_jpeg(quantise(field(0, 0), FIELD)) == 0).all()
    beside_motion = through_jpeg(quantise(field(0, between(-5, 5)), FIELD))
    assert (beside_motion[:, 0] == 0).all(), "whatever the other component does"


def test_own_ranges_of_fields_are_their_own() -> None:
    quiet, fast = field(between(-0.1, 0.1), between(0, 0.2)), field(between(-30, 30), between(0, 60))
    together = quantise(np.concatenate([quiet, fast]), FIELD)
    for i, each in enumerate((quiet, fast)):
        alone = quantise(each, FIELD)
        assert (together.levels[i] == alone.levels[0]).all()
        assert (together.scale[i] == alone.scale[0]).all() and (together.zero[i] == alone.zero[0]).all()


@given(any_flow)
@settings(deadline=None)
def test_stats_are_of_the_original(flow: NDArray[np.float32]) -> None:
    for config in (FIELD, fixed("exact")):
        stats = statistics(flow, quantise(flow, config).extremes)
        assert stats.dtype == np.float32 and stats.shape == (*flow.shape[:2], 3)
        assert (stats[..., 1] == flow.min(axis=(2, 3))).all() and (stats[..., 2] == flow.max(axis=(2, 3))).all()
        off = np.abs(stats[..., 0] - flow.mean(axis=(2, 3), dtype=np.float64))
        rounding = np.abs(stats[..., 0]) * 2.0**-24 + 2.0**-149  # to float32, and where that is denormal
        assert (off <= 1.001 * rounding + np.abs(flow).max(axis=(2, 3)) * 1e-12).all()


def test_the_mean_of_many_values_far_from_zero_is_exact() -> None:
    """Summed in float32 it would be off in the fourth digit."""
    flow = np.full((1, 2, 1024, 1024), 1000.0625, np.float32)
    flow[0, 1, ::2] = -999.9375
    assert statistics(flow, quantise(flow, FIELD).extremes)[0, :, 0].tolist() == [1000.0625, 0.0625]


@pytest.mark.parametrize("sign", [-1, 1])
@given(seed=st.integers(0, 2**32 - 1), offset=st.floats(2.0**12, 2.0**16))
@settings(deadline=None, max_examples=40)
def test_own_range_does_not_wrap_where_the_zero_is_far_away(sign: int, seed: int, offset: float) -> None:
    """Up to 2**22 levels from zero, float32 holds quarters of a level: rounding may not carry one beyond 0 or 255."""
    noise = np.random.default_rng(seed).random(SHAPE) * np.random.default_rng(seed).choice([0.25, 0.5, 1.0, 2.0])
    check_own_range((sign * (offset + noise)).astype(np.float32))


def test_no_fields_are_no_error() -> None:
    empty = quantise(np.empty((0, 2, 4, 4), np.float32), FIELD)
    assert restored(empty).shape == (0, 2, 4, 4)


# --- fixed ranges ---


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("exact", {0: 128, 1: 134, -1: 122, 20: 255, -20: 1, 25: 255, -25: 1, 3e38: 255, -3e38: 1}),
        ("round", {0: 128, 1: 134, -1: 121, 20: 255, -20: 0, 25: 255, -25: 0, 3e38: 255, -3e38: 0}),
        ("trunc", {0: 127, 1: 133, -1: 121, 20: 255, -20: 0, 25: 255, -25: 0, 3e38: 255, -3e38: 0}),
    ],
)
def test_fixed_ranges_give_the_levels_that_other_tools_give(rounding: str, expected: dict[float, int]) -> None:
    for value, level in expected.items():
        assert (quantise(field(value), fixed(rounding)).levels[0, 0] == level).all(), value


@pytest.mark.parametrize(
    ("rounding", "decode"),
    [
        ("exact", lambda q: (q - 128) * BOUND / 127),
        ("round", lambda q: q * 2 * BOUND / 255 - BOUND),  # as who reads denseflow's images decodes them
        ("trunc", lambda q: (q - 127) * 2 * BOUND / 255),
    ],
)
def test_fixed_ranges_decode_by_their_formula(rounding: str, decode: object) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 2, 8, 16)
    stored = quantise(np.zeros((1, 2, 8, 16), np.float32), fixed(rounding))
    assert callable(decode)
    expected = decode(levels.astype(np.float64))
    assert np.abs(dequantise(levels, stored.scale, stored.zero) - expected).max() < 1e-5


@pytest.mark.parametrize(("rounding", "most"), [("exact", 20 / 254), ("round", 20 / 255), ("trunc", 20 / 255)])
@given(
    flow=arrays(np.float32, SHAPE, elements=st.floats(-BOUND, BOUND, width=32), fill=st.floats(-20, 20, width=32)),
    outside=st.floats(BOUND, 1e6, width=32),
)
@settings(deadline=None, max_examples=40)
def test_fixed_ranges_err_by_half_a_level(
    rounding: str, most: float, flow: NDArray[np.float32], outside: float
) -> None:
    """0.0787 px for exact, 0.0784 px for the others at a bound of 20 px; beyond the bound they clip."""
    assert np.abs(restored(quantise(flow, fixed(rounding))) - flow).max() <= most + 1e-5
    clipped = restored(quantise(field(outside, -outside), fixed(rounding)))[0, :, 0, 0]
    assert np.abs(clipped - [BOUND, -BOUND]).max() <= 2 * most + 1e-5


@given(arrays(np.float32, SHAPE, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
@settings(deadline=None)
def test_exact_mirrors_without_bias(flow: NDArray[np.float32]) -> None:
    """A horizontal mirror negates u: its levels are exactly 256 - q."""
    there, back = quantise(flow, fixed("exact")), quantise(-flow, fixed("exact"))
    assert (back.levels == 256 - there.levels.astype(int)).all()
    assert (restored(back) == -restored(there)).all()


def test_exact_mirrors_where_float32_rounds_differently_above_and_below_the_zero() -> None:
    steps = np.arange(-3 * 2**17, 3 * 2**17, dtype=np.float64) * 2.0**-19  # around every half level up to 1.5
    flow = np.zeros((1, 2, 1024, 768), np.float32)
    flow[0, 0] = (steps * 20 / 127).reshape(1024, 768)
    there, back = quantise(flow, fixed("exact")), quantise(-flow, fixed("exact"))
    assert (back.levels == 256 - there.levels.astype(int)).all()


@pytest.mark.parametrize("bound", [0.01, 0.3, 7.7, 64.0, 1e5])
@pytest.mark.parametrize("rounding", ["exact", "round", "trunc"])
def test_the_ends_of_any_bound_do_not_wrap(rounding: str, bound: float) -> None:
    edge = np.float32(bound)
    ends = [np.nextafter(edge, np.float32(0)), edge, np.nextafter(edge, np.float32(np.inf))]
    for value in ends:
        levels = quantise(field(value, -value), fixed(rounding, bound)).levels
        assert (levels[0, 0] >= 254).all() and (levels[0, 1] <= 1).all()


# --- 16 bits, and 8 that are signed ---

HTJ2K = StorageConfig(codec="htj2k")
STEPS = StorageConfig(codec="blosc", step=0.0625)
SIGNED = StorageConfig(codec="blosc", bits=8, bound=BOUND)
FIXED = {"htj2k": HTJ2K, "blosc16": STEPS, "blosc8": SIGNED, "jpeg": fixed("exact")}


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        (HTJ2K, "uint16", {0: 32768, 1: 33280, -1: 32256, 0.001: 32769, 63: 65024, -63: 512, 64: 65024, -3e38: 512}),
        (STEPS, "int16", {0: 0, 1: 16, -1: -16, 0.04: 1, 2000: 32000, 2100: 32767, -2100: -32767, 3e38: 32767}),
        (SIGNED, "int8", {0: 0, 1: 6, -1: -6, 20: 127, -20: -127, 25: 127, -25: -127, 3e38: 127, -3e38: -127}),
    ],
    ids=["htj2k", "blosc16", "blosc8"],
)
def test_levels_of_the_other_codecs(config: StorageConfig, dtype: str, expected: dict[float, int]) -> None:
    for value, level in expected.items():
        levels = quantise(field(value), config).levels
        assert levels.dtype == dtype
        assert (levels[0, 0] == level).all(), value


@pytest.mark.parametrize(
    ("config", "bound", "scale", "zero"),
    [(HTJ2K, 63, 1 / 512, 32768), (STEPS, 2047, 0.0625, 0), (SIGNED, 20, 20 / 127, 0)],
    ids=["htj2k", "blosc16", "blosc8"],
)
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(-3, 3))
@settings(deadline=None, max_examples=40)
def test_they_err_by_half_a_level_within_their_bound(
    config: StorageConfig, bound: float, scale: float, zero: float, seed: int, size: float
) -> None:
    flow = np.random.default_rng(seed).normal(0, 10**size, SHAPE).clip(-bound, bound).astype(np.float32)
    stored = quantise(flow, config)
    assert (stored.scale == np.float32(scale)).all() and (stored.zero == zero).all()
    assert np.abs(restored(stored).astype(np.float64) - flow).max() <= scale * (0.5 + 1e-4) + bound * 2.0**-22
    assert (restored(stored)[flow == 0] == 0).all()


@pytest.mark.parametrize("name", FIXED)
@given(arrays(np.float32, SHAPE, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
@settings(deadline=None, max_examples=40)
def test_every_exact_zero_mirrors_without_bias(name: str, flow: NDArray[np.float32]) -> None:
    there, back = quantise(flow, FIXED[name]), quantise(-flow, FIXED[name])
    assert (back.levels.astype(int) == 2 * there.zero[0, 0] - there.levels.astype(int)).all()
    assert (restored(back) == -restored(there)).all()


# --- stacks ---


@pytest.mark.parametrize("config", [FIELD, *FIXED.values()], ids=["field", *FIXED])
def test_a_stack_of_one_field_is_that_field(config: StorageConfig) -> None:
    """And a stack of several with fixed levels is its fields, one behind the other."""
    flow = np.random.default_rng(0).normal(0, 3, (6, 2, 16, 24)).astype(np.float32)
    fields, stacks = quantise(flow, config), quantise(flow.reshape(2, 6, 16, 24), config)
    assert stacks.levels.shape == (2, 6, 16, 24) and stacks.scale.shape == stacks.zero.shape == (2, 2)
    assert stacks.extremes.shape == (2, 2, 2)
    assert np.abs(restored(stacks).reshape(flow.shape) - flow).max() <= stacks.scale.max() * 0.5001
    if config is not FIELD:
        assert (stacks.levels.reshape(flow.shape) == fields.levels).all()


def test_the_range_of_a_stack_is_of_all_its_u_and_of_all_its_v() -> None:
    flow = np.zeros((1, 6, 4, 4), np.float32)
    flow[0, 0::2] = np.array([-1, 2, 5], np.float32)[:, None, None]
    flow[0, 1::2] = np.array([10, 30, 20], np.float32)[:, None, None]
    stored = quantise(flow, FIELD)
    assert statistics(flow, stored.extremes)[0].tolist() == [[2, -1, 5], [20, 10, 30]]
    assert np.allclose(stored.scale[0], [6 / 254, 20 / 254])
    check = dequantise(stored.levels[:, :, ::2, ::2], stored.scale, stored.zero)  # of a part that is not contiguous
    assert np.abs(check - flow[:, :, ::2, ::2]).max() <= 10 / 254


# --- what is no flow ---


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("config", [FIELD, fixed("round"), fixed("trunc"), *FIXED.values()], ids=str)
def test_flow_that_is_not_finite_is_refused(value: float, config: StorageConfig) -> None:
    flow = field(between(-3, 5))
    flow[0, 1, 3, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        quantise(flow, config)
