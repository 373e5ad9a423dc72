"""GPU kernels on a machine without a GPU: run by Numba's simulator, thread by thread.

The simulator takes the place of ``numba.cuda`` for a whole process, if told so before that is imported: it gets a
process of its own, one for all tests of a run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any


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
