"""The driver loop and the progress display, without a cluster."""

from __future__ import annotations

import io
import signal
import time
import warnings
from collections import Counter
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowprep.errors import StoreError, UnfinishedError, UsageError, Verdict
from flowprep.run.batch import Share, share
from flowprep.run.dask import local_engine
from flowprep.run.progress import Progress
from flowprep.run.signals import Stop
from flowprep.run.window import Retries, WorkerLostError, drive
from flowprep.sandbox import STOP, Limits
from flowprep.shard import Work
from flowprep.types import LedgerRow, ShardResult


class FakeEngine:
    """Runs tasks at once, in any order; ``lost`` says how often the worker of each shard is lost."""

    def __init__(self, room: int, lost: dict[int, int], order: list[int]) -> None:
        self.room = room
        self.lost = dict(lost)
        self.order = order
        self.waiting: list[int] = []
        self.most = 0
        self.runs: Counter[int] = Counter()

    def submit(self, shard: int) -> None:
        self.waiting.append(shard)
        self.most = max(self.most, len(self.waiting))

    def next_done(self, seconds: float) -> tuple[int, ShardResult | BaseException] | None:
        if not self.waiting:
            time.sleep(min(seconds, 0.001))
            return None
        place = self.order.pop() % len(self.waiting) if self.order else 0
        shard = self.waiting.pop(place)
        self.runs[shard] += 1
        if self.lost.get(shard, 0):
            self.lost[shard] -= 1
            return shard, WorkerLostError("gone")
        return shard, ShardResult(0, shard, {}, 1, 1, 0.0)


QUICK = Retries(most=4, first=0.0001, longest=0.0002)


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(0, 40),
    room=st.integers(1, 5),
    lost=st.dictionaries(st.integers(0, 39), st.integers(0, QUICK.most + 1)),
    order=st.lists(st.integers(0, 100)),
)
def test_every_shard_ends_once_with_few_in_flight(
    count: int, room: int, lost: dict[int, int], order: list[int]
) -> None:
    engine = FakeEngine(room, lost, order)
    done: list[int] = []
    aside = drive(engine, range(count), lambda result: done.append(result.shard), Stop(0), QUICK)
    assert sorted([*done, *aside]) == list(range(count))
    assert set(aside) == {shard for shard in range(count) if lost.get(shard, 0) >= QUICK.most}
    assert engine.most <= room
    assert all(engine.runs[shard] == min(QUICK.most, 1 + lost.get(shard, 0)) for shard in range(count))


def test_new_tries_come_later_and_later_up_to_a_bound() -> None:
    delays = [Retries().delay(losses) for losses in range(1, 51)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[10:49] == [10.0] * 39
    assert delays[49] is None


def test_a_cluster_may_lose_all_its_workers_for_a_while() -> None:
    class Shrinking(FakeEngine):
        looks = 0

        @property
        def room(self) -> int:
            self.looks += 1
            return 0 if self.looks % 7 else 2

        @room.setter
        def room(self, _: int) -> None:
            pass

    done: list[int] = []
    drive(Shrinking(0, {1: 2}, []), range(5), lambda result: done.append(result.shard), Stop(0), QUICK)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_a_full_disk_ends_the_run_at_once() -> None:
    class Full(FakeEngine):
        def next_done(self, seconds: float) -> tuple[int, ShardResult | BaseException]:  # noqa: ARG002
            return self.waiting.pop(0), StoreError("disk full")

    engine = Full(4, {}, [])
    with pytest.raises(StoreError, match="disk full"):
        drive(engine, range(100), lambda _: None, Stop(0))
    assert engine.most <= 4


def test_when_asked_to_stop_it_hands_out_nothing_new() -> None:
    stop = Stop(60)
    done: list[int] = []

    def one(result: ShardResult) -> None:
        done.append(result.shard)
        stop.handle(signal.SIGTERM)

    with pytest.raises(UnfinishedError):
        drive(FakeEngine(3, {}, []), range(100), one, stop)
    assert done == [0, 1, 2]
    assert not STOP.is_set()


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 50), blocks=st.integers(1, 5), old=st.integers(51, 2000))
def test_shares_are_disjoint_complete_and_even(count: int, blocks: int, old: int) -> None:
    shares = [Share(index, count) for index in range(count)]
    for block in range(blocks):
        turn = range(block * count, (block + 1) * count)
        assert sorted(shard for share in shares for shard in turn if shard in share) == list(turn)
        assert all(sum(shard in share for shard in turn) == 1 for share in shares)
    left = [3 + old * turn for turn in range(200)]  # of one task of another array
    assert sum(shard in share for share in shares for shard in left) == len(left)


def test_what_one_task_left_behind_is_not_one_task_again() -> None:
    left = [number + 1000 * turn for turn in range(5) for number in (3, 7)]
    busy = {index for index in range(10) for shard in left if shard in Share(index, 10)}
    assert len(busy) == 9


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("3/7", {"JOB_COMPLETION_INDEX": "5", "FLOWPREP_TASKS": "9"}, Share(3, 7)),
        ("", {"JOB_COMPLETION_INDEX": "5", "FLOWPREP_TASKS": "9"}, Share(5, 9)),
        ("", {"SLURM_ARRAY_TASK_ID": "5", "FLOWPREP_TASKS": "9"}, Share(5, 9)),
        ("", {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_COUNT": "9"}, Share(5, 9)),
        ("", {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_COUNT": "2"}, "of how many"),
        ("", {}, "which task this is, is not known"),
        ("", {"JOB_COMPLETION_INDEX": "9", "FLOWPREP_TASKS": "9"}, "counted from 0, but there are 9"),
        ("", {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_MAX": "9", "SLURM_ARRAY_TASK_COUNT": "9"}, "of how many"),
        (
            "",
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_MAX": "8",
                "SLURM_ARRAY_TASK_COUNT": "9",
                "FLOWPREP_TASKS": "200",
            },
            "FLOWPREP_TASKS=200, but SLURM's array has 9 tasks",
        ),
        ("", {"JOB_COMPLETION_INDEX": "one", "FLOWPREP_TASKS": "9"}, "JOB_COMPLETION_INDEX='one'"),
        ("7/7", {}, "0/100 to 99/100"),
        ("a/b", {}, "0/100 to 99/100"),
    ],
)
def test_a_task_knows_its_share(text: str, environment: dict[str, str], expected: Share | str) -> None:
    if isinstance(expected, Share):
        assert share(text, environment) == expected
    else:
        with pytest.raises(UsageError, match=expected):
            share(text, environment)


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
