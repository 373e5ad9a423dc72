"""How far an optical-flow field is from the truth: end-point error and angular error.

Both are defined in S. Baker, D. Scharstein, J. P. Lewis, S. Roth, M. J. Black and R. Szeliski, "A Database and
Evaluation Methodology for Optical Flow", IJCV 92 (2011), section 4.1; the angular error goes back to J. L. Barron,
D. J. Fleet and S. S. Beauchemin, "Performance of Optical Flow Techniques", IJCV 12 (1994).

A pixel of the truth is unknown where u or v is NaN or larger than 1e9 in magnitude (the Middlebury convention);
unknown pixels count nowhere. A NaN in the *estimate* is not forgiven: it makes the mean NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNKNOWN_ABOVE = 1e9  # px


def known(flow: NDArray[np.float32]) -> NDArray[np.bool_]:
    """True where both components are known: ``(..., 2, H, W)`` px -> ``(..., H, W)`` bool."""
    small = np.abs(flow) <= UNKNOWN_ABOVE  # NaN compares false
    return small[..., 0, :, :] & small[..., 1, :, :]


def end_point_error(flow: ArrayLike, truth: ArrayLike) -> NDArray[np.float32]:
    """Length of the difference of the two vectors, in px.

    ``flow`` and ``truth`` are both ``(2, H, W)`` or both ``(N, 2, H, W)``, in px; the result is ``(..., H, W)``
    float32, NaN where the truth is unknown. Raises ValueError, naming both shapes, where they differ.
    """
    return _map(_end_point_error, *_fields(flow, truth))


def angular_error(flow: ArrayLike, truth: ArrayLike) -> NDArray[np.float32]:
    """Angle between the vectors (u, v, 1) in space and time, in degrees, 0 to 180.

    Shapes, unknown pixels and errors as in ``end_point_error``.
    """
    return _map(_angular_error, *_fields(flow, truth))


def mean_epe(flow: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Mean end-point error in px over the pixels that are known in ``truth`` and true in ``valid``.

    ``valid`` is ``(..., H, W)``, like the result of ``end_point_error``. Raises ValueError where shapes differ or
    not one pixel is left.
    """
    return _mean(_end_point_error, *_fields(flow, truth), valid)


def mean_aae(flow: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Mean angular error in degrees; everything else as in ``mean_epe``."""
    return _mean(_angular_error, *_fields(flow, truth), valid)


_Field = NDArray[np.float32]
_Error = Callable[[_Field, _Field], _Field]  # (2, H, W), (2, H, W) -> (H, W)


def _end_point_error(flow: _Field, truth: _Field) -> _Field:
    error: _Field = flow[0] - truth[0]
    error *= error
    dv = flow[1] - truth[1]
    dv *= dv
    error += dv
    return np.sqrt(error, out=error)


def _angular_error(flow: _Field, truth: _Field) -> _Field:
    # atan2(|a x b|, a.b) stays exact for small angles, where arccos in float32 is 0.03 degrees off.
    (u, v), (tu, tv) = flow, truth
    du, dv = u - tu, v - tv
    dot: _Field = u * tu
    dot += v * tv
    dot += 1
    cross = u * dv  # the third component, u tv - v tu, written with differences so that it does not cancel
    cross -= v * du
    cross *= cross
    cross += np.square(du, out=du)
    cross += np.square(dv, out=dv)
    np.arctan2(np.sqrt(cross, out=cross), dot, out=dot)
    return np.degrees(dot, out=dot)


def _fields(flow: ArrayLike, truth: ArrayLike) -> tuple[_Field, _Field]:
    estimate, reference = np.asarray(flow, np.float32), np.asarray(truth, np.float32)
    if estimate.shape != reference.shape:
        raise ValueError(f"the flow has shape {estimate.shape}, its truth {reference.shape}: they must be equal")
    if estimate.ndim not in (3, 4) or estimate.shape[-3] != 2:
        raise ValueError(f"expected flow of shape (2, H, W) or (N, 2, H, W), not {estimate.shape}")
    return estimate, reference


def _map(error: _Error, flow: _Field, truth: _Field) -> _Field:
    if flow.ndim == 4:
        result = np.empty((len(flow), *flow.shape[2:]), np.float32)
        for i in range(len(flow)):
            result[i] = _map(error, flow[i], truth[i])
        return result
    with np.errstate(invalid="ignore", over="ignore"):  # unknown pixels may hold anything, infinity included
        result = error(flow, truth)
    result[~known(truth)] = np.nan
    return result


def _mean(error: _Error, flow: _Field, truth: _Field, valid: ArrayLike | None) -> float:
    shape = (*flow.shape[:-3], *flow.shape[-2:])
    mask = None if valid is None else np.asarray(valid, bool)
    if mask is not None and mask.shape != shape:
        raise ValueError(f"the valid mask has shape {mask.shape}, the flow {flow.shape}: expected a mask {shape}")
    if flow.ndim == 3:
        flow, truth, mask = flow[None], truth[None], None if mask is None else mask[None]

    total, count = 0.0, 0
    for i in range(len(flow)):  # one field at a time: a long clip needs no more memory than one field
        counted = known(truth[i]) if mask is None else known(truth[i]) & mask[i]
        with np.errstate(invalid="ignore", over="ignore"):
            total += float(error(flow[i], truth[i]).sum(where=counted, dtype=np.float64))
        count += int(np.count_nonzero(counted))
    if count == 0:
        raise ValueError("not one pixel with a known truth: there is no mean error")
    return total / count
