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
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.config import StorageConfig

LARGEST_ZERO = 2.0**22  # (q - zero) stays exact in float32
NEGLIGIBLE = 1e-30  # px: a component below this everywhere is stored as zero; 1 / scale must not overflow


@dataclass(frozen=True)
class Quantised:
    """Fields (L = 1) or stacks of L fields as integers, with what inverts them."""

    levels: NDArray[Any]  # (N, 2L, H, W) uint8 (jpeg), uint16 (htj2k), int8 or int16 (blosc)
    scale: NDArray[np.float32]  # (N, 2) px per level of all u and all v
    zero: NDArray[np.float32]  # (N, 2) level that stands for 0 px; may be one that no level reaches
    extremes: NDArray[np.float32]  # (N, 2, 2) minimum and maximum of the original in px


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
    fields = _by_component(flow)
    extremes = np.stack([fields.min(axis=(1, 3, 4)), fields.max(axis=(1, 3, 4))], axis=-1)
    if not np.isfinite(extremes).all():
        raise ValueError("the computed flow holds values that are not finite")
    fixed = _fixed_range(config)
    if fixed:
        scale = np.full((len(flow), 2), fixed.scale, np.float32)
        zero = np.full((len(flow), 2), fixed.zero, np.float32)
    else:
        scale, zero = _field_range(extremes[:, :, 0], extremes[:, :, 1])
    levels = np.empty(fields.shape, fixed.dtype if fixed else "uint8")
    inverse = _inverse(scale)
    work = np.empty(flow.shape[2:], np.float32)  # one plane at a time, which stays in the processor's cache
    with np.errstate(over="ignore"):  # beyond float32 is beyond every bound: clipped below
        for n, k, c in np.ndindex(fields.shape[:3]):
            np.multiply(fields[n, k, c], inverse[n, c], out=work)
            if fixed and config.rounding == "round":
                np.rint(np.add(work, np.float32(127.5), out=work), out=work)
            elif fixed and config.rounding == "trunc":
                np.floor(np.add(work, np.float32(127.5), out=work), out=work)
            else:  # an integer zero is added after rounding, so that v and -v stay exact mirrors of each other
                np.add(np.rint(work, out=work), zero[n, c], out=work)
            if fixed:  # the levels of a field's own range lie in [0, 255] by its scale and zero
                np.clip(work, fixed.lowest, fixed.highest, out=work)
            levels[n, k, c] = work
    return Quantised(levels.reshape(flow.shape), scale, zero, extremes)


def dequantise(levels: NDArray[Any], scale: NDArray[np.float32], zero: NDArray[np.float32]) -> NDArray[np.float32]:
    """Levels (N, 2L, H, W) with their (N, 2) scale and zero back to px, float32."""
    values = np.empty(levels.shape, np.float32)
    for n, c in np.ndindex(levels.shape[:2]):  # plane by plane, each in the processor's cache
        plane = values[n, c]
        plane[:] = levels[n, c]
        plane -= zero[n, c % 2]
        plane *= scale[n, c % 2]
    return values


def statistics(flow: NDArray[np.float32], extremes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean (summed in float64), minimum and maximum of u and v of ``flow`` (N, 2L, H, W): (N, 2, 3) px."""
    cv2 = opencv.load()  # its sum takes a quarter of NumPy's time; its mean may be summed in float32
    stats = np.empty((len(flow), 2, 3), np.float32)
    stats[:, :, 1:] = extremes
    for stack, row in zip(_by_component(flow), stats, strict=True):
        for component in range(2):
            planes = stack[:, component]
            row[component, 0] = sum(cv2.sumElems(plane)[0] for plane in planes) / planes.size
    return stats


def _by_component(stacks: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 2L, H, W) as (N, L, 2, H, W)."""
    count, channels, height, width = stacks.shape
    return stacks.reshape(count, channels // 2, 2, height, width)


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
