"""The process that a bad video may kill.

A decoder fed with a damaged file can crash, hang or eat all memory. So every video is worked on in a child process that
the worker owns, with a memory limit and a limit on silence. A video that kills its child gets a fresh one and one more
chance; if it kills that too, the fault is its own and its verdict says how.

    parent                                   child  (child.py)
    Sandbox.extract(job)  --- JSON line -->  stdin
                          <-- JSON lines --  {"progress": 12} ... {"row": {...}} | {"failed": kind, "text": ...}

The child ends when its stdin does: whoever kills the parent, no child outlives it.

Where flow is computed on a GPU, the child hands its frames to the process that owns it (gpu/), by a connection that it
is given. Where that process ends, or gives no sign of life while the child waits for it, the video is tried again. Only
one that is there each time is suspected, and tried alone, after frames that no GPU fails on: if the process ends with
it then, too, the fault is its own; unless that happens to one video after the other, and none is done.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import IO, Any

from flowprep.config import Settings
from flowprep.errors import RefusedError, StoreError, UnfinishedError, Verdict
from flowprep.gpu import owner
from flowprep.gpu.owner import GPUProcess, Loss
from flowprep.processes import ENVIRONMENT, POLL, START_SECONDS, how_it_ended, last_line
from flowprep.types import LedgerRow, Probe

AWAY = 2.0  # s from one look to the next that only a suspended process takes
VIDEOS_PER_CHILD = 500  # then a fresh one: a slow leak in a decoder must not add up
STRIKES = 2  # tries before a crash, a hang or a want of memory is the video's own fault
KILLS = 6  # tries before SIGKILL is: it mostly comes from outside (a person, a job manager, the kernel short of memory)
LOSSES = 3  # of the process of the GPU before that is; the last time the video is computed alone, as after kills


class End(Enum):
    """What ended a try."""

    STRIKE = auto()
    KILL = auto()
    LOSS = auto()  # of the process of the GPU
    GPU_KILL = auto()  # it was killed from outside
    ACCIDENT = auto()  # that no video is to blame for, ever


MOST = {End.STRIKE: STRIKES, End.KILL: KILLS, End.LOSS: LOSSES, End.GPU_KILL: KILLS}

STOP = threading.Event()  # set by a driver that was told to end: every wait in this process gives up


@dataclass(frozen=True)
class Limits:
    """What a child may use."""

    silence_seconds: float = 120.0  # without a new block of fields
    memory_mib: int = 4096  # address space


class ChildError(Exception):
    """The child did not answer. ``verdict`` is what that means if the video is to blame; ``outside``: it hardly is;
    ``gpu``: the process of the GPU was lost."""

    def __init__(self, verdict: Verdict, reason: str, *, outside: bool = False, gpu: bool = False) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason
        self.outside = outside
        self.gpu = gpu


_running: set[Sandbox] = set()  # with a live child: held here, so that none is forgotten when its thread ends


def close_all() -> None:
    """End every child of this process, and the processes of its GPUs."""
    for box in list(_running):
        box.close()
    owner.close_all()


def _give_up() -> None:
    if STOP.is_set():
        raise UnfinishedError("stopped")


class Sandbox:
    """One child process and the conversation with it. Used by one thread."""

    def __init__(self, limits: Limits, gpu: GPUProcess | None = None) -> None:
        """``gpu``: what computes the flow, if the child does not; then all its videos have the same settings."""
        self.limits = limits
        self._gpu = gpu
        self._gpu_start = 0  # the start of that process that the child is connected to
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._buffer = b""
        self._videos = 0
        self._waits = False  # the child does, for the process of the GPU

    def extract(
        self,
        settings: Settings,
        path: Path,
        id: str,
        folder: Path,
        progress: Callable[[int], None],
        source: LedgerRow | None = None,
    ) -> LedgerRow:
        """The row of one video, its files in ``folder`` (emptied before each try); one failure is not held against it.

        ``path`` is the video's file; or, where settings derive a dataset from another, that dataset, and ``source`` the
        video's row there. Raises StoreError, RefusedError (the method cannot run) and UnfinishedError (told to stop).
        """
        job: dict[str, Any] = {"extract": id, "path": str(path), "folder": str(folder), "settings": settings.to_json()}
        if source:
            job["source"] = source.to_json()
        answer, tries = self._insist(job, progress, folder)
        if isinstance(answer, ChildError):
            return LedgerRow(id, answer.verdict, reason=answer.reason, attempt=tries)
        return replace(LedgerRow.from_json(answer["row"]), attempt=tries)

    def probe(self, path: Path) -> Probe | None:
        """What the header of ``path`` says; None if it says nothing usable (the verdict comes with the extraction)."""
        answer, _ = self._insist({"probe": str(path)}, lambda _: None)
        if isinstance(answer, ChildError) or not answer["probe"]:
            return None
        return Probe(**answer["probe"])

    def _insist(
        self, job: dict[str, Any], progress: Callable[[int], None], folder: Path | None = None
    ) -> tuple[dict[str, Any] | ChildError, int]:
        """The answer to ``job``, or the error that it keeps ending in; and the number of tries."""
        ends: Counter[End] = Counter()  # of the tries
        counted = 0

        def count(fields: int) -> None:
            nonlocal counted
            counted += fields
            progress(fields)

        while True:
            for leftover in folder.iterdir() if folder else ():
                leftover.unlink()
            try:
                alone = any(ends[end] == MOST[end] - 1 for end in (End.LOSS, End.GPU_KILL))
                answer = self._compute(job, count, alone=alone) if self._gpu else self._ask(job, count)
            except ChildError as error:
                self.close()
                count(-counted)  # the next try begins at the first field again
                loss = self._loss(error)
                end = _end_of(error, loss)
                ends[end] += 1
                if end is not End.ACCIDENT and ends[end] == MOST[end]:
                    return self._verdict(error, loss), ends.total()
            else:
                if self._gpu and counted:
                    self._gpu.done()
                return answer, ends.total() + 1

    def _loss(self, error: ChildError) -> Loss | None:
        """What has become of the process of the GPU, if that was it."""
        if not (self._gpu and error.gpu):
            return None
        return self._gpu.lost(self._gpu_start, _give_up, blameless=error.outside)

    def _verdict(self, error: ChildError, loss: Loss | None) -> ChildError:
        """What a video ends in that has had its tries; ``loss``: that of the last. Raises GPUError where the process
        of the GPU is lost with one video after the other."""
        if not (self._gpu and loss):
            return error
        self._gpu.blame(loss, _give_up)
        process = f"the process of {self._gpu.name}"
        if loss.killed:
            reason = f"{process} was killed {MOST[End.GPU_KILL]} times with this video, by the system or a user"
            return ChildError(Verdict.MEMORY, reason)
        return ChildError(error.verdict, f"{process} ended {MOST[End.LOSS]} times with this video: {loss.words}")

    def _compute(self, job: dict[str, Any], progress: Callable[[int], None], *, alone: bool) -> dict[str, Any]:
        """:meth:`_ask` for what is computed on the GPU; ``alone``: with no other video, on a GPU that works."""
        assert self._gpu
        with self._gpu.turn(_give_up, alone=alone):
            if alone:
                try:
                    self._ask({"trial": job["settings"]}, progress)
                except ChildError as error:
                    error.outside = True  # the video has not begun
                    raise
            return self._ask(job, progress)

    def close(self) -> None:
        """End the child, now."""
        if self._process is None:
            return
        _running.discard(self)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(BrokenPipeError):  # a job may lie in the buffer that the child did not live to read
                if stream:
                    stream.close()
        self._process = self._errors = None

    def _ask(self, job: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
        """Send ``job``, wait for its answer."""
        if self._process is None or self._videos >= VIDEOS_PER_CHILD:
            self._start()
        assert self._process and self._process.stdin and self._errors
        self._videos += 1
        self._errors.seek(0)
        self._errors.truncate()
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        while True:
            answer = self._read(self.limits.silence_seconds)
            if "waits" in answer:
                self._waits = answer["waits"]
            elif "progress" in answer:
                progress(answer["progress"])
            elif "failed" in answer:
                raise _failure(answer["failed"], answer["text"])
            else:
                return answer

    def _start(self) -> None:
        self.close()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._buffer = b""
        self._videos = 0
        self._waits = False
        # -P: what lies in the working directory is not for importing.
        command = [sys.executable, "-P", "-m", "flowprep.child", str(self.limits.memory_mib)]
        with ExitStack() as handed_over:
            handles: tuple[int, ...] = ()
            if self._gpu:
                link = self._gpu.connect(self.limits.silence_seconds, _give_up)
                self._gpu_start = link.start
                handles = (handed_over.enter_context(link.connection).fileno(),)
            self._process = subprocess.Popen(
                [*command, *map(str, handles)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **ENVIRONMENT},
                pass_fds=handles,
                start_new_session=True,  # Ctrl-C is for the parent, which decides what becomes of the child
            )
        _running.add(self)
        try:
            self._read(START_SECONDS)
        except ChildError as error:
            text = last_line(self._errors)
            self.close()
            if error.outside:
                raise
            raise RefusedError(f"A worker process does not start: {error.reason}. {text}") from None

    def _read(self, seconds: float) -> dict[str, Any]:
        """The next line of the child, waited for at most ``seconds``."""
        assert self._process and self._process.stdout
        handle = self._process.stdout.fileno()
        looked = time.monotonic()
        deadline = looked + seconds
        while b"\n" not in self._buffer:
            if STOP.is_set():
                self.close()
                raise UnfinishedError("stopped")
            if select.select([handle], [], [], POLL)[0]:
                data = os.read(handle, 1 << 20)
                if not data:
                    raise self._death()
                self._buffer += data
                continue
            now = time.monotonic()
            if now > looked + AWAY:
                deadline += now - looked  # a job that was suspended, as a whole: nobody was silent
            looked = now
            if now > deadline:
                reason = f"no new frame for {seconds:.0f} s (limit: --stall-seconds)"
                raise ChildError(Verdict.TIMEOUT, reason, gpu=self._waits)
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _death(self) -> ChildError:
        """The ChildError for a child that is gone."""
        assert self._process
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return ChildError(
                Verdict.MEMORY, f"its process was killed {KILLS} times, by the system or a user", outside=True
            )
        said = last_line(self._errors)
        return ChildError(Verdict.CRASHED, f"its process died with {how_it_ended(code)}. {said}".strip())


def _end_of(error: ChildError, loss: Loss | None) -> End:
    if loss is None:
        return End.KILL if error.outside else End.STRIKE
    if loss.blameless:
        return End.ACCIDENT
    return End.GPU_KILL if loss.killed else End.LOSS


def _failure(kind: str, text: str) -> Exception:
    """The exception for a failure that the child could still report."""
    if kind == "store":
        return StoreError(text)
    if kind == "refused":
        return RefusedError(text)
    if kind == "gpu":
        return ChildError(Verdict.CRASHED, text, gpu=True)
    return ChildError(Verdict.MEMORY if kind == "memory" else Verdict.CRASHED, text)
