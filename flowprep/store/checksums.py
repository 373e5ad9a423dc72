"""The checksum behind every row and every block of side values: Zarr's core codec ``crc32c``.

A JPEG decoder takes most damage for an image, and any bits are a number. So what is stored is

    | data | CRC-32C of it, uint32 little-endian |

which plain Zarr checks as well.
"""

from __future__ import annotations

import google_crc32c
import numpy as np

from flowprep.errors import RefusedError

BYTES = 4


def checksum(data: bytes | memoryview) -> int:
    """CRC-32C of ``data``."""
    found: int = google_crc32c.value(np.frombuffer(data, np.uint8))  # it takes no memoryview
    return found


def with_checksum(data: bytes | memoryview) -> bytes:
    """``data`` and its checksum."""
    return b"".join((data, checksum(data).to_bytes(BYTES, "little")))


def without_checksum(stored: bytes | memoryview) -> memoryview:
    """The data of :func:`with_checksum`, in its memory; RefusedError where it is damaged."""
    data = memoryview(stored)[:-BYTES]
    if checksum(data) != int.from_bytes(stored[-BYTES:], "little") or len(stored) < BYTES:
        raise RefusedError("damaged: its checksum is wrong")
    return data
