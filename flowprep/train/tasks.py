"""What a network learns: a task for each of its heads, and the datasets that batches are drawn from.

One dataset is one task. Multi-task learning (two-stream paper, section 4) adds tasks: further datasets, each with a
head and a loss of its own that only its own samples have a part in. Or the classes of further datasets join those of
the first in its one head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flowprep.config import StreamConfig
from flowprep.errors import RefusedError, UsageError, did_you_mean
from flowprep.stacks import StackLoader
from flowprep.store.reader import Dataset
from flowprep.train.checkpoint import Task
from flowprep.train.inputs import channels_of, stack_loader, test_loader
from flowprep.train.learned_from import identity
from flowprep.wording import plural, some

TRAIN, TESTS = "train", ("test", "val")  # parts of a split; of the latter the first that has videos


@dataclass(frozen=True)
class Source:
    """A dataset that some samples of every batch are drawn from."""

    loader: StackLoader
    task: int  # number of the head that learns from it
    labels: torch.Tensor  # (classes of the loader,) int64: their numbers in the head
    fingerprint: str  # of the dataset's settings
    videos: dict[str, int]  # identity of each video that is drawn from -> its class, as number of the head's

    @property
    def samples(self) -> int:
        """In a batch, over all processes."""
        return self.loader.batch_size

    def state(self) -> dict[str, Any]:
        return {**self.loader.state_dict(), "fingerprint": self.fingerprint}

    def go_on(self, state: dict[str, Any], iteration: int) -> None:
        """Where :meth:`state` was taken, after ``iteration``. RefusedError where the dataset is another than then."""
        if state.get("fingerprint") != self.fingerprint:
            raise RefusedError("a dataset was made with other settings than when this run began: name another folder.")
        try:
            self.loader.load_state_dict(state)
            if (state["epoch"], state["batch"]) != (0, iteration):
                raise ValueError
        except (TypeError, ValueError, RuntimeError, UsageError):
            raise RefusedError("the checkpoint's place in a dataset is none: delete it to begin anew.") from None


@dataclass(frozen=True)
class Lessons:
    """All that a network is trained and validated on."""

    tasks: list[Task]
    sources: list[Source]
    channels: int  # of the inputs
    settings: dict[str, Any]  # of the first dataset
    validation: StackLoader | None  # the middle inputs of a part of the first dataset that is not trained on, if any

    @property
    def idle(self) -> list[str]:
        """Classes that an output stands for, without a video to train on."""
        learned = {
            (source.task, int(source.labels[clip.label]))
            for source in self.sources
            for clip in source.loader.sampler.clips
        }
        return [
            name
            for task, item in enumerate(self.tasks)
            for number, name in enumerate(item.classes)
            if (task, number) not in learned
        ]

    @property
    def damaged(self) -> Counter[str]:
        """Videos whose samples were damaged -> how often another was taken, by this process."""
        return sum((Counter(source.loader.damaged) for source in self.sources), Counter())


def open_lessons(config: StreamConfig, batches: int, *, share: tuple[int, int], workers: int) -> Lessons:
    """The datasets of ``config``, as ``batches`` batches.

    share: (r, W): of each batch, the r-th of W parts. workers: threads that read ahead, of each dataset.

    Raises UsageError where they cannot be learned from: no labels, one class, not what the stream needs, other inputs
    than the first.
    """
    data = config.data
    datasets = [Dataset(path) for path in (config.dataset, *data.also, *data.added)]
    for dataset in datasets[1:]:
        _check_alike(config, datasets[0], dataset)
    _check_left_out(config, datasets[1:])
    parts = ["" if data.whole else TRAIN, *[""] * (len(datasets) - 1)]
    for dataset, part in zip(datasets, parts, strict=True):
        _check_part(dataset, part, data.split)
    left_out = [frozenset({""}), *[frozenset({"", *data.leave_out})] * (len(datasets) - 1)]
    own = [_labels(dataset) - without for dataset, without in zip(datasets, left_out, strict=True)]
    heads = [sorted(labels) for labels in own]
    if data.added:
        heads = [[*heads[0], *sorted(own[1].union(*own[1:]) - own[0])]]
    numbers = range(len(datasets)) if data.also else [0] * len(datasets)  # of each dataset's task
    samples = divided(config.solver.batch, [1 if data.also else len(labels) for labels in own])
    if min(samples) < share[1]:
        raise UsageError(
            f"solver.batch {config.solver.batch} is too small for {plural(len(datasets), 'dataset')} and "
            f"{share[1]} processes: each needs a sample of each."
        )
    sources = []
    for number, dataset in enumerate(datasets):
        loader = stack_loader(
            config,
            dataset,
            part=parts[number],
            batch=samples[number],
            batches=batches,
            seed=config.solver.seed + 2**32 * number,
            workers=workers,
            share=share,
            without=_labels(dataset) & left_out[number],
        )
        labels = torch.tensor([heads[numbers[number]].index(name) for name in loader.sampler.classes])
        videos = {identity(dataset.videos[clip.id]): int(labels[clip.label]) for clip in loader.sampler.clips}
        sources.append(Source(loader, numbers[number], labels, dataset.settings.fingerprint(), videos))
    tasks = [
        Task(name, str(dataset.path), dataset.settings.fingerprint(), tuple(classes))
        for name, dataset, classes in zip(_names(datasets), datasets, heads, strict=False)
    ]
    for task in tasks:
        if len(task.classes) < 2:
            raise UsageError(
                f"{task.dataset}: all its videos have one label, {task.classes[0]!r}: nothing to tell apart."
            )
    first = datasets[0]
    return Lessons(tasks, sources, channels_of(config, first), first.settings.to_json(), _validation(config, first))


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to ``weights``, together ``total``; what is over goes to the largest remainders."""
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda n: (-(total * weights[n] % whole), n))
    for number in order[: total - sum(shares)]:
        shares[number] += 1
    return shares


