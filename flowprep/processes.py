"""What the processes that flowprep starts have in common: their environment, and how one tells why they ended."""

from __future__ import annotations

import signal
from typing import IO

START_SECONDS = 120.0  # for a process to import its libraries, on a slow or busy disk
POLL = 0.2  # s between two looks at a process that says nothing
TAIL = 400  # characters of its last words

# One thread a process, for every library that would start its own; OpenCV's wheels do not listen to OMP_NUM_THREADS.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"),
    "MALLOC_ARENA_MAX": "2",
    # Arrays of some megabytes come and go all the time: giving their pages back and forth takes a tenth of a run.
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "PYTHONUNBUFFERED": "1",
}


def how_it_ended(code: int) -> str:
    """The exit code of a process in words: "SIGSEGV" or "exit code 3"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # one of those without a name
        return f"signal {-code}"


def last_words(errors: IO[bytes] | None) -> str:
    """The end of what a process has written to the file ``errors``, on one line."""
    if not errors:
        return ""
    errors.seek(0)
    # A crash ends with all modules that were loaded, which is no news.
    said = errors.read().decode(errors="replace").split("\nExtension modules:")[0]
    return " ".join(said.split())[-TAIL:]
