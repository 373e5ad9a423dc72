"""Brox et al.'s flow in plain NumPy: the definition that the fast engines are tested against.

The energy of flow/brox.py with the symbols of Brox, Bruhn, Papenberg and Weickert, ECCV 2004: w = (u, v) is the flow
at the start of a warp, dw = (du, dv) its increment, Psi the robust function. Ix is the x derivative of I1 at x + w, Ixx
its second derivative there, Iz = I1(x + w) - I0(x), and Ixz, Iyz are the same differences of Ix, Iy. All is float64.

In both discretisations dw solves a linear system of one form, with weights b of brightness, g of the gradient and s_n
of the difference between a pixel and its neighbour n:

    (b Ix^2 + g (Ixx^2 + Ixy^2)) du + c dv = sum_n s_n ((u + du)_n - (u + du)) - b Ix Iz - g (Ixx Ixz + Ixy Iyz)
    (b Iy^2 + g (Iyy^2 + Ixy^2)) dv + c du = sum_n s_n ((v + dv)_n - (v + dv)) - b Iy Iz - g (Iyy Iyz + Ixy Ixz)
    c = b Ix Iy + g Ixy (Ixx + Iyy)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowprep.flow.brox import BroxParameters
from flowprep.flow.reference.relaxation import Neighbours, System, solved
from flowprep.flow.reference.sampling import (
    Distance,
    Field,
    Image,
    Index,
    Matrix,
    Shape,
    applied,
    catmull_rom,
    central_gradient,
    convolution,
    displaced,
    linear,
    mirrored,
    numbers,
    sampled,
    smoothed,
    stretched,
    warped_whole,
    zoomed_in,
    zoomed_out,
)

EPSILON_SQUARED = 1e-6  # of Psi


def brox(frame0: ArrayLike, frame1: ArrayLike, parameters: BroxParameters) -> NDArray[np.float64]:
    """Flow from ``frame0`` to ``frame1``, both (H, W) grey levels 0 to 255: (2, H, W) px.

    ``parameters`` are completed.
    """
    scheme = SCHEMES[parameters.preset]
    I0, I1 = scheme.normalised(np.asarray(frame0, np.float64), np.asarray(frame1, np.float64))
    if parameters.presmoothing:
        I0, I1 = smoothed(I0, parameters.presmoothing), smoothed(I1, parameters.presmoothing)

    pyramid = [(I0, I1)]
    for shape in parameters.level_sizes(*I0.shape)[1:]:
        I0, I1 = (scheme.shrunk(image, shape, parameters.scale_factor) for image in pyramid[-1])
        pyramid.append((I0, I1))

    w = np.zeros((2, *I0.shape))
    w = refined(I0, I1, w, parameters)
    for I0, I1 in reversed(pyramid[:-1]):
        w = scheme.enlarged(w, I0.shape, parameters.scale_factor) / parameters.scale_factor
        w = refined(I0, I1, w, parameters)
    return w


def refined(I0: Image, I1: Image, w: Field, parameters: BroxParameters) -> Field:
    """``w`` after all warps of a level."""
    scheme = SCHEMES[parameters.preset]
    jet0, jet1 = scheme.jet(I0), scheme.jet(I1)
    for _ in range(parameters.warps):
        data = linearised(jet0, jet1, w, scheme.warped)
        dw = np.zeros_like(w)
        for _ in range(parameters.inner_iterations):
            b, g = scheme.data_weights(data, dw, parameters.gamma)
            s = scheme.smoothness_weights(w, dw).times(parameters.alpha)
            system = assembled(data, b, g, s, w)
            dw = solved(system, dw, parameters.omega, parameters.solver_iterations, parameters.tolerance)
        w = w + dw
    return w


# The data term


@dataclass(frozen=True)
class Jet:
    """An image with its derivatives, each (H, W)."""

    image: Image
    Ix: Image
    Iy: Image
    Ixx: Image
    Ixy: Image
    Iyy: Image


@dataclass(frozen=True)
class Data:
    """The data term linearised around w, each (H, W)."""

    Ix: Image
    Iy: Image
    Ixx: Image
    Ixy: Image
    Iyy: Image
    Iz: Image
    Ixz: Image
    Iyz: Image

    def residuals(self, dw: Field) -> tuple[Image, Image, Image]:
        """Brightness, x derivative and y derivative of I1(x + w + dw) - I0, to first order in dw."""
        du, dv = dw
        return (
            self.Iz + self.Ix * du + self.Iy * dv,
            self.Ixz + self.Ixx * du + self.Ixy * dv,
            self.Iyz + self.Ixy * du + self.Iyy * dv,
        )


def linearised(jet0: Jet, jet1: Jet, w: Field, warped: Callable[[Image, Field], Image]) -> Data:
    """``jet1`` is sampled at x + w, ``jet0`` at x."""
    Ix, Iy = warped(jet1.Ix, w), warped(jet1.Iy, w)
    return Data(
        Ix=Ix,
        Iy=Iy,
        Ixx=warped(jet1.Ixx, w),
        Ixy=warped(jet1.Ixy, w),
        Iyy=warped(jet1.Iyy, w),
        Iz=warped(jet1.image, w) - jet0.image,
        Ixz=Ix - jet0.Ix,
        Iyz=Iy - jet0.Iy,
    )


def psi_prime(squared: Image) -> Image:
    """Psi'(s^2) = 1 / (2 sqrt(s^2 + epsilon^2))."""
    result: Image = 0.5 / np.sqrt(squared + EPSILON_SQUARED)
    return result


