"""GPUs that this process may use: which there are, and who works on which.

CUDA itself is asked (libcuda.py). It knows what the machine, its container and CUDA_VISIBLE_DEVICES leave to a process,
of which /proc and nvidia-smi know more, less or nothing.

The process that computes on a GPU (gpu/) sees that one alone, by CUDA_VISIBLE_DEVICES in its environment, set before it
imports anything; its parent computes on none, nor do the children that decode and encode.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cache
from itertools import cycle, takewhile

from flowprep import libcuda
from flowprep.errors import GPUError
from flowprep.wording import printable

NONE = ("", "-1", "NoDevFiles")  # by which a list in CUDA_VISIBLE_DEVICES ends on purpose


def gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """GPUs that this process may use, named as CUDA_VISIBLE_DEVICES names them: "0", "GPU-8f6..." or "MIG-..."."""
    seen = _seen() or 0
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return [str(number) for number in range(seen)]
    named = _named(environment)
    if seen and named and named[0].startswith("MIG-"):
        return named  # one process sees one of them alone, another process another
    return named[:seen]


def objection(environment: Mapping[str, str] = os.environ) -> str:
    """What is wrong with CUDA_VISIBLE_DEVICES, in words; "" where all that it names is there, or no driver to ask."""
    unused = _named(environment)[len(gpus(environment)) :]
    if not unused or _seen() is None:
        return ""
    return (
        f"CUDA_VISIBLE_DEVICES={printable(environment['CUDA_VISIBLE_DEVICES'])}: CUDA stops at {printable(unused[0])}, "
        "which is no GPU that this process may use, or one that is named twice (nvidia-smi -L lists them)"
    )


def _named(environment: Mapping[str, str]) -> list[str]:
    names = (name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(","))
    return list(takewhile(lambda name: name not in NONE, names))


def _seen() -> int | None:
    """How many GPUs CUDA shows to this process, which stops where it understands its list no more; None where there is
    no driver, or none that works.
    """
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return 1
    found = libcuda.answer()
    return None if found.trouble else len(found.devices)


@cache
def _turns() -> cycle[str]:
    return cycle(gpus())


def next_gpu() -> str:
    """The GPU for the next child process of this one: they take turns. Raises GPUError where there is none, or not
    all that CUDA_VISIBLE_DEVICES names.
    """
    host = socket.gethostname()
    if wrong := objection():
        raise GPUError(f"{host}: {wrong}.")
    for gpu in _turns():
        return gpu
    if _seen() is None:
        raise GPUError(f"{host}: {libcuda.answer().trouble}.")
    raise GPUError(f"{host} has no GPU that can be used: see nvidia-smi, and CUDA_VISIBLE_DEVICES in the environment.")
