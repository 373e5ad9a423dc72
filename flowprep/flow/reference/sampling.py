"""Kernels, resizing and sampling for the NumPy references of TV-L1 and Brox flow: plain, slow, in double precision.

Images are (H, W) float64; image[y, x] is the pixel whose centre is at the position (x, y), in px. A change of size, a
smoothing or a derivative filter is linear and separable, so that it is a matrix for the rows and one for the columns:

    result[j, i] = sum over y, x of rows[j, y] columns[i, x] image[y, x]
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.float64]  # (H, W)
Field = NDArray[np.float64]  # (2, H, W): along x, along y
Matrix = NDArray[np.float64]  # (n_out, n_in)
Index = NDArray[np.intp]
Distance = NDArray[np.float64]  # px, any shape
Shape = tuple[int, int]  # height, width

Kernel = Callable[[Distance], Distance]  # distance of a pixel -> its weight
Border = Callable[[Distance, int], Index]  # whole number, may be outside; number n of pixels -> 0 to n-1

GAUSSIAN_REACH = 5  # standard deviations at which a Gaussian ends
ZOOM_SIGMA = 0.6  # px of the smaller image, for a zoom close to 0


# Kernels


def linear(distance: Distance) -> Distance:
    weight: Distance = np.maximum(1 - np.abs(distance), 0)
    return weight


def keys_cubic(a: float) -> Kernel:
    """Cubic convolution, R. Keys: Cubic Convolution Interpolation for Digital Image Processing (1981), equation 4."""

    def kernel(distance: Distance) -> Distance:
        s = np.abs(distance)
        near = (a + 2) * s**3 - (a + 3) * s**2 + 1
        far = a * s**3 - 5 * a * s**2 + 8 * a * s - 4 * a
        return np.where(s < 1, near, np.where(s < 2, far, 0))

    return kernel


catmull_rom = keys_cubic(-0.5)


# Borders


def repeated(position: Distance, n: int) -> Index:
    """... 0 0 | 0 1 2 ... n-1 | n-1 n-1 ..."""
    return np.clip(position, 0, n - 1).astype(np.intp)


def mirrored(position: Distance, n: int) -> Index:
    """... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    folded = np.mod(position, 2 * n).astype(np.intp)
    return np.where(folded < n, folded, 2 * n - 1 - folded)


def half_mirrored(position: Distance, n: int) -> Index:
    """... 2 1 | 0 1 2 ... n-1 | n-1 n-2 ...: only the last pixel is repeated."""
    folded = np.mod(position, 2 * n - 1).astype(np.intp)
    return np.where(folded < n, folded, 2 * n - 1 - folded)


# Matrices


def numbers(n: int) -> Distance:
    """0, 1, ... n-1."""
    return np.arange(n, dtype=np.float64)


def banded(taps: Index, weights: ArrayLike, n_in: int) -> Matrix:
    """The matrix that gives sample ``taps[i, k]`` the weight ``weights[i, k]`` in output i; equal taps add up."""
    matrix = np.zeros((len(taps), n_in))
    np.add.at(matrix, (np.arange(len(taps))[:, None], taps), weights)
    return matrix


def interpolation(x: Distance, n_in: int, kernel: Kernel, reach: int) -> Matrix:
    """Samples at the positions ``x``, each from the 2 ``reach`` pixels around it, the border pixel repeated."""
    taps: Distance = np.floor(x)[:, None] + np.arange(1 - reach, reach + 1)
    return banded(repeated(taps, n_in), kernel(x[:, None] - taps), n_in)


def convolution(n: int, weights: ArrayLike, border: Border) -> Matrix:
    """Output i is the sum over k of weights[k] sample[i + k - r], with 2 r + 1 weights."""
    weights = np.asarray(weights)
    r = len(weights) // 2
    taps = border(numbers(n)[:, None] + np.arange(-r, r + 1), n)
    return banded(taps, np.broadcast_to(weights, taps.shape), n)


