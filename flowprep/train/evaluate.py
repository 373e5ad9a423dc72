"""Scores of videos by one trained stream, as the two-stream paper tests: 25 frames of each video, ten crops of each.

The frames are equally spaced in time; the crops are the four corners, the centre, and the mirror images of these
(Simonyan & Zisserman, NIPS 2014, section 5). The score of a video is the mean softmax of all its inputs.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flowprep.config.experiment import MAX_FRAMES
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks.augment import Augmentation, ten_crops
from flowprep.stacks.loader import StackLoader
from flowprep.stacks.sampler import opened
from flowprep.stacks.sources import MUST_AGREE
from flowprep.stacks.torch_loader import TensorBatch, tensors, to_pixels
from flowprep.store.reader import Dataset
from flowprep.store.summary import content_fingerprint
from flowprep.train import checkpoint as checkpoints
from flowprep.train.checkpoint import Checkpoint, Task
from flowprep.train.device import autocast, choose_device, memory_format
from flowprep.train.inputs import channels_of, test_loader
from flowprep.train.learned_from import identity, learned_from
from flowprep.train.schedule import schedule_of
from flowprep.train.scores import UNKNOWN, Scores
from flowprep.wording import duration, plural, some

CROPS = {1: [4], 2: [4, 9], 5: [0, 1, 2, 3, 4], 10: list(range(10))}  # how many -> which of ten_crops
SAY_SECONDS = 10.0  # between two lines of progress


def evaluate(
    path: Path,
    dataset: Dataset | str | os.PathLike[str],
    *,
    checkpoint: Checkpoint | None = None,
    split: int | None = None,
    part: str = "test",
    frames: int = 25,
    crops: int = 10,
    device: str = "",
    batch: int = 250,
    workers: int = 0,
    on_damage: str = "raise",
    name: str = "",
    say: Callable[[str], None] = lambda _: None,
    quiet: bool = False,
) -> Scores:
    """Class scores of the videos of a part of ``dataset`` by the network of a checkpoint.

    Parameters
    ----------
    path: the checkpoint, or the folder of its run.
    checkpoint: what is in it, if it has been read before.
    split: of the dataset; default: the one that was trained on. An empty ``part`` is every video.
    frames, crops: of a video, and of each frame: 1 the centre, 2 with its mirror image, 5 with the corners, 10 all of
        them mirrored, too.
    device: as :func:`~flowprep.train.device.choose_device` takes it; default: a GPU where there is one.
    batch: inputs at once on the device.
    workers: threads that read videos ahead; 0 = one for each processor, up to 8.
    on_damage: "raise" a RefusedError for videos that are damaged or too short; or "skip": leave them out, and say so.
    name: of the scores; default: the stream.
    say: is told what makes the scores mean less; and, unless ``quiet``, how far it is.

    Raises RefusedError where dataset and checkpoint do not go together: other inputs, or classes that no head knows.
    """
    if not 1 <= frames <= MAX_FRAMES:
        raise UsageError(f"frames {frames}: give 1 to {MAX_FRAMES} of a video.")
    if crops not in CROPS or batch < 1 or workers < 0 or on_damage not in ("raise", "skip"):
        raise UsageError(
            f"crops {crops}, batch {batch}, workers {workers}, on_damage {on_damage!r}: give positive "
            f"numbers, {', '.join(map(str, CROPS))} crops, raise or skip."
        )
    path, dataset = (path / checkpoints.NAME if path.is_dir() else path), opened(dataset)
    checkpoint = checkpoint or checkpoints.load(path)
    config = checkpoint.config
    _check_inputs(checkpoint, dataset)
    split = split or config.data.split
    loader = test_loader(config, dataset, part=part, split=split)
    if on_damage == "raise":
        check_videos(loader, dataset, "--on-damage skip")
    labels = [loader.sampler.classes[clip.label] for clip in loader.sampler.clips]
    head, task = _head(checkpoint.tasks, dataset, set(loader.sampler.classes), set(labels), say)
    warn_unfinished(path, checkpoint, say)
    _warn(checkpoint, dataset, loader, say)

    scorer = Scorer(checkpoint, head, device=device, crops=crops, batch=batch)
    progress = _Progress(len(loader.sampler.clips), (lambda _: None) if quiet else say)
    found = _score(scorer, loader, progress, frames=frames, workers=workers, on_damage=on_damage, say=say)
    if not found:
        raise RefusedError(f"{dataset.path}: every video is damaged: flowprep verify says what is wrong.")
    scores = np.stack(list(found.values()))
    if not np.isfinite(scores).all():
        raise RefusedError(f"{path}: its scores are not finite: the training has diverged. Train with a lower rate.")
    numbers = {label: number for number, label in enumerate(task.classes)}
    return Scores(
        scores=scores,
        labels=np.array([numbers.get(labels[number], UNKNOWN) for number in found], np.int64),
        ids=tuple(loader.sampler.clips[number].id for number in found),
        classes=task.classes,
        name=name or config.stream,
        stream=config.stream,
        split=split,
        part=part,
        frames=frames,
        crops=crops,
        checkpoint=str(path.absolute()),
        dataset=str(dataset.path.absolute()),
        net=config.net.name,
        fingerprint=content_fingerprint(dataset),
    )


class Scorer:
    """A trained network on its device: inputs of a video in, its class scores out."""

    def __init__(self, checkpoint: Checkpoint, head: int, *, device: str, crops: int, batch: int) -> None:
        config = checkpoint.config
        self.device = choose_device(device)
        self.layout = memory_format(self.device)
        self.net = checkpoints.network(checkpoint, self.device)
        self.net.to(memory_format=self.layout)  # type: ignore[call-overload]  # its stub lacks this one
        self.head = head
        self.size = config.data.crop
        self.flow = config.stream == "temporal"
        self.precision = config.solver.precision
        self.crops = CROPS[crops]
        self.batch = batch

    @torch.inference_mode()
    def scores(self, video: TensorBatch) -> NDArray[np.float32]:
        """Mean softmax (C,) of all crops of the whole frames, or stacks, of a video."""
        pixels = to_pixels(video, self.device)  # (T, C, H, W)
        at_once = max(1, self.batch // len(self.crops))
        softmax = [
            self.softmax(inputs)
            for first in range(0, len(pixels), at_once)
            for inputs in torch.split(self.cut(pixels[first : first + at_once]), self.batch)
        ]
        mean: NDArray[np.float32] = torch.cat(softmax).mean(dim=0).cpu().numpy()
        return mean

    def softmax(self, inputs: torch.Tensor) -> torch.Tensor:
        """Class scores (B, classes) float32 of inputs (B, C, size, size)."""
        with autocast(self.precision, self.device):
            logits: torch.Tensor = self.net(inputs.contiguous(memory_format=self.layout))[self.head]
        return logits.float().softmax(dim=1)

    def cut(self, frames: torch.Tensor) -> torch.Tensor:
        """The inputs (crops * n, C, size, size) of frames (n, C, H, W)."""
        if len(self.crops) > 2:
            crops: torch.Tensor = ten_crops(frames, self.size, flow=self.flow)
            return crops[self.crops].flatten(0, 1)
        Augmentation(self.size).check(*frames.shape[-2:])
        top, left = ((side - self.size) // 2 for side in frames.shape[-2:])
        centre = frames[..., top : top + self.size, left : left + self.size]
        if len(self.crops) == 1:
            return centre
        mirrored = centre.flip(-1)
        if self.flow:
            mirrored[:, 0::2] *= -1
        return torch.cat([centre, mirrored])


def _score(
    scorer: Scorer,
    loader: StackLoader,
    progress: _Progress,
    *,
    frames: int,
    workers: int,
    on_damage: str,
    say: Callable[[str], None],
) -> dict[int, NDArray[np.float32]]:
    """The scores (C,) of each clip of ``loader``, by its number; where damage is skipped, without those damaged."""
    found, damaged = {}, []
    with closing(_read_ahead(loader, frames, workers, pin=scorer.device.type == "cuda")) as videos:
        for number, video in enumerate(videos):
            try:
                found[number] = scorer.scores(video.result())
            except RefusedError as error:
                if on_damage == "raise":
                    raise
                damaged.append(loader.sampler.clips[number].id)
                say(f"left out: {error}")
            progress.step()
    if damaged:
        say(f"left out, damaged: {plural(len(damaged), 'video')}: {some(damaged)}.")
    return found


def check_videos(loader: StackLoader, dataset: Dataset, how: str) -> None:
    """Raises RefusedError where a video of the part has no inputs; ``how``: the option that leaves it out."""
    if excluded := [f"{id} ({why})" for id, why in loader.sampler.excluded.items()]:
        raise RefusedError(
            f"{dataset.path}: {plural(len(excluded), 'video')} cannot be evaluated: {some(excluded)}. "
            f"Leave them out with {how}."
        )


def _check_inputs(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Raises RefusedError where ``dataset`` has not the inputs that were trained on."""
    config, stored = checkpoint.config, dataset.settings.stack
    for name in MUST_AGREE if stored and config.stream == "temporal" else ():
        here, there = getattr(stored, name), getattr(config.stack, name)
        if here != there:
            raise RefusedError(
                f"{dataset.path}: its stacks have {name} {here}, those that were trained on {there}: give the dataset "
                "of flow, or stacks like those."
            )
    if (channels := channels_of(config, dataset)) != checkpoint.channels:
        raise RefusedError(
            f"{dataset.path}: its inputs have {channels} channels, those that were trained on {checkpoint.channels}."
        )


