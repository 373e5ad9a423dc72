"""Every change of size in the flow methods, as tables of taps.

All of them are linear and separable: output sample i of a row is the sum of weights[i, t] * input[start[i] + t], and
the same down the columns. Smoothing before sampling is one table too (:func:`composed`), and so are the rules at
borders: they only move weight to samples that exist. An engine needs a single kernel to apply all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

GAUSSIAN_RADIUS = 5.0  # standard deviations at which a Gaussian ends


@dataclass(frozen=True)
class Taps:
    """How n_out samples are made from n_in."""

    start: NDArray[np.int64]  # (n_out,): first input sample; start + taps <= n_in
    weights: NDArray[np.float64]  # (n_out, taps)

    def matrix(self, n_in: int) -> NDArray[np.float64]:
        """The same as a dense matrix (n_out, n_in)."""
        dense = np.zeros((len(self.start), n_in))
        rows = np.arange(len(self.start))
        for t in range(self.weights.shape[1]):
            dense[rows, self.start + t] += self.weights[:, t]
        return dense


def _banded(index: NDArray[np.int64], weights: NDArray[np.float64], n_in: int) -> Taps:
    """Taps from input samples (n_out, k) in any order, each possibly more than once, and their weights (n_out, k)."""
    width = int((index.max(axis=1) - index.min(axis=1)).max()) + 1
    start = np.minimum(index.min(axis=1), n_in - width)
    gathered = np.zeros((len(index), width))
    np.add.at(gathered, (np.arange(len(index))[:, None], index - start[:, None]), weights)
    return Taps(start, gathered)


def composed(first: Taps, second: Taps, n_in: int) -> Taps:
    """``second`` applied to what ``first`` makes of n_in samples."""
    inner = second.start[:, None] + np.arange(second.weights.shape[1])  # (n_out, k2): samples between the two
    index = first.start[inner][..., None] + np.arange(first.weights.shape[1])
    weights = second.weights[..., None] * first.weights[inner]
    return _banded(index.reshape(len(inner), -1), weights.reshape(len(inner), -1), n_in)


# Bilinear


def bilinear(n_in: int, n_out: int, step: float) -> Taps:
    """Between the two nearest samples at (i + 1/2) step - 1/2, the border repeated: OpenCV's INTER_LINEAR."""
    return _linear(n_in, (np.arange(n_out) + 0.5) * step - 0.5)


def bilinear_from_corner(n_in: int, n_out: int, step: float) -> Taps:
    """The same at i * step: OpenCV CUDA's INTER_LINEAR, which has no half-pixel shift."""
    return _linear(n_in, np.arange(n_out) * step)


def _linear(n_in: int, position: NDArray[np.floating]) -> Taps:
    base = np.floor(position).astype(np.int64)
    fraction = position - base
    index = np.clip(np.stack([base, base + 1], axis=1), 0, n_in - 1)
    return _banded(index, np.stack([1 - fraction, fraction], axis=1), n_in)


# Bicubic


