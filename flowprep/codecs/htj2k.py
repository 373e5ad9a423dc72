"""HTJ2K (High-Throughput JPEG 2000, ISO/IEC 15444-15): levels of 16 bits, all channels in one codestream.

The irreversible 9/7 wavelet transform, five decompositions, one step for all coefficients (relative to their share in
the error of the image). Neither a range nor a table belongs to a field: the step is a length in px.

The decoder notices hardly any damage, and what it makes of it is not harmless. In front of it stand the checksum of the
row (flowprep/store/checksums.py), against accidents, and a comparison of the headers with those that flowprep writes,
against forgeries.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from flowprep.errors import RefusedError

LOWEST, HIGHEST = 512, 65024  # levels of -63 px and +63 px: what lies beyond could not be kept from wrapping
# Levels, for a step of 1: how near the ends an image has to come to be looked at. Overshoot is a third of that at most.
HEADROOM = 8 * 2**16
SPARE = 16  # levels at the ends that stay empty, for decoders that round otherwise
SIZE = struct.Struct(">4xHH8IH")  # Lsiz, Rsiz, then extent, offset, tile, offset of tiles (x, y each), components
COMPONENT = b"\x0f\x01\x01"  # 16 bits, unsigned, not subsampled
CODING = re.compile(  # ISO/IEC 15444-1, annex A, and 15444-15: CAP, COD, QCD
    rb"\xff\x50\x00\x08\x00\x02\x00\x00.."
    rb"\xff\x52\x00\x0c\x00\x02\x00\x01\x00\x05\x04\x04\x40\x00"
    rb"\xff\x5c\x00\x23\x22(?:[\x00-\xbf].){16}",  # exponents up to 23: 31 crashes the decoder
    re.DOTALL,
)
COMMENT = b"\xff\x64"
TILE = struct.Struct(">HHHIBBH")  # SOT: marker, its length, number of the tile, bytes, part, of how many parts; SOD


class Htj2kCodec:
    """:class:`flowprep.codecs.FieldCodec` of 16 bits."""

    dtype: np.dtype[Any] = np.dtype(np.uint16)
    zero_level = 32768

    def __init__(self, level: float) -> None:
        self.level = level

    def encode(self, levels: NDArray[Any], scale: NDArray[np.float32]) -> bytes:  # noqa: ARG002 - one for all fields
        return encode_image(levels, self.level)

    def decode(
        self, payload: bytes | memoryview, shape: tuple[int, int, int], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        return decode_image(bytes(payload), shape, out)


def encode_image(levels: NDArray[np.uint16], level: float) -> bytes:
    """Levels (C, H, W) in 512..65024 as one codestream, with steps of ``level`` times 2**16 levels.

    The decoder does not clamp: what overshoots 0 or 65535 wraps, an error of the whole range. So an image with levels
    near the ends is decoded to see, and encoded with half the step until nothing wraps.
    """
    low, high = int(levels.min()), int(levels.max())
    if low < LOWEST or high > HIGHEST:
        raise ValueError(f"levels {low}..{high} cannot be stored as HTJ2K: {LOWEST} to {HIGHEST} can")
    while True:
        stream = bytes(imagecodecs.htj2k_encode(levels, level, planar=True, reversible=False))
        margin = HEADROOM * level
        if margin < low and high < 2**16 - margin:
            return stream
        decoded = imagecodecs.htj2k_decode(stream, planar=True).astype(np.int32)
        inside = decoded.min() >= SPARE and decoded.max() < 2**16 - SPARE
        if inside and np.abs(decoded - levels).max() < 2**15:
            return stream
        level /= 2


def decode_image(
    stream: bytes, shape: tuple[int, int, int], out: NDArray[np.uint16] | None = None
) -> NDArray[np.uint16]:
    """Levels of ``shape`` (C, H, W), in ``out`` where given. Raises RefusedError for headers that are not flowprep's.

    What a forger puts behind them becomes some image: the decoder seldom objects.
    """
    _check_headers(stream, shape)
    try:
        image: NDArray[np.uint16] = imagecodecs.htj2k_decode(stream, planar=True, out=out)
    except RuntimeError as error:
        raise RefusedError("a stored HTJ2K image does not decode: it is damaged") from error
    return image


def _check_headers(stream: bytes, shape: tuple[int, int, int]) -> None:
    """Raise RefusedError unless all headers are as :func:`encode_image` has them written for an image of ``shape``."""
    channels, height, width = shape
    body = SIZE.size + channels * len(COMPONENT)
    if len(stream) < SIZE.size or stream[:4] != b"\xff\x4f\xff\x51":
        raise RefusedError("stored data is not an HTJ2K image")
    _, _, x, y, *grid, components = SIZE.unpack_from(stream)
    if (components, y, x) != shape:
        raise RefusedError(
            f"a stored image has {components} channels of {x}x{y}, its array says {channels} of {width}x{height}"
        )
    coding = CODING.match(stream, body)
    if grid != [0, 0, width, height, 0, 0] or stream[SIZE.size : body] != channels * COMPONENT or not coding:
        raise RefusedError("a stored HTJ2K image is not coded as flowprep does, or it is damaged")
    tile = coding.end()
    if stream[tile : tile + 2] == COMMENT:
        tile += 2 + int.from_bytes(stream[tile + 2 : tile + 4])
    expected = (0xFF90, 10, 0, len(stream) - tile - 2, 0, 1, 0xFF93)  # all that is left, but for the end marker
    if len(stream) < tile + TILE.size or TILE.unpack_from(stream, tile) != expected:
        raise RefusedError("a stored HTJ2K image is not one tile of the length that it says: it is damaged")
