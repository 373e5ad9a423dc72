"""The threads that compute: requests that wait become one batch.

A GPU is busy with many pairs at a time, a child asks for few. So whatever waits, of one size and for the same settings,
is computed together, in the order in which it came and up to what the algorithm takes; while that is computed, the next
batch gathers. What a request gets does not depend on the company it is computed in.

A backend that says so computes two batches at once: the second is on the GPU while the first is copied and shared out.

A thread keeps the memory of one algorithm on the GPU, that of its last batch: those of other settings had to give back
theirs, and each gives it back when nobody uses those settings any more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowprep.config import Settings
from flowprep.errors import FlowprepError
from flowprep.gpu.hosted import THREADS, Arrays, Hosted, key_of
from flowprep.gpu.memory import Request

START_SECONDS = 900.0  # for an algorithm to find its GPU and to compile its kernels
# A request that the GPU has no memory for is tried so often: others may have taken it for a while.
MEMORY_TRIES, MEMORY_PAUSE = 10, 2.0  # s

T = TypeVar("T")


class _Use(NamedTuple):
    hosted: Hosted
    connections: set[int]


@dataclass(eq=False)
class Work:
    """One request that waits, or is being computed."""

    hosted: Hosted
    request: Request
    frames: NDArray[Any]  # in shared memory
    most: int  # fields of a batch of that size
    patience: float  # s that it may be computed for
    out: Future[Arrays] = field(default_factory=Future)

    def goes_with(self, other: Work) -> bool:
        mine, theirs = self.request, other.request
        return self.hosted is other.hosted and (
            (mine.height, mine.width, mine.dtype, mine.levels)
            == (theirs.height, theirs.width, theirs.dtype, theirs.levels)
        )


class Call(NamedTuple):
    """Something else that a thread has to do."""

    thread: int
    run: Callable[[], None]


class AtWork(NamedTuple):
    """What a thread is at."""

    what: str
    patience: float  # s


class Computer:
    """The threads, and the queue in front of them. ``fatal`` is called, there, for what a new process has to repair."""

    def __init__(self, fatal: Callable[[BaseException], None]) -> None:
        self._fatal = fatal
        self._queue: deque[Work | Call] = deque()
        self._filled = threading.Condition()
        self._hosted: dict[str, _Use] = {}
        self._last: list[Hosted | None] = [None] * THREADS  # with memory on the GPU
        self.at_work: list[AtWork | None] = [None] * THREADS  # another object for each piece of work
        for thread in range(THREADS):
            threading.Thread(target=self._serve, args=(thread,), daemon=True).start()

    def enter(self, connection: int, settings: Settings) -> Future[Hosted]:
        """What hosts ``settings``, kept while any connection uses it."""

        def enter() -> Hosted:
            key = key_of(settings)
            if key not in self._hosted:
                self.at_work[0] = AtWork(f"starting {settings.flow.method} on {settings.flow.backend}", START_SECONDS)
                self._hosted[key] = _Use(Hosted(settings), set())
            use = self._hosted[key]
            use.connections.add(connection)
            return use.hosted

        return self._later(enter)

    def leave(self, connection: int) -> None:
        """The connection is no more; with the last that uses it an algorithm goes, and its memory on the GPU."""

        def leave() -> None:
            for key, use in list(self._hosted.items()):
                use.connections.discard(connection)
                if not use.connections:
                    del self._hosted[key]
                    for thread in range(THREADS):
                        self._put(Call(thread, partial(self._give_back, thread, use.hosted)))

        self._later(leave)

    def most(self, hosted: Hosted, height: int, width: int, patience: float) -> Future[int]:
        """:meth:`Hosted.most`, which may take ``patience`` seconds."""

        def most() -> int:
            self.at_work[0] = AtWork("asking the GPU for its memory", patience)
            return hosted.most(height, width)

        return self._later(most)

    def compute(self, work: Work) -> Future[Arrays]:
        """What comes out of ``work``."""
        self._put(work)
        return work.out

    def give_up(self, work: Work) -> None:
        """Nobody waits for ``work`` any more."""
        with self._filled, suppress(ValueError):  # it is being computed
            self._queue.remove(work)

    def _later(self, call: Callable[[], T]) -> Future[T]:
        """Have the first of the threads call it. What flowprep raises on purpose is the error of the answer."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(call())
            except FlowprepError as error:
                answer.set_exception(error)

        self._put(Call(0, run))
        return answer

    def _put(self, item: Work | Call) -> None:
        with self._filled:
            self._queue.append(item)
            self._filled.notify_all()

    def _serve(self, thread: int) -> None:
        try:
            while True:
                with self._filled:
                    self._filled.wait_for(lambda: any(self._may(thread, item) for item in self._queue))
                    item = next(item for item in self._queue if self._may(thread, item))
                    self._queue.remove(item)
                if isinstance(item, Work):
                    self._compute(thread, item)
                else:
                    item.run()
                self.at_work[thread] = None
        except BaseException as error:  # noqa: BLE001 - an error of CUDA stays: no later call would work
            self._fatal(error)

    def _may(self, thread: int, item: Work | Call) -> bool:
        """Whether it is for this thread to do."""
        return thread < item.hosted.at_once if isinstance(item, Work) else thread == item.thread

    def _give_back(self, thread: int, hosted: Hosted) -> None:
        """Have that which nobody uses any more, or another that now computes, give back its memory."""
        if self._last[thread] is hosted:
            hosted.give_back(thread)
            self._last[thread] = None

    def _compute(self, thread: int, work: Work) -> None:
        """Compute ``work``, with what waits and can be computed together with it."""
        batch = [work, *self._company(work)]
        fields = sum(item.request.fields for item in batch)
        what = f"a batch of {fields} pairs of {work.request.width}x{work.request.height}"
        self.at_work[thread] = AtWork(what, max(item.patience for item in batch))
        last = self._last[thread]
        if last and last is not work.hosted:
            self._give_back(thread, last)
        self._last[thread] = work.hosted
        self._answer(thread, batch)

    def _answer(self, thread: int, batch: list[Work]) -> None:
        """Compute a batch; one that the GPU has no memory for request by request."""
        try:
            found = _computed(thread, batch)
        except MemoryError:
            for item in batch:
                item.out.set_result(self._insist(thread, item))
            return
        for item, out in zip(batch, found, strict=True):
            item.out.set_result(out)

    def _insist(self, thread: int, work: Work) -> Arrays:
        """What comes out of one request, once the GPU has memory for it. Raises MemoryError where it goes on having
        none: the next process will see how much there is, and plan with that."""
        for _ in range(MEMORY_TRIES):
            self.at_work[thread] = AtWork("a request that the GPU had no memory for", work.patience)
            with suppress(MemoryError):
                return _computed(thread, [work])[0]
            time.sleep(MEMORY_PAUSE)
        return _computed(thread, [work])[0]

    def _company(self, work: Work) -> list[Work]:
        """What waits and fits beside ``work``, in the order in which it came; taken out of the queue."""
        room = work.most - work.request.fields
        taken: list[Work] = []
        with self._filled:
            for other in [other for other in self._queue if isinstance(other, Work) and other.goes_with(work)]:
                if other.request.fields > room:
                    break
                room -= other.request.fields
                taken.append(other)
                self._queue.remove(other)
        return taken


def _computed(thread: int, batch: list[Work]) -> list[Arrays]:
    """What comes out for each; where but one direction of a request is a batch, one after the other."""
    hosted, request = batch[0].hosted, batch[0].request
    if request.fields <= batch[0].most:
        return hosted.compute(thread, [item.request for item in batch], [item.frames for item in batch])
    parts: list[Arrays] = []
    for direction in request.directions:
        (out,) = hosted.compute(thread, [replace(request, direction=direction)], [batch[0].frames])
        parts.append(out)
    return [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}]
