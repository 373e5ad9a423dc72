"""The driver loop: a bounded number of tasks in flight, whatever runs them.

Tasks are shard numbers and nothing else. What a task raises decides what happens: a StoreError, a refusal or a bug ends
the run; the loss of a worker is tried again, for the task is idempotent and may even have committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from flowprep.sandbox import Limits
from flowprep.types import ShardResult

ATTEMPTS = 3  # of one shard, before the loss of its worker is taken for an error


@dataclass(frozen=True)
class Work:
    """What all tasks of a run have in common."""

    dataset: str  # absolute path
    generation: int
    limits: Limits
    root: str  # absolute folder that video ids start from, now


class WorkerLostError(Exception):
    """The place where a task ran is gone; the task itself is not to blame."""


class Engine(Protocol):
    """Something that runs tasks: threads here, or a cluster."""

    @property
    def slots(self) -> int:
        """Tasks that run at the same time."""

    def submit(self, shard: int) -> None:
        """Start working on ``shard``, soon."""

    def next_done(self) -> tuple[int, ShardResult | BaseException]:
        """Wait for any submitted task to end: its shard, and its result or what it raised."""


def drive(engine: Engine, shards: Iterable[int], done: Callable[[ShardResult], None]) -> None:
    """Run all ``shards``; ``done`` is called, in this thread, with each result as it comes in.

    At most two tasks per slot are in flight, so that a plan of 100,000 shards costs no more memory than one of ten.
    """
    waiting = iter(shards)
    attempts: dict[int, int] = {}
    in_flight = 0

    def refill() -> int:
        added = 0
        for shard in waiting:
            engine.submit(shard)
            attempts[shard] = 1
            added += 1
            if in_flight + added >= 2 * engine.slots:
                break
        return added

    in_flight += refill()
    while in_flight:
        shard, outcome = engine.next_done()
        if isinstance(outcome, WorkerLostError) and attempts[shard] < ATTEMPTS:
            attempts[shard] += 1
            engine.submit(shard)
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        in_flight -= 1
        del attempts[shard]
        done(outcome)
        in_flight += refill()
