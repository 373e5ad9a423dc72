"""Tasks of a job array (SLURM, Kubernetes): each process works on its own share of the shards, and nobody schedules.

There is no scheduler to lose: the commit records say what is done, and a task that is started again goes on there.
"""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from flowprep.errors import UsageError
from flowprep.sandbox import STOP, close_all
from flowprep.shard import Work, extract_shard
from flowprep.types import ShardResult

HOW = (
    "Give --task I/N, or start it as an element of a SLURM array or of an Indexed Job of Kubernetes, "
    "counted from 0, with FLOWPREP_TASKS=N in its environment."
)


@dataclass(frozen=True)
class Share:
    """Task ``index`` (from 0) of ``count``."""

    index: int
    count: int

    def __contains__(self, shard: int) -> bool:
        """Whether ``shard`` is this task's.

        It is if the digits of ``shard`` in base ``count`` add up to ``index`` modulo ``count``: of every ``count``
        shards in turn each task has one. So it would be by a plain modulo; but what one task of a larger array left
        behind (3, 1003, 2003 ...) would then often fall to one task again.
        """
        if self.count == 1:
            return True
        total = 0
        while shard:
            shard, digit = divmod(shard, self.count)
            total += digit
        return total % self.count == self.index


def share(text: str, environment: Mapping[str, str] = os.environ) -> Share:
    """The share that ``text`` ("3/100") names; "" = the one that the job manager's variables name.

    Raises UsageError where neither does.
    """
    if text:
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(f"--task {text!r}: give task/tasks, counted from 0: 0/100 to 99/100.")
        return Share(int(match[1]), int(match[2]))
    index = _number(environment, "JOB_COMPLETION_INDEX")
    count = _number(environment, "FLOWPREP_TASKS")
    if index is None:
        index = _number(environment, "SLURM_ARRAY_TASK_ID")
        whole = _whole_array(environment)
        if None not in (count, whole) and count != whole:
            raise UsageError(f"FLOWPREP_TASKS={count}, but SLURM's array has {whole} tasks: unset it, or correct it.")
        count = count or whole
    if index is None:
        raise UsageError(f"--executor batch: which task this is, is not known. {HOW}")
    if count is None:
        raise UsageError(f"--executor batch: this is task {index}, of how many is not known. {HOW}")
    if index >= count:
        raise UsageError(f"--executor batch: this is task {index}, counted from 0, but there are {count}. {HOW}")
    return Share(index, count)


def _whole_array(environment: Mapping[str, str]) -> int | None:
    """Tasks of SLURM's array, if it is a whole one from 0 on: a part (--array=3,7) cannot tell how many there were."""
    highest = _number(environment, "SLURM_ARRAY_TASK_MAX")
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    return count if highest is not None and count == highest + 1 else None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"{name}={text!r} in the environment is not a number. {HOW}")
    return int(text)


class ThreadEngine:
    """The driver loop's engine in this process: a thread for each child process that works."""

    def __init__(self, work: Work, workers: int) -> None:
        self.room = workers
        self._work = work
        self._todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, ShardResult | BaseException]] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._serve) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, shard: int) -> None:
        self._todo.put(shard)

    def next_done(self, seconds: float) -> tuple[int, ShardResult | BaseException] | None:
        try:
            return self._done.get(timeout=seconds)
        except queue.Empty:
            return None

    def _serve(self) -> None:
        while (shard := self._todo.get()) is not None:
            try:
                self._done.put((shard, extract_shard(self._work, shard)))
            except BaseException as error:  # noqa: BLE001 - the driver's loop raises it
                self._done.put((shard, error))

    def close(self) -> None:
        STOP.set()  # a thread that still waits for its child gives up
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()
        close_all()
        STOP.clear()


@contextmanager
def thread_engine(work: Work, workers: int) -> Iterator[ThreadEngine]:
    """An engine of ``workers`` threads."""
    engine = ThreadEngine(work, workers)
    try:
        yield engine
    finally:
        engine.close()
