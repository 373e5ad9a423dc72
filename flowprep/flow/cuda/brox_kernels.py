"""The kernels of Brox flow (flow/brox.py), many pairs at once: the robust weights; see also brox_data_term.py and
brox_sweeps.py.

The equations, and the symbols in capitals, are those of flow/cpu/brox_kernels.py. Of each pair there are

    flow    (2, P, 2, H, W)     planes A B, the total flow, twice: a launch of sweeps reads one and writes the other
    data    (P, 2 + 6 T, H, W)  planes U V, and F NU NV EU EV C for each of T terms
    system  (P, 7, H, W)        planes SX SY RU RV WU WV CC, fixed while the solver sweeps

    control (2, P)              BUFFER     the buffer that held A and B when this was written; kernels are told the
                                         launches of sweeps since then, modulo 2, as ``odd``
                                GOING    1 until the solver is at its tolerance
    errors  (P, tiles)          sum of squared changes of A and B in each tile at the last sweep of the last launch
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64

from flowprep.flow.cuda.device import inline, kernel

A, B = range(2)
SX, SY, RU, RV, WU, WV, CC = range(7)
SYSTEM = 7  # planes
U, V = range(2)
F, NU, NV, EU, EV, C = range(6)  # of a term, from the term's beginning
TERM = 6
FIRST_TERM = 2
BUFFER, GOING = range(2)

ZERO, QUARTER, HALF, ONE, TWO = (np.float32(value) for value in (0, 0.25, 0.5, 1, 2))
EPSILON_SQUARED = np.float32(1e-6)  # of Psi(s^2) = sqrt(s^2 + eps^2)
TINY = np.float32(1e-20)  # keeps a division by zero out of pixels that nothing is known of


# The robust weights


@inline
def psi_prime(square):
    """Psi'(s^2) = 1 / (2 sqrt(s^2 + eps^2))."""
    return HALF / math.sqrt(square + EPSILON_SQUARED)


@inline
def between(here, there, before, before_there, behind, behind_there):
    """|grad|^2 of a plane half-way between two neighbours, as in OpenCV: the difference across, and along a quarter of
    the four pixels' beside it."""
    across, along = here - there, QUARTER * ((behind + behind_there) - (before + before_there))
    return across * across + along * along


@inline
def central(plane, y, x):
    """|grad|^2 of a plane at a pixel, by central differences, the border repeated."""
    height, width = plane.shape
    across = plane[y, min(x + 1, width - 1)] - plane[y, max(x - 1, 0)]
    down = plane[min(y + 1, height - 1), x] - plane[max(y - 1, 0), x]
    return QUARTER * (across * across + down * down)


@inline
def weigh(data, terms, a, b, s, weight, weight_2, omega, system, pair, y, x):
    """RU, RV, WU, WV and CC of a pixel, from the data term at the increment so far and the sum ``s`` of its
    diffusivities."""
    u, v = data[pair, U, y, x], data[pair, V, y, x]
    du, dv = a - u, b - v
    e_u, e_v, c, r_u, r_v = ZERO, ZERO, ZERO, ZERO, ZERO
    for term in range(terms):
        at = FIRST_TERM + term * TERM
        n_u, n_v = data[pair, at + NU, y, x], data[pair, at + NV, y, x]
        eu, ev, cc = data[pair, at + EU, y, x], data[pair, at + EV, y, x], data[pair, at + C, y, x]
        q = data[pair, at + F, y, x] + du * (eu * du + TWO * (cc * dv + n_u)) + dv * (ev * dv + TWO * n_v)
        d = psi_prime(max(q, ZERO)) * (weight_2 if term else weight)
        r_u += d * (eu * u + cc * v - n_u)
        r_v += d * (ev * v + cc * u - n_v)
        e_u, e_v, c = e_u + d * eu, e_v + d * ev, c + d * cc
    system[pair, RU, y, x], system[pair, RV, y, x] = r_u, r_v
    system[pair, WU, y, x], system[pair, WV, y, x] = omega / (e_u + s + TINY), omega / (e_v + s + TINY)
    system[pair, CC, y, x] = c


