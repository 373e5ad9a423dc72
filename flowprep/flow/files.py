"""Optical flow in the two file formats that benchmarks exchange: Middlebury ``.flo`` and KITTI 16-bit PNG.

``.flo`` (little-endian): float32 202021.25, int32 width, int32 height, then float32 u, v of each pixel, row by row.
Defined in the Middlebury flow-code, https://vision.middlebury.edu/flow/code/flow-code/README.txt.

KITTI (M. Menze and A. Geiger, "Object Scene Flow for Autonomous Vehicles", CVPR 2015; development kit, readme.txt):
an RGB PNG of 16 bits; R = 64 u + 2^15, G = 64 v + 2^15, B = 1 where the flow is known, else 0. It holds
-512 to 511.98 px in steps of 1/64 px.

Flow is ``(2, H, W)`` float32, px, +u right, +v down. A malformed file raises UsageError with its name; a disk that
does not take what is written raises StoreError.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowprep import opencv
from flowprep.errors import RefusedError, StoreError, UsageError
from flowprep.flow.metrics import known

_FLO_HEADER = struct.Struct("<fii")
_FLO_MAGIC = 202021.25  # the bytes "PIEH"
_FLO_MAX_SIDE = 99_999  # px; the limit of the Middlebury reader

_PNG_HEADER = struct.Struct(">8sI4sIIBB")  # signature; first chunk: length, type, width, height, bits, colour type
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_RGB = 2
_KITTI_MAX_PIXELS = 1 << 26  # 64 Mpx; a few bytes of PNG can claim any size
_KITTI_ZERO = 1 << 15
_KITTI_STEPS = 64  # per px


def read_flo(path: Path) -> NDArray[np.float32]:
    """Read a Middlebury file: ``(2, H, W)`` float32 px, unknown pixels as the file has them (over 1e9)."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(_FLO_HEADER.size)
        if len(header) < _FLO_HEADER.size:
            raise UsageError(f"{path}: {size} bytes are too short for a .flo file; copy or download it again")
        magic, width, height = _FLO_HEADER.unpack(header)
        if magic != _FLO_MAGIC:
            raise UsageError(f"{path}: not a .flo file: it does not begin with 'PIEH' (202021.25)")
        if not (1 <= width <= _FLO_MAX_SIDE and 1 <= height <= _FLO_MAX_SIDE):
            raise UsageError(f"{path}: not a .flo file: its header says {width}x{height} pixels")
        expected = _FLO_HEADER.size + 8 * width * height
        if size != expected:
            raise UsageError(
                f"{path}: {size} bytes, but {width}x{height} pixels of flow take {expected}: "
                "the file is truncated or damaged; copy or download it again"
            )
        interleaved = np.fromfile(file, "<f4").reshape(height, width, 2)
    return np.ascontiguousarray(interleaved.transpose(2, 0, 1), np.float32)


def write_flo(path: Path, flow: ArrayLike) -> None:
    """Write ``(2, H, W)`` flow in px as a Middlebury file, unrounded."""
    field = _field(flow)
    height, width = field.shape[1:]
    _write(path, _FLO_HEADER.pack(_FLO_MAGIC, width, height) + field.transpose(1, 2, 0).astype("<f4").tobytes())


def read_kitti(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a KITTI flow PNG: ``(2, H, W)`` float32 px, NaN where unknown, and ``(H, W)`` bool, true where known."""
    cv2 = opencv.load()
    with _opened(path) as file:
        header = file.read(_PNG_HEADER.size)
        _check_png_header(path, header)
        data = header + file.read()
    # A decoder may hand over the part of a truncated image that it has.
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data.endswith(_PNG_END) else None
    if bgr is None:
        raise UsageError(f"{path}: the PNG file is truncated or damaged; copy or download it again")
    valid = bgr[:, :, 0] > 0
    flow = bgr[:, :, :0:-1].transpose(2, 0, 1).astype(np.float32)  # (2, H, W): R = u, G = v
    flow -= _KITTI_ZERO
    flow /= _KITTI_STEPS
    flow[:, ~valid] = np.nan
    return flow, valid


def write_kitti(path: Path, flow: ArrayLike, valid: ArrayLike | None = None) -> None:
    """Write ``(2, H, W)`` flow in px as a KITTI flow PNG, rounded to 1/64 px.

    ``valid`` is ``(H, W)``, true where the flow is known; by default wherever it is neither NaN nor over 1e9.
    Raises RefusedError where a known value does not fit into the format.
    """
    field = _field(flow)
    mask = known(field) if valid is None else np.asarray(valid, bool)
    if mask.shape != field.shape[1:]:
        raise ValueError(f"the valid mask has shape {mask.shape}, the flow {field.shape}: expected {field.shape[1:]}")
    steps = np.rint(np.where(mask, field, 0) * _KITTI_STEPS) + _KITTI_ZERO
    if not ((steps >= 0) & (steps <= 65535)).all():
        raise RefusedError(
            f"{path}: the KITTI format holds flow of -512 to 511.98 px, this has more: write a .flo file"
        )
    bgr = np.zeros((*mask.shape, 3), np.uint16)
    bgr[:, :, 0] = mask
    bgr[:, :, 1] = np.where(mask, steps[1], 0)
    bgr[:, :, 2] = np.where(mask, steps[0], 0)
    _, encoded = opencv.load().imencode(".png", bgr)
    _write(path, encoded.tobytes())


def _check_png_header(path: Path, header: bytes) -> None:
    """Refuse, before a pixel is decoded, what is not a 16-bit RGB PNG of a sensible size."""
    if not header.startswith(_PNG_SIGNATURE) or len(header) < _PNG_HEADER.size:
        raise UsageError(f"{path}: not a PNG file")
    _, _, _, width, height, bits, colour = _PNG_HEADER.unpack(header)
    if (bits, colour) != (16, _PNG_RGB):
        raise UsageError(f"{path}: not a KITTI flow file: that is a PNG of three channels of 16 bits")
    if not 0 < width * height <= _KITTI_MAX_PIXELS:
        raise UsageError(f"{path}: its header says {width}x{height} pixels; at most {_KITTI_MAX_PIXELS} are read")


def _field(flow: ArrayLike) -> NDArray[np.float32]:
    field = np.asarray(flow, np.float32)
    if field.ndim != 3 or field.shape[0] != 2 or field.size == 0:
        raise ValueError(f"expected flow of shape (2, H, W), not {field.shape}")
    return field


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
