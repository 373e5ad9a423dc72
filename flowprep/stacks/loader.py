"""Batches of a dataset, at the speed of the decoder."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np

from flowprep.config import Stacking
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks.augment import Augmentation, Crop, fit, geometry, mirror_columns
from flowprep.stacks.batch import Batch
from flowprep.stacks.normalising import Normalisation
from flowprep.stacks.recycling import Recycler
from flowprep.stacks.sampler import Sample, Sampler, opened, spread
from flowprep.stacks.sources import Scratch, Values, source_of
from flowprep.store.reader import Dataset

ATTEMPTS = 100  # draws in place of one damaged sample
TRAINING = Augmentation()
PORTION = 8  # samples that a thread reads before it looks for other work


class StackLoader:
    """Training batches of stacks, or of RGB frames.

    Parameters
    ----------
    dataset: flow, whose fields become stacks as they are read, or a dataset of stacks; or the path of either.
    stacking: which fields become a stack, and whether mean flow is subtracted; default: as in the dataset of stacks,
        or else ``Stacking()``. Of stored stacks only the mean can be changed.
    frames: RGB frames instead of stacks; then without a ``stacking``.
    split, part, seed, without: which videos, and which draws, as in :class:`~flowprep.stacks.sampler.Sampler`.
    batch_size: inputs in a batch.
    batches: in an epoch; default: about as many as show each video once.
    augmentation: crops, mirrors and colour.
    normalise: mean and standard deviation that inputs are brought to 0 and 1 by, as
        :data:`~flowprep.stacks.normalising.IMAGENET`.
    workers: threads that decode ahead, up to one batch; 0 reads each batch when it is asked for.
    on_damage: "raise" a RefusedError that names video, field and file; or "skip": take the next draw in its place. A
        warning then names each such video once, and :attr:`damaged` counts, both in the process that reads.
    share: (r, W) reads of each batch the r-th of W parts, as equal as can be: W processes have one's batches.

    Iterating goes through the rest of an epoch and leaves the loader at the beginning of the next; after a ``break``
    the next iteration goes on behind the last batch. The order is the same for any number of workers. :meth:`batch`
    gives any batch at any time. Each batch has arrays of its own, which may be kept; the memory of those that are not
    is used again.

    May be shared between threads, forked, and pickled: its list of videos goes along, so that all copies draw alike.
    Not so a running iteration with ``workers``: threads do not survive a fork, so that it must not go on in a child.
    Raises UsageError where the dataset has not what is asked for, or a video is smaller than the crop.
    """

    def __init__(
        self,
        dataset: Dataset | str | os.PathLike[str],
        stacking: Stacking | None = None,
        *,
        frames: bool = False,
        split: int = 1,
        part: str = "train",
        batch_size: int = 256,
        seed: int = 0,
        batches: int | None = None,
        augmentation: Augmentation = TRAINING,
        normalise: Normalisation | None = None,
        workers: int = 0,
        on_damage: str = "raise",
        share: tuple[int, int] = (0, 1),
        without: Collection[str] = (),
    ) -> None:
        if batch_size < 1 or workers < 0 or (batches is not None and batches < 1):
            raise UsageError(f"batch_size {batch_size}, batches {batches}, workers {workers}: give positive numbers.")
        if on_damage not in ("raise", "skip"):
            raise UsageError(f"on_damage {on_damage!r}: give raise or skip.")
        if not 0 <= share[0] < share[1] <= batch_size:
            raise UsageError(f"share {share}: give (r, W), r from 0 to W - 1, W up to the batch size, {batch_size}.")
        dataset = opened(dataset)
        self.source = source_of(dataset, stacking, frames=frames)
        self.sampler = Sampler(dataset, stacking, frames=frames, split=split, part=part, seed=seed, without=without)
        self.batch_size = batch_size
        self.batches = batches or -(-len(self.sampler.clips) // batch_size)
        self.augmentation = augmentation
        self.normalise = normalise
        self.workers = workers
        self.on_damage = on_damage
        self.damaged: dict[str, int] = {}  # id of a video -> how often a sample of it was replaced
        self._inputs = _inputs(dataset, stacking, frames=frames)
        self._numbers = {clip.id: number for number, clip in enumerate(self.sampler.clips)}
        self._slots = range(batch_size * share[0] // share[1], batch_size * (share[0] + 1) // share[1])
        self._position = (0, 0)  # epoch, and batch in it: what the next iteration begins with
        self._scratch = Scratch()
        self._recycler = Recycler()
        self._check_crops()
        if normalise:
            normalise.check("RGB" if self.source.colour else "uv")

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._position
        for batch in self._ahead(epoch, first) if self.workers else self._one_by_one(epoch, first):
            following = batch.position[1] + 1
            self._position = (epoch, following) if following < self.batches else (epoch + 1, 0)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch of an iteration comes from, and what else its samples follow from."""
        epoch, batch = self._position
        return {
            "epoch": epoch,
            "batch": batch,
            "seed": self.sampler.seed,
            "batch_size": self.batch_size,
            "batches": self.batches,
            "inputs": self._inputs,
            "videos": self.sampler.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises RefusedError where other batches would follow than then, UsageError for what is no such state.
        """
        own = self.state_dict()
        if lacking := [name for name in own if name not in state]:
            raise UsageError(f"a state without {', '.join(lacking)}: give what state_dict() returned.")
        for name in ("seed", "batch_size", "batches", "inputs"):
            if state[name] != own[name]:
                raise RefusedError(
                    f"{name} is {own[name]} here, and was {state[name]} when the state was taken: make the loader "
                    "as it was then, or begin without the state."
                )
        if state["videos"] != own["videos"]:
            raise RefusedError(
                "the dataset has other videos than when the state was taken, or another split or part is drawn from: "
                "make the loader as it was then, or begin without the state."
            )
        self._check_position(state["epoch"], state["batch"])
        self._position = (state["epoch"], state["batch"])

    def batch(self, epoch: int, number: int) -> Batch:
        """Batch ``number`` of an epoch."""
        self._check_position(epoch, number)
        batch = self._begin(epoch, number)
        self._read(batch, 0, len(self._slots))
        return self._finished(batch)

    def test_batch(self, clip: int, count: int = 25) -> Batch:
        """``count`` whole inputs of a video, equally spaced in time, for :func:`~flowprep.stacks.augment.ten_crops`.

        ``clip`` is its number in ``sampler.clips``. Neither cropped nor mirrored nor jittered; damage is raised.
        """
        if not 0 <= clip < len(self.sampler.clips) or count < 1:
            raise UsageError(
                f"clip {clip}, count {count}: the clips are 0 to {len(self.sampler.clips) - 1}, a count is 1 or more."
            )
        video = self.sampler.clips[clip]
        height, width = video.array.height, video.array.width
        batch = Batch.around(np.empty((count, self.source.channels, height, width), self.source.dtype))
        for slot, frame in enumerate(spread(video.frames, count)):
            values = self.source.load(video, frame, Crop(0, 0, height, width), batch.levels[slot])
            batch.scale[slot], batch.zero[slot], batch.mean[slot] = values.planes
            batch.frames[slot] = values.frame
        batch.labels[:], batch.videos[:] = video.label, clip
        return self._finished(batch)

    def _check_position(self, epoch: int, number: int) -> None:
        if epoch < 0 or not 0 <= number < self.batches:
            raise UsageError(f"batch {number} of epoch {epoch}: an epoch has the batches 0 to {self.batches - 1}.")

    def _check_crops(self) -> None:
        """Raises UsageError naming a video that is smaller than the crop."""
        first = {(clip.array.height, clip.array.width): clip for clip in reversed(self.sampler.clips)}
        for (height, width), clip in first.items():
            try:
                self.augmentation.check(height, width)
            except UsageError as error:
                raise UsageError(f"{clip.id}: {error}") from None

    def _one_by_one(self, epoch: int, first: int) -> Iterator[Batch]:
        for number in range(first, self.batches):
            yield self.batch(epoch, number)

    def _ahead(self, epoch: int, first: int) -> Iterator[Batch]:
        """Batches in their order, while threads read the one after."""
        pool = ThreadPoolExecutor(self.workers, "flowprep-loader")
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            for number in range(first, self.batches):
                batch = self._begin(epoch, number)
                starts = range(0, len(self._slots), PORTION)
                waiting.append((batch, [pool.submit(self._read, batch, start, start + PORTION) for start in starts]))
                if len(waiting) > 1:
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, epoch: int, number: int) -> Batch:
        """A batch whose samples have still to be read."""
        shape = (len(self._slots), self.source.channels, self.augmentation.crop, self.augmentation.crop)
        batch = Batch.around(self._recycler.empty(shape, self.source.dtype))
        batch.position = epoch, number
        return batch

    def _finished(self, batch: Batch, parts: Sequence[Future[None]] = ()) -> Batch:
        """``batch`` when its ``parts`` are read, with what concerns it as a whole."""
        for part in parts:
            part.result()
        if self.normalise:
            self.normalise.fold(batch.scale, batch.mean)
        batch.damaged = tuple(sorted(batch.damaged))  # threads come to them in any order
        return batch

    def _read(self, batch: Batch, start: int, stop: int) -> None:
        """Read samples start..stop-1 of ``batch``."""
        epoch, number = batch.position
        for slot in range(start, min(stop, len(self._slots))):
            self._read_one(batch, slot, epoch, number * self.batch_size + self._slots[slot])

    def _read_one(self, batch: Batch, slot: int, epoch: int, number: int) -> None:
        for attempt in range(ATTEMPTS):
            sample = self.sampler.sample(epoch, number, attempt)
            try:
                return self._place(sample, batch, slot)
            except RefusedError as error:
                if self.on_damage == "raise":
                    raise
                self._note(batch, sample.clip.id, error)
        raise RefusedError(f"{ATTEMPTS} damaged samples one after the other; flowprep verify names what is damaged.")

    def _place(self, sample: Sample, batch: Batch, slot: int) -> None:
        """Read one sample into its slot, cropped, mirrored and with its values folded together."""
        array, out = sample.clip.array, batch.levels[slot]
        window = self.augmentation.window(array.height, array.width, sample.draws)
        mirror = self.augmentation.mirrored(sample.draws)
        if window[2:] == out.shape[1:]:
            values = self.source.load(sample.clip, sample.frame, window, out)
            if mirror:
                mirror_columns(out)
        else:
            cut = self._scratch.array("cut", (len(out), *window[2:]), out.dtype)
            values = self.source.load(sample.clip, sample.frame, window, cut)
            fit(cut, out, mirror=mirror)
        self._fold(values, window, mirror, sample)
        batch.scale[slot], batch.zero[slot], batch.mean[slot] = values.planes
        batch.labels[slot] = sample.clip.label
        batch.videos[slot] = self._numbers[sample.clip.id]
        batch.frames[slot] = values.frame

    def _fold(self, values: Values, window: Crop, mirror: bool, sample: Sample) -> None:
        """Let ``values`` have what augmentation makes of them."""
        if self.source.colour:
            if self.augmentation.jitter:
                factor, shift = self.augmentation.jitter.of(sample.draws.jitter)
                scale, _, mean = values.planes
                scale *= np.float32(factor)
                mean -= shift
        else:
            crop = self.augmentation.crop
            pairs = values.planes.reshape(3, -1, 2)[::2]  # scale and mean, of u and v
            pairs *= np.array(geometry(window, crop, crop, mirror=mirror), np.float32)

    def _note(self, batch: Batch, id: str, error: RefusedError) -> None:
        """Count a damaged sample, and say so at the first of its video."""
        with _noting:
            first = id not in self.damaged
            self.damaged[id] = self.damaged.get(id, 0) + 1
            batch.damaged = (*batch.damaged, id)
        if first:
            logging.getLogger("flowprep").warning("another sample is taken in place of a damaged one: %s", error)


_noting = threading.Lock()  # held for two lines; outside of the loader, so that that can be pickled


def _inputs(dataset: Dataset, stacking: Stacking | None, *, frames: bool) -> str:
    """What inputs are, in words: in a state, where it must agree."""
    if frames:
        return "RGB frames"
    chosen = stacking or dataset.settings.stack or Stacking()
    return repr(Stacking(*(getattr(chosen, item.name) for item in fields(Stacking))))
