"""Blosc: levels of 8 or 16 bits without further loss, bits shuffled, then Zstandard. Part of the core of Zarr v3.

Numcodecs is what Zarr itself compresses with.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from flowprep.errors import RefusedError

COMPRESSOR, EFFORT = b"zstd", 5
HEADER = struct.Struct("<4x3I")  # version, flags, typesize; then bytes of the levels, of a block, of the payload

blosc.use_threads = False  # of its own: rows are encoded and decoded side by side already; Zarr does the same


class BloscCodec:
    """:class:`flowprep.codecs.FieldCodec` of 8 or 16 bits, signed."""

    zero_level = 0

    def __init__(self, bits: int) -> None:
        self.dtype: np.dtype[Any] = np.dtype(f"int{bits}")

    def encode(self, levels: NDArray[Any], scale: NDArray[np.float32]) -> bytes:  # noqa: ARG002 - nothing is lost
        payload: bytes = blosc.compress(levels, COMPRESSOR, EFFORT, blosc.BITSHUFFLE)
        return payload

    def decode(
        self, payload: bytes | memoryview, shape: tuple[int, int, int], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        self._check_header(payload, math.prod(shape) * self.dtype.itemsize)
        levels = np.empty(shape, self.dtype) if out is None else out
        try:
            blosc.decompress(payload, levels)
        except RuntimeError as error:
            raise RefusedError("stored Blosc data does not decompress: it is damaged") from error
        return levels

    def _check_header(self, payload: bytes | memoryview, expected: int) -> None:
        """Raise RefusedError unless the header is one of so many bytes of levels in a payload of this length."""
        if len(payload) < HEADER.size:
            raise RefusedError("stored data is not from Blosc")
        size, block, stored = HEADER.unpack_from(payload)
        if stored != len(payload):
            raise RefusedError("stored data is not from Blosc, or it is cut off")
        if size != expected:
            raise RefusedError(f"stored Blosc data is of {size} bytes, its array says {expected}")
        if block > size:
            raise RefusedError("stored Blosc data is damaged: its blocks are larger than the whole")
