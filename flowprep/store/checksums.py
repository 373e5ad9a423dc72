"""The checksum behind every row and every block of side values: Zarr's core codec ``crc32c``.

A JPEG decoder takes most damage for an image, and any bits are a number. So what is stored is

    | data | CRC-32C of it, uint32 little-endian |

which plain Zarr checks as well.
"""

from __future__ import annotations

import google_crc32c

from flowprep.errors import RefusedError

BYTES = 4


def with_checksum(data: bytes) -> bytes:
    """``data`` and its checksum."""
    checksum: int = google_crc32c.value(data)
    return data + checksum.to_bytes(BYTES, "little")


def without_checksum(stored: bytes) -> bytes:
    """The data of :func:`with_checksum`; RefusedError where it is damaged."""
    data = stored[:-BYTES]
    if google_crc32c.value(data) != int.from_bytes(stored[-BYTES:], "little") or len(stored) < BYTES:
        raise RefusedError("damaged: its checksum is wrong")
    return data
