"""The parent's end: the processes of its GPUs, one for each, started when a child first needs one.

it ends, or does not start     started again; the children that it served have their videos tried again
that three times in a row,     RefusedError, with its last words
and no video done meanwhile
this process ends              they end, too: by the end of their stdin
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, NamedTuple

from flowprep.errors import RefusedError
from flowprep.gpu.wire import LostError, pair, receive, send
from flowprep.processes import ENVIRONMENT, POLL, START_SECONDS, how_it_ended, last_words

ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # GPUs are numbered as nvidia-smi does it
FAILURES = 3  # in a row: more would not help
FAREWELL_SECONDS = 5.0  # for a process whose sockets are closed to be gone: CUDA takes its time to clean up

GiveUp = Callable[[], None]  # called while something is waited for; raises what ends the wait


class Link(NamedTuple):
    """A connection for a child."""

    connection: socket.socket  # the child's end
    start: int  # number of the start of the process at the other end


class GPUProcess:
    """The process that owns one GPU, and who is to start it. Used by many threads."""

    def __init__(self, gpu: str) -> None:
        """``gpu``: as CUDA_VISIBLE_DEVICES names it."""
        self.gpu = gpu
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None  # ours; its stdin is the other end
        self._errors: IO[bytes] | None = None
        self._starts = 0
        self._failures = 0  # in a row

    def connect(self, patience: float, give_up: GiveUp) -> Link:
        """A connection for one child. ``patience``: seconds that one batch with its frames may take.

        Raises RefusedError where the process fails again and again.
        """
        with self._held(give_up):
            while True:
                if self._process is None:
                    self._start(give_up)
                assert self._control
                ours, childs = pair()
                with ours:
                    try:
                        send(self._control, {"patience": patience}, ours.fileno())
                    except LostError:
                        childs.close()
                        self._failed(self._end(FAREWELL_SECONDS))
                    else:
                        return Link(childs, self._starts)

    def failed(self, link: int, text: str, give_up: GiveUp) -> None:
        """A child of the start ``link`` could not go on: ``text``. Raises RefusedError if that is too much."""
        with self._held(give_up):
            if link != self._starts or self._process is None:
                return  # another child has said so
            try:
                self._process.wait(FAREWELL_SECONDS)
            except subprocess.TimeoutExpired:  # it lives: only that one conversation has ended
                self._failed(text)
            else:
                self._failed(self._end(0))

    def done(self) -> None:
        """A video is done."""
        self._failures = 0

    def close(self) -> None:
        """End it, now."""
        with self._lock:
            self._end(0)

    @contextmanager
    def _held(self, give_up: GiveUp) -> Iterator[None]:
        while not self._lock.acquire(timeout=POLL):
            give_up()
        try:
            yield
        finally:
            self._lock.release()

    def _start(self, give_up: GiveUp) -> None:
        """Start it, if need be several times."""
        while self._process is None:
            self._starts += 1
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
            self._control, theirs = pair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "flowprep.gpu.server"],
                    stdin=theirs.fileno(),
                    stdout=self._errors,
                    stderr=self._errors,
                    env={**os.environ, **ENVIRONMENT, **ORDER, "CUDA_VISIBLE_DEVICES": self.gpu},
                    start_new_session=True,  # Ctrl-C is for the parent, which decides what becomes of it
                )
            try:
                ready = self._is_ready(give_up)
            except BaseException:
                self._end(0)
                raise
            if not ready:
                self._failed(self._end(POLL))

    def _is_ready(self, give_up: GiveUp) -> bool:
        """Wait until it is; False where it ends or takes too long."""
        assert self._control
        deadline = time.monotonic() + START_SECONDS
        while True:
            give_up()
            if select.select([self._control], [], [], POLL)[0]:
                break
            if time.monotonic() > deadline:
                return False
        try:
            receive(self._control)
        except (LostError, ValueError):  # something else has written there
            return False
        return True

    def _end(self, seconds: float) -> str:
        """Have it gone, which is given some ``seconds`` to end by itself; how it ended, in words."""
        if self._process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        code = self._process.poll()
        self._process.kill()
        self._process.wait()
        said = last_words(self._errors)
        for stream in (self._control, self._errors):
            if stream:
                stream.close()
        self._process = self._control = self._errors = None
        return f"{'no answer' if code is None else how_it_ended(code)}. {said}".strip()

    def _failed(self, text: str) -> None:
        self._failures += 1
        if self._failures < FAILURES:
            return
        self._failures = 0
        raise RefusedError(
            f"The process that computes flow on GPU {self.gpu} of {socket.gethostname()} has failed {FAILURES} times, "
            f"and no video was done meanwhile: {text} See whether that GPU works and has memory left (nvidia-smi), "
            "or compute without it: --backend cpu."
        )


_lock = threading.Lock()
_all: dict[str, GPUProcess] = {}


def gpu_process(gpu: str) -> GPUProcess:
    """That of a GPU, one for all threads."""
    with _lock:
        return _all.setdefault(gpu, GPUProcess(gpu))


def close_all() -> None:
    """End those of all GPUs."""
    for process in list(_all.values()):
        process.close()
