"""Memory of arrays that nobody uses any more, for the next ones.

The system hands out memory page by page and cleared, which for a large batch costs a tenth of the time of decoding it.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT = 4  # arrays whose memory is kept


class Recycler:
    """Makes arrays of one size, most often. The memory of one comes back when the array and all views of it are gone.

    May be used by several threads. A pickled one arrives empty.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=KEPT)  # one more sends the oldest back to the system

    def __reduce__(self) -> tuple[type[Recycler], tuple[()]]:
        return Recycler, ()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array with anything in it."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        if len(memory) != size:
            memory = np.empty(size, np.uint8)
        # Views keep alive the object that their memory came from: this loan, which says when the last of them is gone.
        loan = (ctypes.c_char * size).from_buffer(memory.data)
        weakref.finalize(loan, self._free.append, memory).atexit = False
        return np.frombuffer(memoryview(loan), dtype).reshape(shape)
