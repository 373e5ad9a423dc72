"""GPU kernels on a machine without a GPU: run by Numba's simulator, thread by thread.

The simulator takes the place of ``numba.cuda`` for a whole process, if told so before that is imported: it gets a
process of its own, one for all tests of a run.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np


def simulated(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function``, which stands at the top of a test module, returns in the process with the simulator.

    Arguments and result travel by pickle: NumPy arrays, not device arrays.
    """
    return _process().submit(function, *arguments).result()


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    assert "numba" not in sys.modules
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
    _run_blocks_quickly()


def _run_blocks_quickly() -> None:
    """Numba starts a thread for each of a GPU's, and asks all of them all the time whether they wait for the others.

    Here a kernel without barriers runs one thread after the other, and at a barrier threads wait for each other by
    themselves: several times quicker.
    """
    from numba.cuda.simulator import kernel

    class Thread(kernel.BlockThread):
        def syncthreads(self) -> None:
            self._manager.barrier.wait()

    class Block(kernel.BlockManager):
        def run(self, number: tuple[int, ...], *arguments: Any) -> None:
            places = list(np.ndindex(*self._block_dim))
            if "syncthreads" in self._f.__code__.co_names:
                self.run_with_barriers(number, places, arguments)
                return
            only: Any = threading.current_thread()  # where a kernel looks for its place
            only.blockIdx = kernel.Dim3(*number)
            for place in places:
                only.threadIdx = kernel.Dim3(*place)
                self._f(*arguments)

        def run_with_barriers(
            self, number: tuple[int, ...], places: list[tuple[int, ...]], arguments: tuple[Any, ...]
        ) -> None:
            self.barrier = threading.Barrier(len(places))

            def one() -> None:
                try:
                    self._f(*arguments)
                except BaseException:
                    self.barrier.abort()  # the others would wait for ever
                    raise

            threads = [Thread(one, self, number, place, self._debug) for place in places]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for thread in threads:
                if thread.exception and not isinstance(thread.exception[0], threading.BrokenBarrierError):
                    raise thread.exception[0].with_traceback(thread.exception[1])

    kernel.BlockManager = Block
