"""uint8 arrays to JPEG bytes and back.

Flow: u above v in one grey image, a *flat* quantisation table (every frequency matters equally to an end-point error,
unlike to the eye), Huffman tables optimised for the image. Each field gets the table that its own range deserves: with
scale s px per level and table entry D, the error in pixels grows like s D, while the bytes fall like 1 / D where most
coefficients are already zero. The sum of errors at a given sum of bytes is smallest for D proportional to 1 / sqrt(s).
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowprep import opencv
from flowprep.errors import RefusedError

FLOW_QUALITY = 90  # the default of --quality; docs/storage.md has the measurements behind it
REFERENCE_SCALE = 1 / 16  # px per level at which ``quality`` has its libjpeg meaning: a field that spans 16 px


def table_entry(quality: int, scale: NDArray[np.float32]) -> int:
    """Entry of the flat quantisation table, 1..255, for a field with the (2,) ``scale`` of its two components."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality  # libjpeg's quality scale
    typical = float(np.sqrt(np.mean(np.square(scale, dtype=np.float64))))
    if typical == 0:  # an all-zero field: it decodes to zero whatever the table
        return 255
    return min(255, max(1, round(16 * percent / 100 * math.sqrt(REFERENCE_SCALE / typical))))


def encode_field(levels: NDArray[np.uint8], entry: int) -> bytes:
    """One quantised field (2, H, W) as a grey JPEG of size (2H, W) with a flat table of ``entry``."""
    tall = Image.fromarray(levels.reshape(-1, levels.shape[-1]))
    stream = io.BytesIO()
    tall.save(stream, "JPEG", qtables=[[entry] * 64], optimize=True)
    return stream.getvalue()


def decode_field(payload: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The (2, H, W) uint8 field of :func:`encode_field`. Raises RefusedError if that is not what ``payload`` holds."""
    cv2 = opencv.load()
    return _decoded(payload, (2 * height, width), cv2.IMREAD_GRAYSCALE).reshape(2, height, width)


def encode_rgb(image: NDArray[np.uint8], quality: int) -> bytes:
    """An (H, W, 3) uint8 RGB frame as JPEG (4:2:0)."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def decode_rgb(payload: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The (H, W, 3) uint8 RGB frame of :func:`encode_rgb`. Raises RefusedError if ``payload`` holds anything else."""
    cv2 = opencv.load()
    image: NDArray[np.uint8] = cv2.cvtColor(_decoded(payload, (height, width), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return image


def _decoded(payload: bytes, shape: tuple[int, int], mode: int) -> NDArray[np.uint8]:
    """Decode after comparing the size that the JPEG header declares: a forged one must not allocate gigabytes."""
    try:
        with Image.open(io.BytesIO(payload), formats=("JPEG",)) as header:
            size = header.size
    except (OSError, SyntaxError) as error:
        raise RefusedError(f"stored data is not a JPEG image ({error})") from None
    if size != (shape[1], shape[0]):
        raise RefusedError(f"a stored image is {size[0]}x{size[1]}, its array says {shape[1]}x{shape[0]}")
    image: NDArray[np.uint8] | None = opencv.load().imdecode(np.frombuffer(payload, np.uint8), mode)
    if image is None:
        raise RefusedError("a stored JPEG image does not decode: it is damaged")
    return image
