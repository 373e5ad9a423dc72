"""A driver of a GPU that computes nothing (idle_gpu.c), for machines without a GPU and tests of what asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def environment(folder: Path) -> dict[str, str]:
    """In which a process finds that driver, built in ``folder``. Raises FileNotFoundError without a C compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        raise FileNotFoundError("no C compiler (cc) is here to build the driver that computes nothing")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", SOURCE, "-ldl"], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}
