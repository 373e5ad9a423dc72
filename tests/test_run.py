"""The driver loop and the progress display, without a cluster."""

from __future__ import annotations

import io
import time
import warnings
from collections import Counter
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowprep.errors import StoreError, Verdict
from flowprep.run.dask import local_engine
from flowprep.run.progress import Progress
from flowprep.run.window import ATTEMPTS, Work, WorkerLostError, drive
from flowprep.sandbox import Limits
from flowprep.types import LedgerRow, ShardResult


class FakeEngine:
    """Runs tasks at once, in any order; ``lost`` says how often the worker of each shard is lost."""

    def __init__(self, slots: int, lost: dict[int, int], order: list[int]) -> None:
        self.slots = slots
        self.lost = dict(lost)
        self.order = order
        self.waiting: list[int] = []
        self.most = 0
        self.runs: Counter[int] = Counter()

    def submit(self, shard: int) -> None:
        self.waiting.append(shard)
        self.most = max(self.most, len(self.waiting))

    def next_done(self) -> tuple[int, ShardResult | BaseException]:
        place = self.order.pop() % len(self.waiting) if self.order else 0
        shard = self.waiting.pop(place)
        self.runs[shard] += 1
        if self.lost.get(shard, 0):
            self.lost[shard] -= 1
            return shard, WorkerLostError("gone")
        return shard, ShardResult(0, shard, {}, 1, 1, 0.0)


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(0, 40),
    slots=st.integers(1, 5),
    lost=st.dictionaries(st.integers(0, 39), st.integers(0, ATTEMPTS - 1)),
    order=st.lists(st.integers(0, 100)),
)
def test_every_shard_ends_once_with_few_in_flight(
    count: int, slots: int, lost: dict[int, int], order: list[int]
) -> None:
    engine = FakeEngine(slots, lost, order)
    done: list[int] = []
    drive(engine, range(count), lambda result: done.append(result.shard))
    assert sorted(done) == list(range(count))
    assert engine.most <= 2 * slots
    assert all(engine.runs[shard] == 1 + lost.get(shard, 0) for shard in range(count))


def test_a_worker_lost_too_often_ends_the_run() -> None:
    engine = FakeEngine(2, {3: ATTEMPTS}, [])
    with pytest.raises(WorkerLostError):
        drive(engine, range(10), lambda _: None)
    assert engine.runs[3] == ATTEMPTS


def test_a_full_disk_ends_the_run_at_once() -> None:
    class Full(FakeEngine):
        def next_done(self) -> tuple[int, ShardResult | BaseException]:
            return self.waiting.pop(0), StoreError("disk full")

    engine = Full(2, {}, [])
    with pytest.raises(StoreError, match="disk full"):
        drive(engine, range(100), lambda _: None)
    assert engine.most <= 4


def test_the_cluster_of_one_machine_listens_on_that_machine_alone(tmp_path: Path) -> None:
    work = Work(str(tmp_path), 0, Limits(), str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with local_engine(work, 2), local_engine(work, 2):  # a second run beside it takes no port away
            listening = [item.laddr for item in psutil.Process().net_connections() if item.status == "LISTEN"]
    assert {address.ip for address in listening} <= {"127.0.0.1"}
    assert 8787 not in {address.port for address in listening}


def test_progress_counts_and_names_failures() -> None:
    stream = io.StringIO()
    with Progress(3, 100, stream) as progress:
        progress.fields(40)
        progress.video(LedgerRow("a.avi", Verdict.OK))
        progress.video(LedgerRow("b.avi", Verdict.SHORT, reason="the header declares 9 frames, 3 decode"))
        time.sleep(0.01)
        line = progress.line()
    assert "2/3 videos" in line
    assert "40 of ~100 fields" in line
    assert "1 failed" in line
    assert stream.getvalue() == "short: b.avi: the header declares 9 frames, 3 decode\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_live_on_a_terminal_and_leaves_no_trace() -> None:
    stream = Terminal()
    with Progress(1, 10, stream) as progress:
        progress.fields(5)
        time.sleep(0.6)
    assert "\r\x1b[K0/1 videos  5 of ~10 fields" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")
    quiet = Terminal()
    with Progress(1, 10, quiet, quiet=True) as progress:
        progress.video(LedgerRow("a.avi", Verdict.CRASHED))
        time.sleep(0.3)
    assert quiet.getvalue() == ""
