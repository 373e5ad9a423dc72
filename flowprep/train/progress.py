"""What a run says of itself: lines on the screen, lines of JSON in log.jsonl, curves for TensorBoard."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowprep.errors import RefusedError
from flowprep.store.blobs import store_errors
from flowprep.train.log import LOG, read_log
from flowprep.train.processes import Processes
from flowprep.wording import duration

if TYPE_CHECKING:
    from flowprep.train.curves import Curves

EVENTS = "events"  # folder in that of a run, for TensorBoard


class Meter:
    """Loss, accuracy and speed from one line of the log to the next.

    Values stay on the device until they are asked for, so that it need not be waited for.
    """

    def __init__(self, processes: Processes, tasks: Sequence[str], batch: int, iteration: int) -> None:
        """``batch``: samples of an iteration, over all processes; ``iteration``: those that were done before."""
        self._processes = processes
        self._tasks = tasks
        self._batch = batch
        self._checked = iteration  # up to which losses are known to be finite
        self._new: list[torch.Tensor] = []  # of each iteration after that, (tasks + 1,) on the device
        self._sums = [0.0] * (len(tasks) + 1)  # of the iterations since the last line
        self._count = 0  # of these
        self._before = 0  # of these, those that another process has done
        self._wait = DataWait(processes.device)
        self._since = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Here the next batch is waited for."""
        with self._wait.measured():
            yield

    def state(self) -> dict[str, Any]:
        """What the next line begins with, as far as it is checked."""
        return {"sums": self._sums, "count": self._count}

    def go_on(self, state: dict[str, Any]) -> None:
        """Where :meth:`state` was taken."""
        self._sums, self._count = [*state["sums"]], state["count"]
        self._before = self._count

    def add(self, measured: torch.Tensor) -> None:
        """Losses of the tasks and accuracy of one iteration, (tasks + 1,): this process's part of the sums."""
        self._new.append(measured)

    def check(self) -> None:
        """Raises RefusedError, in all processes, if a loss was not finite."""
        if not self._new:
            return
        rows = self._processes.sum(torch.stack(self._new)).tolist()  # waits for the device
        self._new.clear()
        for row in rows:
            self._checked += 1
            if not all(map(math.isfinite, row)):
                raise RefusedError(diverged(f"the loss is {sum(row[:-1])} in iteration {self._checked}"))
            self._sums = [before + value for before, value in zip(self._sums, row, strict=True)]
        self._count += len(rows)

    def line(self, learning_rate: float) -> dict[str, Any]:
        """One line of the log, without its number; the next one begins here."""
        self.check()
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        *losses, accuracy = (total / self._count for total in self._sums)
        line = {
            "loss": sum(losses),
            "accuracy": accuracy,
            "learning_rate": learning_rate,
            "samples_per_second": self._batch * (self._count - self._before) / passed,
            "data_wait": min(1.0, self._wait.taken() / passed),
            "losses": dict(zip(self._tasks, losses, strict=True)),
        }
        self._sums, self._count, self._before = [0.0] * len(self._sums), 0, 0
        return line

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What takes the time here, as a validation, is not training. Raises as :meth:`check`."""
        self.check()  # the device is done with what was training
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began


class DataWait:
    """How long the device had nothing to do because the next batch was not there."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []  # CUDA: when the work before was done, and when the batch had come

    @contextmanager
    def measured(self) -> Iterator[None]:
        # A GPU is often still busy while the loop waits, so it is the GPU's own clock that counts.
        began = self._event() if self._cuda else time.perf_counter()
        yield
        if self._cuda:
            self._events.append((began, self._event()))
        else:
            self._seconds += time.perf_counter() - began

    def taken(self) -> float:
        """The seconds since they were taken before."""
        for _, end in self._events[-1:]:
            end.synchronize()
        seconds: float = self._seconds + sum(began.elapsed_time(end) for began, end in self._events) / 1000
        self._seconds = 0.0
        self._events.clear()
        return seconds

    def _event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class Log:
    """log.jsonl and TensorBoard's events of a run that goes on after ``iteration``: later lines are dropped."""

    def __init__(self, folder: Path, iteration: int, say: Callable[[str], None]) -> None:
        self._path = folder / LOG
        kept = [line for line in read_log(self._path) if line["iteration"] <= iteration]
        self._before = max((line.get("seconds", 0.0) for line in kept), default=0.0)
        self._began = time.perf_counter()
        scratch = self._path.with_name(f".{LOG}.part")
        with store_errors(self._path):
            scratch.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            scratch.replace(self._path)
            self._file = self._path.open("a", encoding="utf-8")
        self._curves = _curves(folder / EVENTS, iteration, say)

    @property
    def seconds(self) -> float:
        """Spent on this run, also before it was continued."""
        return self._before + time.perf_counter() - self._began

    def write(self, iteration: int, line: dict[str, Any]) -> None:
        """Raises StoreError where the disk is full."""
        line = {"iteration": iteration, **line, "seconds": round(self.seconds, 3)}
        with store_errors(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._curves:
            self._curves.write(iteration, dict(_scalars(line)))

    def close(self) -> None:
        with store_errors(self._path):
            self._file.close()
        if self._curves:
            self._curves.close()


@contextmanager
def logged(folder: Path, iteration: int, processes: Processes, say: Callable[[str], None]) -> Iterator[Log | None]:
    """The log of a run that goes on after ``iteration``, where the process leads."""
    if not processes.leads:
        yield None
        return
    log = Log(folder, iteration, say)
    try:
        yield log
    finally:
        log.close()


def shown(iteration: int, iterations: int, batch: int, line: dict[str, Any]) -> str:
    """A line of the log for the screen, as short as can be."""
    rate = line["samples_per_second"]
    left = (iterations - iteration) * batch / rate
    return (
        f"{iteration:,}/{iterations:,}  loss {line['loss']:.4f}  accuracy {line['accuracy']:.1%}  "
        f"{rate:,.0f} samples/s  data wait {line['data_wait']:.0%}  lr {line['learning_rate']:g}  ETA {duration(left)}"
    )


def diverged(what: str) -> str:
    """What to say, and what to do, when numbers are no longer finite."""
    return (
        f"{what}: training has diverged. An earlier checkpoint, if there is one, stays. "
        "Try a lower solver.learning_rate, in a new folder."
    )


def _curves(folder: Path, iteration: int, say: Callable[[str], None]) -> Curves | None:
    if find_spec("tensorboard") is None:
        say("No curves for TensorBoard, which is not installed: pip install tensorboard. The numbers are in log.jsonl.")
        return None
    from flowprep.train.curves import Curves

    return Curves(folder, iteration)


def _scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", number) for key, number in value.items())
        elif name != "iteration":
            yield name, value