def assembled(data: Data, b: Image, g: Image, s: Neighbours, w: Field) -> System:
    """The system for dw, with weights ``b`` of brightness, ``g`` of the gradient and ``s`` of smoothness."""
    d = data
    diagonal = np.stack([
        b * d.Ix**2 + g * (d.Ixx**2 + d.Ixy**2),
        b * d.Iy**2 + g * (d.Iyy**2 + d.Ixy**2),
    ])  # fmt: skip
    residual = np.stack([
        b * d.Ix * d.Iz + g * (d.Ixx * d.Ixz + d.Ixy * d.Iyz),
        b * d.Iy * d.Iz + g * (d.Iyy * d.Iyz + d.Ixy * d.Ixz),
    ])  # fmt: skip
    c = b * d.Ix * d.Iy + g * d.Ixy * (d.Ixx + d.Iyy)
    return System(diagonal + s.total(), c, s.weighted(w) - s.total() * w - residual, s)


# OpenCV CUDA's discretisation (cv2.cuda.BroxOpticalFlow)


def divided(frame0: Image, frame1: Image) -> tuple[Image, Image]:
    """Grey levels 0 to 1."""
    return frame0 / 255, frame1 / 255


def supersampled(n_out: int, n_in: int, step: float) -> Matrix:
    """Output i is the mean of the samples between b = (i - 1) step and e = (i + 1) step, cut off at 0 and n_in - 1.

    The first, floor(b), weighs 1 - frac(b); the last, ceil(e), weighs ceil(e) - e; those between them weigh 1.
    """
    centre = numbers(n_out) * step
    begin, end = np.maximum(centre - step, 0), np.minimum(centre + step, n_in - 1)
    first, last = np.floor(begin)[:, None], np.ceil(end)[:, None]
    sample = numbers(n_in)
    weights = ((first < sample) & (sample < last)).astype(np.float64)
    weights += (sample == last) * (last - end[:, None])
    weights += (sample == first) * (1 - (begin[:, None] - first))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def bicubic_inside(n_out: int, n_in: int, step: float) -> Matrix:
    """Catmull-Rom at i step, or at the last sample where that is beyond it, over the samples that exist; weights add
    to 1."""
    position = np.minimum(numbers(n_out) * step, n_in - 1)
    weights = catmull_rom(position[:, None] - numbers(n_in))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def shrunk_by_supersampling(image: Image, shape: Shape, scale: float) -> Image:
    """Pixel (x, y) is at (x / scale, y / scale)."""
    rows, columns = (supersampled(n_out, n_in, 1 / scale) for n_out, n_in in zip(shape, image.shape, strict=True))
    return applied(rows, image, columns)


def enlarged_inside(w: Field, shape: Shape, scale: float) -> Field:
    """Pixel (x, y) is at (x scale, y scale)."""
    rows, columns = (bicubic_inside(n_out, n_in, scale) for n_out, n_in in zip(shape, w.shape[1:], strict=True))
    return applied(rows, w, columns)


def crookedly_mirrored(position: Distance, n: int) -> Index:
    """... 3 2 | 0 1 2 ... n-1 | n-1 n-2 ...: pixel -1 is pixel 2, as OpenCV's derivatives have it; n >= 2."""
    inside = np.where(position < 0, 1 - position, position)
    return np.where(inside < n, inside, 2 * n - 1 - inside).astype(np.intp)


