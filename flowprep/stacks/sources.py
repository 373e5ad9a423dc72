"""Where the levels of one input come from: fields that become a stack now, stacks as they are stored, or RGB frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.config import Stacking
from flowprep.errors import UsageError
from flowprep.stacks.assemble import gather_levels, of_planes
from flowprep.stacks.augment import Crop
from flowprep.stacks.reach import reach
from flowprep.stacks.sampler import Clip
from flowprep.store.layout import ArrayName
from flowprep.store.reader import Dataset
from flowprep.store.rows import StoredRows, naming
from flowprep.store.shardfile import SLOTS

BLOCKS = 1024  # of SLOTS rows, whose values are kept: 48 kB each of fields, L times that of stacks, which are fewer
Half = tuple[ArrayName, Sequence[int]]  # the array of one direction, and the fields to read there
MUST_AGREE = ("kind", "length", "temporal_stride", "bidirectional", "anchor")  # of a stacking and of stored stacks


class Values(NamedTuple):
    """What turns the levels of one input into px: v = (level - zero) * scale - mean, for each of its C channels."""

    planes: NDArray[np.float32]  # (3, C): scale, zero and mean
    frame: int  # that the input is of


class Source(Protocol):
    """Reads inputs. Raises RefusedError naming video, field or frame, and file, for what is damaged."""

    @property
    def channels(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def colour(self) -> bool: ...  # whether the values are colours, not motion

    def load(self, clip: Clip, frame: int, window: Crop, out: NDArray[Any]) -> Values:
        """The ``window`` of the input at ``frame``, one of ``clip.frames``, into ``out`` (C, h, w), contiguous."""
        ...


class FieldSource:
    """Stacks made of stored fields."""

    colour = False

    def __init__(self, dataset: Dataset, stacking: Stacking) -> None:
        stored = dataset.settings.flow.direction
        if stored == "backward" or (stored == "forward" and stacking.bidirectional):
            raise UsageError(
                f"{dataset.path} holds {stored} flow alone: extract it again with --direction both"
                + (", or let flowprep stack compute the other." if stored == "forward" else ".")
            )
        self.stacking = stacking
        self.channels = 2 * stacking.length
        self._rows = dataset.rows
        self.dtype = self._rows.codec.dtype
        self._planes = PlaneValues(self._rows)
        self._scratch = Scratch()

    def load(self, clip: Clip, frame: int, window: Crop, out: NDArray[Any]) -> Values:
        fields = reach(self.stacking, clip.length, frame)
        halves = [(clip.array, fields.forward)]
        if self.stacking.bidirectional:
            halves.append((clip.array.turned("flow_backward"), fields.backward))
        read = fields.forward + fields.backward
        with naming(clip.start, "field", clip.id, (min(read), max(read))):
            # Of each direction (3, n, 2): scale, zero and mean of each field.
            values = [self._planes.of(array, clip.start, numbers) for array, numbers in halves]
            if self.stacking.kind == "trajectory":
                self._follow(clip, halves, values, window, out)
            else:
                self._cut(clip, halves, window, out)
        planes = of_planes(self.stacking, *values)
        if not self.stacking.mean_subtract:
            planes[2] = 0
        return Values(planes, frame)

    def _cut(self, clip: Clip, halves: Sequence[Half], window: Crop, out: NDArray[Any]) -> None:
        """Eq. 1. Each field is cut while it is in the processor's cache."""
        whole = self._scratch.array("field", clip.array.row_shape(), self.dtype)
        cut = window.of(whole)
        channel = 0
        for array, numbers in halves:
            rows = [clip.start + number for number in numbers]
            for row, payload in zip(rows, self._rows.payloads(array, rows), strict=True):
                self._rows.decode(array, row, payload, whole)
                out[channel : channel + 2] = cut
                channel += 2

    def _follow(
        self,
        clip: Clip,
        halves: Sequence[Half],
        values: Sequence[NDArray[np.float32]],
        window: Crop,
        out: NDArray[Any],
    ) -> None:
        """Eq. 2. Whole fields are at hand, for a trajectory may leave the window."""
        given: list[Any] = []  # levels, scale and zero of each direction
        for (array, numbers), of in zip(halves, values, strict=True):
            levels = self._scratch.array(array.kind, (len(numbers), *array.row_shape()), self.dtype)
            rows = [clip.start + number for number in numbers]
            for row, payload, place in zip(rows, self._rows.payloads(array, rows), levels, strict=True):
                self._rows.decode(array, row, payload, place)
            given += [levels, of[0], of[1]]
        ahead, behind = given[:3], given[3:] or [None, None, None]
        gather_levels(self.stacking, ahead[0], ahead[1], ahead[2], behind[0], behind[1], behind[2], window, out)


