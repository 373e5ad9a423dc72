"""What one core can do at most, and what two processes do beside each other: what flow_cpu.py measures flow against."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numpy.typing import NDArray

from flowprep import flow
from flowprep.flow.cpu.compiling import kernel
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.simd import load, total
from flowprep.flow.cpu.stripes import aligned

CHAINS = 12  # more than the multiply-adds that a core has under way at once, fewer than the registers of AVX
STEPS = 1_000_000  # some milliseconds
PATIENCE = 300  # s for the other process to get ready


def facts() -> dict[str, Any]:
    """The processor as the kernels see it, and the versions of what is compared."""
    return {
        "cpu": llvmlite.binding.get_host_cpu_name(),
        "lanes": LANES,
        "cores": len(os.sched_getaffinity(0)),
        "numba": numba.__version__,
        "opencv": flow.find("tvl1", "opencv").engine(),
        "flowprep": flow.find("tvl1", "cpu").engine(),
    }


@kernel
def multiply_add(data, steps):
    """CHAINS independent chains of a = a x + y, in registers."""
    x, y = load(data, 0), load(data, LANES)
    a0, a1, a2, a3 = load(data, 2 * LANES), load(data, 3 * LANES), load(data, 4 * LANES), load(data, 5 * LANES)
    a4, a5, a6, a7 = load(data, 6 * LANES), load(data, 7 * LANES), load(data, 8 * LANES), load(data, 9 * LANES)
    a8, a9, a10, a11 = load(data, 10 * LANES), load(data, 11 * LANES), load(data, 12 * LANES), load(data, 13 * LANES)
    for _ in range(steps):
        a0, a1, a2, a3 = a0 * x + y, a1 * x + y, a2 * x + y, a3 * x + y
        a4, a5, a6, a7 = a4 * x + y, a5 * x + y, a6 * x + y, a7 * x + y
        a8, a9, a10, a11 = a8 * x + y, a9 * x + y, a10 * x + y, a11 * x + y
    return total(a0 + a1 + a2 + a3 + (a4 + a5 + a6 + a7) + (a8 + a9 + a10 + a11))


def peak_flops() -> float:
    """float32 operations a second of one core right now; a fused multiply-add counts as two."""
    data = aligned((CHAINS + 2) * LANES)
    data[:] = 0.5  # converges to 1
    multiply_add(data, 1)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        multiply_add(data, STEPS)
        best = min(best, time.perf_counter() - start)
    return 2 * CHAINS * LANES * STEPS / best


def scaling(clip: NDArray[np.uint8], seconds: float, rounds: int) -> dict[str, float]:
    """TV-L1 fields a second of ``clip`` (T, H, W) in one process and in two at once, by turns; medians.

    "ratio" is two processes over one: 2 where they do not disturb each other and two cores are free.
    """
    spawn = multiprocessing.get_context("spawn")
    one: list[float] = []
    two: list[float] = []
    with spawn.Manager() as manager, ProcessPoolExecutor(2, mp_context=spawn) as pool:
        for _ in range(rounds):
            for processes, rates in ((1, one), (2, two)):
                start = manager.Barrier(processes)
                futures = [pool.submit(fields_a_second, clip, seconds, start) for _ in range(processes)]
                rates.append(sum(future.result() for future in futures))
    ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
    return {"one": statistics.median(one), "two": statistics.median(two), "ratio": ratio}


def fields_a_second(clip: NDArray[np.uint8], seconds: float, start: Any) -> float:
    """Compute flow of ``clip`` over and over for so many seconds, from when all that share the barrier are ready."""
    algorithm = flow.get("tvl1", "cpu")
    algorithm.flow(clip)
    start.wait(PATIENCE)
    begin, fields, spent = time.perf_counter(), 0, 0.0
    while spent < seconds:
        fields += len(algorithm.flow(clip))
        spent = time.perf_counter() - begin
    return fields / spent
