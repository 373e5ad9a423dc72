"""The Zarr codec of our arrays, under the name that imagecodecs-zarr uses, so that either of the two reads a dataset.

Registered through the entry point group ``zarr.codecs``: plain ``zarr.open`` finds it once flowprep is installed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from flowprep import codecs

NAME = "imagecodecs_jpeg"
LEVEL = 95  # JPEG quality of rows written through zarr-python; flowprep itself chooses a table for each field


@dataclass(frozen=True)
class Jpeg(ArrayBytesCodec):
    """One row as JPEG: a field (1, 2, H, W) as one grey image (2H, W), a frame (1, H, W, 3) as RGB."""

    is_fixed_size = False
    level: int = LEVEL

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(level=data.get("configuration", {}).get("level") or LEVEL)

    def to_dict(self) -> dict[str, Any]:
        return {"name": NAME, "configuration": {"level": self.level}}

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size of a JPEG image depends on its content")

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        row = _decode(chunk_bytes.to_bytes(), chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(row)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        payload = _encode(chunk_array.as_numpy_array(), self.level)
        return chunk_spec.prototype.buffer.from_bytes(payload)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)


def _decode(payload: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if len(shape) == 4 and shape[0] == 1 and shape[3] == 3:
        return codecs.decode_rgb(payload, shape[1], shape[2])[None]
    if len(shape) == 4 and shape[:2] == (1, 2):
        return codecs.decode_field(payload, shape[2], shape[3])[None]
    raise ValueError(f"{NAME}: a chunk of shape {shape} is neither a field (1, 2, H, W) nor a frame (1, H, W, 3)")


def _encode(row: NDArray[np.uint8], level: int) -> bytes:
    if row.ndim == 4 and row.shape[0] == 1 and row.shape[3] == 3:
        return codecs.encode_rgb(np.ascontiguousarray(row[0]), level)
    if row.ndim == 4 and row.shape[:2] == (1, 2):
        entry = codecs.table_entry(level, np.full(2, codecs.REFERENCE_SCALE, np.float32))
        return codecs.encode_field(np.ascontiguousarray(row[0]), entry)
    raise ValueError(f"{NAME}: a chunk of shape {row.shape} is neither a field (1, 2, H, W) nor a frame (1, H, W, 3)")
