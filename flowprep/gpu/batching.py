"""The threads that compute: requests that wait become one batch.

A GPU is busy with many pairs at a time, a child asks for few. So whatever waits, of one size and for the same settings,
is computed together, in the order in which it came and up to what the algorithm takes; while that is computed, the next
batch gathers. What a request gets does not depend on the company it is computed in.

A backend that says so computes two batches at once: the second is on the GPU while the first is copied and shared out.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowprep import flow, quantise
from flowprep.config import Settings, StorageConfig
from flowprep.errors import FlowprepError, RefusedError, VideoError
from flowprep.flow.batch import DeviceFields
from flowprep.gpu.memory import Request
from flowprep.quantise.host_fields import HostFields

THREADS = 2
START_SECONDS = 900.0  # for an algorithm to find its GPU and to compile its kernels

Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


def key_of(settings: Settings) -> str:
    """What settings have in common whose requests are computed together."""
    flow = {name: value for name, value in vars(settings.flow).items() if name != "direction"}
    return json.dumps([flow, settings.storage.to_json(), settings.engine], sort_keys=True)


class Hosted:
    """The flow of some settings: an algorithm object for each thread that computes, made and used by that alone."""

    def __init__(self, settings: Settings) -> None:
        """By the first of the threads. Raises RefusedError where it cannot run here, or has not the run's engine."""
        first = flow.configured(settings.flow)
        here = first.engine()
        if here != settings.engine:
            raise RefusedError(
                f"{socket.gethostname()} computes {settings.flow.method} with {here}, the run was started with "
                f"{settings.engine}: install the same versions everywhere."
            )
        first.warm()
        self.at_once = min(first.at_once, THREADS)
        self._settings = settings
        self._algorithms = {0: first}

    def most(self, height: int, width: int) -> int:
        """Fields of one batch; 0 = not one fits."""
        return self._algorithms[0].pairs_in_a_batch(height, width)

    def compute(
        self, thread: int, requests: Sequence[Request], frames: Sequence[NDArray[Any]]
    ) -> list[Arrays | ValueError]:
        """What comes out for each of the ``requests``, of one size, whose ``frames`` are given."""
        if thread not in self._algorithms:
            self._algorithms[thread] = flow.configured(self._settings.flow)
        batch = _Batch(requests)
        computed = self._algorithms[thread].fields(np.concatenate(frames), batch.first, batch.second)
        fields = HostFields(computed) if isinstance(computed, np.ndarray) else computed
        return [
            ValueError(quantise.NOT_FINITE) if out is None else out
            for out in batch.share_out(fields, self._settings.storage if requests[0].levels else None)
        ]


class _Batch:
    """Several requests as one batch: its pairs, and which of its fields are whose."""

    def __init__(self, requests: Sequence[Request]) -> None:
        first: list[NDArray[np.int32]] = []
        second: list[NDArray[np.int32]] = []
        self._originals: list[list[int]] = []  # fields of each request that are wanted as float32
        self._fields: list[slice] = []  # of each request
        frames = fields = 0
        for request in requests:
            start = fields
            self._originals.append([])
            for direction in request.directions:
                here = np.arange(frames, frames + request.pairs, dtype=np.int32)
                first.append(here if direction == "forward" else here + 1)
                second.append(here + 1 if direction == "forward" else here)
                self._originals[-1] += [fields + pair for pair in request.originals]
                fields += request.pairs
            self._fields.append(slice(start, fields))
            frames += request.frames
        self.first, self.second = np.concatenate(first), np.concatenate(second)

    def share_out(self, fields: DeviceFields, storage: StorageConfig | None) -> list[Arrays | None]:
        """The arrays of each request; None where its flow is not finite. ``storage``: how levels are made, if any."""
        wanted = [number for numbers in self._originals for number in numbers]
        originals = fields[wanted]
        ends = np.cumsum([len(numbers) for numbers in self._originals])
        parts = [originals[end - len(numbers) : end] for end, numbers in zip(ends, self._originals, strict=True)]
        if storage is None:
            return [{"originals": part} if np.isfinite(part).all() else None for part in parts]
        extremes, means = fields.extremes(), fields.means()
        good: NDArray[np.bool_] = np.all(np.isfinite(extremes), axis=(1, 2))
        made = quantise.scaling(np.where(good[:, None, None], extremes, np.float32(0)), storage)
        levels = fields.levels(made.coding)
        whole = {"levels": levels, "scale": made.scale, "zero": made.zero, "extremes": extremes, "means": means}
        return [
            {"originals": part} | {name: values[own] for name, values in whole.items()} if good[own].all() else None
            for part, own in zip(parts, self._fields, strict=True)
        ]


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


class AtWork(NamedTuple):
    """What a thread is at."""

    what: str
    patience: float  # s


class Computer:
    """The threads, and the queue in front of them. ``fatal`` is called, there, for what a new process has to repair."""

    def __init__(self, fatal: Callable[[BaseException], None]) -> None:
        self._fatal = fatal
        self._queue: deque[Work | Callable[[], None]] = deque()
        self._filled = threading.Condition()
        self._hosted: dict[str, _Use] = {}
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

        self._later(leave)

    def most(self, hosted: Hosted, height: int, width: int, patience: float) -> Future[int]:
        """:meth:`Hosted.most`, which may take ``patience`` seconds."""

        def most() -> int:
            self.at_work[0] = AtWork("asking the GPU for its memory", patience)
            return hosted.most(height, width)

        return self._later(most)

    def compute(self, work: Work) -> Future[Arrays]:
        """What comes out of ``work``; its error is ValueError where the flow is not finite, MemoryError or VideoError
        where the GPU has no memory for it."""
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

        self._put(run)
        return answer

    def _put(self, item: Work | Callable[[], None]) -> None:
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
                    item()
                self.at_work[thread] = None
        except BaseException as error:  # noqa: BLE001 - an error of CUDA stays: no later call would work
            self._fatal(error)

    def _may(self, thread: int, item: Work | Callable[[], None]) -> bool:
        """Whether it is for this thread to do; all but computing is for the first."""
        return thread == 0 or (isinstance(item, Work) and thread < item.hosted.at_once)

    def _compute(self, thread: int, work: Work) -> None:
        """Compute ``work``, with what waits and can be computed together with it."""
        batch = [work, *self._company(work)]
        fields = sum(item.request.fields for item in batch)
        what = f"a batch of {fields} pairs of {work.request.width}x{work.request.height}"
        self.at_work[thread] = AtWork(what, max(item.patience for item in batch))
        self._answer(thread, batch)

    def _answer(self, thread: int, batch: list[Work]) -> None:
        """Compute a batch; one that the GPU has no memory for request by request, so that each has its own answer."""
        try:
            found = batch[0].hosted.compute(thread, [item.request for item in batch], [item.frames for item in batch])
        except (MemoryError, VideoError) as error:
            if len(batch) == 1:
                batch[0].out.set_exception(error)
                return
            for item in batch:
                self._answer(thread, [item])
            return
        for item, out in zip(batch, found, strict=True):
            if isinstance(out, ValueError):
                item.out.set_exception(out)
            else:
                item.out.set_result(out)

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
