"""Flow in pixels to integers, and back.

Every convention stores, for u and for v of each field or stack, a ``scale`` and a ``zero`` with

    v = (q - zero) * scale        v in px, q the level

so one formula reads all of them.

======  ============  =====================  ==========  ===============  =============================================
codec   range         scale, px per level    zero        levels           notes
======  ============  =====================  ==========  ===============  =============================================
jpeg    field         (max v - min v) / 254  an integer  0 .. 255         the two-stream paper's: each field's own range
jpeg    fixed, exact  bound / 127            128         1 .. 255         symmetric: a mirrored field is 256 - q
jpeg    fixed, round  2 bound / 255          127.5       0 .. 255         denseflow: q = rint(255 (v + b) / 2b)
jpeg    fixed, trunc  2 bound / 255          127         0 .. 255         mmaction2: q = floor(255 (v + b) / 2b)
htj2k                 1 / 512                32768       512 .. 65024     +-63 px: what overshoots must not wrap
blosc   8 bits        bound / 127            0           -127 .. 127      symmetric
blosc   16 bits       step                   0           -32767 .. 32767  symmetric
======  ============  =====================  ==========  ===============  =============================================

``field`` divides by 254, not 255: the integer zero point shifts the range by up to half a level, and nothing may clip.

Px become levels by machine code (kernels.py). Levels become px by NumPy: a kernel would be quicker by a tenth of what
reading a field takes, but who reads a few would first wait for Numba.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.config import StorageConfig
from flowprep.errors import RefusedError
from flowprep.flow.batch import Coding

LARGEST_ZERO = 2.0**22  # (q - zero) stays exact in float32
NOT_FINITE = "the computed flow holds values that are not finite"
NEGLIGIBLE = 1e-30  # px: a component below this everywhere is stored as zero; 1 / scale must not overflow


@dataclass(frozen=True)
class Quantised:
    """Fields (L = 1) or stacks of L fields as integers, with what inverts them."""

    levels: NDArray[Any]  # (N, 2L, H, W) uint8 (jpeg), uint16 (htj2k), int8 or int16 (blosc)
    scale: NDArray[np.float32]  # (N, 2) px per level of all u and all v
    zero: NDArray[np.float32]  # (N, 2) level that stands for 0 px; may be one that no level reaches
    extremes: NDArray[np.float32]  # (N, 2, 2) minimum and maximum of the original in px


class Scaling(NamedTuple):
    """How fields become levels, and what inverts that."""

    coding: Coding
    scale: NDArray[np.float32]  # as Quantised has them
    zero: NDArray[np.float32]


class FixedRange(NamedTuple):
    """Levels that mean the same in every field."""

    dtype: str
    scale: float  # px per level
    zero: float
    lowest: int
    highest: int


def quantise(flow: NDArray[np.float32], config: StorageConfig) -> Quantised:
    """``flow`` (N, 2L, H, W) px, channels u1, v1, u2, v2, ..., to levels.

    Fixed ranges clip; a field's own range clips nothing.
    Raises ValueError for flow that is not finite: no level stands for it.
    """
    extremes = extremes_of(flow)
    if not np.isfinite(extremes).all():
        raise ValueError(NOT_FINITE)
    found = scaling(extremes, config)
    return Quantised(levels_of(flow, found.coding), found.scale, found.zero, extremes)


def scaling(extremes: NDArray[np.float32], config: StorageConfig) -> Scaling:
    """How fields with these ``extremes`` (N, 2, 2), finite, become levels."""
    fixed = _fixed_range(config)
    if fixed:
        scale = np.full((len(extremes), 2), fixed.scale, np.float32)
        zero = np.full((len(extremes), 2), fixed.zero, np.float32)
    else:
        scale, zero = _field_range(extremes[:, :, 0], extremes[:, :, 1])
    if fixed and config.rounding != "exact":
        before, after = 127.5, np.zeros_like(zero)
    else:  # an integer zero is added after rounding, so that v and -v stay exact mirrors of each other
        before, after = 0.0, zero
    coding = Coding(
        inverse=_inverse(scale),
        before=np.float32(before),
        after=after,
        down=fixed is not None and config.rounding == "trunc",
        lowest=np.float32(fixed.lowest if fixed else 0),  # a field's own range lies in [0, 255] by its scale and zero
        highest=np.float32(fixed.highest if fixed else 255),
        dtype=level_type(config),
    )
    return Scaling(coding, scale, zero)


def level_type(config: StorageConfig) -> str:
    """The dtype of levels."""
    fixed = _fixed_range(config)
    return fixed.dtype if fixed else "uint8"


def extremes_of(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Minimum and maximum of u and v of ``flow`` (N, 2L, H, W): (N, 2, 2) px; NaN where there is one."""
    fields = _by_component(flow)
    return np.stack([fields.min(axis=(1, 3, 4)), fields.max(axis=(1, 3, 4))], axis=-1)