def cubic_kernel(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Weight of a sample at that distance, by cubic convolution (Keys 1981); a = -1/2 is Catmull-Rom."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def bicubic(n_in: int, n_out: int, step: float) -> Taps:
    """Catmull-Rom at i * step, the border repeated: the authors of TV-L1 and robust flow in IPOL."""
    position = np.arange(n_out) * step
    base = np.floor(position).astype(np.int64)
    near = base[:, None] + np.arange(-1, 3)
    weights = cubic_kernel(position[:, None] - near, -0.5)
    return _banded(np.clip(near, 0, n_in - 1), weights, n_in)


def bicubic_inside(n_in: int, n_out: int, step: float) -> Taps:
    """Catmull-Rom at i * step over the samples that exist, weights adding up to 1: NCV's upsampling in OpenCV CUDA.

    Sizes are rounded in single precision there, so that a last position can lie beyond the last sample: it is that
    sample.
    """
    position = np.minimum(np.arange(n_out) * step, n_in - 1)
    near = np.floor(position).astype(np.int64)[:, None] + np.arange(-1, 3)
    weights = np.where((near >= 0) & (near < n_in), cubic_kernel(position[:, None] - near, -0.5), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return _banded(np.clip(near, 0, n_in - 1), weights, n_in)


# Smoothing and downsampling


def supersampled(n_in: int, n_out: int, step: float) -> Taps:
    """Mean over [(i - 1) step, (i + 1) step], cut off at the border: NCV's downsampling in OpenCV CUDA.

    The first sample weighs 1 - frac(begin), the last ceil(end) - end (the complement of what an area filter would
    use: a quirk that is kept), those between 1.
    """
    centre = np.arange(n_out) * step
    begin, end = np.maximum(centre - step, 0), np.minimum(centre + step, n_in - 1)
    first, last = np.floor(begin).astype(np.int64), np.ceil(end).astype(np.int64)
    index = first[:, None] + np.arange(ceil(2 * step) + 2)
    weights = np.ones(index.shape)
    weights[:, 0] = 1 - (begin - first)
    at_end = (index == last[:, None]) & (index > first[:, None])
    weights = np.where(at_end, (last - end)[:, None], weights)
    weights = np.where(index <= last[:, None], weights, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return _banded(np.clip(index, 0, n_in - 1), weights, n_in)


def gaussian(n: int, sigma: float) -> Taps:
    """Smoothing with a Gaussian of standard deviation ``sigma`` samples.

    The row is mirrored at its ends as the authors of the IPOL programs do it: about the first sample at the near end
    (-1 is 1), behind the last at the far end (n is n - 1).
    """
    radius = int(GAUSSIAN_RADIUS * sigma)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    period = 2 * n - 1
    index = np.mod(np.arange(n)[:, None] + offsets, period)
    index = np.where(index < n, index, period - index)
    return _banded(index, np.broadcast_to(weights, index.shape), n)


def smaller(n_in: int, n_out: int, scale: float) -> Taps:
    """Gaussian smoothing with sigma = 0.6 sqrt(1/scale^2 - 1), then bicubic at i / scale (IPOL, both papers)."""
    smoothed = gaussian(n_in, 0.6 * sqrt(1 / scale**2 - 1))
    return composed(smoothed, bicubic(n_in, n_out, 1 / scale), n_in)


# Derivatives

# Filters of five taps, at -2 to 2 px.
CENTRAL = np.array([0, -0.5, 0, 0.5, 0], np.float32)
SECOND = np.array([0, 1, -2, 1, 0], np.float32)
FOURTH_ORDER = np.array([1, -8, 0, 8, -1], np.float32) / np.float32(12)


def border_repeated(n: int) -> NDArray[np.int64]:
    """Which samples of n stand for the samples -2, -1, n and n + 1: the first and the last."""
    return np.array([0, 0, n - 1, n - 1])


def border_mirrored_as_ncv(n: int) -> NDArray[np.int64]:
    """The same as NCV's Brox flow has it: mirrored, at the near end with its quirk of one sample too far."""
    return np.array([3, 2, n - 1, n - 2])


def same(n: int) -> Taps:
    """Every sample as it is."""
    return Taps(np.arange(n), np.ones((n, 1)))


def derivative(n: int, stencil: NDArray[np.float32], border: Callable[[int], NDArray[np.int64]]) -> Taps:
    """A stencil of five weights, at -2 to 2 px; ``border(n)`` are the samples that stand for -2, -1, n and n + 1."""
    used = np.flatnonzero(stencil)
    before, behind = np.split(border(n), 2)
    index = np.concatenate([before, np.arange(n), behind])[np.arange(n)[:, None] + used]
    width = int(np.ptp(index, axis=1).max()) + 1
    start = np.minimum(index.min(axis=1), n - width)
    weights = np.zeros((n, width))
    np.add.at(weights, (np.arange(n)[:, None], index - start[:, None]), stencil[used])
    return Taps(start, weights)
