"""TV-L1 flow in plain NumPy: the definition that the fast engines are tested against.

Each function is one formula of flow/tvl1.py, with the symbols of Sanchez, Meinhardt-Llopis and Facciolo, IPOL 3 (2013):
u the flow, v its twin in the data term, p the dual variable, rho the brightness residual. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowprep.flow.reference.sampling import (
    Field,
    Image,
    Matrix,
    Shape,
    applied,
    catmull_rom,
    central_gradient,
    displaced,
    interpolation,
    keys_cubic,
    linear,
    numbers,
    repeated,
    sampled,
    smoothed,
    stretched,
    warped_whole,
    zoomed_in,
    zoomed_out,
)
from flowprep.flow.tvl1 import TVL1Parameters

Dual = NDArray[np.float64]  # (2, 2, H, W): p[d] belongs to u[d], p[d, 0] is along x, p[d, 1] along y


def tvl1(frame0: ArrayLike, frame1: ArrayLike, parameters: TVL1Parameters) -> NDArray[np.float64]:
    """Flow from ``frame0`` to ``frame1``, both (H, W) grey levels 0 to 255: (2, H, W) px.

    ``parameters`` are completed.
    """
    I0, I1 = np.asarray(frame0, np.float64), np.asarray(frame1, np.float64)
    scheme = SCHEMES[parameters.preset]
    if scheme.stretches:
        I0, I1 = stretched(I0, I1)
    if parameters.presmoothing:
        I0, I1 = smoothed(I0, parameters.presmoothing), smoothed(I1, parameters.presmoothing)

    pyramid = [(I0, I1)]
    for shape in parameters.level_sizes(*I0.shape)[1:]:
        I0, I1 = (scheme.shrunk(image, shape, parameters.scale_step) for image in pyramid[-1])
        pyramid.append((I0, I1))

    u = np.zeros((2, *I0.shape))
    u = refined(I0, I1, u, parameters)
    for I0, I1 in reversed(pyramid[:-1]):
        u = scheme.enlarged(u, I0.shape) / parameters.scale_step
        u = refined(I0, I1, u, parameters)
    return u


# One level


def refined(I0: Image, I1: Image, u: Field, parameters: TVL1Parameters) -> Field:
    """``u`` after all warps of a level. p is zero at first and kept from warp to warp."""
    warped = SCHEMES[parameters.preset].warped
    I1x, I1y = central_gradient(I1)
    p = np.zeros((2, *u.shape))
    for _ in range(parameters.warps):
        g = np.stack([warped(I1x, u), warped(I1y, u)])
        rho_c = warped(I1, u) - (g * u).sum(axis=0) - I0  # rho(u) = rho_c + g . u
        u, p = minimised(u, p, g, rho_c, parameters)
    return u


def minimised(u: Field, p: Dual, g: Field, rho_c: Image, parameters: TVL1Parameters) -> tuple[Field, Dual]:
    """u and p after the iterations of one warp: until the mean of |change of u|^2 is at most epsilon^2."""
    tau, theta, epsilon = parameters.tau, parameters.theta, parameters.epsilon
    for _ in range(parameters.outer_iterations):
        u = median_filtered(u, parameters.median_filtering)
        for _ in range(parameters.inner_iterations):
            v = thresholded(u, g, rho_c + (g * u).sum(axis=0), parameters.lambda_ * theta)
            u_old, u = u, v + theta * divergence(p)
            p = projected(p, u, tau / theta)
            if ((u - u_old) ** 2).sum(axis=0).mean() <= epsilon**2:
                return u, p
    return u, p


def thresholded(u: Field, g: Field, rho: Image, limit: float) -> Field:
    """v = u - clamp(rho / |g|, +-limit |g|) g / |g|, but u where g = 0; g is grad I1, ``limit`` lambda theta."""
    norm = np.hypot(g[0], g[1])
    unit = np.divide(1, norm, where=norm > 0, out=np.zeros_like(norm))
    step: Image = np.clip(rho * unit, -limit * norm, limit * norm) * unit
    return u - step * g


def divergence(p: Dual) -> Field:
    """(2, H, W): div p[d], by backward differences, with p = 0 left of the first column and above the first row."""
    along_x, along_y = p[:, 0], p[:, 1]
    return np.diff(along_x, axis=2, prepend=0) + np.diff(along_y, axis=1, prepend=0)


def projected(p: Dual, u: Field, step: float) -> Dual:
    """(p + step grad u) / (1 + step |grad u|), each component of u with its own norm."""
    gradient = forward_gradient(u)
    norm = np.hypot(gradient[:, 0], gradient[:, 1])
    return (p + step * gradient) / (1 + step * norm[:, None])


def forward_gradient(u: Field) -> Dual:
    """(2, 2, H, W): grad u[d] by forward differences, 0 beyond the last column and row."""
    return np.stack([np.diff(u, axis=2, append=u[:, :, -1:]), np.diff(u, axis=1, append=u[:, -1:, :])], axis=1)


def median_filtered(u: Field, size: int) -> Field:
    """Median of each component over ``size`` x ``size`` pixels, the border pixel repeated."""
    reach = size // 2
    framed = np.pad(u, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    result: Field = np.median(np.lib.stride_tricks.sliding_window_view(framed, (size, size), (1, 2)), axis=(3, 4))
    return result


# What the presets fix


@dataclass(frozen=True)
class Scheme:
    shrunk: Callable[[Image, Shape, float], Image]  # image, shape of the next level, scale_step
    enlarged: Callable[[Field, Shape], Field]  # flow at the positions of the next level, values as they were
    warped: Callable[[Image, Field], Image]  # I(x + u)
    stretches: bool  # frames together to 0 to 255


def bilinear(n_out: int, n_in: int, step: float, shift: float) -> Matrix:
    """Linear interpolation at (i + shift) step - shift, the border pixel repeated.

    OpenCV's INTER_LINEAR has a shift of half a pixel, OpenCV CUDA's has none.
    """
    return interpolation((numbers(n_out) + shift) * step - shift, n_in, linear, 1)


def shrunk_bilinearly(image: Image, shape: Shape, scale: float, *, shift: float) -> Image:
    """Steps of exactly 1 / scale, whatever the rounding of the shape."""
    rows, columns = (bilinear(n_out, n_in, 1 / scale, shift) for n_out, n_in in zip(shape, image.shape, strict=True))
    return applied(rows, image, columns)


def enlarged_bilinearly(u: Field, shape: Shape, *, shift: float) -> Field:
    """Steps of n_in / n_out."""
    sides = zip(shape, u.shape[1:], strict=True)
    rows, columns = (bilinear(n_out, n_in, n_in / n_out, shift) for n_out, n_in in sides)
    return applied(rows, u, columns)


def warped_in_zeros(image: Image, u: Field) -> Image:
    """I(x + u), cubic with a = -3/4, pixels outside of the image being 0 (cv2.remap with INTER_CUBIC)."""
    x, y = displaced(u)
    return sampled(np.pad(image, 1), x + 1, y + 1, keys_cubic(-0.75), 2, repeated)


def warped_in_repetition(image: Image, u: Field) -> Image:
    """I(x + u), cubic with a = -1/2, the border pixel repeated (OpenCV CUDA)."""
    return sampled(image, *displaced(u), catmull_rom, 2, repeated)


def bilinear_scheme(shift: float, warped: Callable[[Image, Field], Image]) -> Scheme:
    shrunk, enlarged = partial(shrunk_bilinearly, shift=shift), partial(enlarged_bilinearly, shift=shift)
    return Scheme(shrunk, enlarged, warped, stretches=False)


SCHEMES = {
    "opencv": bilinear_scheme(0.5, warped_in_zeros),
    "opencv-cuda": bilinear_scheme(0.0, warped_in_repetition),
    "ipol": Scheme(zoomed_out, zoomed_in, warped_whole, stretches=True),
}
