"""Trajectories as lines: where the points of a grid go, by the values of a trajectory stack alone.

Eq. 2 of K. Simonyan and A. Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos" (2014),
reads field k at p_k and goes on from p_k to p_k+1 = p_k + d_k(p_k). A stack holds d_k(p_k) for every start pixel p_1,
so the points follow from it without the fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowprep.show.drawing import Colour

# Colours of the first and the last step. Both ends stand out from grey pictures, and none looks like the other way.
FORWARD: tuple[Colour, Colour] = ((255, 238, 110), (255, 40, 50))
BACKWARD: tuple[Colour, Colour] = ((165, 255, 240), (70, 80, 255))

_POINTS = (6, 16)  # along the longer side of the field: as many as 16 for trajectories of up to _STEPS, else fewer
_STEPS = 10
_HALO = (16, 18, 22, 190)  # around lines and points: seen on any background
_LINE, _EDGE, _DOT = 1.8, 1.2, 2.4  # px: width of a line, of the halo on each side, radius of a start point
_FINER = 3  # drawn so many times as large, then averaged: smooth edges


def grid(height: int, width: int, steps: int) -> NDArray[np.int64]:
    """Start points (n, 2), x and y in px of the field: evenly spaced, for trajectories of ``steps`` fields in all."""
    fewest, most = _POINTS
    points = max(fewest, most * min(1, math.sqrt(_STEPS / steps)))
    spacing = math.ceil(max(height, width) / points)
    x = np.arange((width - 1) % spacing // 2, width, spacing)
    y = np.arange((height - 1) % spacing // 2, height, spacing)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def follow(values: NDArray[np.float32], stride: int, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Positions (n, steps + 1, 2) in px of the field, from ``starts`` (n, 2) on.

    ``values`` (K, 2, H, W) px are what a trajectory stack holds for one direction, nothing subtracted. With a temporal
    ``stride`` of s it holds every s-th of the steps; those between are interpolated linearly. A point that leaves the
    field goes on from its border, as the stack's does.
    """
    last = np.array(values.shape[:1:-1]) - 1  # x and y of the last pixel
    here = values[:, :, starts[:, 1], starts[:, 0]].transpose(0, 2, 1).astype(np.float64)  # (K, n, 2)
    positions = [starts.astype(np.float64)]
    for step in range((len(here) - 1) * stride + 1):
        k, share = step // stride, step % stride / stride
        displacement = here[k] + share * (here[min(k + 1, len(here) - 1)] - here[k])
        positions.append(np.clip(positions[-1] + displacement, 0, last))
    return np.stack(positions, axis=1)


def colours(ends: tuple[Colour, Colour], count: int) -> NDArray[np.uint8]:
    """The colours (count, 3) of so many steps in time."""
    share = np.linspace(0, 1, count)[:, None]
    return np.rint((1 - share) * ends[0] + share * ends[1]).astype(np.uint8)


def draw_trajectories(image: NDArray[np.uint8], ways: Sequence[NDArray[np.float64]], field: tuple[int, int]) -> None:
    """Draw positions (n, steps + 1, 2), in px of the field, onto ``image`` (h, w, 3), which may have another size.

    ``ways`` are the positions forward in time and, maybe, those backward; ``field`` is (height, width) px. Lines go
    from the first colour of their way to the last, their common start is a white point.
    """
    height, width = image.shape[:2]
    size = np.array([width / field[1], height / field[0]]) * _FINER
    lines = [(way + 0.5) * size for way in ways]  # pixel (0, 0) of the field has its centre at (0.5, 0.5)
    layer = Image.new("RGBA", (width * _FINER, height * _FINER))
    ink = ImageDraw.Draw(layer)

    def disc(centre: NDArray[np.float64], radius: float, fill: tuple[int, ...]) -> None:
        x, y = centre.tolist()
        reach = radius * _FINER
        ink.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)

    halo, line = round((_LINE + 2 * _EDGE) * _FINER), round(_LINE * _FINER)
    for way in lines:
        for points in way:
            ink.line(points.ravel().tolist(), fill=_HALO, width=halo, joint="curve")
            disc(points[-1], _LINE / 2 + _EDGE, _HALO)
    for way, ends in zip(lines, (FORWARD, BACKWARD), strict=False):
        steps = way.shape[1] - 1
        for step, colour in enumerate(colours(ends, steps).tolist()):
            for a, b in way[:, step : step + 2]:
                ink.line((*a.tolist(), *b.tolist()), fill=(*colour, 255), width=line)
                disc(b, _LINE / 2, (*colour, 255))
    for start in lines[0][:, 0]:
        disc(start, _DOT + _EDGE, _HALO)
        disc(start, _DOT, (255, 255, 255, 255))
    page = Image.fromarray(image)
    page.paste(smooth := layer.reduce(_FINER), mask=smooth)
    image[...] = np.array(page)
