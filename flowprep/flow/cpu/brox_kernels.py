"""The kernels of Brox flow: the robust weights, and the sweeps that solve for the flow; see also brox_data_term.py.

The Euler-Lagrange equations of flow/brox.py, linearised at the flow (u, v) and written for the total flow (a, b) =
(u + du, v + dv), are at each pixel

    (e_u + sum s) a = sum s_n a_n + e_u u + c v - n_u - c b         s_n: diffusivity between the pixel and neighbour n
    (e_v + sum s) b = sum s_n b_n + e_v v + c u - n_v - c a

with the data term's quadratic form q(du, dv) = f + 2 n_u du + 2 n_v dv + e_u du^2 + e_v dv^2 + 2 c du dv, weighted by
Psi'(q) / alpha. Symbols in capitals are planes in stripes (stripes.py), side by side block by block.

``state``: one row has n blocks (n even) of the nine planes

    A B          total flow                           SX SY   diffusivity to the left and to the upper neighbour
    RU RV        right-hand sides e u + c v - n       WU WV   omega / (e + sum s)
    CC           c, weighted

and a halo block at either end. ``data``: one row has n blocks of U, V and of f, n_u, n_v, e_u, e_v, c for each term:
one that joins brightness and gradient, or two apart.

Red-black sweeps: a pixel is red where x + y is even. As n is even, all pixels of a block have the parity of its
number, so red and black blocks of a row alternate and every lane works.

Temporal blocking: a half sweep of row y needs rows y - 1 to y + 1 of the half sweep before, so half sweep h may
follow one row behind half sweep h - 1, in place: sweeps run down the image as a staircase, while the rows are still
in the cache.

    row      y-3  y-2  y-1   y
    step      b1   r1   b0   r0          r, b: red, black; the number of the sweep
"""

from __future__ import annotations

import numpy as np

from flowprep.flow.cpu.compiling import inline, kernel
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.simd import (
    inverse,
    inverse_root,
    lane_numbers,
    left_neighbours,
    load,
    maximum,
    right_neighbours,
    splat,
    store,
    total,
    where,
)

A, B, SX, SY, RU, RV, WU, WV, CC = (i * LANES for i in range(9))
BLOCK = 9 * LANES
U, V = (i * LANES for i in range(2))
F, NU, NV, EU, EV, C = (i * LANES for i in range(6))  # of a term, from the term's beginning
TERM = 6 * LANES
FIRST_TERM = 2 * LANES

EPSILON_SQUARED = np.float32(1e-6)  # of Psi(s^2) = sqrt(s^2 + eps^2)
TINY = np.float32(1e-20)  # keeps a division by zero out of slots that hold no pixel
STAIRS = 16  # sweeps in one staircase, at most
CHECKED = 4  # the same where each sweep may be the last: those behind it in the staircase are run in vain
CACHE = 400_000  # bytes of state that a staircase may span


def state_row(n: int) -> int:
    """float32s of one row of ``state``."""
    length = (n + 2) * BLOCK
    return length + 16 * (length % 1024 == 0)


def state_length(height: int, row: int) -> int:
    """float32s of ``state``: a row of zeros lies below the frame."""
    return (height + 1) * row


def data_block(terms: int) -> int:
    """float32s from one block of ``data`` to the next."""
    return FIRST_TERM + terms * TERM


# The robust weights


@inline
def psi_prime(square):
    """Psi'(s^2) = 1 / (2 sqrt(s^2 + eps^2)); the estimated root refined by Newton's method."""
    x = square + EPSILON_SQUARED
    y = inverse_root(x)
    return y * (0.75 - (0.25 * x) * (y * y))


