"""The workers of a Dask cluster, seen from outside; and patience with a scheduler that may never answer."""

from __future__ import annotations

import pydoc
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from flowprep import __version__
from flowprep.errors import RefusedError, UnfinishedError
from flowprep.sandbox import STOP

LOOK_SECONDS = 1.0  # between two looks at the workers
LONELY_SECONDS = 10.0  # without any worker, until that is said, and then six times as long
POLL = 0.1  # s

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], *, even_if_stopped: bool = False) -> T:
    """The result of ``call``, which Dask may let hang for ever: waited for so long, or until told to stop.

    Raises TimeoutError and UnfinishedError; the thread in which it hangs goes with the process.
    """
    answers: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(([call()], None))
        except BaseException as error:  # noqa: BLE001 - raised below
            answers.put(([], error))

    threading.Thread(target=run, daemon=True).start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found, error = answers.get(timeout=POLL)
        except queue.Empty:
            if STOP.is_set() and not even_if_stopped:
                raise UnfinishedError("stopped") from None
            continue
        if error is not None:
            raise error
        return found[0]
    raise TimeoutError(f"no answer in {seconds:.0f} s")


class Workers:
    """The workers of a cluster, which come and go: how many there are, and whether they have our flowprep.

    They are looked at in a thread of its own, once a second: a scheduler may take its time to answer, or never do.
    """

    def __init__(self, client: Any, address: str, most: int, *, gpu: bool, say: Callable[[str], None]) -> None:
        self._client = client
        self._address = address
        self._most = most
        self._gpu = gpu
        self._say = say
        self._threads = 0
        self._good: set[str] = set()  # addresses of workers whose flowprep is ours
        self._refused: RefusedError | None = None
        self._ended = threading.Event()

    def room(self) -> int:
        """Tasks that may be in flight. Raises RefusedError for a worker with another flowprep, or none."""
        if self._refused:
            raise self._refused
        return 2 * (min(self._threads, self._most) if self._most else self._threads)

    def start(self) -> None:
        threading.Thread(target=self._keep_looking, daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def look(self) -> None:
        """See who is there now."""
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        self._check(workers.keys() - self._good)
        usable = [worker for worker in workers.values() if not self._gpu or worker["resources"].get("GPU", 0) > 0]
        self._threads = sum(worker["nthreads"] for worker in usable)

    def _check(self, new: set[str]) -> None:
        """Raise RefusedError unless all ``new`` workers have the flowprep that runs here.

        What is sent for that needs no flowprep to be understood.
        """
        if not new:
            return
        found = self._client.run(pydoc.locate, "flowprep.__version__", workers=sorted(new), on_error="return")
        for worker, version in found.items():
            if isinstance(version, OSError):  # just gone again
                continue
            if version != __version__:
                has = f"flowprep {version}" if isinstance(version, str) else f"no flowprep that works ({version})"
                raise RefusedError(f"The worker at {worker} has {has}, here is {__version__}: install the same there.")
            self._good.add(worker)

    def _keep_looking(self) -> None:
        lonely_since, patience = time.monotonic(), LONELY_SECONDS
        first = True
        while not self._ended.wait(0 if first else LOOK_SECONDS):
            first = False
            try:
                self.look()
            except RefusedError as error:
                self._refused = error
                return
            except (OSError, TimeoutError, ValueError, KeyError):
                continue  # the engine notices a scheduler that is gone
            if self._threads:
                lonely_since, patience = time.monotonic(), LONELY_SECONDS
            elif time.monotonic() > lonely_since + patience:
                lonely_since, patience = time.monotonic(), 6 * LONELY_SECONDS
                kind = "worker with the resource GPU=1" if self._gpu else "worker"
                self._say(f"No {kind} is connected to {self._address}; waiting. Ctrl-C ends this run, nothing is lost.")
