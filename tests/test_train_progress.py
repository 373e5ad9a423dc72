"""What a run says of its speed, by a clock that is set by hand."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowprep.errors import RefusedError, StoreError
from flowprep.train import log as log_module
from flowprep.train import progress
from flowprep.train.log import LOG, read_log
from flowprep.train.processes import Processes
from flowprep.train.progress import EVENTS, Log, Meter, shown

CPU = Processes(torch.device("cpu"))


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def go(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def iterate(meter: Meter, clock: Clock, *, wait: float, step: float, loss: float = 1.0) -> None:
    with meter.waiting():
        clock.go(wait)
    clock.go(step)
    meter.add(torch.tensor([loss, 2.0, 0.5]))


def test_speed_and_waiting_from_line_to_line(clock: Clock) -> None:
    meter = Meter(CPU, ["first", "second"], 8, 0)
    iterate(meter, clock, wait=1, step=3, loss=1.0)
    iterate(meter, clock, wait=1, step=3, loss=3.0)
    line = meter.line(0.1)
    assert (line["samples_per_second"], line["data_wait"]) == (2.0, 0.25)
    assert (line["loss"], line["losses"]) == (4.0, {"first": 2.0, "second": 2.0})
    assert (line["accuracy"], line["learning_rate"]) == (0.5, 0.1)
    iterate(meter, clock, wait=0, step=4)
    line = meter.line(0.1)
    assert (line["samples_per_second"], line["data_wait"]) == (2.0, 0.0), "what was waited before is told"


def test_what_is_no_training_takes_no_time(clock: Clock) -> None:
    """A validation after the first of two iterations."""
    meter = Meter(CPU, ["first", "second"], 8, 0)
    iterate(meter, clock, wait=1, step=3)
    with meter.paused():
        clock.go(100)
    iterate(meter, clock, wait=1, step=3)
    line = meter.line(0.1)
    assert (line["samples_per_second"], line["data_wait"]) == (2.0, 0.25)


def test_a_loss_that_is_not_finite_is_found_before_a_pause(clock: Clock) -> None:
    meter = Meter(CPU, ["first", "second"], 8, 4)
    iterate(meter, clock, wait=0, step=1, loss=float("inf"))
    with pytest.raises(RefusedError, match="the loss is inf in iteration 5"), meter.paused():
        pass


def test_the_time_that_is_left() -> None:
    line = {"loss": 1.0, "accuracy": 0.5, "samples_per_second": 2.0, "data_wait": 0.25, "learning_rate": 0.01}
    text = shown(85, 100, 8, line)
    assert text == "85/100  loss 1.0000  accuracy 50.0%  2 samples/s  data wait 25%  lr 0.01  ETA 60.0 s"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """A limit on the size of files, here that of the curves, fails as a full disk does."""
    log = Log(tmp_path, 0, lambda _: None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(StoreError, match=f"{tmp_path}/events/events.out.tfevents.*: File too large"):
            log.write(1, {"losses": {f"a task with a long name, {number}": 1.0 for number in range(3)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.close()


def test_curves_stay_whole_where_their_folder_is_moved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    log = Log(tmp_path / "run", 0, lambda _: None)
    log.write(1, {"loss": 1.0})
    (tmp_path / "run").rename(tmp_path / "moved")
    log.write(2, {"loss": 2.0})
    log.close()
    assert curve(tmp_path / "moved") == [(1, 1.0), (2, 2.0)]
    assert capfd.readouterr() == ("", "")


def test_curves_have_each_iteration_once(tmp_path: Path) -> None:
    """Stopped after iteration 4, whose checkpoint was of 2."""
    for before, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        log = Log(tmp_path, before, str)
        for iteration in steps:
            log.write(iteration, {"loss": float(iteration + before), "losses": {"first": 0.5}})
        log.close()
    assert curve(tmp_path) == [(1, 1.0), (2, 2.0), (3, 5.0), (4, 6.0), (5, 7.0)]
    assert [step for step, _ in curve(tmp_path, "losses/first")] == [1, 2, 3, 4, 5]


def curve(run: Path, name: str = "loss") -> list[tuple[int, float]]:
    """What TensorBoard reads."""
    events = EventAccumulator(str(run / EVENTS))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_log_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is in its place may never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "large").write_text('{"iteration": 1}')
    monkeypatch.setattr(log_module, "MOST_BYTES", 15)
    for name in ("pipe", "endless", "large"):
        with pytest.raises(RefusedError, match=f"{name}: not a log"):
            read_log(tmp_path / name)


def test_a_line_has_all_iterations_since_the_last_whoever_did_them(clock: Clock) -> None:
    first, second, whole = (Meter(CPU, ["first", "second"], 8, done) for done in (0, 2, 0))
    for number, loss in enumerate((1.0, 2.0, 6.0)):
        iterate(first if number < 2 else second, clock, wait=0, step=4, loss=loss)
        iterate(whole, clock, wait=0, step=0, loss=loss)
        if number == 1:
            first.check()
            second.go_on(first.state())
            clock.go(100)
            second._since += 108  # it begins now
    line, expected = second.line(0.1), whole.line(0.1)
    for name in ("loss", "losses", "accuracy"):
        assert line[name] == expected[name]
    assert line["losses"]["first"] == 3.0
    assert line["samples_per_second"] == 2.0, "of its own iteration alone"


def test_seconds_go_on_where_a_run_stopped(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_curves", lambda *_: None)
    for before, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        log = Log(tmp_path, before, str)
        for iteration in steps:
            clock.go(10)
            log.write(iteration, {"loss": 1.0})
        log.close()
        clock.go(1000)
    assert [(line["iteration"], line["seconds"]) for line in read_log(tmp_path / LOG)] == [
        (1, 10.0),
        (2, 20.0),
        (3, 30.0),
        (4, 40.0),
    ]
