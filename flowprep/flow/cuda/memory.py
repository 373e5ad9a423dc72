"""Memory on the GPU that is asked for once and cut up anew for every size of frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from flowprep.flow.cuda.device import release

ALIGNED = 256  # bytes
OUT_OF_MEMORY = 2  # of CUresult


class Arena:
    """One piece of device memory, handed out from front to back.

    To ask the driver for memory, or to give some back, stops all that the GPU is at; videos of many sizes would do that
    all the time. Work on what was handed out before :meth:`clear` must be on the stream that what comes after it is on.
    """

    def __init__(self) -> None:
        self._memory = cuda.device_array(0, np.uint8)
        self._used = 0

    @property
    def size(self) -> int:
        """Bytes that there is room for, without more memory."""
        return int(self._memory.size)

    def clear(self, size: int) -> None:
        """Begin again, with room for ``size`` bytes. Raises MemoryError where the GPU has not so much.

        Where that is more than there was, what was handed out before keeps the old memory from being given back.
        """
        self._used = 0
        if size > self.size:
            self._memory = cuda.device_array(0, np.uint8)  # the old one goes before the new one comes
            release()
            try:
                self._memory = cuda.device_array(size, np.uint8)
            except cuda.cudadrv.driver.CudaAPIError as error:
                if error.code != OUT_OF_MEMORY:
                    raise
                text = f"the GPU has no {size / 2**20:.0f} MiB of memory left: nvidia-smi shows who has it"
                raise MemoryError(text) from error

    @property
    def used(self) -> int:
        """Bytes that are handed out: where the next array begins."""
        return self._used

    def fill(self, content: NDArray[np.uint8], stream: Any) -> None:
        """Enqueue a copy of ``content``, as many bytes as there are. It has to stay until that is done."""
        self._memory[: len(content)].copy_to_device(content, stream=stream)

    def array(self, shape: tuple[int, ...] | int, dtype: Any) -> Any:
        """A C-contiguous device array, its values undefined. Raises MemoryError where no room was asked for."""
        shape = (shape,) if isinstance(shape, int) else shape
        size = math.prod(shape) * np.dtype(dtype).itemsize
        start, self._used = self._used, self._used + padded(size)
        if self._used > self.size:
            raise MemoryError(f"{self._used} bytes of {self.size} on the GPU")
        return self._memory[start : start + size].view(dtype).reshape(shape)


def padded(size: int) -> int:
    """Bytes that an array of ``size`` bytes takes of an arena."""
    return -(-size // ALIGNED) * ALIGNED
