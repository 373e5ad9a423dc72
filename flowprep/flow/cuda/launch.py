"""Launches: a kernel with its arguments, laid out once and enqueued as often as it takes.

A batch of TV-L1 is thousands of launches of a few microseconds each. Numba looks at every argument at each of them,
which takes a processor longer than the kernel takes the GPU. So the arguments are laid out here as Numba passes them,
in words of 8 bytes, and a launch is one call of the driver with the address of a table of their addresses:

    an array of D dimensions    0   0   elements   bytes of one   address   shape (D)   strides in bytes (D)
    a number                    int64, float32 (in the lower half) or bool (in the lowest byte)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from flowprep.flow.cuda.device import SIMULATED

if not SIMULATED:
    from cuda.bindings import driver
    from cuda.bindings.driver import cuLaunchKernel

ONE_BLOCK, ONE_THREAD = (1, 1, 1), (1, 1)  # for each image


class Launch:
    """``kernel`` with its arguments, for a number of images (frames, pairs) that may be another each time."""

    def __init__(
        self, kernel: Any, blocks: tuple[int, int, int], threads: tuple[int, int], stream: Any, *arguments: Any
    ) -> None:
        """``blocks``: across, down, and for each image; ``arguments``: device arrays, int, np.float32 and bool."""
        self._blocks, self._threads = blocks, threads
        self._stream = stream
        self._arguments = arguments  # keeps memory that is pointed to
        if SIMULATED:
            self._kernel = kernel
            return
        compiled = kernel.compile(tuple(kernel.typeof_pyval(argument) for argument in arguments))
        self._kernel = compiled  # keeps the code
        self._function = driver.CUfunction(int(compiled._codelibrary.get_cufunc().handle))
        self._queue = driver.CUstream(int(stream.handle))
        self._words = np.array([word for argument in arguments for word in _words(argument)], np.uint64)
        self._places = self._words.ctypes.data + np.arange(0, self._words.nbytes, 8, dtype=np.uint64)
        self._table = self._places.ctypes.data

    def __call__(self, images: int) -> None:
        """Enqueue it for the first ``images`` images."""
        across, down, each = self._blocks
        if SIMULATED:
            self._kernel[(across, down, each * images), self._threads, self._stream](*self._arguments)
            return
        x, y = self._threads
        (result,) = cuLaunchKernel(self._function, across, down, each * images, x, y, 1, 0, self._queue, self._table, 0)
        if result:
            _done((result,))


def fetch(source: Any, target: Any, count: int, stream: Any) -> None:
    """Enqueue a copy of the first ``count`` elements of a device array to an array in pinned memory."""
    if SIMULATED:
        source.copy_to_host(target, stream=stream)
        return
    size = count * target.itemsize
    _done(driver.cuMemcpyDtoHAsync(target.ctypes.data, _address(source), size, int(stream.handle)))


def record(event: Any, stream: Any) -> None:
    """Enqueue ``event``: it has come when all is done that was enqueued before it."""
    if not SIMULATED:
        _done(driver.cuEventRecord(int(event.handle), int(stream.handle)))


def wait_for(event: Any) -> None:
    if not SIMULATED:
        _done(driver.cuEventSynchronize(int(event.handle)))


def _done(answer: tuple[Any, ...]) -> None:
    """Raise what numba.cuda does, so that all errors of CUDA are one."""
    if answer[0] != driver.CUresult.CUDA_SUCCESS:
        raise cuda.cudadrv.driver.CudaAPIError(int(answer[0]), f"CUDA says {answer[0].name}")


def _words(argument: Any) -> list[int]:
    """One argument as words of 8 bytes."""
    if isinstance(argument, np.float32):
        return [int(argument.view(np.uint32))]
    if isinstance(argument, int):  # or bool
        return [argument % 2**64]
    assert cuda.is_cuda_array(argument)
    return [0, 0, argument.size, argument.dtype.itemsize, _address(argument), *argument.shape, *argument.strides]


def _address(array: Any) -> int:
    return int(array.__cuda_array_interface__["data"][0])
