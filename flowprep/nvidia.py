"""What the NVIDIA driver of this machine says of its GPUs: asked of nvidia-smi, or read from /proc, without CUDA."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc/driver/nvidia")
QUERY = [
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,compute_cap,driver_version",
    "--format=csv,noheader,nounits",
]
SECONDS = 30.0  # for nvidia-smi to answer; a sleeping GPU wakes up slowly


class GPU(NamedTuple):
    """One GPU; "" and 0 for what is not known of it."""

    number: str  # as CUDA_VISIBLE_DEVICES names it
    name: str
    memory: int = 0  # MiB
    capability: str = ""  # compute capability, as "9.0"
    driver: str = ""  # version of the driver

    def __str__(self) -> str:
        memory = f"{self.memory / 1024:.1f} GiB" if self.memory else ""
        capability = f"compute capability {self.capability}" if self.capability else ""
        driver = f"driver {self.driver}" if self.driver else ""
        return ", ".join(filter(None, (self.name, memory, capability, driver)))


def describe(proc: Path = PROC) -> list[GPU]:
    """All GPUs of the driver, whatever CUDA_VISIBLE_DEVICES says; empty where there is no driver."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # not there, too old for the question, or the driver hangs
        return _from_proc(proc)
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [GPU(row[0], row[1], int(row[2]) if row[2].isdecimal() else 0, *row[3:]) for row in rows if len(row) == 5]


def _from_proc(proc: Path) -> list[GPU]:
    with suppress(OSError):
        version = re.search(r"\b(\d{3,}\.[\d.]*\d)", (proc / "version").read_text())
        folders = sorted((proc / "gpus").iterdir())
        return [
            GPU(str(number), _model(folder), driver=version[1] if version else "")
            for number, folder in enumerate(folders)
        ]
    return []


def _model(folder: Path) -> str:
    found = re.search(r"^Model:\s*(.+)$", (folder / "information").read_text(), re.M)
    return found[1].strip() if found else "a GPU"
