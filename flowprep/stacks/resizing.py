"""Planes of flow, in px or as levels, at another size. Their values stay: motion grows with the size elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv


def resize(plane: NDArray[Any], out: NDArray[Any]) -> None:
    """``plane`` (H, W) at the size of ``out`` (h, w): float32, or integers of 8 or 16 bits, rounded to the nearest.

    Bilinear; area average where an axis shrinks to less than half, of which bilinear sampling would leave values out.
    """
    if out.shape == plane.shape:
        out[:] = plane
        return
    cv2 = opencv.load()
    if plane.dtype == np.int8:  # which OpenCV does not resize
        plane = plane.astype(np.int16)
    rows, columns = (2 * new < old for new, old in zip(out.shape, plane.shape, strict=True))
    if rows != columns:  # one after the other: OpenCV averages only where no axis grows
        between = (out.shape[0], plane.shape[1]) if rows else (plane.shape[0], out.shape[1])
        plane = cv2.resize(plane, between[::-1], interpolation=cv2.INTER_AREA)
    method = cv2.INTER_AREA if rows and columns else cv2.INTER_LINEAR
    if out.dtype == plane.dtype:
        cv2.resize(plane, out.shape[::-1], out, interpolation=method)
    else:
        out[:] = cv2.resize(plane, out.shape[::-1], interpolation=method)
