"""Ctrl-C and SIGTERM: the run ends in good order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flowprep.errors import ExitCode
from flowprep.sandbox import STOP


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """The first signal gives up what is in flight and keeps what is committed; the second ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        if STOP.is_set():  # asked twice: at once; the children see their stdin end
            os._exit(ExitCode.UNFINISHED)
        STOP.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        STOP.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
