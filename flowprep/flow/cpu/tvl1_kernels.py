"""The kernels of TV-L1: one warp, one iteration, iterations until the change is small.

Symbols are those of flow/tvl1.py. With s = tau/theta, a row of ``state`` has, block by block (stripes.py), the ten
planes

    N1 N2   the direction of grad I1(x + u0): (I1x, I1y) / |grad I1|, 0 where the gradient is
    U1 U2   s u, so that no iteration multiplies by s
    C       s (I1(x + u0) - grad I1 . u0 - I0) / |grad I1|, so that s rho(u) / |grad I1| = N1 U1 + N2 U2 + C
    LIMIT   s lambda theta |grad I1|
    P11 P12 P21 P22   the dual variables

of its n blocks, and one block more: the halo of U1 and U2 at the right end. With them an iteration is

    V = U - clamp(N . U + C, +-LIMIT) N,    U_d = V_d + tau div p_d,    p_d = (p_d + grad U_d) / (1 + |grad U_d|).

Temporal blocking: div p at row y needs p of rows y - 1 and y, grad u at row y - 1 needs u of rows y - 1 and y. So a
sweep updates u of row y and then p of row y - 1, in place; the next iteration may follow one row behind, while the
rows are still in the cache. K iterations run down the image as a staircase:

    row      y-3  y-2  y-1   y          numbers: which iteration is at work there
    step r    3    2    1    0
    step r+1       3    2    1    0
"""

from __future__ import annotations

import math

import numpy as np

from flowprep.flow.cpu.compiling import inline, kernel
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.median import median
from flowprep.flow.cpu.sampling import BORDER, cubic_4, cubic_weights, first_pixel
from flowprep.flow.cpu.simd import (
    floor,
    inverse,
    inverse_root,
    lane_numbers,
    left_neighbours,
    load,
    maximum,
    minimum,
    right_neighbours,
    splat,
    square_root,
    store,
    total,
    where,
)

N1, N2, C, LIMIT, U1, U2, P11, P12, P21, P22 = (i * LANES for i in range(10))
BLOCK = 10 * LANES  # float32s from one block to the next

STAIRS = 8  # iterations in one staircase, at most
TINY = np.float32(1e-20)  # (grey levels per px)^2: a squared gradient that counts as none
NO_ROOT_OF_ZERO = np.float32(1e-30)


def row_length(n: int) -> int:
    """float32s of one row of ``state``: n blocks and the halo, not a multiple of 4 KiB (rows must not share cache
    sets)."""
    length = (n + 1) * BLOCK
    return length + 16 * (length % 1024 == 0)


@kernel
def warp(state, source, image, exists, height, width, n, row, limit, scale, a, inside):
    """N1, N2, C and LIMIT at the flow u0 that U1 and U2 hold.

    source: I0 in stripes. image: I1, I1x, I1y, 0 interleaved with a border (sampling.py). limit: lambda theta; scale:
    tau/theta. a: of cubic convolution. inside: 1 where only samples count whose 16 pixels all lie in the frame, else 0.
    """
    line = 4 * (width + 2 * BORDER)
    stripe = lane_numbers() * n
    # Positions in [1, size - 2) have all their pixels in the frame.
    low = splat(1.0 if inside else -1e9)
    high_x, high_y = splat(width - 2.0 if inside else 1e9), splat(height - 2.0 if inside else 1e9)
    zero, one = splat(0.0), splat(1.0)
    unscale = np.float32(1) / scale
    for y in range(height):
        at = y * row
        for b in range(n):
            u1, u2 = load(state, at + U1) * unscale, load(state, at + U2) * unscale
            x1, y1 = stripe + u1 + b, u2 + y
            base_x, base_y = floor(x1), floor(y1)
            first_x, first_y = first_pixel(base_x, width, 4), first_pixel(base_y, height, 4)
            weights_x, weights_y = cubic_weights(x1 - base_x, a), cubic_weights(y1 - base_y, a)
            i1, i1x, i1y = cubic_4(image, line, first_x, first_y, weights_x, weights_y)
            gradient = (i1x * i1x + i1y * i1y) * load(exists, b * LANES)
            gradient = where(x1 < low, zero, where(x1 < high_x, gradient, zero))
            gradient = where(y1 < low, zero, where(y1 < high_y, gradient, zero))
            inverse_norm = where(gradient > TINY, one / square_root(maximum(gradient, splat(TINY))), zero)
            rho_c = i1 - (i1x * u1 + i1y * u2) - load(source, (y * n + b) * LANES)
            store(state, at + N1, i1x * inverse_norm)
            store(state, at + N2, i1y * inverse_norm)
            store(state, at + C, rho_c * inverse_norm * scale)
            store(state, at + LIMIT, gradient * inverse_norm * (limit * scale))
            at += BLOCK


