"""GPUs of this machine: which there are, and who works on which.

The process that computes on a GPU (gpu/) sees that one alone, by CUDA_VISIBLE_DEVICES in its environment, set before it
imports anything; its parent never opens a GPU, nor do the children that decode and encode.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from itertools import cycle
from pathlib import Path

from flowprep.errors import RefusedError

DRIVER = Path("/proc/driver/nvidia/gpus")  # one folder a GPU


def gpus(environment: Mapping[str, str] = os.environ, driver: Path = DRIVER) -> list[str]:
    """GPUs that this process may use, named as CUDA_VISIBLE_DEVICES names them: "0", "GPU-8f6..." or "MIG-..."."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        with suppress(OSError):
            return [str(number) for number, _ in enumerate(driver.iterdir())]
        return []
    names = [name.strip() for name in chosen.split(",")]
    usable = [bool(re.fullmatch(r"[0-9]+|(GPU|MIG)-[\w/-]+", name)) for name in names]
    return names[: usable.index(False)] if False in usable else names  # CUDA, too, stops at the first that is none


@cache
def _turns() -> cycle[str]:
    return cycle(gpus())


def next_gpu() -> str:
    """The GPU for the next child process of this one: they take turns. Raises RefusedError where there is none."""
    for gpu in _turns():
        return gpu
    raise RefusedError(
        f"{socket.gethostname()} has no GPU that can be used: see nvidia-smi, and CUDA_VISIBLE_DEVICES in the "
        "environment; or compute without one: --backend cpu."
    )
