"""The process that a bad video may kill.

A decoder fed with a damaged file can crash, hang or eat all memory. So every video is worked on in a child process that
the worker owns, with a memory limit and a limit on silence. A video that kills its child gets a fresh one and one more
chance; if it kills that too, the fault is its own and its verdict says how.

    parent                                   child  (python -P -m flowprep.sandbox)
    Sandbox.extract(job)  --- JSON line -->  stdin
                          <-- JSON lines --  {"progress": 12} ... {"row": {...}} | {"failed": kind, "text": ...}

The child ends when its stdin does: whoever kills the parent, no child outlives it.

Where flow is computed on a GPU, the child hands its frames to the process that owns it (gpu/). It gets an open
connection to that; where that fails, the video is tried again, and no verdict comes of it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flowprep.config import Settings
from flowprep.errors import RefusedError, StoreError, UnfinishedError, Verdict, VideoError
from flowprep.gpu import owner
from flowprep.gpu.owner import GPUProcess
from flowprep.gpu.wire import ServerLostError
from flowprep.processes import ENVIRONMENT, POLL, START_SECONDS, TAIL, how_it_ended, last_words
from flowprep.types import LedgerRow, Probe

if TYPE_CHECKING:
    from flowprep.gpu.client import RemoteFlow

AWAY = 2.0  # s from one look to the next that only a suspended process takes
VIDEOS_PER_CHILD = 500  # then a fresh one: a slow leak in a decoder must not add up
STRIKES = 2  # tries before a crash, a hang or a want of memory is the video's own fault
KILLS = 6  # tries before SIGKILL is: it mostly comes from outside (a person, a job manager, the kernel short of memory)
OVER_MEMORY = "over the memory limit of its process (--memory-limit)"

STOP = threading.Event()  # set by a driver that was told to end: every wait in this process gives up


@dataclass(frozen=True)
class Limits:
    """What a child may use."""

    silence_seconds: float = 120.0  # without a new block of fields
    memory_mib: int = 4096  # address space


class ChildError(Exception):
    """The child did not answer. ``verdict`` is what that means if the video is to blame; ``outside``: it hardly is;
    ``gpu``: it never is, but the process of the GPU."""

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
        strikes = kills = failures = counted = 0

        def count(fields: int) -> None:
            nonlocal counted
            counted += fields
            progress(fields)

        while True:
            for leftover in folder.iterdir() if folder else ():
                leftover.unlink()
            try:
                answer = self._ask(job, count)
            except ChildError as error:
                self.close()
                count(-counted)  # the next try begins at the first field again
                if self._gpu and error.gpu:
                    self._gpu.failed(self._gpu_start, error.reason, _give_up)
                    failures += 1
                    continue
                kills += error.outside
                strikes += not error.outside
                if strikes >= STRIKES or kills >= KILLS:
                    return error, strikes + kills + failures
            else:
                if self._gpu:
                    self._gpu.done()
                return answer, 1 + strikes + kills + failures

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
            if "progress" in answer:
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
        # -P: what lies in the working directory is not for importing.
        command = [sys.executable, "-P", "-m", "flowprep.sandbox", str(self.limits.memory_mib)]
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
            text = last_words(self._errors)
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
                raise ChildError(Verdict.TIMEOUT, f"no new frame for {seconds:.0f} s (limit: --stall-seconds)")
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
        said = last_words(self._errors)
        return ChildError(Verdict.CRASHED, f"its process died with {how_it_ended(code)}. {said}".strip())


def _failure(kind: str, text: str) -> Exception:
    """The exception for a failure that the child could still report."""
    if kind == "store":
        return StoreError(text)
    if kind == "refused":
        return RefusedError(text)
    if kind == "gpu":
        return ChildError(Verdict.CRASHED, text, gpu=True)
    return ChildError(Verdict.MEMORY if kind == "memory" else Verdict.CRASHED, text)


def main() -> None:
    """The child: answers one job after another until stdin ends."""
    faulthandler.enable()
    limit = int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Answers get a descriptor of their own; whatever a library prints goes to stderr.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    from flowprep import opencv

    gpu = socket.socket(fileno=int(sys.argv[2])) if len(sys.argv) > 2 else None
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    workers: dict[str, Callable[..., LedgerRow]] = {}

    def say(**answer: Any) -> None:
        channel.write(json.dumps(answer) + "\n")

    say(ready=True)
    while True:
        job = json.loads(jobs.get())
        try:
            if "probe" in job:
                say(probe=_probe(Path(job["probe"])))
                continue
            key = json.dumps(job["settings"], sort_keys=True)
            if key not in workers:
                settings = Settings.from_json(job["settings"])
                workers[key] = _worker(settings, _remote_flow(gpu, settings, lambda: say(progress=0)))
            what = LedgerRow.from_json(job["source"]) if "source" in job else job["extract"]
            row = workers[key](Path(job["path"]), what, Path(job["folder"]), lambda count: say(progress=count))
            say(row=row.to_json())
        except MemoryError:
            say(failed="memory", text=OVER_MEMORY)
        except StoreError as error:
            say(failed="store", text=str(error))
        except RefusedError as error:
            say(failed="refused", text=str(error))
        except ServerLostError as error:
            say(failed="gpu", text=str(error))
        except Exception as error:  # noqa: BLE001 - one video must not end the run
            if isinstance(error, opencv.load().error) and error.code == opencv.load().Error.StsNoMem:
                say(failed="memory", text=OVER_MEMORY)
            else:
                traceback.print_exc()
                say(failed="crash", text=f"internal error, please report it: {type(error).__name__}: {error}"[:TAIL])


def _remote_flow(gpu: socket.socket | None, settings: Settings, alive: Callable[[], None]) -> RemoteFlow | None:
    """What computes the flow where ``gpu`` leads to."""
    if gpu is None:
        return None
    from flowprep.gpu.client import RemoteFlow

    return RemoteFlow(gpu, settings, alive)


def _worker(settings: Settings, remote: RemoteFlow | None) -> Callable[..., LedgerRow]:
    """What makes the rows of a video under ``settings``, its libraries loaded; ``remote``: what computes the flow."""
    if settings.computes_flow and not remote:
        _check_engine(settings)
    if settings.derived:
        from flowprep.derive import Deriver

        return Deriver(settings, remote).derive
    from flowprep.extract import Extractor

    return Extractor(settings, remote).extract


def _check_engine(settings: Settings) -> None:
    """Raise RefusedError unless the engine that they name is what this machine has: one dataset, one engine."""
    from flowprep import flow

    here = flow.find(settings.flow.method, settings.flow.backend).engine()
    if here != settings.engine:
        raise RefusedError(
            f"{socket.gethostname()} computes {settings.flow.method} with {here}, the run was started with "
            f"{settings.engine}: install the same versions everywhere."
        )


def _probe(path: Path) -> dict[str, Any] | None:
    from flowprep.video import probe

    try:
        return vars(probe(path))
    except VideoError:
        return None


def _listen(jobs: queue.SimpleQueue[str]) -> None:
    """Pass on jobs; when the parent is gone, so are we, whatever is being computed."""
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
