"""Batches of a dataset, at the speed of the decoder."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from flowprep.config import Stacking
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks.augment import Augmentation, Crop, fit, geometry, mirror_columns
from flowprep.stacks.batch import Batch
from flowprep.stacks.recycling import Recycler
from flowprep.stacks.sampler import Sample, Sampler, spread
from flowprep.stacks.sources import FrameSource, Scratch, Values, source_of
from flowprep.store.reader import Dataset

ATTEMPTS = 100  # draws in place of one damaged sample
TRAINING = Augmentation()
PORTION = 8  # samples that a thread reads before it looks for other work


class StackLoader:
    """Training batches of stacks, or of RGB frames.

    Parameters
    ----------
    dataset: flow, whose fields become stacks as they are read, or a dataset of stacks.
    stacking: which fields become a stack, and whether mean flow is subtracted; default: as in the dataset of stacks,
        or else ``Stacking()``. Of stored stacks only the mean can be changed.
    frames: RGB frames instead of stacks.
    split, part, seed: which videos, and which draws, as in :class:`~flowprep.stacks.sampler.Sampler`.
    batch_size: inputs in a batch.
    batches: in an epoch; default: about as many as show each video once.
    augmentation: crops, mirrors and colour.
    workers: threads that decode ahead, up to one batch; 0 reads each batch when it is asked for.
    on_damage: "raise" a RefusedError that names video, field and file; or "skip": take the next draw in its place. A
        warning then names each such video once, and :attr:`damaged` counts.

    Iterating goes through the rest of an epoch and leaves the loader at the beginning of the next; the order is the
    same for any number of workers. :meth:`batch` gives any batch at any time. Each batch has arrays of its own, which
    may be kept; the memory of those that are not is used again.

    May be shared between threads, forked, and pickled: its list of videos goes along, so that all copies draw alike.
    Raises UsageError where the dataset has not what is asked for.
    """

    def __init__(
        self,
        dataset: Dataset,
        stacking: Stacking | None = None,
        *,
        frames: bool = False,
        split: int = 1,
        part: str = "train",
        batch_size: int = 256,
        seed: int = 0,
        batches: int | None = None,
        augmentation: Augmentation = TRAINING,
        workers: int = 0,
        on_damage: str = "raise",
    ) -> None:
        if batch_size < 1 or workers < 0 or (batches is not None and batches < 1):
            raise UsageError(f"batch_size {batch_size}, batches {batches}, workers {workers}: give positive numbers.")
        if on_damage not in ("raise", "skip"):
            raise UsageError(f"on_damage {on_damage!r}: give raise or skip.")
        self.source = source_of(dataset, stacking, frames=frames)
        self.sampler = Sampler(dataset, stacking, frames=frames, split=split, part=part, seed=seed)
        self.batch_size = batch_size
        self.batches = batches or -(-len(self.sampler.clips) // batch_size)
        self.augmentation = augmentation
        self.workers = workers
        self.on_damage = on_damage
        self.damaged: dict[str, int] = {}  # id of a video -> how often a sample of it was replaced
        self._numbers = {clip.id: number for number, clip in enumerate(self.sampler.clips)}
        self._position = (0, 0)  # epoch, and batch in it: what the next iteration begins with
        self._scratch = Scratch()
        self._recycler = Recycler()

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._position
        for batch in self._ahead(epoch, first) if self.workers else self._one_by_one(epoch, first):
            following = batch.position[1] + 1
            self._position = (epoch, following) if following < self.batches else (epoch + 1, 0)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the next batch of an iteration comes from; everything else follows from the settings."""
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        if state["epoch"] < 0 or not 0 <= state["batch"] < self.batches:
            raise UsageError(f"{state}: an epoch has the batches 0 to {self.batches - 1}.")
        self._position = (state["epoch"], state["batch"])

    def batch(self, epoch: int, number: int) -> Batch:
        """Batch ``number`` of an epoch."""
        batch = self._begin(epoch, number)
        self._read(batch, 0, self.batch_size)
        return batch

    def test_batch(self, clip: int, count: int = 25) -> Batch:
        """``count`` whole inputs of a video, equally spaced in time, for :func:`~flowprep.stacks.augment.ten_crops`.

        ``clip`` is its number in ``sampler.clips``. Neither cropped nor mirrored nor jittered; damage is raised.
        """
        video = self.sampler.clips[clip]
        height, width = video.array.height, video.array.width
        batch = self._empty(count, height, width)
        for slot, frame in enumerate(spread(video.frames, count)):
            values = self.source.load(video, frame, Crop(0, 0, height, width), batch.levels[slot])
            batch.scale[slot], batch.zero[slot], batch.mean[slot] = values.planes
            batch.frames[slot] = values.frame
        batch.labels[:], batch.videos[:] = video.label, clip
        return batch

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
                starts = range(0, self.batch_size, PORTION)
                waiting.append((batch, [pool.submit(self._read, batch, start, start + PORTION) for start in starts]))
                if len(waiting) > 1:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, epoch: int, number: int) -> Batch:
        """A batch whose samples have still to be read."""
        batch = self._empty(self.batch_size, self.augmentation.crop, self.augmentation.crop)
        batch.position = epoch, number
        return batch

    def _empty(self, size: int, height: int, width: int) -> Batch:
        shape = (size, self.source.channels, height, width)
        return Batch.around(self._recycler.empty(shape, self.source.dtype))

    def _read(self, batch: Batch, start: int, stop: int) -> None:
        """Read samples start..stop-1 of ``batch``."""
        epoch, number = batch.position
        for slot in range(start, min(stop, self.batch_size)):
            self._read_one(batch, slot, epoch, number * self.batch_size + slot)

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
        scale, _, mean = values.planes
        if isinstance(self.source, FrameSource):
            factor, shift = self.augmentation.jitter.of(sample.draws.jitter)
            scale *= np.float32(factor)
            mean -= shift
        else:
            crop = self.augmentation.crop
            factors = np.array(geometry(window, crop, crop, mirror=mirror), np.float32)
            for pairs in (scale.reshape(-1, 2), mean.reshape(-1, 2)):
                pairs *= factors

    def _note(self, batch: Batch, id: str, error: RefusedError) -> None:
        """Count a damaged sample, and say so at the first of its video."""
        with _noting:
            first = id not in self.damaged
            self.damaged[id] = self.damaged.get(id, 0) + 1
            batch.damaged = (*batch.damaged, id)
        if first:
            logging.getLogger("flowprep").warning("another sample is taken in place of a damaged one: %s", error)


_noting = threading.Lock()  # held for two lines; outside of the loader, so that that can be pickled


def _finished(batch: Batch, parts: list[Future[None]]) -> Batch:
    for part in parts:
        part.result()
    return batch
