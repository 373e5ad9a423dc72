"""Eq. 1 and eq. 2 as the paper writes them, symbol by symbol: slow, to test what is fast.

Simonyan and Zisserman (2014), section 3. ``d`` is flow (N, 2, h, w), ``tau`` the first field, ``L`` the number of
fields; k counts from 1 as in the paper, everything else from 0. All is computed in the precision of ``d``: in float64
close to exact, in float32 operation by operation what the kernels do.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Flow = NDArray[np.floating[Any]]


def optical_flow_stack(d: Flow, tau: int, L: int, *, stride: int = 1, mean_subtract: bool = False) -> Flow:
    """Eq. 1: (2L, h, w)."""
    h, w = d.shape[2:]
    stack = np.empty((2 * L, h, w), d.dtype)
    mean = means(d) if mean_subtract else np.zeros(d.shape[:2], d.dtype)
    for y in range(h):
        for x in range(w):
            for k in range(1, L + 1):
                i = tau + (k - 1) * stride
                stack[2 * k - 2, y, x] = d[i, 0, y, x] - mean[i, 0]
                stack[2 * k - 1, y, x] = d[i, 1, y, x] - mean[i, 1]
    return stack


def trajectory_stack(d: Flow, tau: int, L: int, *, stride: int = 1, mean_subtract: bool = False) -> Flow:
    """Eq. 2: (2L, h, w). Bilinear; points stay in the frame."""
    h, w = d.shape[2:]
    stack = np.empty((2 * L, h, w), d.dtype)
    mean = means(d) if mean_subtract else np.zeros(d.shape[:2], d.dtype)
    for y in range(h):
        for x in range(w):
            p = (d.dtype.type(x), d.dtype.type(y))
            for j in range((L - 1) * stride + 1):  # every field, of which every stride-th is the paper's next k
                u, v = bilinear(d[tau + j, 0], *p), bilinear(d[tau + j, 1], *p)
                if j % stride == 0:
                    k = j // stride + 1
                    stack[2 * k - 2, y, x] = u - mean[tau + j, 0]
                    stack[2 * k - 1, y, x] = v - mean[tau + j, 1]
                p = (clamped(p[0] + u, w), clamped(p[1] + v, h))
    return stack


def bidirectional(forward: Flow, backward: Flow, t: int, L: int, stack: Callable[..., Flow], **options: Any) -> Flow:
    """L/2 forward fields from frame t on, then L/2 backward fields from there outwards: (2L, h, w).

    ``stack`` is one of the two above. Turned round, the backward fields t-1, t-2, ... begin at row N - t and rise.
    """
    outwards = backward[::-1]
    return np.concatenate([stack(forward, t, L // 2, **options), stack(outwards, len(backward) - t, L // 2, **options)])


def means(d: Flow) -> Flow:
    """(N, 2)."""
    return np.array([[component.mean(dtype=np.float64) for component in field] for field in d], d.dtype)


def bilinear(plane: Flow, x: Any, y: Any) -> Any:
    """``plane`` (h, w) at a point in it."""
    x0, y0 = floor(x), floor(y)
    x1, y1 = min(x0 + 1, plane.shape[1] - 1), min(y0 + 1, plane.shape[0] - 1)
    upper = plane[y0, x0] + (x - x0) * (plane[y0, x1] - plane[y0, x0])
    lower = plane[y1, x0] + (x - x0) * (plane[y1, x1] - plane[y1, x0])
    return upper + (y - y0) * (lower - upper)


def clamped(position: Any, size: int) -> Any:
    """The nearest of [0, size - 1]."""
    return position.dtype.type(min(max(position, 0), size - 1))