def _labels(dataset: Dataset) -> frozenset[str]:
    return frozenset(row.label for row in dataset.videos)


def _check_left_out(config: StreamConfig, added: Sequence[Dataset]) -> None:
    known = sorted({label for dataset in added for label in _labels(dataset)})
    for name in config.data.leave_out:
        if name not in known:
            raise UsageError(f"data.leave_out: no added dataset has a class {name!r}.{did_you_mean(name, known)}")


def _check_alike(config: StreamConfig, first: Dataset, other: Dataset) -> None:
    channels = channels_of(config, first), channels_of(config, other)
    if channels[0] != channels[1]:
        raise UsageError(f"{other.path}: its inputs have {channels[1]} channels, those of {first.path} {channels[0]}.")


def _check_part(dataset: Dataset, part: str, split: int) -> None:
    """Raises UsageError unless there are videos to train on, and all of them have labels."""
    wanted = [row for row in dataset.videos if not part or row.splits[split - 1] == part]
    if not wanted:
        known = sorted({row.splits[split - 1] for row in dataset.videos} - {""})
        raise UsageError(
            f"{dataset.path}: no video is in part {part!r} of split {split}; that split has "
            f"{', '.join(known) or 'no parts'}. Give another --split, or train on all videos: --set data.whole=true."
        )
    if unlabelled := [row.id for row in wanted if not row.label]:
        raise UsageError(
            f"{dataset.path}: {plural(len(unlabelled), 'video')} to train on without a label: {some(unlabelled)}. "
            "Extract with --extend from a list or folders that have labels; no flow is computed again for that."
        )


def _names(datasets: Sequence[Dataset]) -> Iterator[str]:
    """Short names of datasets, each once."""
    used: set[str] = set()
    for dataset in datasets:
        stem = Path(dataset.path).resolve().stem
        name = next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, 1000))) if name not in used)
        used.add(name)
        yield name


def _validation(config: StreamConfig, dataset: Dataset) -> StackLoader | None:
    parts = {row.splits[config.data.split - 1] for row in dataset.videos if row.label and not config.data.whole}
    part = next((part for part in TESTS if part in parts), None)
    if not part:
        return None
    loader = test_loader(config, dataset, part=part, split=None, without=_labels(dataset) & {""})
    loader.sampler.clips = tuple(replace(clip, frames=_middle(clip.frames)) for clip in loader.sampler.clips)
    return loader


def _middle(frames: range) -> range:
    """That of ``frames`` alone."""
    number = (len(frames) - 1) // 2
    return frames[number : number + 1]
