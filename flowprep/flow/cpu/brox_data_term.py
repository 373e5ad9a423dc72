"""The data term of Brox flow, linearised around the flow so far: one kernel, once a warp.

Layout and symbols are those of brox_kernels.py.
"""

from __future__ import annotations

from flowprep.flow.cpu.brox_kernels import BLOCK, EU, EV, FIRST_TERM, NU, NV, TERM, A, B, C, F, U, V
from flowprep.flow.cpu.compiling import inline, kernel
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.sampling import BORDER, bilinear_8, cubic_8, cubic_weights, first_pixel
from flowprep.flow.cpu.simd import floor, lane_numbers, load, minimum, splat, store, where


@inline
def mirrored(position, size):
    """A position folded back into the frame, whose edges are the mirrors: -1/2 and size - 1/2."""
    period = splat(2 * size)
    t = position + 0.5
    t = t - period * floor(t / period)
    return minimum(t, period - t) - 0.5


@inline
def store_term(data, at, f, n_u, n_v, e_u, e_v, c):
    store(data, at + F, f)
    store(data, at + NU, n_u)
    store(data, at + NV, n_v)
    store(data, at + EU, e_u)
    store(data, at + EV, e_v)
    store(data, at + C, c)


@kernel
def linearise(state, data, source, image, exists, height, width, n, row, terms, gamma, stretch, bicubic):
    """The data term around the flow in A and B, which becomes U and V.

    source: planes I0, I0x, I0y in stripes. image: I1, I1x, I1y, I1xx, I1xy, I1yy interleaved with a border
    (sampling.py). stretch: factor on grey levels. bicubic: with samples whose pixels are not all in the frame left
    out of the data term; else bilinear with mirrored borders.
    """
    line = 8 * (width + 2 * BORDER)
    block = FIRST_TERM + terms * TERM
    stripe = lane_numbers() * n
    zero = splat(0.0)
    for y in range(height):
        at, to, base = y * row + BLOCK, y * n * block, y * n * 3 * LANES
        for b in range(n):
            u, v = load(state, at + A), load(state, at + B)
            store(data, to + U, u)
            store(data, to + V, v)
            valid = load(exists, b * LANES) * stretch
            x1, y1 = stripe + u + b, v + y
            if bicubic:
                valid = where(x1 < 1.0, zero, where(x1 < width - 2.0, valid, zero))
                valid = where(y1 < 1.0, zero, where(y1 < height - 2.0, valid, zero))
                left, top = floor(x1), floor(y1)
                weights_x, weights_y = cubic_weights(x1 - left, -0.5), cubic_weights(y1 - top, -0.5)
                first_x, first_y = first_pixel(left, width, 4), first_pixel(top, height, 4)
                i, ix, iy, ixx, ixy, iyy = cubic_8(image, line, first_x, first_y, weights_x, weights_y)
            else:
                x1, y1 = mirrored(x1, width), mirrored(y1, height)
                left, top = floor(x1), floor(y1)
                tx, ty = x1 - left, y1 - top
                first_x, first_y = first_pixel(left, width, 2), first_pixel(top, height, 2)
                i, ix, iy, ixx, ixy, iyy = bilinear_8(image, line, first_x, first_y, (1.0 - tx, tx), (1.0 - ty, ty))
            iz = (i - load(source, base)) * valid
            ixz = (ix - load(source, base + LANES)) * valid
            iyz = (iy - load(source, base + 2 * LANES)) * valid
            ix, iy, ixx, ixy, iyy = ix * valid, iy * valid, ixx * valid, ixy * valid, iyy * valid
            # Brightness: (iz + ix du + iy dv)^2; gradient: (ixz + ixx du + ixy dv)^2 + (iyz + ixy du + iyy dv)^2.
            if terms == 2:
                store_term(data, to + FIRST_TERM, iz * iz, ix * iz, iy * iz, ix * ix, iy * iy, ix * iy)
                store_term(
                    data,
                    to + FIRST_TERM + TERM,
                    ixz * ixz + iyz * iyz,
                    ixx * ixz + ixy * iyz,
                    ixy * ixz + iyy * iyz,
                    ixx * ixx + ixy * ixy,
                    ixy * ixy + iyy * iyy,
                    ixy * (ixx + iyy),
                )
            else:
                store_term(
                    data,
                    to + FIRST_TERM,
                    iz * iz + gamma * (ixz * ixz + iyz * iyz),
                    ix * iz + gamma * (ixx * ixz + ixy * iyz),
                    iy * iz + gamma * (ixy * ixz + iyy * iyz),
                    ix * ix + gamma * (ixx * ixx + ixy * ixy),
                    iy * iy + gamma * (ixy * ixy + iyy * iyy),
                    ix * iy + gamma * (ixy * (ixx + iyy)),
                )
            at += BLOCK
            to += block
            base += 3 * LANES