def levels_of(flow: NDArray[np.float32], coding: Coding) -> NDArray[Any]:
    """``flow`` (N, 2L, H, W) px as levels."""
    from flowprep.quantise.kernels import to_levels  # loads Numba

    levels = np.empty(flow.shape, coding.dtype)
    planes = (*flow.shape[:2], flow.shape[2] * flow.shape[3])
    to_levels(
        _constant(flow).reshape(planes),
        _constant(coding.inverse),
        coding.before,
        _constant(coding.after),
        coding.down,
        coding.lowest,
        coding.highest,
        levels.reshape(planes),
    )
    return levels


def dequantise(levels: NDArray[Any], scale: NDArray[np.float32], zero: NDArray[np.float32]) -> NDArray[np.float32]:
    """Levels (N, 2L, H, W) with their (N, 2) scale and zero back to px, float32."""
    values = np.empty(levels.shape, np.float32)
    for n, c in np.ndindex(levels.shape[:2]):  # plane by plane, each in the processor's cache
        plane = values[n, c]
        plane[:] = levels[n, c]
        plane -= zero[n, c % 2]
        plane *= scale[n, c % 2]
    return values


def warm(say: Callable[[str], None] | None = None) -> None:
    """Have the kernels compiled, once for this machine; ``say`` hears of it when it takes time.

    Raises RefusedError where there is no compiler.
    """
    try:
        from flowprep.quantise import kernels
    except ImportError as error:
        raise RefusedError(
            f"Numba cannot be loaded: {error}. Install one that fits: pip install --upgrade numba."
        ) from error
    kernels.warm(say)


def statistics(flow: NDArray[np.float32], extremes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean (summed in float64), minimum and maximum of u and v of ``flow`` (N, 2L, H, W): (N, 2, 3) px."""
    return np.concatenate([means_of(flow)[:, :, None], extremes], axis=2)


def means_of(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of u and v of ``flow`` (N, 2L, H, W), summed in float64: (N, 2) px."""
    cv2 = opencv.load()  # its sum takes a quarter of NumPy's time; its mean may be summed in float32
    means = np.empty((len(flow), 2), np.float32)
    for stack, row in zip(_by_component(flow), means, strict=True):
        for component in range(2):
            planes = stack[:, component]
            row[component] = sum(cv2.sumElems(plane)[0] for plane in planes) / planes.size
    return means


def _by_component(stacks: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 2L, H, W) as (N, L, 2, H, W)."""
    count, channels, height, width = stacks.shape
    return stacks.reshape(count, channels // 2, 2, height, width)


def _constant(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A contiguous view that cannot be written to: the kernel is compiled for such arrays, and only once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _field_range(
    low: NDArray[np.float32], high: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and integer zero point of each component's range. A constant field decodes to exactly itself."""
    largest = np.maximum(-low, high).astype(np.float64)
    spread = high.astype(np.float64) - low
    scale = np.where(spread > 0, np.maximum(spread / 254, largest / LARGEST_ZERO), np.abs(low))
    scale = np.where(largest > NEGLIGIBLE, scale, 0).astype(np.float32)  # 0: decodes to 0, whatever JPEG does
    # Rounded as the levels are, so that ``low`` gets level 0; a constant is 0 or 1 levels above its zero.
    zero = np.where(spread > 0, 0 - np.rint(low * _inverse(scale)), low < 0)
    return scale, zero.astype(np.float32)


def _fixed_range(config: StorageConfig) -> FixedRange | None:
    """What the levels mean, or None where each field says so itself."""
    bound = config.bound
    if config.codec == "htj2k":
        return FixedRange("uint16", 1 / 512, 32768, 512, 65024)
    if config.codec == "blosc":
        eight, sixteen = (
            FixedRange("int8", bound / 127, 0, -127, 127),
            FixedRange("int16", config.step, 0, -32767, 32767),
        )
        return eight if config.bits == 8 else sixteen
    if config.range == "field":
        return None
    return {
        "exact": FixedRange("uint8", bound / 127, 128, 1, 255),  # the mirror of 255 is 1
        "round": FixedRange("uint8", 2 * bound / 255, 127.5, 0, 255),
        "trunc": FixedRange("uint8", 2 * bound / 255, 127, 0, 255),
    }[config.rounding]


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale, and 0 where the scale is 0."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
