"""Put on PYTHONPATH by tests: makes flowprep's processes misbehave, and its shards small.

With FLOWPREP_TEST_MARKS, the sandboxed process does what its video's name says, as a hostile file might. ``segv``
crashes, ``abort`` aborts, ``exit`` leaves, ``hang`` never answers, ``memory`` asks for all there is, ``greedy`` takes
8 GiB bit by bit, ``slow`` takes some seconds, ``killed`` is killed from outside, ``bug`` raises what nobody expects.
``once`` in the name does it only the first time.

With FLOWPREP_TEST_LOG, that file gets a line for each video that is begun.

With FLOWPREP_TEST_GPU, there are a DIS and a TV-L1 on the backend ``gpu`` (gpu_double.py), and GPUs for it;
FLOWPREP_TEST_GPU_FAULT makes the process of the GPU misbehave, ``start`` before it has begun.

With FLOWPREP_TEST_SHARD_SECONDS, shards may be as short as that, so that a few small videos make several.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

FAULTS = {
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(3600),
    "memory": lambda: bytearray(1 << 36),
    "greedy": lambda: [b"x" * (1 << 26) for _ in range(128)],
    "slow": lambda: [sum(range(10**5)) for _ in range(1000)],
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "bug": lambda: {}["nothing"],
}


def _before_each(step: Callable[[Path, str], None]) -> None:
    """Have ``step(path, id)`` called whenever a video is begun."""
    from flowprep.extract import Extractor

    honest = Extractor.extract

    def extract(self, path, id, folder, progress):
        step(path, id)
        return honest(self, path, id, folder, progress)

    Extractor.extract = extract


def _misbehave(path: Path, _id: str) -> None:
    mark = Path(os.environ["FLOWPREP_TEST_MARKS"]) / path.name
    for name, fault in FAULTS.items():
        if name in path.name and not ("once" in path.name and mark.exists()):
            mark.touch()
            fault()


def _log(_path: Path, id: str) -> None:
    with Path(os.environ["FLOWPREP_TEST_LOG"]).open("a") as log:
        log.write(f"{id}\n")


def _add_backends() -> None:
    from flowprep import devices
    from flowprep.flow import BACKENDS

    devices._seen = lambda: 8  # whatever there is
    BACKENDS["dis"]["gpu"] = "gpu_double:DIS"
    BACKENDS["tvl1"]["gpu"] = "gpu_double:TVL1"


def _make_small_shards() -> None:
    from flowprep import plan

    plan.SHARD_SECONDS = (float(os.environ["FLOWPREP_TEST_SHARD_SECONDS"]), plan.SHARD_SECONDS[1])


if "flowprep.gpu.server" in sys.orig_argv and os.environ.get("FLOWPREP_TEST_GPU_FAULT") == "start":
    sys.exit("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
if "FLOWPREP_TEST_GPU" in os.environ:
    _add_backends()
if sys.argv[0] == "-m":  # a child's argv while it starts
    for variable, step in (
        ("FLOWPREP_TEST_MARKS", _misbehave),
        ("FLOWPREP_TEST_LOG", _log),
    ):
        if variable in os.environ:
            _before_each(step)
elif "FLOWPREP_TEST_SHARD_SECONDS" in os.environ:
    _make_small_shards()
