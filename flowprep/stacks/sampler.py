"""Which video, which frame: the draws that training batches are made of, and the frames that testing looks at.

A draw is a function of (seed, epoch, number) alone, whoever asks, in whatever order and process: it is made of the bits
of a hash of these three (SHAKE-128, FIPS 202), which no version of any library changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from flowprep.config import Stacking
from flowprep.errors import UsageError, did_you_mean
from flowprep.stacks.reach import frames_of
from flowprep.store.layout import ArrayName
from flowprep.store.reader import Dataset, VideoRow
from flowprep.types import SPLITS, Placement
from flowprep.wording import plural, some

NUMBERS = 16  # drawn for one sample


@dataclass(frozen=True, slots=True)
class Clip:
    """A video that can be drawn: its class, and where its rows lie."""

    id: str
    label: int  # number of the class in :attr:`Sampler.classes`
    array: ArrayName
    start: int  # first row
    length: int  # fields, or stacks, or RGB frames
    frames: range  # what can be drawn: frames at which a stack fits, or numbers of stored stacks or of RGB frames


class Draws(NamedTuple):
    """Numbers for augmentation, each uniform in [0, 1) and independent of the others."""

    top: float
    left: float
    place: float
    scale: float
    mirror: float
    jitter: tuple[float, ...]  # eight


class Sample(NamedTuple):
    """One input of a network before it is read."""

    clip: Clip
    frame: int  # one of ``clip.frames``
    draws: Draws


class Sampler:
    """Videos and frames for training: first a class, then a video of it, then a frame (two-stream paper, section 5).

    Each is drawn uniformly, so that classes count alike however many videos they have.

    Parameters
    ----------
    dataset: the videos, or the path of them; what a sample is follows from it: a stack of fields, or a stored stack.
    stacking: of fields, where a stack fits (not needed for a dataset of stacks).
    frames: draw RGB frames instead, without a ``stacking``.
    split: 1, 2 or 3, the one whose ``part`` ("train", "val", "test") is drawn from; an empty part means every video.
    seed: 0 to 2**64 - 1.
    without: classes that are left out.

    Videos that nothing can be drawn from are left out; :attr:`excluded` says why, and a warning names the first.
    Raises UsageError where no video is left.
    """

    def __init__(
        self,
        dataset: Dataset | str | os.PathLike[str],
        stacking: Stacking | None = None,
        *,
        frames: bool = False,
        split: int = 1,
        part: str = "train",
        seed: int = 0,
        without: Collection[str] = (),
    ) -> None:
        if not 1 <= split <= SPLITS:
            raise UsageError(f"split {split}: give 1 to {SPLITS}.")
        if not 0 <= seed < 2**64:
            raise UsageError(f"seed {seed}: give 0 to 2**64 - 1.")
        if frames and stacking:
            raise UsageError("frames=True draws RGB frames, which are not stacked: leave the stacking out, or frames.")
        dataset = opened(dataset)
        self.seed = seed
        labels = {row.label for row in dataset.videos}
        if unknown := sorted(set(without) - labels):
            raise UsageError(
                f"{dataset.path}: no class {unknown[0]!r} to leave out.{did_you_mean(unknown[0], sorted(labels))}"
            )
        self.classes = tuple(sorted(labels - set(without)))
        self.excluded: dict[str, str] = {}  # id -> why nothing can be drawn from it
        numbers = {label: number for number, label in enumerate(self.classes)}
        wanted = [row for row in dataset.videos if row.label in numbers and (not part or row.splits[split - 1] == part)]
        clips = [clip for row in wanted if (clip := self._clip(row, numbers[row.label], dataset, stacking, frames))]
        self.clips: tuple[Clip, ...] = tuple(clips)
        if not clips:
            raise UsageError(f"{dataset.path}: {self._why_none(dataset, split, part)}")
        if self.excluded:
            logging.getLogger("flowprep").warning("%s: %s", dataset.path, self._exclusions())

    def sample(self, epoch: int, number: int, attempt: int = 0) -> Sample:
        """Sample ``number`` of an epoch; ``attempt`` draws anew, where the sample before cannot be read."""
        draws = _uniform(self.seed, epoch, number, attempt)
        of_class, of_video, of_frame, top, left, place, scale, mirror, *jitter = draws
        drawable = self._by_class
        members = drawable[int(of_class * len(drawable))]
        clip = self.clips[members[int(of_video * len(members))]]
        frame = clip.frames[int(of_frame * len(clip.frames))]
        return Sample(clip, frame, Draws(top, left, place, scale, mirror, tuple(jitter)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the classes and of the videos that can be drawn: with the seed it says what samples are."""
        clips = [
            (clip.id, clip.label, str(clip.array), clip.start, clip.length, repr(clip.frames)) for clip in self.clips
        ]
        return hashlib.sha256(json.dumps([self.classes, clips]).encode()).hexdigest()

    @cached_property
    def _by_class(self) -> list[list[int]]:
        """Numbers of the clips of each class that has any."""
        members: dict[int, list[int]] = {}
        for number, clip in enumerate(self.clips):
            members.setdefault(clip.label, []).append(number)
        return list(members.values())

    def _clip(
        self, row: VideoRow, label: int, dataset: Dataset, stacking: Stacking | None, frames: bool
    ) -> Clip | None:
        place: Placement | None = row.row.frames if frames else row.row.flow
        if place is None:
            without = "its RGB frames were not stored" if row.status == "ok" else f"its status is {row.status}"
            self.excluded[row.id] = without
            return None
        whole = frames or dataset.settings.stack is not None
        drawable = range(place.length) if whole else frames_of(stacking or Stacking(), place.length)
        if not drawable:
            self.excluded[row.id] = f"its {place.length} fields are too few for a stack"
            return None
        return Clip(row.id, label, ArrayName.parse(place.array), place.start, place.length, drawable)

    def _exclusions(self) -> str:
        reasons = some([f"{id} ({why})" for id, why in self.excluded.items()])
        return f"left out, {plural(len(self.excluded), 'video')}: {reasons}."

    def _why_none(self, dataset: Dataset, split: int, part: str) -> str:
        if self.excluded:
            return f"no video can be drawn; {self._exclusions()}"
        known = sorted({row.splits[split - 1] for row in dataset.videos} - {""})
        return (
            f"no video is in part {part!r} of split {split}; that split has {', '.join(known) or 'no parts'}. "
            "An empty part takes every video."
        )


def opened(dataset: Dataset | str | os.PathLike[str]) -> Dataset:
    """``dataset`` itself, or that of a path."""
    return dataset if isinstance(dataset, Dataset) else Dataset(dataset)


def spread(frames: Sequence[int], count: int = 25) -> list[int]:
    """``count`` frames to test a video at: equally spaced, the first and the last among them (floor of a linspace)."""
    last = len(frames) - 1
    return [frames[number * last // max(1, count - 1)] for number in range(count)]


def _uniform(seed: int, epoch: int, number: int, attempt: int) -> list[float]:
    """NUMBERS in [0, 1): the bits of a hash of what they belong to."""
    stream = hashlib.shake_128(struct.pack("<4Q", seed, epoch, number, attempt)).digest(8 * NUMBERS)
    return [(word >> 11) * 2.0**-53 for word in struct.unpack(f"<{NUMBERS}Q", stream)]
