"""From the fields of a :class:`~flowprep.stacks.reach.Reach` to a stack: of values in px, or of stored levels."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowprep.config import Stacking
from flowprep.errors import UsageError
from flowprep.stacks.reach import offsets, reach

Floats = NDArray[np.float32]
Levels = NDArray[np.integer[Any]]
LEVELS = (np.uint8, np.uint16, np.int8, np.int16)

T = TypeVar("T", bound=np.generic)


def stack_fields(
    stacking: Stacking,
    forward: Floats,
    backward: Floats | None,
    *,
    means: Floats | None = None,
    backward_means: Floats | None = None,
) -> Floats:
    """The stack of the fields of one Reach: (2L, H, W) float32 px, u1, v1, u2, v2, ...

    ``forward`` and ``backward`` are (n, 2, H, W) float32 px in the order of the Reach; ``backward`` is None for stacks
    of one direction. The ``means`` (n, 2) px of the same fields are subtracted where ``stacking.mean_subtract`` is set,
    of values that were read: trajectories follow the fields as they are. Raises UsageError where shapes, types or
    numbers of fields do not fit.
    """
    halves = _halves(stacking, forward, backward, (np.float32,))
    less = np.zeros(2 * stacking.length, np.float32)
    if stacking.mean_subtract:
        given = zip((means, backward_means), halves, strict=False)
        less = of_planes(stacking, *(_pairs("mean", array, len(half)) for array, half in given))
    out = np.empty((2 * stacking.length, *forward.shape[2:]), np.float32)
    for half, minus, to in zip(halves, np.split(less, len(halves)), np.split(out, len(halves)), strict=True):
        if stacking.kind == "trajectory":
            trajectories(half, stacking.temporal_stride, minus, to)
        else:
            np.subtract(half, minus.reshape(-1, 2, 1, 1), out=to.reshape(half.shape))
    return out


def gather_levels(
    stacking: Stacking,
    forward: Levels,
    scale: Floats,
    zero: Floats,
    backward: Levels | None,
    backward_scale: Floats | None,
    backward_zero: Floats | None,
    window: tuple[int, int, int, int],
    out: Levels,
) -> None:
    """The ``window`` (top, left, height, width) of a stack, as levels, into ``out`` (2L, height, width).

    ``forward`` and ``backward`` are levels (n, 2, H, W) in the order of a Reach, with their scale and zero (n, 2); one
    level stands for (level - zero) * scale px, with the scale and zero of the field that it was read in, for plane k
    those of ``of_planes(stacking, scale, ...)[k]``. A trajectory that leaves the window goes on in the frame; values
    between pixels are rounded to the nearest level. Raises UsageError where shapes, types or numbers of fields do not
    fit.
    """
    halves = _halves(stacking, forward, backward, LEVELS)
    top, left, height, width = window
    if not (0 <= top <= top + height <= forward.shape[2] and 0 <= left <= left + width <= forward.shape[3]):
        raise UsageError(
            f"window {window}: it must lie in the field of {forward.shape[2]} x {forward.shape[3]} pixels."
        )
    if out.shape != (2 * stacking.length, height, width) or out.dtype != forward.dtype or not out.flags.c_contiguous:
        raise UsageError(
            f"out is {out.dtype} {out.shape}: give a contiguous array, "
            f"{forward.dtype} {(2 * stacking.length, height, width)}."
        )
    parts = zip(halves, (scale, backward_scale), (zero, backward_zero), np.split(out, len(halves)), strict=False)
    for half, scales, zeros, to in parts:
        if stacking.kind == "trajectory":
            scales, zeros = _pairs("scale", scales, len(half)), _pairs("zero", zeros, len(half))
            trajectories_of_levels(half, scales, zeros, stacking.temporal_stride, (top, left), to)
        else:
            to.reshape(-1, 2, height, width)[...] = half[:, :, top : top + height, left : left + width]


def of_planes(stacking: Stacking, forward: Floats, backward: Floats | None = None) -> Floats:
    """Mean, scale or zero of the planes of a stack, (..., 2L), of those of the fields of its Reach, (..., n, 2)."""
    step = stacking.temporal_stride if stacking.kind == "trajectory" else 1  # the Reach has the fields between, too
    halves = [forward] if backward is None else [forward, backward]
    return np.concatenate([half[..., ::step, :].reshape(*half.shape[:-2], -1) for half in halves], axis=-1)


def stack_at(
    stacking: Stacking,
    frame: int,
    flow: Floats,
    backward: Floats | None = None,
    means: Floats | None = None,
    backward_means: Floats | None = None,
) -> Floats:
    """The stack at ``frame`` of a video whose fields, (N, 2, H, W) each, and means, (N, 2) each, are all at hand."""
    if backward is not None and backward.shape != flow.shape:
        raise UsageError(f"backward flow is {backward.shape}, forward flow {flow.shape}: they must be of one video.")
    if means is not None:
        _pairs("mean", means, len(flow))
    if backward_means is not None:
        if means is None:
            raise UsageError("backward_means without means: give both, or neither.")
        _pairs("mean", backward_means, len(flow))
    rows = reach(stacking, len(flow), frame)
    ahead = slice(rows.forward[0], rows.forward[-1] + 1, offsets(stacking)[0].step)  # a view, not a copy
    behind = list(rows.backward)
    return stack_fields(
        stacking,
        flow[ahead],
        None if backward is None else backward[behind],
        means=None if means is None else means[ahead],
        backward_means=None if backward_means is None else backward_means[behind],
    )


def trajectories(fields: Floats, stride: int, less: Floats, out: Floats) -> None:
    """Eq. 2 for one direction: ``fields`` (n, 2, H, W) in the order in which they are followed, into ``out``."""
    from flowprep.stacks.kernels import follow  # loads Numba

    follow(_lines(fields), fields.shape[3], stride, _constant(less), out)


def trajectories_of_levels(
    fields: Levels, scale: Floats, zero: Floats, stride: int, corner: tuple[int, int], out: Levels
) -> None:
    """The same for levels, from each pixel of a window that begins at ``corner`` (top, left)."""
    from flowprep.stacks.kernels import follow_levels

    follow_levels(_lines(fields), fields.shape[3], _constant(scale), _constant(zero), stride, *corner, out)


def _halves(
    stacking: Stacking, forward: NDArray[T], backward: NDArray[T] | None, types: tuple[type[np.generic], ...]
) -> list[NDArray[T]]:
    """The fields by direction, checked."""
    if (backward is not None) != stacking.bidirectional:
        raise UsageError("backward fields belong to bidirectional stacks: give both, or neither.")
    halves = [forward] if backward is None else [forward, backward]
    for half, needed in zip(halves, offsets(stacking), strict=False):
        if half.ndim != 4 or half.shape[:2] != (len(needed), 2) or half.shape[2:] != forward.shape[2:] or not half.size:
            raise UsageError(f"fields of shape {half.shape}: give ({len(needed)}, 2, height, width).")
        if half.dtype not in types or half.dtype != forward.dtype:
            raise UsageError(f"fields of type {half.dtype}: give {', '.join(kind.__name__ for kind in types)}.")
    return halves


def _pairs(name: str, array: Floats | None, count: int) -> Floats:
    """``array`` if it has a pair for each field."""
    if array is None or array.shape != (count, 2) or array.dtype != np.float32:
        found = "missing" if array is None else f"{array.dtype} {array.shape}"
        raise UsageError(f"{name} of the fields is {found}: give float32 {(count, 2)}, a pair for each.")
    return array


def _lines(fields: NDArray[T]) -> NDArray[T]:
    """(n, 2, H * W), of a single pixel two: the kernels read pairs."""
    lines = fields.reshape(*fields.shape[:2], -1)
    return _constant(lines if lines.shape[2] > 1 else np.repeat(lines, 2, axis=2))


def _constant(array: NDArray[T]) -> NDArray[T]:
    """A contiguous view that cannot be written to: the kernels are compiled for such arrays, and only once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
