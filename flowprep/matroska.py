"""How long a Matroska or WebM file says it is: such files declare no number of frames, but their own length."""

from __future__ import annotations

import os
from pathlib import Path

MATROSKA, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"  # the element IDs that a Matroska or WebM file begins with


def missing_bytes(path: Path) -> str:
    """What a Matroska or WebM file has lost at its end, judged by the length that it declares; "" = nothing."""
    with path.open("rb") as file:
        head, size = file.read(4096), os.fstat(file.fileno()).st_size
    if not head.startswith(MATROSKA):
        return ""
    at, length = _ebml_length(head, len(MATROSKA))
    at += length
    if head[at : at + len(SEGMENT)] != SEGMENT:
        return ""
    at, length = _ebml_length(head, at + len(SEGMENT))
    missing = at + length - size
    return f"{missing} of {at + length} bytes are missing" if missing > 0 else ""


def _ebml_length(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element begins whose length stands at ``at``, and that length; 0 = not declared."""
    width = 9 - int.from_bytes(data[at : at + 1], "big").bit_length()  # the first bit that is set tells
    largest = (1 << 7 * width) - 1
    length = int.from_bytes(data[at : at + width], "big") & largest
    return at + width, length if length < largest else 0
