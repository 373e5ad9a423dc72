"""Many pictures on one page, and a page as a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mode

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowprep.errors import StoreError
from flowprep.show.drawing import GAP, INK, MARGIN, NOTE, TITLE, blank, fitted_size, line_height, place, write

_NARROWEST = 160  # px: a cell has room for a caption


def contact_sheet(
    tiles: Sequence[tuple[str, NDArray[np.uint8]]], columns: int, *, title: str = "", tile_width: int = 320
) -> NDArray[np.uint8]:
    """``tiles`` in rows of ``columns``, each with its caption below: (height, width, 3) uint8 RGB, both sides even.

    A tile is (caption, image), the image (H, W, 3) RGB or (H, W) grey uint8 of any size. All cells have the size that
    most tiles take when they are scaled to fit a square of ``tile_width`` px; the others are fitted into it. Long
    captions are shortened.
    """
    if not tiles or columns < 1:
        raise ValueError(f"a contact sheet needs tiles and columns, not {len(tiles)} tiles in {columns} columns")
    columns = min(columns, len(tiles))
    sizes = [fitted_size(image.shape[1], image.shape[0], (tile_width, tile_width)) for _, image in tiles]
    width, height = mode(sizes)
    cell = (max(width, _NARROWEST), height)
    row_height = cell[1] + 4 + line_height(NOTE) + GAP
    row_width = columns * (cell[0] + GAP) - GAP
    first_row = MARGIN + (line_height(TITLE) + GAP if title else 0)
    page = blank(row_width + 2 * MARGIN, first_row + math.ceil(len(tiles) / columns) * row_height - GAP + MARGIN)

    write(page, (MARGIN, MARGIN), title, TITLE, row_width, INK)
    for i, (caption, image) in enumerate(tiles):
        row, column = divmod(i, columns)
        left, top = MARGIN + column * (cell[0] + GAP), first_row + row * row_height
        place(page, image, (left, top), cell)
        write(page, (left, top + cell[1] + 4), caption, NOTE, cell[0], INK)
    return np.array(page)


def save_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) or (H, W) uint8 image as a PNG file, whatever its suffix. Raises StoreError."""
    try:
        Image.fromarray(image).save(path, format="PNG")
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
