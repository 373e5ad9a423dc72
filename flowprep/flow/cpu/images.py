"""Planes, their derivatives, and images to sample from (sampling.py)."""

from __future__ import annotations

import numpy as np

from flowprep.flow.cpu.compiling import inline, kernel
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.rearranging import store_pixels_4, store_pixels_8
from flowprep.flow.cpu.sampling import BORDER
from flowprep.flow.cpu.simd import load, load_anywhere, splat, store


@kernel
def filter_along(plane, target, buffer, height, width, pitch, taps, border):
    """Five taps along the rows. buffer: a row with LANES float32s before and behind it."""
    w0, w1, w2, w3, w4 = splat(taps[0]), splat(taps[1]), splat(taps[2]), splat(taps[3]), splat(taps[4])
    for y in range(height):
        at = y * pitch
        for x in range(0, width, LANES):
            store(buffer, LANES + x, load(plane, at + x))
        buffer[LANES - 2] = plane[at + border[0]]
        buffer[LANES - 1] = plane[at + border[1]]
        buffer[LANES + width] = plane[at + border[2]]
        buffer[LANES + width + 1] = plane[at + border[3]]
        for x in range(0, width, LANES):
            first = LANES + x - 2
            value = w0 * load_anywhere(buffer, first) + w1 * load_anywhere(buffer, first + 1)
            value = value + w2 * load_anywhere(buffer, first + 2) + w3 * load_anywhere(buffer, first + 3)
            store(target, at + x, value + w4 * load_anywhere(buffer, first + 4))


@kernel
def filter_down(plane, target, height, width, pitch, taps, border):
    """Five taps down the columns; ``target`` is another plane."""
    w0, w1, w2, w3, w4 = splat(taps[0]), splat(taps[1]), splat(taps[2]), splat(taps[3]), splat(taps[4])
    for y in range(height):
        row0 = (y - 2 if y >= 2 else border[y]) * pitch
        row1 = (y - 1 if y >= 1 else border[1]) * pitch
        row2 = y * pitch
        row3 = (y + 1 if y + 1 < height else border[2]) * pitch
        row4 = (y + 2 if y + 2 < height else border[4 + y - height]) * pitch
        for x in range(0, width, LANES):
            value = w0 * load(plane, row0 + x) + w1 * load(plane, row1 + x) + w2 * load(plane, row2 + x)
            store(target, row2 + x, value + w3 * load(plane, row3 + x) + w4 * load(plane, row4 + x))


@inline
def fill_border(image, height, width, channels, repeat):
    """The border of a sampled image: the border pixel repeated, or zeros (what lies right of a row was overwritten)."""
    line = channels * (width + 2 * BORDER)
    for y in range(BORDER, BORDER + height):
        first = y * line + BORDER * channels
        end = first + width * channels
        for x in range(BORDER):
            for c in range(channels):
                image[first - (x + 1) * channels + c] = image[first + c] if repeat else np.float32(0)
                image[end + x * channels + c] = image[end - channels + c] if repeat else np.float32(0)
    for y in range(BORDER):
        for i in range(line):
            image[y * line + i] = image[BORDER * line + i] if repeat else np.float32(0)
            below = (BORDER + height + y) * line + i
            image[below] = image[(BORDER + height - 1) * line + i] if repeat else np.float32(0)


@kernel
def join_4(p, px, py, image, height, width, pitch, repeat):
    """A plane and two more, interleaved: one pixel is p, px, py, 0."""
    line = 4 * (width + 2 * BORDER)
    for y in range(height):
        for x in range(0, width, LANES):
            at = y * pitch + x
            pixels = load(p, at), load(px, at), load(py, at), splat(0.0)
            store_pixels_4(image, (y + BORDER) * line + (x + BORDER) * 4, pixels)
    fill_border(image, height, width, 4, repeat)


@kernel
def join_8(p, px, py, pxx, pxy, pyy, image, height, width, pitch, repeat):
    """A plane and five more, interleaved: one pixel is p, px, py, pxx, pxy, pyy, 0, 0."""
    line = 8 * (width + 2 * BORDER)
    for y in range(height):
        for x in range(0, width, LANES):
            at = y * pitch + x
            first = load(p, at), load(px, at), load(py, at)
            pixels = *first, load(pxx, at), load(pxy, at), load(pyy, at), splat(0.0), splat(0.0)
            store_pixels_8(image, (y + BORDER) * line + (x + BORDER) * 8, pixels)
    fill_border(image, height, width, 8, repeat)


def image_length(height: int, width: int, channels: int) -> int:
    """float32s of a sampled image; the last row may be overwritten by a vector of pixels too many."""
    return (height + 2 * BORDER) * (width + 2 * BORDER) * channels + channels * LANES
