"""The linear system of variational flow and its solution by red-black successive over-relaxation, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowprep.flow.reference.sampling import Field, Image


@dataclass(frozen=True)
class Neighbours:
    """A weight for each pair of neighbouring pixels, 0 between the image and the outside."""

    x: NDArray[np.float64]  # (H, W+1): [:, i] is between columns i-1 and i
    y: NDArray[np.float64]  # (H+1, W): [j] is between rows j-1 and j

    @classmethod
    def inside(cls, x: NDArray[np.float64], y: NDArray[np.float64]) -> Neighbours:
        """From weights between columns (H, W-1) and rows (H-1, W)."""
        return cls(np.pad(x, ((0, 0), (1, 1))), np.pad(y, ((1, 1), (0, 0))))

    def times(self, factor: float) -> Neighbours:
        return Neighbours(factor * self.x, factor * self.y)

    def total(self) -> Image:
        """The sum of the weights around each pixel."""
        return self.x[:, :-1] + self.x[:, 1:] + self.y[:-1] + self.y[1:]

    def weighted(self, f: Field) -> Field:
        """(2, H, W): the weighted sum of f over the four neighbours of each pixel."""
        framed = np.pad(f, ((0, 0), (1, 1), (1, 1)))
        left, right = framed[:, 1:-1, :-2], framed[:, 1:-1, 2:]
        above, below = framed[:, :-2, 1:-1], framed[:, 2:, 1:-1]
        return self.x[:, :-1] * left + self.x[:, 1:] * right + self.y[:-1] * above + self.y[1:] * below


@dataclass(frozen=True)
class System:
    """diagonal[0] du + c dv = right[0] + (s weighted du), diagonal[1] dv + c du = right[1] + (s weighted dv)."""

    diagonal: Field
    c: Image
    right: Field
    s: Neighbours


def solved(system: System, dw: Field, omega: float, sweeps: int, tolerance: float) -> Field:
    """dw after at most ``sweeps`` sweeps, until the root of the mean of |change of dw|^2 is at most ``tolerance``.

    A sweep relaxes the pixels with even x + y, then the others. (The authors' program of preset ipol goes through the
    pixels in another order, which takes it to the same solution.)
    """
    for _ in range(sweeps):
        before = dw
        for colour in (0, 1):
            dw = relaxed(system, dw, omega, colour)
        if np.sqrt(((dw - before) ** 2).sum(axis=0).mean()) <= tolerance:
            break
    return dw


def relaxed(system: System, dw: Field, omega: float, colour: int) -> Field:
    """dw with the pixels where (x + y) mod 2 = ``colour`` relaxed: du first, then dv with the new du."""
    height, width = system.c.shape
    chosen = (np.arange(width) + np.arange(height)[:, None]) % 2 == colour
    right = system.right + system.s.weighted(dw)
    du, dv = dw
    du = np.where(chosen, (1 - omega) * du + omega * (right[0] - system.c * dv) / system.diagonal[0], du)
    dv = np.where(chosen, (1 - omega) * dv + omega * (right[1] - system.c * du) / system.diagonal[1], dv)
    return np.stack([du, dv])
