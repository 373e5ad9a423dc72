"""Sizes in px: their limits, and how they are written."""

from __future__ import annotations

import re
from fractions import Fraction

from flowprep.errors import UsageError

MIN_SIDE = 16  # px: no flow method here has a meaning below this
JPEG_SIDE = 65_500  # px: the largest image that libjpeg writes; a field is stored as one of twice its height


def parse_size(option: str, text: str) -> tuple[int, int] | None:
    """(width, height) in px of a text like 340x256, None of an empty one; UsageError naming ``option`` otherwise."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    if not match:
        raise UsageError(f"{option} {text!r}: give width x height in pixels, for example 340x256.")
    width, height = int(match[1]), int(match[2])
    if min(width, height) < MIN_SIDE or max(width, 2 * height) > JPEG_SIDE:
        raise UsageError(
            f"{option} {text}: give {MIN_SIDE} to {JPEG_SIDE} pixels of width "
            f"and {MIN_SIDE} to {JPEG_SIDE // 2} of height."
        )
    return width, height


def scaled(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side at ``short_side`` px, aspect kept; unchanged for 0."""
    if not short_side:
        return height, width
    scale = Fraction(short_side, min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
