"""A dataset of one video, made as the one that a network was trained on: the same frames, flow and stored levels.

What a network saw went through a method of flow, a codec, perhaps stacks and another codec. A video that it is to
recognise goes the same way, by the same runs, so that it is scored as if it had been in that dataset. Only what no
stream looks at is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from flowprep import flow
from flowprep.annotations import Source
from flowprep.annotations.paths import check_characters, size_of
from flowprep.config import (
    MIN_SIDE,
    ClusterConfig,
    ExtractConfig,
    FlowConfig,
    RunConfig,
    Settings,
    StackingConfig,
    StorageConfig,
    StreamConfig,
    TranscodeConfig,
)
from flowprep.devices import objection
from flowprep.errors import RefusedError, UnfinishedError, UsageError, Verdict, VideoError
from flowprep.run.driver import Run, Stacking, Transcoding
from flowprep.run.product import FlowOfVideos
from flowprep.store.reader import Dataset
from flowprep.types import Video

# Beside frames that are looked at for their colours alone: no extraction is without flow, so it is the cheapest.
IDLE_FLOW = FlowConfig("dis", "opencv", "forward", {"preset": "ultrafast"})
IDLE_SIZE = f"{MIN_SIDE}x{MIN_SIDE}"
RUN = RunConfig(workers=1, max_failed="100%")
# Of TV-L1. What OpenCV's class for GPUs calls iterations is a single block of them, with no median filter before it.
ONE_BLOCK = {"outer_iterations": 1, "median_filtering": 1}
# A parameter with which a backend that has it does what one does that has it not.
UNUSED = {"preset": "opencv", "gamma": 0.0, "presmoothing": 0.0}
HERE = ClusterConfig("batch", task="0/1")  # a single video needs no scheduler


class Stream(NamedTuple):
    """What the inputs of a network follow from."""

    config: StreamConfig
    settings: Settings  # of the dataset that it was trained on


def recipes(streams: Sequence[Stream], say: Callable[[str], None]) -> list[list[Settings]]:
    """For each stream, the datasets that lead from a video to its inputs, that of the video's frames and flow first.

    Streams that were trained on the same have datasets in common. Where this machine has not the library that computed
    the flow then, another takes its place, and ``say`` is told. Raises RefusedError where none can.
    """
    chains = [_chain(settings, say) for _, settings in streams]
    found: dict[int, list[Settings]] = {}
    for origin in dict.fromkeys(chain[0].fingerprint() for chain in chains):
        group = [number for number, chain in enumerate(chains) if chain[0].fingerprint() == origin]
        lean = _leaner(chains[group[0]][0], [streams[number] for number in group], say)
        for number in group:
            spatial = streams[number].config.stream == "spatial"
            # Whatever becomes of the flow, frames are taken over as they are.
            found[number] = [lean(settings) for settings in (chains[number][:1] if spatial else chains[number])]
    return [found[number] for number in range(len(streams))]


def remake(
    recipe: Sequence[Settings], video: Path, folder: Path, say: Callable[[str], None], *, quiet: bool
) -> Dataset:
    """The last dataset of ``recipe``, holding ``video`` alone, made in ``folder``, where those that are there stay.

    Raises VideoError, with the verdict, for a video that cannot be used; StoreError where the disk fails;
    UnfinishedError where a signal has asked for the end.
    """
    source, before = Path(), None
    for settings in recipe:
        output = folder / f"{'stacks' if settings.stack else 'flow'}-{settings.fingerprint()[:8]}.zarr"
        if not output.exists():
            if before is None:
                run = _extraction(settings, video, output, say, quiet=quiet)
            else:
                run = _derivation(settings, before, source, output, say, quiet=quiet)
            run.run()
            if run.told_to_stop:
                raise UnfinishedError("stopped by a signal.")
        (row,) = Dataset(output).videos
        if row.row.verdict is not Verdict.OK:
            raise VideoError(row.row.verdict, row.reason)
        source, before = output, settings
    return Dataset(source)


class _FlowOfVideo(FlowOfVideos):
    """``flowprep extract`` of one file, wherever it lies."""

    def __init__(self, config: ExtractConfig, video: Path) -> None:
        super().__init__(config)
        self._video = video.absolute()
        self.otherwise = "Where CUDA_VISIBLE_DEVICES is set to nothing, the same command computes flow on processors."

    def source(self, say: Callable[[str], None]) -> Source:  # noqa: ARG002 - there is nothing to leave out
        try:
            check_characters(self._video.name)
            video = Video(self._video.name, size=size_of(self._video.stat()))
        except FileNotFoundError:
            raise VideoError(Verdict.MISSING, "no such file") from None
        except OSError as error:
            raise VideoError(Verdict.UNDECODABLE, f"cannot be read: {error.strerror}") from None
        return Source(self.root(), (video,), (), "filelist")

    def root(self) -> Path:
        return self._video.parent


def _extraction(settings: Settings, video: Path, output: Path, say: Callable[[str], None], *, quiet: bool) -> Run:
    config = ExtractConfig(
        output=str(output), video=settings.video, flow=settings.flow, storage=settings.storage, run=RUN, cluster=HERE
    )
    return Run(_FlowOfVideo(config, video), config, say, quiet=quiet)


def _derivation(
    settings: Settings, before: Settings, source: Path, output: Path, say: Callable[[str], None], *, quiet: bool
) -> Run:
    """The run that makes a dataset of the one in ``source``, whose settings are ``before``."""
    if settings.stack and not before.stack:
        storage = replace(settings.storage, rgb=True)  # as such a configuration has it; stacks are without frames
        config = StackingConfig(str(source), str(output), storage, RUN, HERE, settings.stack)
        return Stacking(config, say, quiet=quiet)
    plain = StorageConfig()
    # Size and quality of frames are those of the source.
    storage = replace(settings.storage, rgb_short_side=plain.rgb_short_side, rgb_quality=plain.rgb_quality)
    return Transcoding(TranscodeConfig(str(source), str(output), storage, RUN, HERE), say, quiet=quiet)


def _chain(settings: Settings, say: Callable[[str], None]) -> list[Settings]:
    """The datasets that led to the one with ``settings``, that of videos first."""
    chain = [settings]
    while chain[0].derived:
        chain.insert(0, _source_of(chain[0], say))
    return chain


def _source_of(settings: Settings, say: Callable[[str], None]) -> Settings:
    """The dataset that a derived one was made from. Which of several steps made stacks is seen by the frames, since
    stacks have none; datasets that never had any were stacked last, as far as one can know.
    """
    *before, storage = settings.origins
    framed = [origin.rgb for origin in settings.origins]
    stacked = any(framed) and not framed[-1]
    if settings.stack and len(framed) > 1 and not framed[-1]:
        order = "first stacked, then" if stacked else "first"
        say(f"Its flow was stored {len(framed) + 1} times, as stacks in the end; taken to be {order} transcoded.")
    return replace(settings, storage=storage, origins=tuple(before), stack=settings.stack if stacked else None)


def _leaner(origin: Settings, streams: Sequence[Stream], say: Callable[[str], None]) -> Callable[[Settings], Settings]:
    """What takes from settings of datasets that go back to ``origin`` all that none of ``streams`` looks at."""
    temporal = [stream for stream in streams if stream.config.stream == "temporal"]
    stored = [stream.settings.stack for stream in temporal if stream.settings.stack]
    made = [stream.config.stack for stream in temporal if not stream.settings.stack]
    frames = len(temporal) < len(streams) or any(stack.backward == "frames" for stack in stored)
    backward = any(stack.bidirectional for stack in made) or any(stack.backward == "stored" for stack in stored)
    video, chosen, engine = replace(origin.video, resize=IDLE_SIZE, short_side=0), IDLE_FLOW, ""
    if temporal:
        video, (chosen, engine) = origin.video, _on_this_machine(origin, say)
        if chosen.direction == "both" and not backward:
            chosen = replace(chosen, direction="forward")

    def lean(settings: Settings) -> Settings:
        storages = [
            storage if frames else _without_frames(storage) for storage in (*settings.origins, settings.storage)
        ]
        return replace(
            settings, video=video, flow=chosen, engine=engine, storage=storages[-1], origins=tuple(storages[:-1])
        )

    return lean


def _without_frames(storage: StorageConfig) -> StorageConfig:
    plain = StorageConfig()
    return replace(storage, rgb=False, rgb_short_side=plain.rgb_short_side, rgb_quality=plain.rgb_quality)


def _on_this_machine(settings: Settings, say: Callable[[str], None]) -> tuple[FlowConfig, str]:
    """The flow that ``settings`` name, or the nearest to it that can be computed here, and the library that does."""
    chosen = settings.flow
    try:
        algorithm = flow.find(chosen.method, chosen.backend)
    except (RefusedError, UsageError) as error:
        if (wrong := objection()) and wrong in str(error):
            raise  # somebody wants GPUs, but not these
        algorithm = flow.find(chosen.method)
    engine = algorithm.engine()
    change = f"the network was trained on {chosen.method} flow by {settings.engine}, here it is computed by {engine}"
    parameters, lost = _in_terms_of(algorithm.parameters_type, chosen.parameters)
    if preset := lost.get("preset"):
        raise RefusedError(f"{change}, which has no preset={preset}. See flowprep doctor for what is missing.")
    try:
        full = algorithm.parameters_type.of(chosen.method, parameters, algorithm.backend).to_json()
    except UsageError as error:
        raise RefusedError(f"{change}, which does not take its parameters: {error}") from None
    if lost:
        without = ", ".join(f"{name}={value}" for name, value in lost.items())
        say(f"Warning: {change}, which has no {without}: scores may differ.")
    elif engine != settings.engine:
        say(f"Warning: {change}: scores may differ a little.")
    return replace(chosen, backend=algorithm.backend, parameters=full), engine


def _in_terms_of(wanted: type[flow.Parameters], given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of one backend as those of another: what is ``wanted`` there, and what it cannot have."""
    names = {item.name.rstrip("_") for item in dataclasses.fields(wanted)}
    if "iterations" in given and "iterations" not in names:
        given = {**given, **ONE_BLOCK, "inner_iterations": given["iterations"]}
        del given["iterations"]
    lost = {name: value for name, value in given.items() if name not in names and value != UNUSED.get(name)}
    return {name: value for name, value in given.items() if name in names}, lost
