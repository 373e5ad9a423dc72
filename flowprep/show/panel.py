"""One flow field on one panel: the frame, its flow in colour, and the two planes that are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowprep.flow.metrics import known
from flowprep.show.colour import flow_to_rgb, legend
from flowprep.show.drawing import (
    CAPTION,
    FAINT,
    GAP,
    INK,
    MARGIN,
    NOTE,
    TITLE,
    blank,
    fitted_size,
    line_height,
    place,
    write,
)

_CELL = 360  # px: the longer side of an image on the panel
_NARROWEST = 230  # px: a cell has room for its captions
_LEGEND = 132  # px


def field_panel(
    frame_rgb: NDArray[np.uint8] | None,
    flow: NDArray[np.float32],
    planes: NDArray[np.integer[Any]],
    *,
    title: str,
    max_magnitude: float | None = None,
) -> NDArray[np.uint8]:
    """A picture of one field: (height, width, 3) uint8 RGB, both sides even.

    Parameters
    ----------
    frame_rgb: (h, w, 3) uint8, the frame that the flow starts from, of any size; None leaves its cell out.
    flow: (2, H, W) float32 px.
    planes: (2, H, W) integers, u and v as they are stored; other than uint8, each is drawn from black to white.
    title: one line; shortened where it is too long.
    max_magnitude: px that the colours end at; by default the largest of this field.

    The size of the panel depends on H, W and on whether there is a frame, on nothing else: panels of one video make a
    video.
    """
    if planes.shape != flow.shape:
        raise ValueError(f"the flow has shape {flow.shape}, its planes {planes.shape}: they must be equal")
    height, width = flow.shape[1:]
    seen = flow[:, known(flow)]
    if not seen.size:
        seen = np.zeros((2, 1), np.float32)
    magnitude = np.hypot(*seen)
    largest = float(magnitude.max())
    full = largest if max_magnitude is None else max_magnitude

    cells = [
        ("flow", flow_to_rgb(flow, full), f"mean {magnitude.mean():.2f} px, largest {largest:.2f} px"),
        ("u, to the right", _grey(planes[0]), _range(seen[0], planes[0])),
        ("v, downwards", _grey(planes[1]), _range(seen[1], planes[1])),
    ]
    if frame_rgb is not None:
        cells.insert(0, ("frame", frame_rgb, f"{frame_rgb.shape[1]} x {frame_rgb.shape[0]} px"))

    image_width, image_height = fitted_size(width, height, (_CELL, _CELL))
    cell = (max(image_width, _NARROWEST), max(image_height, _LEGEND))
    row_width = len(cells) * (cell[0] + GAP) + _LEGEND
    caption_top = MARGIN + line_height(TITLE) + GAP
    image_top = caption_top + line_height(CAPTION)
    note_top = image_top + cell[1] + 6
    page = blank(MARGIN + row_width + MARGIN, note_top + line_height(NOTE) + MARGIN)

    write(page, (MARGIN, MARGIN), title, TITLE, row_width, INK)
    for i, (caption, image, note) in enumerate(cells):
        left = MARGIN + i * (cell[0] + GAP)
        write(page, (left, caption_top), caption, CAPTION, cell[0], INK)
        place(page, image, (left, image_top), cell)
        write(page, (left, note_top), note, NOTE, cell[0], FAINT)
    page.paste(Image.fromarray(legend(_LEGEND, full)), (MARGIN + row_width - _LEGEND, image_top))
    return np.array(page)


def _grey(plane: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Levels as grey: those of 8 bits as they are, others from the smallest, black, to the largest, white."""
    if plane.dtype == np.uint8:
        return plane.astype(np.uint8)
    low, high = int(plane.min()), int(plane.max())
    return np.rint((plane.astype(np.float64) - low) * (255 / max(1, high - low))).astype(np.uint8)


def _range(component: NDArray[np.float32], plane: NDArray[np.integer[Any]]) -> str:
    return f"{component.min():z.2f} to {component.max():z.2f} px, stored {plane.min()} to {plane.max()}"
