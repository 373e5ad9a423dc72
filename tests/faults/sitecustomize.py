"""Put on PYTHONPATH by tests: makes the sandboxed process do what its video's name says, as a hostile file might.

``segv`` crashes, ``abort`` aborts, ``exit`` leaves, ``hang`` never answers, ``memory`` eats all it gets, ``killed`` is
killed from outside, ``bug`` raises what nobody expects. ``once`` in the name does it only the first time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

FAULTS = {
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(3600),
    "memory": lambda: bytearray(1 << 36),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "bug": lambda: {}["nothing"],
}


def _install() -> None:
    from flowprep.extract import Extractor

    honest = Extractor.extract

    def extract(self, path, id, folder, progress):
        mark = Path(os.environ["FLOWPREP_TEST_MARKS"]) / path.name
        for name, fault in FAULTS.items():
            if name in path.name and not ("once" in path.name and mark.exists()):
                mark.touch()
                fault()
        return honest(self, path, id, folder, progress)

    Extractor.extract = extract


if "FLOWPREP_TEST_MARKS" in os.environ and sys.argv[0] == "-m":  # a child's argv while it starts
    _install()
