"""What a run says of its speed, by a clock that is set by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flowprep.errors import RefusedError, StoreError
from flowprep.train import progress
from flowprep.train.log import LOG, read_log
from flowprep.train.processes import Processes
from flowprep.train.progress import Log, Meter, shown

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


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log = Log(tmp_path, 0, lambda _: None)
    monkeypatch.setattr(log._events, "add_scalar", full)
    with pytest.raises(StoreError, match=f"{tmp_path}/events: No space left on device"):
        log.write(1, {"loss": 1.0})
    log.close()


def test_seconds_go_on_where_a_run_stopped(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_tensorboard", lambda *_: None)
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
