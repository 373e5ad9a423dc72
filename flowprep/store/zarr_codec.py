"""The Zarr codecs of our arrays, under the names that imagecodecs-zarr uses, so that either of the two reads a dataset.

Registered through the entry point group ``zarr.codecs``: plain ``zarr.open`` finds them once flowprep is installed.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from flowprep import codecs
from flowprep.config import StorageConfig

LEVEL = 95  # JPEG quality of rows written through zarr-python; flowprep itself chooses a table for each image


def encoding(storage: StorageConfig) -> dict[str, Any]:
    """What ``create_array`` needs for flow: ``dtype``, ``serializer``, ``compressors`` and ``fill_value``."""
    codec = codecs.field_codec(storage)
    serializer: ArrayBytesCodec
    compressors: list[Any] = [Crc32cCodec()]  # behind all others (flowprep/store/checksums.py)
    if storage.codec == "htj2k":
        serializer = Htj2k(level=storage.level)
    elif storage.codec == "blosc":
        size = codec.dtype.itemsize
        serializer = BytesCodec(endian="little")
        blosc = BloscCodec(typesize=size, cname="zstd", clevel=5, shuffle="bitshuffle", blocksize=0)
        compressors.insert(0, blosc)
    else:
        serializer = Jpeg()
    return {
        "dtype": codec.dtype.name,
        "serializer": serializer,
        "compressors": compressors,
        "fill_value": codec.zero_level,
    }


class _RowCodec(ArrayBytesCodec):
    """One row of an array as one image."""

    is_fixed_size = False

    @abstractmethod
    def _decoded(self, payload: bytes, shape: tuple[int, ...]) -> NDArray[Any]: ...

    @abstractmethod
    def _encoded(self, row: NDArray[Any]) -> bytes: ...

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size of an image depends on its content")

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        row = self._decoded(chunk_bytes.to_bytes(), chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(row)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        payload = self._encoded(np.ascontiguousarray(chunk_array.as_numpy_array()))
        return chunk_spec.prototype.buffer.from_bytes(payload)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)


@dataclass(frozen=True)
class Jpeg(_RowCodec):
    """A field or stack (1, 2L, H, W) as one grey image (2LH, W), a frame (1, H, W, 3) as RGB."""

    level: int = LEVEL

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(level=data.get("configuration", {}).get("level") or LEVEL)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "imagecodecs_jpeg", "configuration": {"level": self.level}}

    def _decoded(self, payload: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        if _is_frame(shape):
            return codecs.decode_rgb(payload, shape[1], shape[2])[None]
        channels, height, width = _stack(shape)
        return codecs.decode_field(payload, height, width, channels=channels)[None]

    def _encoded(self, row: NDArray[Any]) -> bytes:
        if _is_frame(row.shape):
            return codecs.encode_rgb(row[0], self.level)
        _stack(row.shape)
        entry = codecs.table_entry(self.level, np.full(2, codecs.REFERENCE_SCALE, np.float32))
        return codecs.encode_field(row[0], entry)


@dataclass(frozen=True)
class Htj2k(_RowCodec):
    """A field or stack (1, 2L, H, W) uint16 as the codestream of :mod:`flowprep.codecs.htj2k`."""

    level: float = StorageConfig().level

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(level=data.get("configuration", {}).get("level") or StorageConfig().level)

    def to_dict(self) -> dict[str, Any]:
        configuration = {"level": self.level, "planar": True, "reversible": False}
        return {"name": "imagecodecs_htj2k", "configuration": configuration}

    def _decoded(self, payload: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        from flowprep.codecs.htj2k import decode_image

        return decode_image(payload, _stack(shape))[None]

    def _encoded(self, row: NDArray[Any]) -> bytes:
        from flowprep.codecs.htj2k import encode_image

        _stack(row.shape)
        return encode_image(row[0], self.level)


def _is_frame(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[0] == 1 and shape[3] == 3


def _stack(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(2L, H, W) of a chunk; ValueError for a chunk that is neither a field nor a stack."""
    if len(shape) != 4 or shape[0] != 1 or shape[1] % 2:
        raise ValueError(
            f"a chunk of shape {shape} is no field (1, 2, H, W), stack (1, 2L, H, W) or frame (1, H, W, 3)"
        )
    return shape[1:]
