"""The flowprep command as users run it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FAULTS = str(Path(__file__).with_name("faults"))
MISBEHAVE = {"PYTHONPATH": os.pathsep.join(filter(None, [FAULTS, os.environ.get("PYTHONPATH")]))}  # see FAULTS
COMMAND = [sys.executable, "-c", "from flowprep.cli import main; main()"]


def flowprep(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 100):
    """Run it to its end; the result has returncode, stdout and stderr as text."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )


def start(
    *arguments: str | Path, env: dict[str, str] | None = None, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start it and go on; what it says goes to ``log``, or is thrown away."""
    with (log or Path(os.devnull)).open("wb") as said:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env={**os.environ, **(env or {})}, stdout=said, stderr=said
        )


def await_(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until ``condition()`` is true; an AssertionError that names ``what`` if it never is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not in {seconds} s"
        time.sleep(0.05)


def stored_files(dataset: Path) -> dict[str, bytes]:
    """Everything that readers of the arrays see: key -> bytes. Commit records differ in attempt, host and seconds."""
    return {
        path.relative_to(dataset).as_posix(): path.read_bytes()
        for path in sorted(dataset.rglob("*"))
        if path.is_file() and ".flowprep" not in path.parts
    }
