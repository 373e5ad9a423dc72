"""Levels to bytes and back: fields and stacks by the codec that the settings name, RGB frames as JPEG.

    jpeg    8 bits with loss     the two-stream paper's way, with better tables
    htj2k   16 bits with loss    High-Throughput JPEG 2000: the fewest bytes for an error
    blosc   8 or 16 bits         what the quantiser left, without further loss: any Zarr reader has it

A payload is the chunk of a Zarr array, byte for byte (flowprep/store/zarr_codec.py says which codecs Zarr needs).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flowprep.codecs.jpeg import (
    REFERENCE_SCALE,
    JpegCodec,
    decode_field,
    decode_rgb,
    encode_field,
    encode_rgb,
    table_entry,
)
from flowprep.config import StorageConfig

__all__ = [
    "REFERENCE_SCALE",
    "FieldCodec",
    "decode_field",
    "decode_rgb",
    "encode_field",
    "encode_rgb",
    "field_codec",
    "table_entry",
]


class FieldCodec(Protocol):
    """Encodes the levels of a field (2, H, W) or of a stack (2L, H, W): u1, v1, u2, v2, ..."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the levels: uint8 (jpeg), uint16 (htj2k), int8 or int16 (blosc)."""
        ...

    @property
    def zero_level(self) -> int:
        """Level of 0 px, where that is fixed; rows that nobody wrote read as this."""
        ...

    def encode(self, levels: NDArray[Any], scale: NDArray[np.float32]) -> bytes:
        """Levels (2L, H, W), contiguous, of :attr:`dtype`; (2,) ``scale`` in px per level of all u and all v.

        Raises VideoError (too_large) where the codec has no images of that size.
        """
        ...

    def decode(
        self, payload: bytes | memoryview, shape: tuple[int, int, int], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Levels of ``shape`` (2L, H, W): in ``out`` (contiguous, that shape and :attr:`dtype`) where given.

        Raises RefusedError for damage, and for images of another shape before memory is asked for; ``out`` may
        then hold anything.
        """
        ...


def field_codec(storage: StorageConfig) -> FieldCodec:
    """The codec that ``storage`` names. Its library is loaded here."""
    if storage.codec == "htj2k":
        from flowprep.codecs.htj2k import Htj2kCodec

        return Htj2kCodec(storage.level)
    if storage.codec == "blosc":
        from flowprep.codecs.blosc import BloscCodec

        return BloscCodec(storage.bits)
    return JpegCodec(storage.quality)
