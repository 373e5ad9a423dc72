"""Where the levels of one input come from: fields that become a stack now, stacks as they are stored, or RGB frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.codecs import decode_rgb, field_codec
from flowprep.config import Stacking
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks.assemble import gather_levels
from flowprep.stacks.augment import Crop
from flowprep.stacks.reach import Reach, reach
from flowprep.stacks.rows import RowReader
from flowprep.stacks.sampler import Clip
from flowprep.store.layout import ArrayName
from flowprep.store.reader import Dataset

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

    def load(self, clip: Clip, frame: int, window: Crop, out: NDArray[Any]) -> Values:
        """The ``window`` of the input at ``frame``, one of ``clip.frames``, into ``out`` (C, h, w), contiguous."""
        ...


class FieldSource:
    """Stacks made of stored fields."""

    def __init__(self, dataset: Dataset, stacking: Stacking) -> None:
        stored = dataset.settings.flow.direction
        if stored == "backward" or (stored == "forward" and stacking.bidirectional):
            raise UsageError(
                f"{dataset.path} holds {stored} flow alone: extract it again with --direction both"
                + (", or let flowprep stack compute the other." if stored == "forward" else ".")
            )
        self.stacking = stacking
        self.channels = 2 * stacking.length
        self.codec = field_codec(dataset.settings.storage)
        self.dtype = self.codec.dtype
        self.rows = RowReader(dataset.path)
        self._scratch = Scratch()

    def load(self, clip: Clip, frame: int, window: Crop, out: NDArray[Any]) -> Values:
        fields = reach(self.stacking, clip.length, frame)
        arrays = [clip.array.turned("flow")]
        if self.stacking.bidirectional:
            arrays.append(clip.array.turned("flow_backward"))
        values = [
            self.rows.values(array, _rows(clip, half)) for array, half in zip(arrays, fields, strict=False)
        ]  # of each direction (n, 3, 2)
        if self.stacking.kind == "trajectory":
            self._follow(clip, arrays, fields, values, window, out)
            values = [half[:: self.stacking.temporal_stride] for half in values]  # without the fields between
        else:
            self._cut(clip, arrays, fields, window, out)
        planes = np.concatenate(values).transpose(1, 0, 2).reshape(3, -1)
        if not self.stacking.mean_subtract:
            planes[2] = 0
        return Values(planes, frame)

    def _cut(self, clip: Clip, arrays: Sequence[ArrayName], fields: Reach, window: Crop, out: NDArray[Any]) -> None:
        """Eq. 1. Each field is cut while it is in the processor's cache."""
        whole = self._scratch.array("field", arrays[0].row_shape(), self.dtype)
        cut = window.of(whole)
        channel = 0
        for array, half in zip(arrays, fields, strict=False):
            for field, payload in zip(half, _payloads(self.rows, clip, array, half), strict=True):
                self._decode(clip, array, field, payload, whole)
                out[channel : channel + 2] = cut
                channel += 2

    def _follow(
        self,
        clip: Clip,
        arrays: Sequence[ArrayName],
        fields: Reach,
        values: Sequence[NDArray[np.float32]],
        window: Crop,
        out: NDArray[Any],
    ) -> None:
        """Eq. 2. Whole fields are at hand, for a trajectory may leave the window."""
        halves: list[tuple[Any, Any, Any]] = []
        for array, half, of in zip(arrays, fields, values, strict=False):
            levels = self._scratch.array(array.kind, (len(half), *array.row_shape()), self.dtype)
            for field, payload, place in zip(half, _payloads(self.rows, clip, array, half), levels, strict=True):
                self._decode(clip, array, field, payload, place)
            halves.append((levels, of[:, 0], of[:, 1]))
        backward: tuple[Any, Any, Any] = halves[1] if self.stacking.bidirectional else (None, None, None)
        gather_levels(self.stacking, *halves[0], *backward, window, out)

    def _decode(self, clip: Clip, array: ArrayName, field: int, payload: memoryview, out: NDArray[Any]) -> None:
        try:
            self.codec.decode(payload, array.row_shape(), out)
        except RefusedError as error:
            raise _damaged(self.rows, clip, array, field, error) from None


class StackSource:
    """Stacks of a dataset of stacks. The mean flow that was subtracted from them, or was not, can still be changed."""

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
        self.codec = field_codec(dataset.settings.storage)
        self.dtype = self.codec.dtype
        self.rows = RowReader(dataset.path)
        self._subtract = np.float32(wanted.mean_subtract) - np.float32(stored.mean_subtract)  # -1 puts it back
        self._scratch = Scratch()

    def load(self, clip: Clip, frame: int, window: Crop, out: NDArray[Any]) -> Values:
        (payload,) = _payloads(self.rows, clip, clip.array, (frame,))
        levels = self._scratch.array("stack", clip.array.row_shape(), self.dtype)
        try:
            self.codec.decode(payload, clip.array.row_shape(), levels)
        except RefusedError as error:
            raise _damaged(self.rows, clip, clip.array, frame, error) from None
        out[:] = window.of(levels)
        (planes,) = self.rows.values(clip.array, (clip.start + frame,))
        planes[2] *= self._subtract
        return Values(planes, self.rows.frame(clip.array, clip.start + frame))


class FrameSource:
    """RGB frames; their levels are what they show."""

    channels = 3
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, dataset: Dataset) -> None:
        self.rows = RowReader(dataset.path)

    def load(self, clip: Clip, frame: int, window: Crop, out: NDArray[Any]) -> Values:
        (payload,) = _payloads(self.rows, clip, clip.array, (frame,))
        try:
            image = decode_rgb(payload, clip.array.height, clip.array.width)
        except RefusedError as error:
            raise _damaged(self.rows, clip, clip.array, frame, error) from None
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


def _rows(clip: Clip, numbers: Sequence[int]) -> list[int]:
    return [clip.start + number for number in numbers]


def _payloads(rows: RowReader, clip: Clip, array: ArrayName, numbers: Sequence[int]) -> list[memoryview]:
    """Encoded rows of a video, by their numbers in it."""
    try:
        return rows.rows(array, _rows(clip, numbers))
    except RefusedError as error:
        low, high = min(numbers), max(numbers)
        raise RefusedError(f"{clip.id}: {_what(array)} {low}{f' to {high}' if high > low else ''}: {error}") from None


def _damaged(rows: RowReader, clip: Clip, array: ArrayName, number: int, error: RefusedError) -> RefusedError:
    """``error`` of the decoder with its place: video, number of the row in it, and file."""
    return RefusedError(f"{clip.id}: {_what(array)} {number}: {rows.path(array, clip.start + number)}: {error}.")


def _what(array: ArrayName) -> str:
    """What a row is, in a word."""
    return {"flow": "field", "flow_backward": "backward field", "frames": "frame", "stack": "stack"}[array.kind]
