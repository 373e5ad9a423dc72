"""Ctrl-C, SIGHUP, SIGTERM, SIGUSR2: the run ends in good order.

Ctrl-C, SIGHUP    what is in flight is given up, what is committed stays (SIGHUP: the terminal was closed; under nohup,
                  nothing)
SIGTERM, SIGUSR2  no new shards; those in flight have the grace to end (job managers send one of the two before they
                  kill; not SIGUSR1, which NCCL catches)
a second signal   the process ends at once; its children see their stdin end and go too
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flowprep.errors import ExitCode
from flowprep.sandbox import STOP

ECHO = 1.0  # s: a job manager's signal often comes twice, to the whole job and through its script


class Stop:
    """What signals have asked for."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._since: float | None = None
        self._first = 0  # number of the first signal
        self._patient = False

    @property
    def asked(self) -> bool:
        """No new work."""
        return self._since is not None

    @property
    def expired(self) -> bool:
        """No more waiting either."""
        return self._since is not None and (STOP.is_set() or time.monotonic() > self._since + self._grace)

    @contextmanager
    def patience(self) -> Iterator[None]:
        """While here, the caller ends in good order by itself; outside, any signal makes every wait give up."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def handle(self, number: int, _frame: FrameType | None = None) -> None:
        """A signal has come."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._first = now, number
            if number in (signal.SIGINT, signal.SIGHUP) or not self._patient:
                STOP.set()
        elif number == signal.SIGINT or number != self._first or now > self._since + ECHO:
            os._exit(ExitCode.UNFINISHED)


@contextmanager
def stop_on_signals(grace: float) -> Iterator[Stop]:
    """Handle signals for as long as this is open; ``grace``: seconds for what is in flight."""
    stop = Stop(grace)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        yield stop
    finally:
        STOP.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
