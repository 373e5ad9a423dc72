"""Learning rates: constant, and divided by ten at fixed iterations (two-stream paper, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

from flowprep.config import SolverConfig

# Of each regime: iterations in all, and those after which the rate is divided by ten.
SCHEDULES = {
    "scratch": (80_000, (50_000, 70_000)),
    "fine-tune": (20_000, (14_000,)),
    "last-layer": (20_000, (14_000,)),
}


@dataclass(frozen=True)
class Schedule:
    """What the learning rate is in each of ``iterations`` batches, counted from 0."""

    iterations: int
    drops: tuple[int, ...]  # the first iterations of lower rates
    first_rate: float

    def learning_rate(self, iteration: int) -> float:
        return self.first_rate / float(10 ** sum(iteration >= drop for drop in self.drops))


def schedule_of(solver: SolverConfig) -> Schedule:
    """The paper's schedule for the regime, shrunk or stretched to the iterations that are asked for."""
    whole, drops = SCHEDULES[solver.regime]
    iterations = solver.iterations or whole
    return Schedule(iterations, tuple(max(1, drop * iterations // whole) for drop in drops), solver.learning_rate)
