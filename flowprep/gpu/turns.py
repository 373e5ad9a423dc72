"""Who may use the process of a GPU: many videos at a time, or one that is suspected of ending it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowprep.processes import POLL

GiveUp = Callable[[], None]  # called while something is waited for; raises what ends the wait


class Turns:
    """Turns to use something together with others, or alone. Used by many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._loners = 0  # that are alone, or wait to be

    @contextmanager
    def turn(self, give_up: GiveUp, *, alone: bool) -> Iterator[None]:
        """Whoever wants to be alone waits for those who are at it; those who come after them wait for that one."""
        with self._changed:
            self._loners += alone
        try:
            with self._changed:
                while self._users if alone else self._loners:
                    self._changed.wait(POLL)
                    give_up()
                self._users += 1
            try:
                yield
            finally:
                with self._changed:
                    self._users -= 1
        finally:
            with self._changed:
                self._loners -= alone
                self._changed.notify_all()
