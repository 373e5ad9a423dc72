"""What the processes that flowprep starts have in common: their environment, and how one tells why they ended."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from contextlib import suppress
from typing import IO

from flowprep.wording import printable

START_SECONDS = 120.0  # for a process to import its libraries, on a slow or busy disk
POLL = 0.2  # s between two looks at a process that says nothing
TAIL = 400  # characters of its last words
FAREWELL_SECONDS = 1.0

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
    return " ".join(_said(errors).split())[-TAIL:]


def last_line(errors: IO[bytes] | None) -> str:
    """The last line of that: of an error of Python its type and its text."""
    return " ".join(_said(errors).rstrip().rpartition("\n")[2].split())[:TAIL]


def _said(errors: IO[bytes] | None) -> str:
    if not errors:
        return ""
    errors.seek(0)
    return errors.read().decode(errors="replace")


def answer_of(command: list[str], seconds: float) -> tuple[str, str]:
    """What a program prints that may hang in a driver, and what is wrong with it; both "" where there is none."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        except FileNotFoundError:
            return "", ""
        except OSError as error:
            return "", f"cannot be started: {error.strerror}"
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "", f"has not answered for {seconds:g} s: it hangs, or the GPU does"
        finally:
            process.kill()  # also where a signal ends the wait
            with suppress(subprocess.TimeoutExpired):  # what hangs in the driver cannot be killed
                process.wait(FAREWELL_SECONDS)
        if code:
            return "", f"fails ({how_it_ended(code)}): {printable(last_words(output))}"
        output.seek(0)
        return output.read().decode(errors="replace"), ""
