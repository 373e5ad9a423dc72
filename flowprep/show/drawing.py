"""What panels and sheets have in common: paper, ink, type, and images scaled to fit a box."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

PAPER = (250, 250, 248)
SHADE = (236, 236, 233)  # behind an image that does not fill its cell
HAIRLINE = (206, 206, 202)  # around a cell: white flow must not melt into the paper
INK = (30, 32, 36)
FAINT = (108, 112, 118)

MARGIN = 20  # px around the picture
GAP = 12  # px between cells
TITLE, CAPTION, NOTE = 20, 15, 13  # type sizes in px

_LONGEST_TEXT = 400  # characters: no more fit into any width in use


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own typeface: the same on every machine. It has ASCII and little more."""
    face = ImageFont.load_default(size=size)
    assert isinstance(face, ImageFont.FreeTypeFont)  # it is, whenever a size is given
    return face


def line_height(size: int) -> int:
    """px that a line of type of ``size`` takes, with room below it."""
    return sum(font(size).getmetrics()) + size // 4


def blank(width: int, height: int) -> Image.Image:
    """A sheet of paper; an odd side gets one px more, because video codecs want even ones."""
    return Image.new("RGB", (width + width % 2, height + height % 2), PAPER)


def write(
    page: Image.Image, at: tuple[int, int], text: str, size: int, width: int, ink: Colour, *, right: bool = False
) -> None:
    """Write one line, shortened to ``width`` px, with its upper left (or upper ``right``) corner at ``at``."""
    anchor = "ra" if right else "la"
    ImageDraw.Draw(page).text(at, shortened(text, width, size), font=font(size), fill=ink, anchor=anchor)


def shortened(text: str, width: int, size: int) -> str:
    """``text`` on one line of at most ``width`` px; its middle gives way to an ellipsis: names differ at their ends."""
    text = " ".join(text[:_LONGEST_TEXT].split())
    face = font(size)
    if face.getlength(text) <= width:
        return text

    def keep(letters: int) -> str:
        return text[: (letters + 1) // 2] + "…" + text[len(text) - letters // 2 :]

    fitting = bisect_right(range(len(text)), float(width), key=lambda letters: face.getlength(keep(letters)))
    return keep(max(0, fitting - 1))


def fitted_size(width: int, height: int, box: tuple[int, int]) -> tuple[int, int]:
    """(width, height) scaled to fit ``box`` (width, height) px, aspect kept; grows by whole factors only."""
    scale = min(box[0] / width, box[1] / height)
    if scale >= 1:
        return width * int(scale), height * int(scale)
    return max(1, round(width * scale)), max(1, round(height * scale))


def place(page: Image.Image, image: NDArray[np.uint8], corner: tuple[int, int], cell: tuple[int, int]) -> None:
    """Put an (H, W, 3) RGB or (H, W) grey image into the middle of a framed cell (width, height), scaled to fit."""
    picture = Image.fromarray(image).convert("RGB")
    size = fitted_size(picture.width, picture.height, cell)
    grows = size[0] > picture.width
    picture = picture.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.HAMMING)
    left, top = corner[0] + (cell[0] - size[0]) // 2, corner[1] + (cell[1] - size[1]) // 2
    outline = (corner[0] - 1, corner[1] - 1, corner[0] + cell[0], corner[1] + cell[1])
    ImageDraw.Draw(page).rectangle(outline, fill=SHADE, outline=HAIRLINE)
    page.paste(picture, (left, top))
