"""Put on PYTHONPATH by tests: makes flowprep's processes misbehave, and its shards small.

With FLOWPREP_TEST_MARKS, the sandboxed process does what its video's name says, as a hostile file might. ``segv``
crashes, ``abort`` aborts, ``exit`` leaves, ``hang`` never answers, ``memory`` asks for all there is, ``greedy`` takes
8 GiB bit by bit, ``slow`` takes some seconds, ``killed`` is killed from outside, ``bug`` raises what nobody expects.
``once`` in the name does it only the first time.

With FLOWPREP_TEST_LOG, that file gets a line for each video that is begun.

With FLOWPREP_TEST_GPU, DIS claims to compute on GPUs, and that file gets for each video the GPU that its process sees.

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


def _log_gpu(_path: Path, id: str) -> None:
    with Path(os.environ["FLOWPREP_TEST_GPU"]).open("a") as log:
        log.write(f"{id}\t{os.environ['CUDA_VISIBLE_DEVICES']}\n")


def _claim_a_gpu() -> None:
    from flowprep.flow.opencv import DIS

    DIS.gpu = True


def _make_small_shards() -> None:
    from flowprep import plan

    plan.SHARD_SECONDS = (float(os.environ["FLOWPREP_TEST_SHARD_SECONDS"]), plan.SHARD_SECONDS[1])


if "FLOWPREP_TEST_GPU" in os.environ:
    _claim_a_gpu()
if sys.argv[0] == "-m":  # a child's argv while it starts
    for variable, step in (
        ("FLOWPREP_TEST_MARKS", _misbehave),
        ("FLOWPREP_TEST_LOG", _log),
        ("FLOWPREP_TEST_GPU", _log_gpu),
    ):
        if variable in os.environ:
            _before_each(step)
elif "FLOWPREP_TEST_SHARD_SECONDS" in os.environ:
    _make_small_shards()