@inline
def fill_halo(state, at, n, width):
    """The border pixel repeated around A and B of the row at ``at``: in the halo blocks and in slot ``width``, if
    there is."""
    last, beyond = width - 1, width % n * BLOCK
    for plane in (A, B):
        first = at + plane
        border = splat(state[first + last % n * BLOCK + last // n])
        if width < n * LANES:
            behind = lane_numbers() > width // n - np.float32(0.5)
            store(state, first + beyond, where(behind, border, load(state, first + beyond)))
        left = left_neighbours(splat(state[first]), load(state, first + (n - 1) * BLOCK))
        store(state, first - BLOCK, left)
        store(state, first + n * BLOCK, right_neighbours(load(state, first), border))


@inline
def squared_differences(state, at, above, below, plane):
    """|grad|^2 of a plane half-way to the left and half-way to the upper neighbour.

    Across: the difference itself; along: a quarter of the four pixels' beside it, as in OpenCV.
    """
    here, left = load(state, at + plane), load(state, at - BLOCK + plane)
    up, up_left = load(state, above + plane), load(state, above - BLOCK + plane)
    down, down_left = load(state, below + plane), load(state, below - BLOCK + plane)
    right, up_right = load(state, at + BLOCK + plane), load(state, above + BLOCK + plane)
    x, y = here - left, 0.25 * ((down + down_left) - (up + up_left))
    to_left = x * x + y * y
    y, x = here - up, 0.25 * ((right + up_right) - (left + up_left))
    return to_left, x * x + y * y


@inline
def diffuse(state, at, above, below, has_left, exists, n, top):
    """SX and SY of one row from the flow half-way between pixels (OpenCV); 0 across the border."""
    for b in range(n):
        a_left, a_up = squared_differences(state, at, above, below, A)
        b_left, b_up = squared_differences(state, at, above, below, B)
        store(state, at + SX, psi_prime(a_left + b_left) * load(has_left, b * LANES))
        up = splat(0.0) if top else psi_prime(a_up + b_up) * load(exists, b * LANES)
        store(state, at + SY, up)
        at += BLOCK
        above += BLOCK
        below += BLOCK
    store_right_halo(state, at, n)


@inline
def store_right_halo(state, end, n):
    store(state, end + SX, right_neighbours(load(state, end - n * BLOCK + SX), splat(0.0)))


@inline
def central_square(state, at, above, below, plane):
    """|grad|^2 of a plane at the pixels, by central differences."""
    x = load(state, at + BLOCK + plane) - load(state, at - BLOCK + plane)
    y = load(state, below + plane) - load(state, above + plane)
    return 0.25 * (x * x + y * y)


@inline
def diffuse_central(state, at, above, below, psi, has_left, exists, n, top):
    """SX and SY of one row as means of Psi' at the two pixels (IPOL). psi: Psi' of the row above, replaced by this
    row's."""
    for b in range(n):
        here = psi_prime(central_square(state, at, above, below, A) + central_square(state, at, above, below, B))
        up = splat(0.0) if top else 0.5 * (load(psi, b * LANES) + here) * load(exists, b * LANES)
        store(state, at + SY, up)
        store(psi, b * LANES, here)
        at += BLOCK
        above += BLOCK
        below += BLOCK
    left = left_neighbours(splat(0.0), load(psi, (n - 1) * LANES))
    at -= n * BLOCK
    for b in range(n):
        here = load(psi, b * LANES)
        store(state, at + SX, 0.5 * (left + here) * load(has_left, b * LANES))
        left = here
        at += BLOCK
    store_right_halo(state, at, n)


@inline
def weigh(state, data, at, below, frm, n, terms, weight, weight_2, omega):
    """RU, RV, WU, WV and CC of one row, from its diffusivities and the data term at the increment so far."""
    for _ in range(n):
        u, v = load(data, frm + U), load(data, frm + V)
        du, dv = load(state, at + A) - u, load(state, at + B) - v
        e_u, e_v, c, r_u, r_v = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        frm += FIRST_TERM
        for term in range(terms):
            n_u, n_v = load(data, frm + NU), load(data, frm + NV)
            eu, ev, cc = load(data, frm + EU), load(data, frm + EV), load(data, frm + C)
            q = load(data, frm + F) + du * (eu * du + 2.0 * (cc * dv + n_u)) + dv * (ev * dv + 2.0 * n_v)
            d = psi_prime(maximum(q, splat(0.0))) * (weight_2 if term else weight)
            r_u = r_u + d * (eu * u + cc * v - n_u)
            r_v = r_v + d * (ev * v + cc * u - n_v)
            e_u, e_v, c = e_u + d * eu, e_v + d * ev, c + d * cc
            frm += TERM
        s = load(state, at + SX) + load(state, at + BLOCK + SX) + load(state, at + SY) + load(state, below + SY)
        store(state, at + RU, r_u)
        store(state, at + RV, r_v)
        store(state, at + CC, c)
        store(state, at + WU, omega * inverse(e_u + s + TINY))
        store(state, at + WV, omega * inverse(e_v + s + TINY))
        at += BLOCK
        below += BLOCK


@kernel
def prepare(state, data, psi, has_left, exists, height, width, n, row, terms, diffusing, weight, weight_2, omega):
    """Everything that the solver keeps fixed. weight, weight_2: of the data terms, 1/alpha and gamma/alpha.

    diffusing: 0 to keep SX and SY, 1 for :func:`diffuse`, 2 for :func:`diffuse_central` (``psi`` has a row for it).
    """
    fill_halo(state, BLOCK, n, width)
    for y in range(height + 1):
        at = y * row + BLOCK
        if y + 1 < height:
            fill_halo(state, at + row, n, width)
        if y < height and diffusing > 0:
            above, below = at - row if y > 0 else at, at + row if y + 1 < height else at
            if diffusing == 1:
                diffuse(state, at, above, below, has_left, exists, n, y == 0)
            else:
                diffuse_central(state, at, above, below, psi, has_left, exists, n, y == 0)
        if y > 0:
            frm = (y - 1) * n * (FIRST_TERM + terms * TERM)
            weigh(state, data, at - row, at, frm, n, terms, weight, weight_2, omega)


# The solver


@inline
def half_sweep(state, at, above, below, n, odd, keep, measuring):
    """A and B of every other block of a row, from block ``odd`` (0 or 1) on; ``keep`` = 1 - omega.

    Returns the sum of squared changes, if ``measuring``. Sums are written as trees: a chain of additions would be
    waited for.
    """
    if odd:
        end = at + n * BLOCK
        store(state, end + A, right_neighbours(load(state, at + A), splat(0.0)))
        store(state, end + B, right_neighbours(load(state, at + B), splat(0.0)))
        a_left, b_left = load(state, at + A), load(state, at + B)
        at, above, below = at + BLOCK, above + BLOCK, below + BLOCK
    else:
        last = at + (n - 1) * BLOCK
        a_left = left_neighbours(splat(0.0), load(state, last + A))
        b_left = left_neighbours(splat(0.0), load(state, last + B))
    sum_a, sum_b = splat(0.0), splat(0.0)
    for _ in range(n // 2):
        s_left, s_right = load(state, at + SX), load(state, at + BLOCK + SX)
        s_up, s_down = load(state, at + SY), load(state, below + SY)
        a, b, c = load(state, at + A), load(state, at + B), load(state, at + CC)
        a_right, b_right = load(state, at + BLOCK + A), load(state, at + BLOCK + B)
        from_a = s_left * a_left + s_right * a_right + (s_up * load(state, above + A) + s_down * load(state, below + A))
        from_b = s_left * b_left + s_right * b_right + (s_up * load(state, above + B) + s_down * load(state, below + B))
        new_a = keep * a + load(state, at + WU) * (from_a + (load(state, at + RU) - c * b))
        new_b = keep * b + load(state, at + WV) * (from_b + load(state, at + RV) - c * new_a)
        store(state, at + A, new_a)
        store(state, at + B, new_b)
        if measuring:
            sum_a, sum_b = sum_a + (new_a - a) * (new_a - a), sum_b + (new_b - b) * (new_b - b)
        a_left, b_left = a_right, b_right
        at, above, below = at + 2 * BLOCK, above + 2 * BLOCK, below + 2 * BLOCK
    return total(sum_a + sum_b) if measuring else np.float32(0)


@kernel
def solve(state, height, n, row, sweeps, omega, limit, changes):
    """At most ``sweeps`` sweeps; fewer when the sum of squared changes of one is at most ``limit``. Returns how many.

    SY is zero in row 0 and in the row below the frame: what is read across these borders counts nothing.
    """
    keep = np.float32(1) - omega
    stairs = max(2, min(CHECKED if limit > 0 else len(changes), CACHE // (4 * row) // 2))
    done = 0
    while done < sweeps:
        count = min(stairs, sweeps - done)
        for k in range(count):
            changes[k] = 0
        for step in range(height + 2 * count - 1):
            for half in range(max(0, step - height + 1), min(2 * count, step + 1)):
                y = step - half
                at = y * row + BLOCK
                above = at - row if y > 0 else at
                odd = (y + half) % 2
                if limit > 0:
                    changes[half // 2] += half_sweep(state, at, above, at + row, n, odd, keep, True)
                else:
                    half_sweep(state, at, above, at + row, n, odd, keep, False)
        done += count
        if limit > 0 and np.min(changes[:count]) <= limit:
            break
    return done
