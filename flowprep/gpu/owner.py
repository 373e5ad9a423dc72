"""The parent's end: the processes of its GPUs, one for each, started when a child first needs one.

it ends, or does not start     started again; the children that it served have their videos tried again
it gives no sign of life       it is ended, and the same happens
it ends with a video           that may be the video's fault, which sandbox.py finds out
without, or a video is blamed, three times in a row and no video done meanwhile: GPUError, with its last words
this process ends              they end, too: by the end of their stdin
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, NamedTuple

from flowprep.errors import GPUError
from flowprep.gpu.turns import GiveUp, Turns
from flowprep.gpu.wire import LostError, pair, receive, send
from flowprep.processes import ENVIRONMENT, POLL, START_SECONDS, how_it_ended, last_line

ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # GPUs are numbered as by nvidia-smi, unless the user has it otherwise
FAILURES = 3  # in a row: more would not help
FAREWELL_SECONDS = 5.0  # for a process whose sockets are closed to be gone: CUDA takes its time to clean up


class Link(NamedTuple):
    """A connection for a child."""

    connection: socket.socket  # the child's end
    start: int  # number of the start of the process at the other end


class Loss(NamedTuple):
    """How a process ended."""

    words: str
    blameless: bool  # for no video's fault
    killed: bool  # by SIGKILL: by a person, a job manager, the kernel short of memory


class GPUProcess:
    """The process that owns one GPU, and who is to start it. Used by many threads."""

    def __init__(self, gpu: str) -> None:
        """``gpu``: as CUDA_VISIBLE_DEVICES names it."""
        self.gpu = gpu
        self.name = f"GPU {gpu} of {socket.gethostname()}"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None  # ours; its stdin is the other end
        self._errors: IO[bytes] | None = None
        self._starts = 0
        self._losses: dict[int, Loss] = {}  # by number of the start
        self._failures = 0  # in a row: losses that no video is to blame for, and videos that are
        self._turns = Turns()

    def turn(self, give_up: GiveUp, *, alone: bool) -> AbstractContextManager[None]:
        """While one video is computed; ``alone``: and no other one."""
        return self._turns.turn(give_up, alone=alone)

    def connect(self, patience: float, give_up: GiveUp) -> Link:
        """A connection for one child. ``patience``: seconds that one batch with its frames may take.

        Raises GPUError where the process fails again and again.
        """
        with self._held(give_up):
            while True:
                new = self._process is None
                if new:
                    self._start(give_up)
                assert self._control
                ours, childs = pair()
                with ours:
                    try:
                        send(self._control, {"patience": patience}, ours.fileno())
                    except LostError:
                        childs.close()
                        self._lose(FAREWELL_SECONDS, blameless=new)
                    else:
                        return Link(childs, self._starts)

    def lost(self, start: int, give_up: GiveUp, *, blameless: bool) -> Loss:
        """How the process of a start ended that a child has lost; one that is there is of no use, and is ended.

        ``blameless``: what it computed is known to be good. Raises GPUError if it fails too often.
        """
        with self._held(give_up):
            if start == self._starts and self._process:  # no other child has said so
                self._lose(FAREWELL_SECONDS, blameless=blameless)
            return self._losses[start]

    def blame(self, loss: Loss, give_up: GiveUp) -> None:
        """A video gets the blame for a loss. Raises GPUError where that happens to one after the other."""
        with self._held(give_up):
            self._fail(loss)

    def done(self) -> None:
        """A video is done."""
        self._failures = 0

    def close(self) -> None:
        """End it, now."""
        with self._lock:
            if self._process:
                self._end(0, blameless=True)

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
                    env={**ORDER, **os.environ, **ENVIRONMENT, "CUDA_VISIBLE_DEVICES": self.gpu},
                    start_new_session=True,  # Ctrl-C is for the parent, which decides what becomes of it
                )
            try:
                ready = self._is_ready(give_up)
            except BaseException:
                self._end(0, blameless=True)
                raise
            if not ready:
                self._lose(POLL, blameless=True)

    def _is_ready(self, give_up: GiveUp) -> bool:
        """Wait until it is; False where it ends or takes too long."""
        assert self._control
        for _ in range(int(START_SECONDS / POLL)):  # looks, not the clock: a job may be suspended
            give_up()
            if select.select([self._control], [], [], POLL)[0]:
                try:
                    receive(self._control)
                except (LostError, ValueError):  # something else has written there
                    return False
                return True
        return False

    def _end(self, seconds: float, *, blameless: bool) -> Loss:
        """Have it gone, which is given some ``seconds`` to end by itself."""
        assert self._process
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        code = self._process.poll()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # a driver that hangs does not let it go
            self._process.wait(FAREWELL_SECONDS)
        said = last_line(self._errors)
        for stream in (self._control, self._errors):
            if stream:
                stream.close()
        self._process = self._control = self._errors = None
        how = "it gave no sign of life" if code is None else how_it_ended(code)
        loss = Loss(f"{how}. {said}".strip(), blameless, code == -signal.SIGKILL)
        self._losses[self._starts] = loss
        return loss

    def _lose(self, seconds: float, *, blameless: bool) -> None:
        """End it; where that is no video's fault, count that."""
        loss = self._end(seconds, blameless=blameless)
        if blameless:
            self._fail(loss)

    def _fail(self, loss: Loss) -> None:
        self._failures += 1
        if self._failures < FAILURES:
            return
        self._failures = 0
        raise GPUError(
            f"The process that computes flow on {self.name} fails again and again, and no video was done meanwhile: "
            f"{loss.words.rstrip('.')}. See whether that GPU works and has memory left (nvidia-smi)."
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
