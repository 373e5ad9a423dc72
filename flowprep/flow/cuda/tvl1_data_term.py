"""The data term of TV-L1, linearised around the flow so far: one kernel, once a warp.

Layout and symbols are those of tvl1_kernels.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64

from flowprep.flow.cuda.device import kernel
from flowprep.flow.cuda.images import stretch
from flowprep.flow.cuda.sampling import cubic_3, inside
from flowprep.flow.cuda.tile import ZERO
from flowprep.flow.cuda.tvl1_kernels import BUFFER, LIMIT, N1, N2, U1, U2, C

TINY = np.float32(1e-20)  # of |grad I1|^2: below, there is no direction
ONE = np.float32(1)
ZEROS, REPEATED, INSIDE = range(3)  # beyond the border: zeros; the border pixel; nothing that touches it counts


@kernel
def linearise(state, control, grey, slopes, first, second, low, high, lambda_theta, scale, a, border, data):
    """N1, N2, C and LIMIT of ``data`` at the flow that U1 and U2 hold.

    grey (F, H, W) and slopes (2, F, H, W); first and second (P,) int32: frames of each pair; low, high (F,): range of
    the grey levels of each frame. scale: tau / theta; a: of cubic convolution; border: what lies
    beyond the frame. With INSIDE, grey levels are stretched, too.
    """
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    if x < grey.shape[2] and y < grey.shape[1]:
        here, there = first[pair], second[pair]
        buffer = control[BUFFER, pair]
        u1, u2 = state[buffer, pair, U1, y, x] / scale, state[buffer, pair, U2, y, x] / scale
        x1, y1 = np.float32(x) + u1, np.float32(y) + u2
        i1, i1_x, i1_y = cubic_3(grey, slopes, there, x1, y1, a, border == ZEROS)
        square = i1_x * i1_x + i1_y * i1_y
        counts = square > TINY and (border != INSIDE or inside(x1, y1, grey.shape[1], grey.shape[2]))
        inverse_norm = ONE / math.sqrt(max(square, TINY)) if counts else ZERO
        # Stretching grey levels by s is the same as weighing the data term with s: rho and its gradient grow alike.
        weight = lambda_theta * (stretch(low, high, here, there) if border == INSIDE else ONE)
        data[pair, N1, y, x], data[pair, N2, y, x] = i1_x * inverse_norm, i1_y * inverse_norm
        data[pair, C, y, x] = (i1 - (i1_x * u1 + i1_y * u2) - grey[here, y, x]) * inverse_norm * scale
        data[pair, LIMIT, y, x] = square * inverse_norm * (weight * scale)


def signatures() -> dict[Any, list[tuple[Any, ...]]]:
    """Types that the kernel of this module is launched with."""
    planes, images, frames = float32[:, :, :, ::1], float32[:, :, ::1], int32[::1]
    types = (float32[:, :, :, :, ::1], int32[:, ::1], images, planes, frames, frames, float32[::1], float32[::1])
    return {linearise: [(*types, float32, float32, float32, int64, planes)]}