@kernel
def prepare(flow, control, odd, data, weight, omega, system):
    """All of ``system``: OpenCV's diffusivities, of the flow half-way between pixels; one data term."""
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    height, width = flow.shape[3], flow.shape[4]
    if x < width and y < height:
        left, right, up, down = max(x - 1, 0), min(x + 1, width - 1), max(y - 1, 0), min(y + 1, height - 1)
        s_left, s_right, s_up, s_down = ZERO, ZERO, ZERO, ZERO
        for d in range(2):
            plane = flow[control[BUFFER, pair] ^ odd, pair, d]
            up_left, above, up_right = plane[up, left], plane[up, x], plane[up, right]
            before, here, behind = plane[y, left], plane[y, x], plane[y, right]
            down_left, below, down_right = plane[down, left], plane[down, x], plane[down, right]
            s_left += between(here, before, above, up_left, below, down_left)
            s_right += between(behind, here, up_right, above, down_right, below)
            s_up += between(here, above, before, up_left, behind, up_right)
            s_down += between(below, here, down_left, before, down_right, behind)
        # Nothing flows across the edges of the frame.
        s_left = psi_prime(s_left) if x > 0 else ZERO
        s_right = psi_prime(s_right) if x + 1 < width else ZERO
        s_up = psi_prime(s_up) if y > 0 else ZERO
        s_down = psi_prime(s_down) if y + 1 < height else ZERO
        system[pair, SX, y, x], system[pair, SY, y, x] = s_left, s_up
        a, b = flow[control[BUFFER, pair] ^ odd, pair, A, y, x], flow[control[BUFFER, pair] ^ odd, pair, B, y, x]
        s = s_left + s_right + (s_up + s_down)
        weigh(data, 1, a, b, s, weight, ZERO, omega, system, pair, y, x)


@kernel
def diffuse(flow, control, odd, system):
    """SX and SY of ``system`` by IPOL: means of Psi' at the two pixels."""
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    if x < flow.shape[4] and y < flow.shape[3]:
        a, b = flow[control[BUFFER, pair] ^ odd, pair, A], flow[control[BUFFER, pair] ^ odd, pair, B]
        left, up = max(x - 1, 0), max(y - 1, 0)
        here = psi_prime(central(a, y, x) + central(b, y, x))
        before = psi_prime(central(a, y, left) + central(b, y, left))
        above = psi_prime(central(a, up, x) + central(b, up, x))
        system[pair, SX, y, x] = HALF * (before + here) if x > 0 else ZERO
        system[pair, SY, y, x] = HALF * (above + here) if y > 0 else ZERO


@kernel
def prepare_apart(flow, control, odd, data, weight, weight_2, omega, system):
    """The rest of ``system`` behind :func:`diffuse`; two data terms, with their weights 1/alpha and gamma/alpha."""
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    height, width = flow.shape[3], flow.shape[4]
    if x < width and y < height:
        s = system[pair, SX, y, x] + system[pair, SY, y, x]
        s += system[pair, SX, y, x + 1] if x + 1 < width else ZERO
        s += system[pair, SY, y + 1, x] if y + 1 < height else ZERO
        a, b = flow[control[BUFFER, pair] ^ odd, pair, A, y, x], flow[control[BUFFER, pair] ^ odd, pair, B, y, x]
        weigh(data, 2, a, b, s, weight, weight_2, omega, system, pair, y, x)


# Levels


@kernel(threads=1)
def begin_level(control):
    """Every pair (a block) has its flow in buffer 0 and is going."""
    control[BUFFER, cuda.blockIdx.z] = 0
    control[GOING, cuda.blockIdx.z] = 1


@kernel
def end_level(flow, control, odd, field):
    """The total flow of every pair to ``field`` (P, 2, H, W)."""
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    if x < field.shape[3] and y < field.shape[2]:
        for plane in range(2):
            field[pair, plane, y, x] = flow[control[BUFFER, pair] ^ odd, pair, plane, y, x]


def signatures() -> dict[Any, list[tuple[Any, ...]]]:
    """Types that the kernels of this module are launched with."""
    planes, control = float32[:, :, :, ::1], int32[:, ::1]
    flow = float32[:, :, :, :, ::1], control, int64
    return {
        prepare: [(*flow, planes, float32, float32, planes)],
        diffuse: [(*flow, planes)],
        prepare_apart: [(*flow, planes, float32, float32, float32, planes)],
        begin_level: [(control,)],
        end_level: [(*flow, planes)],
    }