def _head(
    tasks: Sequence[Task], dataset: Dataset, classes: set[str], evaluated: set[str], say: Callable[[str], None]
) -> tuple[int, Task]:
    """The head that knows all ``classes`` of the dataset, or else those ``evaluated``. RefusedError for none.

    Of several it is the one that has learned from this dataset; or from one with its settings; or the first.
    """
    here, settings = dataset.path.resolve(), dataset.settings.fingerprint()
    for labels in (classes - {""}, evaluated - {""}):
        able = [(number, task) for number, task in enumerate(tasks) if labels <= set(task.classes)]
        if own := [item for item in able if Path(item[1].dataset).resolve() == here]:
            return own[0]
        if able:
            alike = [item for item in able if item[1].fingerprint == settings]
            number, task = (alike or able)[0]
            if len(able) > 1:
                say(f"{len(able)} heads know the classes of {dataset.path}; taken is that for {task.dataset}.")
            return number, task
    unknown = min((sorted(labels - set(task.classes)) for task in tasks), key=len, default=[])
    raise RefusedError(
        f"{dataset.path}: the checkpoint was not trained on the {'class' if len(unknown) == 1 else 'classes'} "
        f"{some(unknown)}: evaluate it on a dataset with its own classes."
    )


def warn_unfinished(path: Path, checkpoint: Checkpoint, say: Callable[[str], None]) -> None:
    """Say that a network has not learned to the end."""
    if checkpoint.training is not None:
        of = schedule_of(checkpoint.config.solver).iterations
        say(f"{path}: its training is not finished, {checkpoint.iteration:,} of {of:,} iterations are done.")


