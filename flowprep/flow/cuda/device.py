"""What the kernels need of Numba and of the GPU: decorators, and a few words on threads and memory.

With NUMBA_ENABLE_CUDASIM=1, set before Numba is imported, the same kernels run on the CPU, thread by thread: so slowly
that only tiny images make sense, but they are the very kernels.
"""

from __future__ import annotations

import hashlib
import operator
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from numba import config, cuda

from flowprep.flow.cpu.compiling import kept_in, trusted_folder

SIMULATED = bool(getattr(config, "ENABLE_CUDASIM"))  # noqa: B009 - the module makes its names as it is loaded

if not SIMULATED:  # a warning for each small grid, as those of the coarse levels are
    setattr(config, "CUDA_LOW_OCCUPANCY_WARNINGS", 0)  # noqa: B010 - as above

COLUMNS, LINES = (8, 2) if SIMULATED else (32, 8)  # threads of a block where each has one pixel


def kernel(function: Callable[..., Any] | None = None, *, threads: int = COLUMNS * LINES, exact: bool = False) -> Any:
    """Compile ``function`` as a kernel for blocks of at most ``threads``, when it is first launched with such types.
    The machine code for each kind of GPU is kept on disk.

    ``exact``: with square roots and divisions that round as the standard says, and with infinities and what is no
    number; else as the GPU does them quickest.
    """
    if function is None:
        return lambda wrapped: kernel(wrapped, threads=threads, exact=exact)
    if SIMULATED:
        return cuda.jit(function)
    folder = code_folder()
    # Without optimisation at link time: it leaves out what fastmath means, and spills more.
    options: dict[str, Any] = {"fastmath": not exact, "launch_bounds": (threads, 1), "lto": False}
    if not isinstance(folder, Path):  # every process compiles for itself
        return cuda.jit(**options)(function)
    with kept_in(folder):
        return cuda.jit(cache=True, **options)(function)


def inline(function: Callable[..., Any]) -> Any:
    """A part of kernels: put into each that calls it, before types are known. It has one return, at its end."""
    if SIMULATED:
        return cuda.jit(device=True)(function)
    return cuda.jit(device=True, inline="always", fastmath=True)(function)


# a b, rounded to float32 by itself: never part of a fused multiply-add.
product: Any = operator.mul if SIMULATED else import_module("numba.cuda.libdevice").fmul_rn


def pixels(height: int, width: int, planes: int = 1) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Blocks and threads of a kernel with one thread for each pixel of images with so many planes."""
    return (-(-width // COLUMNS), -(-height // LINES), planes), (COLUMNS, LINES)


def memory() -> tuple[int, int]:
    """Bytes of the GPU of this process: those that are free, and all."""
    if SIMULATED:
        return 2**30, 2**30
    free, whole = cuda.current_context().get_memory_info()
    return int(free), int(whole)


def capability() -> str:
    """Compute capability of the GPU of this process, as "9.0"."""
    return "{}.{}".format(*cuda.get_current_device().compute_capability)


def release() -> None:
    """Give memory that nothing refers to any more back to the driver, now: Numba waits until there is much of it."""
    if not SIMULATED:
        cuda.current_context().memory_manager.deallocations.clear()


@cache
def code_folder() -> Path | str:
    """The folder for these kernels and this compiler; or why there can be none."""
    here = Path(__file__).parent
    compiler = sorted(
        f"{found.name} {found.version}" for found in distributions() if found.name.startswith(("cuda-", "nvidia-nv"))
    )
    digest = hashlib.sha256(repr((sys.version, str(here), version("numba-cuda"), compiler)).encode())
    for path in sorted(here.glob("*.py")):
        digest.update(path.read_bytes())
    return trusted_folder(f"cuda-{digest.hexdigest()[:16]}")
