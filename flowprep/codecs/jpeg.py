"""JPEG: levels of 8 bits in one grey image, RGB frames in another.

Flow: u above v, of a stack all channels one above the other, in one grey image; a *flat* quantisation table (every
frequency matters equally to an end-point error, unlike to the eye); Huffman tables optimised for the image. Each image
gets the table that its own range deserves: with scale s px per level and table entry D, the error in pixels grows like
s D, while the bytes fall like 1 / D where most coefficients are already zero. The sum of errors at a given sum of bytes
is smallest for D proportional to 1 / sqrt(s).
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowprep import opencv
from flowprep.config import JPEG_SIDE
from flowprep.errors import RefusedError, Verdict, VideoError

REFERENCE_SCALE = 1 / 16  # px per level at which ``quality`` has its libjpeg meaning: a field that spans 16 px

# Marker segments of a JPEG file: one frame header, after tables, applications' data and comments.
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
OTHER_HEADERS = frozenset((0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))


class JpegCodec:
    """:class:`flowprep.codecs.FieldCodec` of 8 bits; its levels have the zero and the scale that the field asks for."""

    dtype: np.dtype[Any] = np.dtype(np.uint8)
    zero_level = 128

    def __init__(self, quality: int) -> None:
        self.quality = quality

    def encode(self, levels: NDArray[Any], scale: NDArray[np.float32]) -> bytes:
        return encode_field(levels, table_entry(self.quality, scale))

    def decode(
        self, payload: bytes | memoryview, shape: tuple[int, int, int], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        channels, height, width = shape
        return decode_field(payload, height, width, channels=channels, out=out)


def table_entry(quality: int, scale: NDArray[np.float32]) -> int:
    """Entry of the flat quantisation table, 1..255, for a field with the (2,) ``scale`` of its two components."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality  # libjpeg's quality scale
    of_u, of_v = scale.tolist()
    typical = math.sqrt((of_u * of_u + of_v * of_v) / 2)
    if typical == 0:  # an all-zero field: it decodes to zero whatever the table
        return 255
    return min(255, max(1, round(16 * percent / 100 * math.sqrt(REFERENCE_SCALE / typical))))


def encode_field(levels: NDArray[np.uint8], entry: int) -> bytes:
    """A quantised field (2, H, W) or stack (2L, H, W) as a grey JPEG of 2LH rows with a flat table of ``entry``.

    Raises VideoError (too_large) where a side of that image is over 65,500 px.
    """
    image = levels.reshape(-1, levels.shape[-1])
    _check_sides(image)
    stream = io.BytesIO()
    # Huffman tables of its own save 3 to 16 % of a field; of a stack, ten times as large, 2 %, for twice the time.
    Image.fromarray(image).save(stream, "JPEG", qtables=[[entry] * 64], optimize=len(levels) == 2)
    return stream.getvalue()


def decode_field(
    payload: bytes | memoryview, height: int, width: int, *, channels: int = 2, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The (channels, H, W) uint8 levels of :func:`encode_field`, in ``out`` where given.

    Raises RefusedError if that is not what ``payload`` holds.
    """
    levels = np.empty((channels, height, width), np.uint8) if out is None else out
    _decode(payload, levels.reshape(channels * height, width))
    return levels


def encode_rgb(image: NDArray[np.uint8], quality: int) -> bytes:
    """An (H, W, 3) uint8 RGB frame as JPEG (4:2:0). Raises VideoError (too_large) where a side is over 65,500 px."""
    _check_sides(image)
    cv2 = opencv.load()  # Pillow would give the same bytes more slowly: it copies RGB to four bytes a pixel first
    done, payload = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:  # libjpeg refuses an image of this kind and size for nothing else
        raise MemoryError("no memory left to encode an RGB frame")
    encoded: bytes = payload.tobytes()
    return encoded


def decode_rgb(payload: bytes | memoryview, height: int, width: int) -> NDArray[np.uint8]:
    """The (H, W, 3) uint8 RGB frame of :func:`encode_rgb`. Raises RefusedError if ``payload`` holds anything else."""
    image = np.empty((height, width, 3), np.uint8)
    _decode(payload, image)
    return image


def _check_sides(image: NDArray[np.uint8]) -> None:
    """Raise VideoError where ``image`` (H, W) or (H, W, 3) is larger than a JPEG can be."""
    height, width = image.shape[:2]
    if max(height, width) > JPEG_SIDE:
        raise VideoError(
            Verdict.TOO_LARGE,
            f"its JPEG images would be {width}x{height} pixels, {JPEG_SIDE} a side is the most; give --short-side "
            "(of stacks --size), or --codec htj2k",
        )


def _decode(payload: bytes | memoryview, image: NDArray[np.uint8]) -> None:
    """Decode into ``image`` (H, W) or (H, W, 3), contiguous. Raises RefusedError if ``payload`` is no such image."""
    # Compared first: the decoder asks for memory for whatever size a forged header declares.
    height, width = _declared_size(payload)
    if (height, width) != image.shape[:2]:
        raise RefusedError(f"a stored image is {width}x{height}, its array says {image.shape[1]}x{image.shape[0]}")
    if payload[-2:] != b"\xff\xd9":  # the end of image: the decoder would fill in what is missing
        raise RefusedError("a stored JPEG image is cut off")
    try:
        # OpenCV's decoder takes no array to write to. This one takes any buffer, whatever its types say.
        imagecodecs.jpeg8_decode(payload, out=image)  # type: ignore[arg-type]
    except (imagecodecs.Jpeg8Error, ValueError) as error:
        raise RefusedError("a stored JPEG image does not decode: it is damaged") from error


def _declared_size(payload: bytes | memoryview) -> tuple[int, int]:
    """(height, width) px that the frame header declares (ISO/IEC 10918-1, B.2.2). Raises RefusedError without one."""
    position = 2  # behind the start of image
    while payload[:2] == b"\xff\xd8" and position + 9 <= len(payload):
        mark, marker, length, height, width = struct.unpack_from(">BBHxHH", payload, position)
        if mark != 0xFF:
            break
        if marker in FRAME_HEADERS:
            return height, width
        if marker not in OTHER_HEADERS:
            break
        position += 2 + length
    raise RefusedError("stored data is not a JPEG image")
