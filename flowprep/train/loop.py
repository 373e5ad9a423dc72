"""Training one stream, from top to bottom (two-stream paper, section 5).

All that an iteration draws follows from the seed and its number: which samples, how they are cut, what dropout leaves
out. So a run that was stopped, at whatever moment, goes on as if nothing had been.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from flowprep.config import StreamConfig
from flowprep.errors import UnfinishedError
from flowprep.run.signals import Stop, stop_on_signals
from flowprep.stacks.sources import MUST_AGREE
from flowprep.train.checkpoint import NAME, Checkpoint, save
from flowprep.train.learner import Learner, Part
from flowprep.train.processes import Processes, joined
from flowprep.train.progress import Meter, logged, shown
from flowprep.train.run_folder import claimed, found, write_config
from flowprep.train.schedule import schedule_of
from flowprep.train.tasks import Lessons, open_lessons
from flowprep.train.validating import Validation, validate
from flowprep.wording import plural, some

MOST_WORKERS = 8  # threads that read ahead, unless more are asked for


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    checkpoint: Path
    iterations: int
    validation: Validation | None  # at the end; None where there was nothing to validate on, or nothing to do
    damaged: dict[str, int]  # videos whose samples were damaged -> how often another was taken, by this process
    done_before: bool = False
    leads: bool = True  # whether it is for this process to speak of it, among those that train together
    stopped: bool = False  # whether a signal has asked for the end, too late for this run


def train(config: StreamConfig, say: Callable[[str], None], *, quiet: bool = False) -> Outcome:
    """Train one stream in the folder ``config.output``, or go on with what was begun there.

    say: is told of each line of progress, unless ``quiet``, and of what else the user should know.

    Raises UsageError and RefusedError for what cannot be trained, or is not what was begun; RefusedError where training
    diverges; StoreError where the disk fails; UnfinishedError, after a checkpoint, where a signal asks for the end.
    """
    with (
        joined(config.solver.device) as processes,
        claimed(Path(config.output)) if processes.leads else nullcontext(_unclaimed) as check_claim,
        stop_on_signals(math.inf) as stop,
        stop.patience(),
    ):
        return _train(config, processes, stop, check_claim, say if processes.leads else _unheard, quiet=quiet)


def _train(
    config: StreamConfig,
    processes: Processes,
    stop: Stop,
    check_claim: Callable[[], None],
    say: Callable[[str], None],
    *,
    quiet: bool,
) -> Outcome:
    folder, solver = Path(config.output), config.solver
    schedule = schedule_of(solver)
    workers = config.data.workers or _processors()
    lessons = open_lessons(config, schedule.iterations, share=processes.share, workers=workers)
    before = found(folder, config, lessons)
    if before and before.training is None:
        return Outcome(folder / NAME, before.iteration, None, {}, done_before=True, leads=processes.leads)

    if idle := lessons.idle:
        say(f"{plural(len(idle), 'output')} of the network without a video to train on: {some(idle)}.")
    learner = Learner(config, lessons, processes, say, begin=before is None)
    done = before.iteration if before else 0
    meter = Meter(processes, [task.name for task in lessons.tasks], solver.batch, done)
    if before and before.training:
        learner.go_on(before.model, before.training["optimizer"])
        for source, state in zip(lessons.sources, before.training["sources"], strict=True):
            source.go_on(state, done)
        meter.go_on(before.training["meter"])
        say(f"{folder}: going on after iteration {done:,}.")
    before = None  # what it held is in place: its memory is free
    if stacks := lessons.settings.get("stack"):
        ways = ", ".join(f"{name} {stacks[name]}" for name in MUST_AGREE)
        means = "subtracted" if config.stack.mean_subtract else "kept"
        say(f"{config.dataset}: stacks as they are stored ({ways}), their means {means}.")
    if processes.leads:
        write_config(folder, config)

    validation: Validation | None = None
    batches = _batches(learner, lessons)
    with logged(folder, done, processes, say) as log:
        for iteration in range(done + 1, schedule.iterations + 1):
            learning_rate = schedule.learning_rate(iteration - 1)
            with meter.waiting():
                batch = next(batches)  # of each dataset n inputs (n, C, crop, crop), still integers
            meter.add(learner.step(iteration, learning_rate, batch))

            at_end = iteration == schedule.iterations
            if at_end or _due(iteration, solver.log_every):
                check_claim()
                line = meter.line(learning_rate)
                if config.data.on_damage == "skip":
                    line["damaged"] = int(processes.sum(torch.tensor(lessons.damaged.total(), device=processes.device)))
                if log:
                    log.write(iteration, line)
                if not quiet:
                    say(shown(iteration, schedule.iterations, solver.batch, line))
            if lessons.validation and (at_end or _due(iteration, solver.validate_every)):
                with meter.paused():
                    validation = validate(
                        learner.network,
                        lessons.validation,
                        crop=config.data.crop,
                        precision=solver.precision,
                        processes=processes,
                        workers=workers,
                    )
                if log:
                    log.write(
                        iteration, {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
                    )
                if not quiet:
                    say(f"{iteration:,}: validation loss {validation.loss:.4f}, accuracy {validation.accuracy:.1%}")
            stopped = processes.any(stop.asked)
            if at_end or stopped or _due(iteration, solver.checkpoint_every):
                meter.check()
                learner.check_weights(iteration)
                check_claim()
                if processes.leads:
                    save(folder / NAME, _checkpoint(config, iteration, lessons, learner, meter, finished=at_end))
            if stopped and not at_end:
                raise UnfinishedError(
                    f"{folder}: stopped after iteration {iteration:,} of {schedule.iterations:,}; "
                    "the same command goes on from there."
                )
    return Outcome(
        folder / NAME, schedule.iterations, validation, lessons.damaged, leads=processes.leads, stopped=stop.asked
    )


def _batches(learner: Learner, lessons: Lessons) -> Iterator[list[Part]]:
    """Batches on the device, in their parts; threads read the one after."""
    for batches in zip(*(source.loader for source in lessons.sources), strict=True):
        yield [learner.part(batch, source) for batch, source in zip(batches, lessons.sources, strict=True)]


def _checkpoint(
    config: StreamConfig, iteration: int, lessons: Lessons, learner: Learner, meter: Meter, *, finished: bool
) -> Checkpoint:
    training = {
        "optimizer": learner.optimiser.state_dict(),
        "sources": [source.state() for source in lessons.sources],
        "meter": meter.state(),
    }
    return Checkpoint(
        config=config,
        iteration=iteration,
        tasks=lessons.tasks,
        channels=lessons.channels,
        settings=lessons.settings,
        model=learner.state(),
        training=None if finished else training,
        learned=[source.videos for source in lessons.sources],
    )


def _due(iteration: int, every: int) -> bool:
    return every > 0 and iteration % every == 0


def _processors() -> int:
    """Of this process, as torchrun shares a machine out, and not too many."""
    here = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(MOST_WORKERS, max(1, here))


def _unclaimed() -> None:
    """What processes check of a folder that another one writes to."""


def _unheard(_: str) -> None:
    """What processes say that do not lead."""