@inline
def update_u(state, at, above, n, tau, top):
    """U1 and U2 of the row at ``at``, from P of that row and the one ``above``; the sum of squared changes."""
    sum1, sum2 = splat(0.0), splat(0.0)
    last = at + (n - 1) * BLOCK
    p11_left = left_neighbours(sum1, load(state, last + P11))
    p21_left = left_neighbours(sum1, load(state, last + P21))
    for _ in range(n):
        u1, u2 = load(state, at + U1), load(state, at + U2)
        n1, n2 = load(state, at + N1), load(state, at + N2)
        limit = load(state, at + LIMIT)
        step = maximum(minimum(n1 * u1 + (n2 * u2 + load(state, at + C)), limit), -limit)
        p11, p21 = load(state, at + P11), load(state, at + P21)
        div1 = p11 - p11_left + load(state, at + P12)
        div2 = p21 - p21_left + load(state, at + P22)
        if not top:
            div1, div2 = div1 - load(state, above + P12), div2 - load(state, above + P22)
        p11_left, p21_left = p11, p21
        new1, new2 = u1 + tau * div1 - step * n1, u2 + tau * div2 - step * n2
        store(state, at + U1, new1)
        store(state, at + U2, new2)
        change1, change2 = new1 - u1, new2 - u2
        sum1, sum2 = change1 * change1 + sum1, change2 * change2 + sum2
        at += BLOCK
        above += BLOCK
    first = at - n * BLOCK
    store(state, at + U1, right_neighbours(load(state, first + U1), splat(0.0)))
    store(state, at + U2, right_neighbours(load(state, first + U2), splat(0.0)))
    return total(sum1 + sum2)


@inline
def shrinking(x, y):
    """1 / (1 + |(x, y)|). Where the gradient is 0 it is 1 to full precision, so that p does not creep."""
    square = x * x + y * y
    return inverse(1.0 + square * inverse_root(square + NO_ROOT_OF_ZERO))


@inline
def update_p(state, at, below, has_right, n, bottom):
    """P of the row at ``at``, from U of that row and the one ``below``; forward differences are 0 at the far
    borders."""
    u1, u2 = load(state, at + U1), load(state, at + U2)
    for b in range(n):
        u1_right, u2_right = load(state, at + BLOCK + U1), load(state, at + BLOCK + U2)
        exists = load(has_right, b * LANES)
        u1x, u2x = (u1_right - u1) * exists, (u2_right - u2) * exists
        if bottom:
            u1y, u2y = splat(0.0), splat(0.0)
        else:
            u1y, u2y = load(state, below + U1) - u1, load(state, below + U2) - u2
        shrink1, shrink2 = shrinking(u1x, u1y), shrinking(u2x, u2y)
        store(state, at + P11, (load(state, at + P11) + u1x) * shrink1)
        store(state, at + P12, (load(state, at + P12) + u1y) * shrink1)
        store(state, at + P21, (load(state, at + P21) + u2x) * shrink2)
        store(state, at + P22, (load(state, at + P22) + u2y) * shrink2)
        u1, u2 = u1_right, u2_right
        at += BLOCK
        below += BLOCK


@inline
def iterate(state, has_right, height, n, row, tau, count, errors):
    """``count`` iterations as one staircase; ``errors[k]`` is the sum of |u_new - u_old|^2 of the k-th."""
    for k in range(count):
        errors[k] = 0
    for step in range(height + count):
        for k in range(max(0, step - height), min(count, step + 1)):
            y = step - k
            at = y * row
            if y == 0:
                errors[k] += update_u(state, at, at, n, tau, True)
            elif y < height:
                errors[k] += update_u(state, at, at - row, n, tau, False)
                update_p(state, at - row, at, has_right, n, False)
            else:
                update_p(state, at - row, at - row, has_right, n, True)


@inline
def stairs_ahead(before, now, done, limit):
    """How many iterations to start at once, so that they end before the one that will stop.

    ``done`` iterations took the error from ``before`` to ``now``. It falls steeply at first, later slowly and by fits
    and starts: the factors are low enough that hardly ever an iteration too many is run, which would show in the
    result.
    """
    if limit <= 0:
        return STAIRS
    above = math.log(now / limit)
    ahead = int(2.2 * above)
    if now < before < np.inf:
        ahead = max(ahead, min(int(4.0 * above), int(0.6 * above / math.log(before / now) * done)))
    return max(1, min(STAIRS, ahead))


@kernel
def relax(state, has_right, height, width, n, row, tau, limit, inner, outer, filtering, scratch, errors):
    """Iterate until the sum of squared changes is at most ``limit``: ``outer`` blocks of ``inner``, at most.

    Before each block the flow is median filtered (``filtering`` px wide, 1 = not). Returns the number of iterations.
    """
    done = 0
    error = np.float32(np.inf)
    for _ in range(outer):
        if error <= limit:
            break
        if filtering > 1:
            median(state, U1, height, width, n, BLOCK, row, filtering, scratch)
            median(state, U2, height, width, n, BLOCK, row, filtering, scratch)
        ahead, left = 1, inner
        while left > 0 and error > limit:
            ahead = min(ahead, left)
            iterate(state, has_right, height, n, row, tau, ahead, errors)
            before, error = error, errors[ahead - 1]
            left -= ahead
            if error > limit:
                ahead = stairs_ahead(before, error, ahead, limit)
        done += inner - left
    return done