class StackSource:
    """Stacks of a dataset of stacks. The mean flow that was subtracted from them, or was not, can still be changed."""

    colour = False

    def __init__(self, dataset: Dataset, stacking: Stacking | None) -> None:
        stored = dataset.settings.stack
        assert stored
        wanted = stacking or stored
        for name in MUST_AGREE:
            if getattr(wanted, name) != getattr(stored, name):
                raise UsageError(
                    f"{dataset.path}: its stacks have {name} {getattr(stored, name)}, not {getattr(wanted, name)}: "
                    "leave the stacking out, or give the dataset of flow that they were made from."
                )
        self.channels = 2 * stored.length
        self._rows = dataset.rows
        self.dtype = self._rows.codec.dtype
        self._planes = PlaneValues(self._rows)
        self._subtract = np.float32(wanted.mean_subtract) - np.float32(stored.mean_subtract)  # -1 puts it back
        self._scratch = Scratch()

    def load(self, clip: Clip, frame: int, window: Crop, out: NDArray[Any]) -> Values:
        row = clip.start + frame
        levels = self._scratch.array("stack", clip.array.row_shape(), self.dtype)
        with naming(clip.start, "stack", clip.id, (frame, frame)):
            (payload,) = self._rows.payloads(clip.array, [row])
            self._rows.decode(clip.array, row, payload, levels)
            planes = self._planes.of(clip.array, clip.start, [frame])[:, 0]
            of_frame = self._rows.side_block(clip.array, "frame", row // SLOTS)[row % SLOTS]
        out[:] = window.of(levels)
        planes[2] *= self._subtract
        return Values(planes, int(of_frame))


class FrameSource:
    """RGB frames; their levels are what they show."""

    channels = 3
    colour = True
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, dataset: Dataset) -> None:
        self._rows = dataset.rows

    def load(self, clip: Clip, frame: int, window: Crop, out: NDArray[Any]) -> Values:
        row = clip.start + frame
        with naming(clip.start, "frame", clip.id, (frame, frame)):
            (payload,) = self._rows.payloads(clip.array, [row])
            image = self._rows.image(clip.array, row, payload)
        extract: Callable[..., Any] = opencv.load().extractChannel
        cut = window.of(image.transpose(2, 0, 1)).transpose(1, 2, 0)
        for channel, plane in enumerate(out):
            extract(cut, channel, dst=plane)
        return Values(np.array([[1] * 3, [0] * 3, [0] * 3], np.float32), frame)


def source_of(dataset: Dataset, stacking: Stacking | None, *, frames: bool) -> Source:
    """What reads the inputs that ``dataset`` has. Raises UsageError where it has not what ``stacking`` needs."""
    if frames:
        return FrameSource(dataset)
    if dataset.settings.stack is not None:
        return StackSource(dataset, stacking)
    return FieldSource(dataset, stacking or Stacking())


class Scratch(threading.local):
    """Arrays to work in, for each thread its own: fresh memory costs as much time as a decoded field."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array with anything in it: the one that the last call with this name gave, if it has that shape."""
        kept = self._arrays.get(name)
        if kept is None or kept.shape != shape or kept.dtype != dtype:
            kept = self._arrays[name] = np.empty(shape, dtype)
        return kept


class PlaneValues:
    """What goes with rows of flow or stacks, for each channel; kept by blocks."""

    def __init__(self, rows: StoredRows) -> None:
        self._rows = rows
        self._block = lru_cache(BLOCKS)(partial(_block_of_values, rows))

    def __reduce__(self) -> tuple[type[PlaneValues], tuple[StoredRows]]:
        return PlaneValues, (self._rows,)

    def of(self, array: ArrayName, start: int, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Of the rows ``start`` + each of ``numbers``, (3, n, C) float32: scale in px per level, level of 0 px, and the
        mean in px of the field that the channel comes from.
        """
        rows = [start + number for number in numbers]
        block, *others = {row // SLOTS for row in rows}
        if not others:
            kept: NDArray[np.float32] = self._block(array, block)[:, [row % SLOTS for row in rows]]
            return kept
        return np.stack([self._block(array, row // SLOTS)[:, row % SLOTS] for row in rows], axis=1)


def _block_of_values(rows: StoredRows, array: ArrayName, block: int) -> NDArray[np.float32]:
    """Scale, zero and mean of one block: (3, SLOTS, C). Means of fields are the first of their statistics."""
    scale, zero = (rows.side_block(array, side, block) for side in ("scale", "zero"))
    if "mean" in array.sides:
        mean = rows.side_block(array, "mean", block)
    else:
        mean = rows.side_block(array, "stats", block)[:, :, 0]
    pairs = array.channels // 2
    return np.stack([np.tile(scale, pairs), np.tile(zero, pairs), mean])
