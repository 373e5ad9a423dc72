"""A batch of fields on the GPU, and what the host asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.flow.batch import Coding, DeviceFields
from flowprep.flow.cuda import fields_kernels as kernels
from flowprep.flow.cuda.device import pixels
from flowprep.flow.cuda.launch import Launch
from flowprep.flow.cuda.memory import Arena

LEVEL_BYTES = 2  # at most


class FieldsMemory:
    """Memory on the device for at most ``pairs`` fields of one size, used by one batch after the other."""

    def __init__(self, pairs: int, height: int, width: int, arena: Arena) -> None:
        self.flow = arena.array((pairs, 2, height, width), np.float32)
        self.levels = arena.array(pairs * 2 * height * width * LEVEL_BYTES, np.uint8)
        self.statistics = arena.array((pairs, 2, 3), np.float32)
        self.inverse, self.after = (arena.array((pairs, 2), np.float32) for _ in range(2))

    @staticmethod
    def bytes_needed(height: int, width: int) -> int:
        """Bytes for each pair."""
        return 2 * height * width * (4 + LEVEL_BYTES) + 4 * (2 * 3 + 2 * 2)


class CudaFields(DeviceFields):
    """``pairs`` fields in ``memory``, there once what was enqueued on ``stream`` is done.

    ``batch``: arrays of the host that are copied from meanwhile.
    """

    def __init__(self, memory: FieldsMemory, pairs: int, stream: Any, batch: list[NDArray[Any]]) -> None:
        self._memory = memory
        self._batch = batch
        self._flow = memory.flow[:pairs]
        self._stream = stream
        _, _, height, width = self._flow.shape
        self._statistics = memory.statistics[:pairs]
        planes = self._flow.reshape(pairs, 2, height * width)
        Launch(kernels.statistics, (2, 1, 1), (kernels.THREADS, 1), stream, planes, self._statistics)(pairs)
        self._found: NDArray[np.float32] | None = None

    def extremes(self) -> NDArray[np.float32]:
        return self._read()[:, :, 1:]

    def means(self) -> NDArray[np.float32]:
        return self._read()[:, :, 0]

    def levels(self, coding: Coding) -> NDArray[Any]:
        memory, (pairs, _, height, width) = self._memory, self._flow.shape
        dtype = np.dtype(coding.dtype)
        used = self._flow.size * dtype.itemsize
        levels = memory.levels[:used].view(dtype).reshape(pairs, 2, height, width)
        numbers = [np.ascontiguousarray(part, np.float32) for part in (coding.inverse, coding.after)]
        for part, target in zip(numbers, (memory.inverse, memory.after), strict=True):
            target[:pairs].copy_to_device(part, stream=self._stream)
        launch = Launch(
            kernels.to_levels,
            *pixels(height, width, 2),
            self._stream,
            self._flow,
            memory.inverse,
            np.float32(coding.before),
            memory.after,
            coding.down,
            np.float32(coding.lowest),
            np.float32(coding.highest),
            levels,
        )
        launch(pairs)
        return self._copied(levels)

    def __getitem__(self, rows: Sequence[int]) -> NDArray[np.float32]:
        found = np.empty((len(rows), *self._flow.shape[1:]), np.float32)
        for row, target in zip(rows, found, strict=True):
            target[:] = self._copied(self._flow[row])
        return found

    def _read(self) -> NDArray[np.float32]:
        if self._found is None:
            self._found = self._copied(self._statistics)
        return self._found

    def _copied(self, array: Any) -> NDArray[Any]:
        """``array`` on the host. Only this thread waits for it: what others enqueued on their streams goes on."""
        found = np.empty(array.shape, array.dtype)
        array.copy_to_host(found, stream=self._stream)
        self._stream.synchronize()
        return found
