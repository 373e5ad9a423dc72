"""What the NVIDIA driver of this machine says of its GPUs: asked of nvidia-smi, or read from /proc, without CUDA."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from flowprep.processes import TAIL, answer_of
from flowprep.wording import printable

PROC = Path("/proc/driver/nvidia")
QUERY = [
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,compute_cap,driver_version",
    "--format=csv,noheader,nounits",
]
SECONDS = 15.0  # for nvidia-smi to answer: sleeping GPUs wake up one after the other


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
        return ", ".join(filter(None, (self.name or "a GPU", memory, capability, driver)))


class Driver(NamedTuple):
    """All GPUs of the driver, whatever CUDA_VISIBLE_DEVICES says; none where there is no driver."""

    gpus: list[GPU]
    trouble: str = ""  # with nvidia-smi, in words; "" also where there is none


def describe(proc: Path = PROC) -> Driver:
    """Ask nvidia-smi; where it does not say, what the driver's part in the kernel knows."""
    said, trouble = answer_of(QUERY, SECONDS)
    found = _rows(said)
    if said and not found:
        trouble = f"lists no GPU: {printable(' '.join(said.split()))[:TAIL]}"
    return Driver(found or _from_proc(proc), trouble)


def _rows(said: str) -> list[GPU]:
    rows = [[printable(cell.strip()) for cell in line.split(",")] for line in said.splitlines()]
    found = []
    for number, *name, memory, capability, driver in (row for row in rows if len(row) >= 5 and row[0].isdecimal()):
        size = int(memory) if re.fullmatch(r"\d{1,9}", memory) else 0
        found.append(GPU(number, _known(", ".join(name)), size, _known(capability), _known(driver)))
    return found


def _known(cell: str) -> str:
    """Without what nvidia-smi says in place of a value, as "[N/A]"."""
    return "" if cell.startswith("[") else cell


def _from_proc(proc: Path) -> list[GPU]:
    with suppress(OSError):
        version = re.search(r"\b(\d{3,}\.[\d.]*\d)", (proc / "version").read_text(errors="replace"))
        folders = sorted((proc / "gpus").iterdir())
        return [
            GPU(str(number), _model(folder), driver=version[1] if version else "")
            for number, folder in enumerate(folders)
        ]
    return []


def _model(folder: Path) -> str:
    found = re.search(r"^Model:\s*(.+)$", (folder / "information").read_text(errors="replace"), re.M)
    return printable(found[1].strip()) if found else ""
