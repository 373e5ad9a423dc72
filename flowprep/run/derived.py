"""Datasets made from a dataset: stacks of its fields (``flowprep stack``), or all in other bytes (``transcode``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from flowprep import flow, quantise
from flowprep.annotations import Source
from flowprep.config import JPEG_SIDE, Settings, StackConfig, StackingConfig, StorageConfig, TranscodeConfig
from flowprep.errors import RefusedError, UsageError, Verdict
from flowprep.plan import Estimate
from flowprep.run.product import Product, is_begun, require, warm_flow
from flowprep.stacks.materialise import chosen_frames
from flowprep.store.layout import ArrayName
from flowprep.store.reader import Dataset, VideoRow
from flowprep.types import Video
from flowprep.wording import some

DECODE_SECONDS = 4e-9  # of one value, with quantising and encoding as much again; rough, for estimates of work
STACK_SECONDS = 8e-9  # of one value of a stack


class Derived(Product):
    """What stacks and transcoded datasets have in common: a dataset is their source."""

    def __init__(self, config: TranscodeConfig) -> None:
        if not config.dataset:
            raise UsageError("no dataset: name the one to read, made by flowprep extract.")
        self._path = Path(config.dataset)
        self._dataset = Dataset(self._path)
        if self._dataset.unfinished_shards:
            raise RefusedError(
                f"{self._path} is not finished: run the command that made the dataset again, and this one after it."
            )
        here = self._path.resolve()
        if config.output and here in (target := Path(config.output).resolve(), *target.parents):
            raise UsageError(f"{config.output} is the dataset to read, or in it: name another folder to write.")

    def _refuse_tall(self, length: int, tallest: int) -> None:
        """A stack is one JPEG image, its channels one above the other: there is an end to its height."""
        rows = 2 * length * tallest
        if self.settings.storage.codec == "jpeg" and rows > JPEG_SIDE:
            raise UsageError(
                f"A stack of {length} fields of {tallest} rows is a JPEG image of {rows:,} rows, "
                f"{JPEG_SIDE:,} is the most: give --codec htj2k, or make smaller stacks (--size, --length)."
            )

    def source(self, say: Callable[[str], None]) -> Source:
        good = [row for row in self._dataset.videos if row.row.verdict is Verdict.OK]
        if failed := [row.id for row in self._dataset.videos if row.row.verdict is not Verdict.OK]:
            say(f"Without flow in {self._path}, so left out: {some(failed)}")
        if not good:
            raise UsageError(f"{self._path} has not one video with flow.")
        return Source(self._path.absolute(), tuple(map(_described, good)), (), "dataset")

    def root(self) -> Path:
        return self._path.absolute()

    def estimates(self, root: Path, videos: Sequence[Video], workers: int) -> list[Estimate]:  # noqa: ARG002
        return [self._estimate(self._dataset.videos[video.id]) for video in videos]

    @abstractmethod
    def _estimate(self, row: VideoRow) -> Estimate:
        """What one video should need."""

    def warm(self, say: Callable[[str], None]) -> None:
        quantise.warm(say)

    def check(self) -> None:
        pass


class StacksOfFields(Derived):
    """``flowprep stack``."""

    def __init__(self, config: StackingConfig) -> None:
        super().__init__(config)
        there = self._dataset.settings
        if there.stack:
            raise UsageError(f"{self._path} holds stacks already: name the dataset of flow.")
        if there.flow.direction == "backward":
            raise RefusedError(f"{self._path} holds backward flow alone; stacks need forward flow.")
        stack = config.stack
        if stack.bidirectional:
            stack = replace(stack, backward=self._backward(stack, there))
        self._stack = stack
        # Stacks have no frames beside them.
        plain = StorageConfig()
        storage = replace(config.storage, rgb=False, rgb_short_side=plain.rgb_short_side, rgb_quality=plain.rgb_quality)
        self.settings = Settings(there.video, there.flow, storage, there.engine, (*there.origins, there.storage), stack)
        if self.settings.computes_flow:
            self.otherwise = (
                f"Stack {self._path} where {there.flow.backend} works, or extract the videos with --direction both: "
                "then no flow is computed."
            )
            self._elsewhere = config.cluster.remote
            if not is_begun(config.output):  # else only what is left to do needs the method here
                self.check()
            self._algorithm = flow.configured(there.flow, elsewhere=True)
            self.gpu = self._algorithm.gpu
        tallest = max((self._name(row).height for row in self._dataset.videos if row.row.flow), default=0)
        self._refuse_tall(stack.length, tallest)

    def _backward(self, stack: StackConfig, there: Settings) -> str:
        """Where backward fields come from."""
        stored = there.flow.direction == "both"
        wanted = stack.backward or ("stored" if stored else "frames")
        if wanted == "stored" and not stored:
            raise UsageError(f"--backward stored: {self._path} has none; leave it out, and they are computed.")
        if wanted == "frames" and not there.storage.rgb:
            if stored:
                raise UsageError(f"--backward frames: {self._path} has none; leave it out, backward flow is stored.")
            raise RefusedError(
                f"{self._path} has neither backward flow nor RGB frames to compute it from: "
                "extract the videos with --direction both into another dataset."
            )
        return wanted

    def _name(self, row: VideoRow) -> ArrayName:
        assert row.row.flow
        field = ArrayName.parse(row.row.flow.array)
        width, height = self._stack.target_size() or (field.width, field.height)
        return ArrayName("stack", height, width, 2 * self._stack.length)

    def _estimate(self, row: VideoRow) -> Estimate:
        name, stacks = self._name(row), len(chosen_frames(self._stack, row.fields))
        return Estimate({str(name): stacks} if stacks else {}, stacks, row.fields, name.height * name.width)

    def seconds(self, guess: Estimate) -> float:
        total = 2 * guess.pixels * (guess.decoded * DECODE_SECONDS + guess.fields * self._stack.length * STACK_SECONDS)
        if self.settings.computes_flow:
            total += guess.decoded * self._algorithm.seconds_per_megapixel() * guess.pixels / 1e6
        return total

    def warm(self, say: Callable[[str], None]) -> None:
        super().warm(say)
        if self._stack.kind == "trajectory":
            from flowprep.stacks.kernels import warm

            warm(say)
        if self.settings.computes_flow:
            warm_flow(self.settings.flow, say)

    def check(self) -> None:
        if self.settings.computes_flow and not self._elsewhere:
            require(self.settings.flow, self.otherwise)


class Transcoded(Derived):
    """``flowprep transcode``."""

    def __init__(self, config: TranscodeConfig) -> None:
        super().__init__(config)
        there = self._dataset.settings
        # Frames are taken over as they are.
        storage = replace(
            config.storage,
            rgb=config.storage.rgb and there.storage.rgb,
            rgb_short_side=there.storage.rgb_short_side if config.storage.rgb else StorageConfig.rgb_short_side,
            rgb_quality=there.storage.rgb_quality if config.storage.rgb else StorageConfig.rgb_quality,
        )
        self.settings = Settings(
            there.video, there.flow, storage, there.engine, (*there.origins, there.storage), there.stack
        )
        if there.stack:
            places = [row.row.flow for row in self._dataset.videos if row.row.flow]
            tallest = max((ArrayName.parse(place.array).height for place in places), default=0)
            self._refuse_tall(there.stack.length, tallest)

    def _estimate(self, row: VideoRow) -> Estimate:
        assert row.row.flow
        name = ArrayName.parse(row.row.flow.array)
        rows = {name.rows_of: row.fields}
        if row.row.frames and self.settings.storage.rgb:
            rows[row.row.frames.array] = row.row.frames.length
        return Estimate(rows, row.fields, row.fields, name.channels // 2 * name.height * name.width)

    def seconds(self, guess: Estimate) -> float:
        return 2 * guess.pixels * guess.decoded * DECODE_SECONDS * 2


def _described(row: VideoRow) -> Video:
    """The video as a source: what is stored of it, by which a change shows."""
    return replace(row.video, size=row.row.flow_bytes, content=row.row.content_sha256, refused="")