def applied(rows: Matrix, image: Image, columns: Matrix) -> Image:
    """Both matrices, to an image (H, W) or to each component of a field (2, H, W)."""
    result: Image = rows @ image @ columns.T
    return result


# Smoothing and resizing as in the programs of the IPOL articles


def smoothed(image: Image, sigma: float) -> Image:
    """Gaussian smoothing with a standard deviation of ``sigma`` px.

    The kernel ends at floor(5 sigma) px and adds up to 1. Beyond the first row and column the image is mirrored at the
    centre of their pixels, beyond the last at their outer edge: so do the authors of the IPOL articles.
    """
    r = int(GAUSSIAN_REACH * sigma)
    weights = np.exp(-(np.arange(-r, r + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    rows, columns = (convolution(n, weights, half_mirrored) for n in image.shape)
    return applied(rows, image, columns)


def zoomed_out(image: Image, shape: Shape, scale: float) -> Image:
    """``image`` smoothed, then sampled at (x / scale, y / scale) by Catmull-Rom, the border pixel repeated."""
    rows, columns = (
        interpolation(numbers(n_out) / scale, n_in, catmull_rom, 2)
        for n_out, n_in in zip(shape, image.shape, strict=True)
    )
    return applied(rows, smoothed(image, ZOOM_SIGMA * sqrt(1 / scale**2 - 1)), columns)


def zoomed_in(field: Field, shape: Shape) -> Field:
    """Each component sampled at x n_in / n_out by Catmull-Rom, the border pixel repeated; the values as they were."""
    rows, columns = (
        interpolation(numbers(n_out) * n_in / n_out, n_in, catmull_rom, 2)
        for n_out, n_in in zip(shape, field.shape[1:], strict=True)
    )
    return applied(rows, field, columns)


def stretched(frame0: Image, frame1: Image) -> tuple[Image, Image]:
    """Both frames by the same linear map, so that together they span 0 to 255; unchanged where all values are equal."""
    low, high = min(frame0.min(), frame1.min()), max(frame0.max(), frame1.max())
    if high == low:
        return frame0, frame1
    return 255 * (frame0 - low) / (high - low), 255 * (frame1 - low) / (high - low)


# Images at (x + u, y + v)


def displaced(u: Field) -> tuple[Image, Image]:
    """x + u and y + v at each pixel (x, y)."""
    height, width = u.shape[1:]
    return numbers(width) + u[0], numbers(height)[:, None] + u[1]


def sampled(image: Image, x: Image, y: Image, kernel: Kernel, reach: int, border: Border) -> Image:
    """The image at (x, y): sum of kernel(x - i) kernel(y - j) image[j, i] over the (2 reach)^2 pixels (i, j) around."""
    height, width = image.shape
    steps = range(1 - reach, reach + 1)
    result = np.zeros(x.shape)
    for i in (np.floor(x) + step for step in steps):
        for j in (np.floor(y) + step for step in steps):
            result += kernel(x - i) * kernel(y - j) * image[border(j, height), border(i, width)]
    return result


def warped_whole(image: Image, u: Field) -> Image:
    """The image at (x + u, y + v) by Catmull-Rom, 0 where any of the 16 pixels around is outside (IPOL)."""
    height, width = image.shape
    x, y = displaced(u)
    inside = (np.floor(x) >= 1) & (np.floor(x) + 2 < width) & (np.floor(y) >= 1) & (np.floor(y) + 2 < height)
    return np.where(inside, sampled(image, x, y, catmull_rom, 2, repeated), 0)


# Differences


def central_gradient(image: Image) -> Field:
    """(2, H, W): (I(x+1) - I(x-1)) / 2 along x and along y, the border pixel repeated."""
    framed = np.pad(image, 1, mode="edge")
    return np.stack([framed[1:-1, 2:] - framed[1:-1, :-2], framed[2:, 1:-1] - framed[:-2, 1:-1]]) / 2
