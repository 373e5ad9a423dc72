"""Flow in pixels to integers in [0, 255], and back.

Every convention stores, for each component of each field, a ``scale`` and a ``zero`` with

    v = (q - zero) * scale        v in px, q in [0, 255]

so one formula reads all of them.

=============  ==========================  ======================  ==================================================
range          scale                       zero                    notes
=============  ==========================  ======================  ==================================================
field          (max v - min v) / 254       an integer              the two-stream paper's own range of each field
fixed, exact   bound / 127                 128                     symmetric: a mirrored field is 256 - q, without bias
fixed, round   2 bound / 255               127.5                   denseflow, dense_flow: q = rint(255 (v + b) / 2b)
fixed, trunc   2 bound / 255               127                     flowty, mmaction2: q = floor(255 (v + b) / 2b)
=============  ==========================  ======================  ==================================================

``field`` divides by 254, not 255: the integer zero point shifts the range by up to half a level, and nothing may clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.config import StorageConfig

LARGEST_ZERO = 2.0**22  # (q - zero) stays exact in float32
NEGLIGIBLE = 1e-30  # px: a component below this everywhere is stored as zero; 1 / scale must not overflow


@dataclass(frozen=True)
class Quantised:
    """Fields as integers, with what inverts them and what they were."""

    levels: NDArray[np.uint8]  # (N, 2, H, W)
    scale: NDArray[np.float32]  # (N, 2) px per level
    zero: NDArray[np.float32]  # (N, 2) level that stands for 0 px; may lie outside [0, 255]
    stats: NDArray[np.float32]  # (N, 2, 3) mean, minimum, maximum of the original in px


def quantise(flow: NDArray[np.float32], config: StorageConfig) -> Quantised:
    """``flow`` (N, 2, H, W) px to levels. Fixed ranges clip at ``config.bound``; a field's own range clips nothing.

    Raises ValueError for flow that is not finite: no level stands for it.
    """
    stats = _statistics(flow)
    if not np.isfinite(stats).all():  # whatever is not finite shows in the minimum or the maximum
        raise ValueError("the computed flow holds values that are not finite")
    kind = "field" if config.range == "field" else config.rounding
    if kind == "field":
        scale, zero = _field_range(stats[:, :, 1], stats[:, :, 2])
    else:
        scale, zero = _fixed_range(len(flow), config.bound, kind)
    with np.errstate(over="ignore"):  # beyond float32 is beyond every bound: clipped below
        levels = flow * _inverse(scale)[:, :, None, None]
    if kind == "round":
        np.rint(np.add(levels, np.float32(127.5), out=levels), out=levels)
    elif kind == "trunc":
        np.floor(np.add(levels, np.float32(127.5), out=levels), out=levels)
    else:  # an integer zero is added after rounding, so that v and -v stay exact mirrors of each other
        np.add(np.rint(levels, out=levels), zero[:, :, None, None], out=levels)
    if kind != "field":  # whose levels lie in [0, 255] by its scale and zero
        np.clip(levels, 1 if kind == "exact" else 0, 255, out=levels)  # exact: the mirror of 255 is 1
    return Quantised(levels.astype(np.uint8), scale, zero, stats)


def dequantise(levels: NDArray[np.uint8], scale: NDArray[np.float32], zero: NDArray[np.float32]) -> NDArray[np.float32]:
    """Levels (N, 2, H, W) with their (N, 2) scale and zero back to px, float32."""
    values = levels.astype(np.float32)
    values -= zero[:, :, None, None]
    values *= scale[:, :, None, None]
    return values


def _statistics(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean (summed in float64), minimum and maximum of each component: (N, 2, 3) px."""
    cv2 = opencv.load()  # its sum takes a quarter of NumPy's time; its mean may be summed in float32
    stats = np.empty((*flow.shape[:2], 3), np.float32)
    for field, row in zip(flow, stats, strict=True):
        row[:, 0] = [cv2.sumElems(plane)[0] / plane.size for plane in field]
    flow.min(axis=(2, 3), out=stats[:, :, 1])
    flow.max(axis=(2, 3), out=stats[:, :, 2])
    return stats


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


def _fixed_range(count: int, bound: float, rounding: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    scale, zero = {
        "exact": (bound / 127, 128.0),
        "round": (2 * bound / 255, 127.5),
        "trunc": (2 * bound / 255, 127.0),
    }[rounding]
    return np.full((count, 2), scale, np.float32), np.full((count, 2), zero, np.float32)


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale, and 0 where the scale is 0."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
