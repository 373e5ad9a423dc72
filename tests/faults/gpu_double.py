"""Backends for tests that say that they compute on a GPU, and compute where they are: in the process that owns none.

FLOWPREP_TEST_GPU names a file that gets a line for each batch: the GPU, the pairs, the frames. If it is "", they say
that they need no GPU: so a dataset is made without one, and is otherwise the same.

With FLOWPREP_TEST_GPU_FAULT, the process of the GPU misbehaves: ``die`` raises what CUDA might, ``killed`` is killed
from outside, ``hang`` never ends a batch, ``stopped`` stops it with all its threads, ``nan`` computes what is no
number; ``slow`` takes half a second longer for a batch. ``once`` in the word: only the first time, which is marked in
the folder FLOWPREP_TEST_MARKS; ``bright``: only of batches with a bright frame.

FLOWPREP_TEST_GPU_PAIRS: how many pairs of frames have room on it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from flowprep.flow import cpu, opencv
from flowprep.flow.batch import too_large

FAULT = os.environ.get("FLOWPREP_TEST_GPU_FAULT", "")


class OnGPU:
    """Before a class of a backend, makes it one on a GPU."""

    backend = "gpu"
    gpu = bool(os.environ["FLOWPREP_TEST_GPU"])
    at_once = 2

    def fields(self, frames, first, second):
        assert "flowprep.gpu.server" in sys.orig_argv, "a process computes that has no GPU"
        with Path(os.environ["FLOWPREP_TEST_GPU"]).open("a") as log:
            log.write(f"{os.environ['CUDA_VISIBLE_DEVICES']}\t{len(first)}\t{len(frames)}\n")
        found = super().fields(frames, first, second)
        misbehave(frames, found)
        return found

    def pairs_in_a_batch(self, height, width):
        if height * width > 10**7:
            raise too_large(height, width, 5 * 2**30, 2 * 2**30)
        return int(os.environ.get("FLOWPREP_TEST_GPU_PAIRS", "24"))


def misbehave(frames, found):
    """What the fault of the environment is."""
    if "bright" in FAULT and max(frame.mean() for frame in frames) < 200:
        return
    if "once" in FAULT:
        mark = Path(os.environ["FLOWPREP_TEST_MARKS"]) / FAULT
        if mark.exists():
            return
        mark.touch()
    if "die" in FAULT:
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
    if "killed" in FAULT:
        os.kill(os.getpid(), signal.SIGKILL)
    if "stopped" in FAULT:
        os.kill(os.getpid(), signal.SIGSTOP)
    if "hang" in FAULT:
        time.sleep(3600)
    if "slow" in FAULT:
        time.sleep(0.5)
    if "nan" in FAULT:
        found[0, 0, 0, 0] = float("nan")


class DIS(OnGPU, opencv.DIS):
    pass


class TVL1(OnGPU, cpu.TVL1):
    pass
