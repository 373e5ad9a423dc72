"""The host's time for a batch of flow on a GPU, measured without one: ``python -m benchmarks.gpu_host``.

The driver is one that computes nothing (tests/idle_gpu.py), so that what is left is what flowprep, Numba and the
driver's Python interface take to enqueue a batch. A real driver takes some time for each launch, too. Beside it: the
same launch by Numba's own way, which looks at all arguments each time. It needs a checkout and a C compiler (cc).

Memory that nobody has written to is zeros, so that every pair is said to have stopped at once: the least that a batch
can take. The most is where one pair never does. The default preset of Brox iterates as often whatever a pair does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.arguments import target, told
from flowprep import flow
from flowprep.config import FlowConfig, Settings, StorageConfig, VideoConfig
from flowprep.errors import RefusedError
from flowprep.flow.cuda.watch import Watch
from flowprep.gpu.batching import Computer, Work
from flowprep.gpu.memory import Request
from tests import idle_gpu

PAIRS, HEIGHT, WIDTH = 128, 240, 320
ROUNDS = 15
LAUNCHES = 2000
REQUESTS, OF_A_REQUEST = 64, 16
PRESETS = (("tvl1", "opencv"), ("brox", "opencv-cuda"), ("brox", "ipol"))
IDLE = "FLOWPREP_BENCHMARK_IDLE_GPU"  # set in the process that has that driver


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_host", description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=target, metavar="FILE", help="write the figures there, too")
    path = parser.parse_args().json
    if IDLE not in os.environ:
        sys.exit(_on_an_idle_gpu())
    figures = {**_launches(), **_batches(), **_requests()}
    for name, value in figures.items():
        print(f"{name:68} {value:9.3f}")
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")


def _on_an_idle_gpu() -> int:
    """The same command in a process that has that driver; its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            environment = idle_gpu.environment(Path(folder))
        except FileNotFoundError as error:
            raise RefusedError(f"{error}.") from None
        command = [sys.executable, "-m", "benchmarks.gpu_host", *sys.argv[1:]]
        return subprocess.run(command, env={**environment, IDLE: "1"}, check=False).returncode


def _launches() -> dict[str, float]:
    """Of a kernel of four arrays and a number, in turn by either way."""
    from numba import cuda

    from flowprep.flow.cuda import tile
    from flowprep.flow.cuda import tvl1_kernels as kernels
    from flowprep.flow.cuda.launch import Launch

    state = cuda.device_array((2, PAIRS, 6, HEIGHT, WIDTH), np.float32)
    data = cuda.device_array((PAIRS, 4, HEIGHT, WIDTH), np.float32)
    across, down = tile.tiles(HEIGHT, WIDTH)
    errors = cuda.device_array((PAIRS, across * down, tile.HALO), np.float32)
    arguments = state, data, cuda.device_array((4, PAIRS), np.int32), np.float32(0.25), errors
    stream, threads = cuda.stream(), (tile.WIDTH, tile.STRIPS)
    prepared = Launch(kernels.relax, (across, down, 1), threads, stream, *arguments)
    by_numba = kernels.relax[(across, down, PAIRS), threads, stream]
    ways: dict[str, Callable[[], None]] = {
        "a launch, prepared (us)": lambda: prepared(PAIRS),
        "a launch, by Numba (us)": lambda: by_numba(*arguments),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, launch in ways.items():
            start = time.perf_counter()
            for _ in range(LAUNCHES // ROUNDS):
                launch()
            times[way].append(1e6 * (time.perf_counter() - start) / (LAUNCHES // ROUNDS))
    return {way: median(several) for way, several in times.items()}


def _batches() -> dict[str, float]:
    figures = {}
    for method, preset in PRESETS:
        algorithm = flow.get(method, "cuda", preset=preset)
        for stops, so in _stops(method, preset).items():
            with so:
                figures[f"{method} {preset}: a pair{stops} (ms)"] = _a_pair(algorithm)
        figures[f"{method} {preset}: frames of a new size, first batch included (ms)"] = _milliseconds(
            algorithm, HEIGHT + 8
        )
    return figures


def _stops(method: str, preset: str) -> dict[str, AbstractContextManager[Any]]:
    """When pairs stop, in words, and what makes it so."""
    if (method, preset) == ("brox", "opencv-cuda"):
        return {"": nullcontext()}
    never = patch.object(Watch, "all_stopped", _looks_in_vain)  # all is enqueued that may be needed
    return {", all stop at once": nullcontext(), ", one never stops": never}


_looks = Watch.all_stopped


def _looks_in_vain(watch: Watch, pairs: int) -> bool:
    _looks(watch, pairs)
    return False


def _a_pair(algorithm: Any) -> float:
    return median(_milliseconds(algorithm, HEIGHT) for _ in range(ROUNDS)) / PAIRS


def _milliseconds(algorithm: Any, height: int) -> float:
    frames, first = np.zeros((PAIRS + 1, height, WIDTH), np.uint8), np.arange(PAIRS, dtype=np.int32)
    algorithm.warm()
    start = time.perf_counter()
    algorithm.fields(frames, first, first + np.int32(1))
    return 1e3 * (time.perf_counter() - start)


def _requests() -> dict[str, float]:
    """What the threads of a GPU's process do with requests that always wait: batches of them, levels shared out."""
    figures = {}
    frames = np.zeros((OF_A_REQUEST + 1, HEIGHT, WIDTH), np.uint8)
    request = Request(OF_A_REQUEST + 1, HEIGHT, WIDTH, "uint8", "forward", "uint8")
    for method, preset in PRESETS:
        algorithm = flow.get(method, "cuda", preset=preset)
        chosen = FlowConfig(method, "cuda", "forward", algorithm.parameters.to_json())
        computer = Computer(_fail)
        settings = Settings(VideoConfig(), chosen, StorageConfig(), algorithm.engine())
        hosted = computer.enter(1, settings).result()
        most = algorithm.pairs_in_a_batch(HEIGHT, WIDTH)
        for stops, so in _stops(method, preset).items():
            rates = []
            for _ in range(ROUNDS):
                work = [Work(hosted, request, frames, most, patience=60.0) for _ in range(REQUESTS)]
                start = time.perf_counter()
                with so:
                    for answer in [computer.compute(one) for one in work]:
                        answer.result()
                rates.append(REQUESTS * OF_A_REQUEST / (time.perf_counter() - start))
            figures[f"{method} {preset}: pairs a second of its process{stops}"] = median(rates)
    return figures


def _fail(error: BaseException) -> None:
    raise error


if __name__ == "__main__":
    told(main)
