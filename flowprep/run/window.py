"""The driver loop: a bounded number of tasks in flight, whatever runs them.

Tasks are shard numbers and nothing else. What becomes of one decides what happens next:

    its result                  counted, the next shard is handed out
    its worker was lost         tried again a little later: the task is idempotent, and may even have committed;
                                lost too often, it is put aside and the others go on
    an error                    raised: the disk, a refusal or a bug would meet every other shard too
    the scheduler was lost      raised: nobody knows what still runs; commits tell the next run
    a signal came               no new shards; those in flight have their grace, then they are given up
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from flowprep.errors import UnfinishedError
from flowprep.run.signals import Stop
from flowprep.types import ShardResult

POLL = 0.2  # s: how soon a signal is noticed


class WorkerLostError(Exception):
    """The place where a task ran is gone; the task itself is not to blame."""


@dataclass(frozen=True)
class Retries:
    """When a shard whose worker was lost is tried again."""

    most: int = 50  # losses: then something about the shard or the machines is wrong that no further try repairs
    first: float = 0.1  # s before the first new try, twice as long before each further one ...
    longest: float = 10.0  # ... up to this

    def delay(self, losses: int) -> float | None:
        """Seconds to wait after ``losses`` losses (1, 2, ...); None = put the shard aside."""
        return None if losses >= self.most else min(self.longest, self.first * 2 ** (losses - 1))


class Engine(Protocol):
    """Something that runs tasks: threads here, or a cluster."""

    @property
    def room(self) -> int:
        """Tasks that may be in flight now; a cluster grows and shrinks, down to 0."""

    def submit(self, shard: int) -> None:
        """Start working on ``shard``, soon."""

    def next_done(self, seconds: float) -> tuple[int, ShardResult | BaseException] | None:
        """Wait for any submitted task to end: its shard, and its result or what it raised. None: none did in time."""


def drive(
    engine: Engine,
    shards: Iterable[int],
    done: Callable[[ShardResult], None],
    stop: Stop,
    retries: Retries = Retries(),
) -> list[int]:
    """Run all ``shards``; ``done`` is called, in this thread, with each result as it comes in.

    At most ``engine.room`` tasks are in flight, so that a plan of 100,000 shards costs no more memory than one of ten.
    Returns the shards that lost their worker too often. Raises UnfinishedError when asked to stop.
    """
    waiting = deque(shards)
    later: list[tuple[float, int]] = []  # (when to try again, shard), a heap
    losses: Counter[int] = Counter()
    put_aside: list[int] = []
    in_flight = 0

    def next_shard() -> int | None:
        if later and later[0][0] <= time.monotonic():
            return heapq.heappop(later)[1]
        return waiting.popleft() if waiting else None

    with stop.patience():
        while True:
            while not stop.asked and in_flight < engine.room and (shard := next_shard()) is not None:
                engine.submit(shard)
                in_flight += 1
            if not (waiting or later or in_flight):
                return put_aside
            if stop.expired or (stop.asked and not in_flight):
                raise UnfinishedError("stopped")
            ended = engine.next_done(POLL)
            if ended is None:
                continue
            in_flight -= 1
            shard, outcome = ended
            if isinstance(outcome, WorkerLostError):
                losses[shard] += 1
                delay = retries.delay(losses[shard])
                if delay is None:
                    put_aside.append(shard)
                else:
                    heapq.heappush(later, (time.monotonic() + delay, shard))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                losses.pop(shard, None)
                done(outcome)
