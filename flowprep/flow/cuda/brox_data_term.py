"""The data term of Brox flow, linearised around the flow so far: one kernel, once a warp; one for either form of it.

Arrays and symbols are those of brox_kernels.py. Frames are given at the level, with their derivatives: grey (F, H, W),
slopes (5, F, H, W): planes Ix, Iy, Ixx, Ixy, Iyy. Pair i is of the frames first[i] and second[i].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64

from flowprep.flow.cuda.brox_kernels import BUFFER, EU, EV, FIRST_TERM, NU, NV, TERM, ZERO, A, B, C, F, U, V
from flowprep.flow.cuda.device import inline, kernel
from flowprep.flow.cuda.images import stretch
from flowprep.flow.cuda.sampling import bilinear_6, cubic_6, inside

CATMULL_ROM = np.float32(-0.5)
UNIT = np.float32(1 / 255)  # factor on grey levels


@inline
def store_term(data, pair, at, y, x, f, n_u, n_v, e_u, e_v, c):
    data[pair, at + F, y, x] = f
    data[pair, at + NU, y, x], data[pair, at + NV, y, x] = n_u, n_v
    data[pair, at + EU, y, x], data[pair, at + EV, y, x] = e_u, e_v
    data[pair, at + C, y, x] = c


@kernel
def linearise(flow, control, odd, grey, slopes, first, second, gamma, data):
    """One term that joins brightness and gradient: bilinear samples of the mirrored frame, grey levels in [0, 1]."""
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    if x < flow.shape[4] and y < flow.shape[3]:
        source, i0, i1 = control[BUFFER, pair] ^ odd, first[pair], second[pair]
        u, v = flow[source, pair, A, y, x], flow[source, pair, B, y, x]
        data[pair, U, y, x], data[pair, V, y, x] = u, v
        i, ix, iy, ixx, ixy, iyy = bilinear_6(grey, slopes, i1, np.float32(x) + u, np.float32(y) + v)
        iz = (i - grey[i0, y, x]) * UNIT
        ixz, iyz = (ix - slopes[0, i0, y, x]) * UNIT, (iy - slopes[1, i0, y, x]) * UNIT
        ix, iy, ixx, ixy, iyy = ix * UNIT, iy * UNIT, ixx * UNIT, ixy * UNIT, iyy * UNIT
        # Brightness: (iz + ix du + iy dv)^2; gradient: (ixz + ixx du + ixy dv)^2 + (iyz + ixy du + iyy dv)^2.
        f = iz * iz + gamma * (ixz * ixz + iyz * iyz)
        n_u, n_v = ix * iz + gamma * (ixx * ixz + ixy * iyz), iy * iz + gamma * (ixy * ixz + iyy * iyz)
        e_u, e_v = ix * ix + gamma * (ixx * ixx + ixy * ixy), iy * iy + gamma * (ixy * ixy + iyy * iyy)
        store_term(data, pair, FIRST_TERM, y, x, f, n_u, n_v, e_u, e_v, ix * iy + gamma * (ixy * (ixx + iyy)))


@kernel
def linearise_apart(flow, control, odd, grey, slopes, low, high, first, second, data):
    """Two terms, brightness and gradient: bicubic samples, 0 where not all their pixels are in the frame; grey levels
    stretched to a range of 255; low and high (F,): their range in each frame."""
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    height, width = flow.shape[3], flow.shape[4]
    if x < width and y < height:
        source, i0, i1 = control[BUFFER, pair] ^ odd, first[pair], second[pair]
        u, v = flow[source, pair, A, y, x], flow[source, pair, B, y, x]
        data[pair, U, y, x], data[pair, V, y, x] = u, v
        x1, y1 = np.float32(x) + u, np.float32(y) + v
        s = stretch(low, high, i0, i1)
        s = s if inside(x1, y1, height, width) else ZERO
        i, ix, iy, ixx, ixy, iyy = cubic_6(grey, slopes, i1, x1, y1, CATMULL_ROM, False)
        iz = (i - grey[i0, y, x]) * s
        ixz, iyz = (ix - slopes[0, i0, y, x]) * s, (iy - slopes[1, i0, y, x]) * s
        ix, iy, ixx, ixy, iyy = ix * s, iy * s, ixx * s, ixy * s, iyy * s
        store_term(data, pair, FIRST_TERM, y, x, iz * iz, ix * iz, iy * iz, ix * ix, iy * iy, ix * iy)
        f, c = ixz * ixz + iyz * iyz, ixy * (ixx + iyy)
        n_u, n_v = ixx * ixz + ixy * iyz, ixy * ixz + iyy * iyz
        e_u, e_v = ixx * ixx + ixy * ixy, ixy * ixy + iyy * iyy
        store_term(data, pair, FIRST_TERM + TERM, y, x, f, n_u, n_v, e_u, e_v, c)


def signatures() -> dict[Any, list[tuple[Any, ...]]]:
    """Types that the kernels of this module are launched with."""
    of_flow = (float32[:, :, :, :, ::1], int32[:, ::1], int64)
    frames, planes = (float32[:, :, ::1], float32[:, :, :, ::1]), float32[:, :, :, ::1]
    pairs = (int32[::1], int32[::1])
    return {
        linearise: [(*of_flow, *frames, *pairs, float32, planes)],
        linearise_apart: [(*of_flow, *frames, float32[::1], float32[::1], *pairs, planes)],
    }
