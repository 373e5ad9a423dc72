"""Following motion through fields, as machine code: eq. 2 of the two-stream paper.

One line of start points at a time: positions stay in the first cache, and the lines of the fields that they need are
near each other, as flow is small. One kernel gives values in px, the other levels: they share all but what they write.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowprep.flow.cpu.compiling import ensure_compiled, inline, kernel
from flowprep.flow.cpu.pairs import copy_pair


@inline
def sample(field, width, x, y, at, corners, u, v):
    """Bilinear values of ``field`` (2, H * W) at the positions ``x``, ``y``, which lie inside it, into ``u`` and ``v``.

    ``at`` (2, n) and ``corners`` (4, 2 n) are scratch: apart from the reading, the compiler makes vectors of the rest.
    A pixel and its right neighbour are read at once, u and v, above and below:

        corners    0: u above    1: u below    2: v above    3: v below    (left, right) of one position after the other
        at         0: above      1: below

    A position on a pixel gives exactly its value. In the last column the neighbour is another line's, which then counts
    nothing; at the very end of the field there is none, and the pair begins one earlier.
    """
    plane_u, plane_v = field[0], field[1]
    columns, bottom = np.int32(width), np.int32(len(plane_u) // width - 1)
    last = np.int32(len(plane_u) - 2)
    for i in range(len(x)):
        x0, y0 = np.int32(x[i]), np.int32(y[i])
        here = y0 * columns + x0
        below = here + (columns if y0 < bottom else np.int32(0))
        at[0, i], at[1, i] = here if here < last else last, below if below < last else last
    for i in range(len(x)):
        above, below = np.intp(at[0, i]), np.intp(at[1, i])
        copy_pair(plane_u, above, corners[0], 2 * i)
        copy_pair(plane_u, below, corners[1], 2 * i)
        copy_pair(plane_v, above, corners[2], 2 * i)
        copy_pair(plane_v, below, corners[3], 2 * i)
    for i in range(len(x)):
        x0, y0 = np.int32(x[i]), np.int32(y[i])
        along, down = x[i] - np.float32(x0), y[i] - np.float32(y0)
        here = y0 * columns + x0
        below = here + (columns if y0 < bottom else np.int32(0))
        upper = between(left(corners[0], i, here > last), corners[0, 2 * i + 1], along)
        lower = between(left(corners[1], i, below > last), corners[1, 2 * i + 1], along)
        u[i] = between(upper, lower, down)
        upper = between(left(corners[2], i, here > last), corners[2, 2 * i + 1], along)
        lower = between(left(corners[3], i, below > last), corners[3, 2 * i + 1], along)
        v[i] = between(upper, lower, down)


@inline
def left(pairs, i, at_end):
    """The left pixel of pair ``i``; the right one of the pair that begins one earlier."""
    first, second = pairs[2 * i], pairs[2 * i + 1]
    return second if at_end else first


@inline
def between(a, b, share):
    return np.float32(a) + share * (np.float32(b) - np.float32(a))


@inline
def scratch(n, fields):
    """Room for a line of n positions, the values there, and what :func:`sample` needs."""
    line = np.empty((4, n), np.float32)
    return line[0], line[1], line[2], line[3], np.empty((2, n), np.int32), np.empty((4, 2 * n), fields.dtype)


@inline
def inside(position, largest):
    """The nearest of [0, largest]; 0 for a number that is none, which must not become an index."""
    position = position if position > np.float32(0) else np.float32(0)
    return position if position < largest else largest


@kernel
def follow(fields, width, stride, means, out):
    """Values at every ``stride``-th field of the trajectories that start at every pixel, less ``means``.

    fields (n, 2, H * W) and means (2 K) float32, out (2 K, H, W) float32 with K = (n - 1) // stride + 1.
    """
    x, y, u, v, at, corners = scratch(width, fields)
    right, bottom = np.float32(width - 1), np.float32(out.shape[1] - 1)
    for row in range(out.shape[1]):
        for i in range(width):
            x[i], y[i] = i, row
        for k in range(len(fields)):
            if k == 0:  # on the pixels themselves
                u[:], v[:] = (
                    fields[0, 0, row * width : (row + 1) * width],
                    fields[0, 1, row * width : (row + 1) * width],
                )
            else:
                sample(fields[k], width, x, y, at, corners, u, v)
            if k % stride == 0:
                plane = 2 * (k // stride)
                to_u, to_v = out[plane, row], out[plane + 1, row]
                mean_u, mean_v = means[plane], means[plane + 1]
                for i in range(width):
                    to_u[i] = u[i] - mean_u
                    to_v[i] = v[i] - mean_v
            for i in range(width):
                x[i] = inside(x[i] + u[i], right)
                y[i] = inside(y[i] + v[i], bottom)


@kernel
def follow_levels(fields, width, scale, zero, stride, top, left, out):
    """Levels at every ``stride``-th field of the trajectories that start at every pixel of a window.

    fields (n, 2, H * W) and out (2 K, h, w) of the same integers; scale and zero (n, 2) float32.
    """
    x, y, u, v, at, corners = scratch(out.shape[2], fields)
    right, bottom = np.float32(width - 1), np.float32(fields.shape[2] // width - 1)
    for row in range(out.shape[1]):
        for i in range(len(x)):
            x[i], y[i] = left + i, top + row
        for k in range(len(fields)):
            sample(fields[k], width, x, y, at, corners, u, v)
            if k % stride == 0:
                to_u, to_v = out[2 * (k // stride), row], out[2 * (k // stride) + 1, row]
                for i in range(len(x)):
                    to_u[i] = np.int32(np.rint(u[i]))
                    to_v[i] = np.int32(np.rint(v[i]))
            scale_u, scale_v, zero_u, zero_v = scale[k, 0], scale[k, 1], zero[k, 0], zero[k, 1]
            for i in range(len(x)):
                x[i] = inside(x[i] + (u[i] - zero_u) * scale_u, right)
                y[i] = inside(y[i] + (v[i] - zero_v) * scale_v, bottom)


def warm(say: Callable[[str], None] | None = None) -> None:
    """Have the kernels for all types compiled, once for this machine; ``say`` hears of it when it takes time."""

    def run() -> None:
        from flowprep.stacks.assemble import LEVELS, trajectories, trajectories_of_levels

        fields, numbers = np.zeros((1, 2, 2, 2)), np.zeros((1, 2), np.float32)
        trajectories(fields.astype(np.float32), 1, numbers.ravel(), np.empty((2, 2, 2), np.float32))
        for dtype in LEVELS:
            trajectories_of_levels(fields.astype(dtype), numbers, numbers, 1, (0, 0), np.empty((2, 2, 2), dtype))

    ensure_compiled("stacks", run, say)