def _warn(checkpoint: Checkpoint, dataset: Dataset, loader: StackLoader, say: Callable[[str], None]) -> None:
    """Say what makes the scores mean less than they seem to."""
    clips, split = loader.sampler.clips, checkpoint.config.data.split
    learned = learned_from(checkpoint, say)
    if known := sum(identity(dataset.videos[clip.id]) in learned for clip in clips):
        say(f"{known:,} of {plural(len(clips), 'video')} were trained on (split {split}): this is no test.")
    if dataset.unfinished_shards:
        say(f"{dataset.path} is not complete, still to be extracted: {plural(dataset.unfinished_shards, 'shard')}.")
    flow = checkpoint.settings.get("flow")
    method = flow.get("method") if isinstance(flow, dict) else "unknown"
    if checkpoint.config.stream == "temporal" and method != dataset.settings.flow.method:
        say(f"the stream was trained on {method} flow, {dataset.path} holds {dataset.settings.flow.method}.")


def _read_ahead(loader: StackLoader, frames: int, workers: int, *, pin: bool) -> Generator[Future[TensorBatch]]:
    """All videos in their order, while threads read the next ones, into pinned memory where a GPU copies from it."""
    workers = workers or min(8, len(os.sched_getaffinity(0)))

    def read(clip: int) -> TensorBatch:
        batch = tensors(loader.test_batch(clip, frames))
        return batch.pin_memory() if pin else batch

    pool = ThreadPoolExecutor(workers, "flowprep-evaluate")
    waiting: deque[Future[TensorBatch]] = deque()
    try:
        for clip in range(len(loader.sampler.clips)):
            waiting.append(pool.submit(read, clip))
            if len(waiting) > workers:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


class _Progress:
    """Says now and then how far it is."""

    def __init__(self, videos: int, say: Callable[[str], None]) -> None:
        self.videos = videos
        self.done = 0
        self.say = say
        self.started = self.said = time.monotonic()

    def step(self) -> None:
        """One video more."""
        self.done += 1
        now = time.monotonic()
        if now > self.said + SAY_SECONDS:
            self.said = now
            rate = self.done / (now - self.started)
            left = duration((self.videos - self.done) / rate)
            self.say(f"{self.done:,} of {plural(self.videos, 'video')}  {rate:.1f}/s  {left} left")
