"""What TV-L1 and Brox flow on the GPU have in common: all that a batch takes is enqueued by one schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from flowprep.flow.cuda.device import pixels
from flowprep.flow.cuda.launch import ONE_BLOCK, ONE_THREAD, Launch
from flowprep.flow.cuda.memory import Arena
from flowprep.flow.cuda.pyramid import Pyramid, PyramidTables
from flowprep.flow.cuda.watch import Watch

Step = Callable[[int], None]  # enqueues work for a number of pairs


class UntilStopped:
    """Rounds of launches, for as long as any pair is going: that is looked at after every so many of them.

    It knows nothing of the solver that has it: solvers hold memory of the GPU, and go when nobody has them any more.
    """

    def __init__(self, rounds: list[list[Launch]], watch: Watch, every: int) -> None:
        self._rounds, self._watch, self._every = rounds, watch, every

    def __call__(self, pairs: int) -> None:
        self._watch.begin()
        for number, launches in enumerate(self._rounds, 1):
            for launch in launches:
                launch(pairs)
            if number % self._every == 0 and number < len(self._rounds) and self._watch.all_stopped(pairs):
                return


class Batch(NamedTuple):
    """Arrays on the device, as large as batches ever are, which come and go in them."""

    frames: Any  # (F, H, W) uint8 or float32
    first: Any  # (P,) int32: pair i is of the frames first[i] and second[i]
    second: Any
    flow: Any  # (P, 2, H, W) float32, px: what comes out


class Solver:
    """Workspace and schedule for batches of frames of one size."""

    schedule: list[Step]  # behind the pyramid, one after the other

    def __init__(self, tables: PyramidTables, batch: Batch, arena: Arena, stream: Any) -> None:
        self.batch, self.stream = batch, stream
        self.pyramid = Pyramid(tables, batch.frames, stream, arena.array)

    def solve(self, frames: int, pairs: int) -> None:
        """Enqueue the flow, in px, of the first ``pairs`` pairs of the first ``frames`` frames."""
        self.pyramid.build(frames)
        for step in self.schedule:
            step(pairs)

    def per_pixel(self, kernel: Any, level: Any, *arguments: Any) -> Launch:
        """``kernel`` with a thread for each pixel of each pair at a ``level``, which has a height and a width."""
        return Launch(kernel, *pixels(level.height, level.width), self.stream, *arguments)

    def per_pair(self, kernel: Any, *arguments: Any, threads: tuple[int, int] = ONE_THREAD) -> Launch:
        """``kernel`` with a block of ``threads`` for each pair."""
        return Launch(kernel, ONE_BLOCK, threads, self.stream, *arguments)