def five_point_jet(image: Image) -> Jet:
    """Derivatives by [1, -8, 0, 8, -1] / 12, second ones by doing so twice."""
    stencil = np.array([1, -8, 0, 8, -1]) / 12
    rows, columns = (convolution(n, stencil, crookedly_mirrored) for n in image.shape)
    Ix, Iy = image @ columns.T, rows @ image
    return Jet(image, Ix, Iy, Ixx=Ix @ columns.T, Ixy=Iy @ columns.T, Iyy=rows @ Iy)


def warped_in_mirror(image: Image, w: Field) -> Image:
    """The image at (x + u, y + v), bilinear, mirrored at its edges."""
    return sampled(image, *displaced(w), linear, 1, mirrored)


def joint_data_weights(data: Data, dw: Field, gamma: float) -> tuple[Image, Image]:
    """One Psi for brightness and gradient together."""
    q0, q1, q2 = data.residuals(dw)
    b = psi_prime(q0**2 + gamma * (q1**2 + q2**2))
    return b, gamma * b


def staggered_smoothness_weights(w: Field, dw: Field) -> Neighbours:
    """Psi'(|grad (u + du)|^2 + |grad (v + dv)|^2) halfway between neighbours.

    The derivative from one to the other is their difference; the one at a right angle to it is the mean of the central
    differences at both, the border pixel repeated.
    """
    now = w + dw
    central = np.stack([central_gradient(component) for component in now])  # [:, 0] along x, [:, 1] along y
    x = np.diff(now, axis=2) ** 2 + ((central[:, 1, :, 1:] + central[:, 1, :, :-1]) / 2) ** 2
    y = np.diff(now, axis=1) ** 2 + ((central[:, 0, 1:] + central[:, 0, :-1]) / 2) ** 2
    return Neighbours.inside(psi_prime(x.sum(axis=0)), psi_prime(y.sum(axis=0)))


# The discretisation of the IPOL article


def three_point_jet(image: Image) -> Jet:
    """Central differences, the border pixel repeated; Ixy from the four corners."""
    Ix, Iy = central_gradient(image)
    f = np.pad(image, 1, mode="edge")
    return Jet(
        image,
        Ix,
        Iy,
        Ixx=f[1:-1, 2:] - 2 * image + f[1:-1, :-2],
        Ixy=(f[2:, 2:] - f[2:, :-2] - f[:-2, 2:] + f[:-2, :-2]) / 4,
        Iyy=f[2:, 1:-1] - 2 * image + f[:-2, 1:-1],
    )


def separate_data_weights(data: Data, dw: Field, gamma: float) -> tuple[Image, Image]:
    """One Psi for brightness, another for the gradient."""
    q0, q1, q2 = data.residuals(dw)
    return psi_prime(q0**2), gamma * psi_prime(q1**2 + q2**2)


def averaged_smoothness_weights(w: Field, _: Field) -> Neighbours:
    """Psi'(|grad u|^2 + |grad v|^2) by central differences at each pixel, averaged over each pair of neighbours."""
    gradients = np.concatenate([central_gradient(component) for component in w])
    psi = psi_prime((gradients**2).sum(axis=0))
    return Neighbours.inside((psi[:, 1:] + psi[:, :-1]) / 2, (psi[1:] + psi[:-1]) / 2)


# What the presets fix


@dataclass(frozen=True)
class Scheme:
    normalised: Callable[[Image, Image], tuple[Image, Image]]
    shrunk: Callable[[Image, Shape, float], Image]  # image, shape of the next level, scale
    enlarged: Callable[[Field, Shape, float], Field]  # flow at the positions of the next level, values as they were
    jet: Callable[[Image], Jet]
    warped: Callable[[Image, Field], Image]
    data_weights: Callable[[Data, Field, float], tuple[Image, Image]]
    smoothness_weights: Callable[[Field, Field], Neighbours]


CUDA = Scheme(
    divided,
    shrunk_by_supersampling,
    enlarged_inside,
    five_point_jet,
    warped_in_mirror,
    joint_data_weights,
    staggered_smoothness_weights,
)
IPOL = Scheme(
    stretched,
    zoomed_out,
    lambda w, shape, _: zoomed_in(w, shape),
    three_point_jet,
    warped_whole,
    separate_data_weights,
    averaged_smoothness_weights,
)
SCHEMES = {"opencv-cuda": CUDA, "opencv-default": CUDA, "ipol": IPOL}
