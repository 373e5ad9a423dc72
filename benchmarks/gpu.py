"""What can a GPU do at most, measured: bytes a second to and from its memory, multiply-adds a second?

python -m benchmarks.gpu
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from numba import cuda

from benchmarks.arguments import told
from flowprep.errors import RefusedError
from flowprep.flow.cuda import driver
from flowprep.flow.cuda.device import SIMULATED, kernel

COPIED = 2**12 if SIMULATED else 2**28  # bytes
BLOCKS, THREADS, CHAINS, STEPS = (2, 4, 4, 4) if SIMULATED else (4096, 256, 8, 512)
ROUNDS = 5  # of which the quickest counts
HALF = np.float32(0.5)


def facts() -> dict[str, str]:
    return {
        "gpu": driver.description(),
        "numba-cuda": version("numba-cuda"),
        "cuda-bindings": version("cuda-bindings"),
    }


def show(measured: dict[str, Any]) -> None:
    """Print :func:`facts`, with what was measured."""
    print(f"{measured['gpu']}; numba-cuda {measured['numba-cuda']}, CUDA {measured['cuda-bindings']}")
    print(f"{measured['bytes_a_second'] / 1e9:.0f} GB/s to and from memory, {measured['flops'] / 1e12:.1f} TFLOP/s")


def seconds(work: Callable[[], Any]) -> float:
    """Of one call and all that it enqueues."""
    cuda.synchronize()
    start = time.perf_counter()
    work()
    cuda.synchronize()
    return time.perf_counter() - start


@kernel(threads=THREADS)
def copy(source, target):
    i = cuda.grid(1)
    if i < source.size:
        target[i] = source[i]


@kernel(threads=THREADS)
def multiply_add(out):
    """CHAINS independent multiply-adds, STEPS times."""
    i = cuda.grid(1)
    values = cuda.local.array(CHAINS, np.float32)
    for c in range(CHAINS):
        values[c] = np.float32(i + c)
    for _ in range(STEPS):
        for c in range(CHAINS):
            values[c] = values[c] * HALF + HALF
    total = values[0]
    for c in range(1, CHAINS):
        total += values[c]
    out[i] = total


def bandwidth() -> float:
    """Bytes read and written in a second."""
    source, target = (cuda.device_array(COPIED // 4, np.float32) for _ in range(2))
    blocks = -(-source.size // THREADS)
    copy[blocks, THREADS](source, target)
    return 2 * COPIED / min(seconds(lambda: copy[blocks, THREADS](source, target)) for _ in range(ROUNDS))


def peak_flops() -> float:
    """Floating point operations a second, a multiply-add being two."""
    out = cuda.device_array(BLOCKS * THREADS, np.float32)
    multiply_add[BLOCKS, THREADS](out)
    count = 2 * BLOCKS * THREADS * CHAINS * STEPS
    return count / min(seconds(lambda: multiply_add[BLOCKS, THREADS](out)) for _ in range(ROUNDS))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "").parse_args()
    if reason := driver.unavailable():
        raise RefusedError(reason)
    show({**facts(), "bytes_a_second": bandwidth(), "flops": peak_flops()})


if __name__ == "__main__":
    told(main)
