"""What a run makes: a dataset of flow from videos, or a dataset from a dataset. The driver runs all alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from flowprep import flow, quantise
from flowprep.annotations import Source, read_source, source_root
from flowprep.config import ExtractConfig, FlowConfig, RunConfig, Settings
from flowprep.errors import RefusedError, StoreError, UsageError
from flowprep.flow.choosing import AUTO, choose, refuse_auto
from flowprep.plan import Estimate, estimate
from flowprep.run.headers import probe_all
from flowprep.sandbox import Limits
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.plans import first_settings
from flowprep.types import Video
from flowprep.wording import plural, some

OTHER_SECONDS_PER_FRAME = 0.004  # decode, quantise, encode
USUAL_PIXELS = 256 * 340  # of a video whose header says nothing


def limits_of(run: RunConfig) -> Limits:
    """What each child process may use."""
    return Limits(run.stall_seconds, run.memory_limit)


class Product(ABC):
    """What is made, under which settings, and of what."""

    settings: Settings
    gpu = False  # whether it is computed on GPUs
    note = ""  # what to say before anything else
    otherwise = ""  # what to do where the flow cannot be computed

    @abstractmethod
    def source(self, say: Callable[[str], None]) -> Source:
        """What there is to make it of. Raises UsageError where there is nothing; ``say`` hears what was left out."""

    @abstractmethod
    def root(self) -> Path:
        """Where the source of a dataset that has a plan is now. Raises StoreError where it is not."""

    @abstractmethod
    def estimates(self, root: Path, videos: Sequence[Video], workers: int) -> list[Estimate]:
        """What each video should need. Raises UnfinishedError when told to stop."""

    @abstractmethod
    def seconds(self, guess: Estimate) -> float:
        """Expected work on one core."""

    @abstractmethod
    def warm(self, say: Callable[[str], None]) -> None:
        """What is done once on a machine, before its processes start."""

    @abstractmethod
    def check(self) -> None:
        """Raise RefusedError where this machine is to compute it, and cannot; asked only where there is work to do."""


def is_begun(output: str) -> bool:
    """Whether there is a plan of the dataset."""
    return bool(output) and LocalStore(Path(output)).exists(layout.plan_key(0))


def resolve(config: ExtractConfig) -> Settings:
    """The complete settings: the backend chosen, every parameter of the method named, the engine's version noted."""
    return _resolve(config, elsewhere=config.cluster.remote)[0]


def _resolve(config: ExtractConfig, *, elsewhere: bool) -> tuple[Settings, str]:
    """The complete settings, and what to say of ``--backend auto``."""
    chosen, auto, note = config.flow, "", ""
    if chosen.backend == AUTO:
        if config.cluster.remote:
            refuse_auto("the workers of a cluster")
        begun = first_settings(LocalStore(Path(config.output))) if config.output else None
        if begun and begun.flow.method == chosen.method:  # whatever this machine has: one dataset, one backend
            algorithm, auto = flow.find(chosen.method, begun.flow.backend, elsewhere=True), begun.auto
            note = f"auto: {algorithm.backend} ({algorithm.engine()}), with which {config.output} was begun"
        else:
            algorithm, auto = choose(chosen.method, chosen.parameters)
            note = f"auto: {auto}"
    else:
        elsewhere = elsewhere or is_begun(config.output)  # then only what is left to do needs it here
        algorithm = flow.find(chosen.method, chosen.backend or None, elsewhere=elsewhere)
    parameters = algorithm.parameters_type.of(chosen.method, chosen.parameters, algorithm.backend).to_json()
    full = replace(chosen, backend=algorithm.backend, parameters=parameters)
    return Settings(config.video, full, config.storage, algorithm.engine(), auto=auto), note


def warm_flow(config: FlowConfig, say: Callable[[str], None]) -> None:
    """Have what computes the flow compiled; on a GPU the process that owns it does that as it starts."""
    algorithm = flow.configured(config, elsewhere=True)
    if algorithm.gpu:
        algorithm.announce(say)
    else:
        algorithm.warm(say)


def require(config: FlowConfig, otherwise: str) -> None:
    """Raise RefusedError, which ends with what to do ``otherwise``, where this machine cannot compute the flow."""
    try:
        flow.find(config.method, config.backend)
    except RefusedError as error:
        raise RefusedError(f"{str(error).rstrip('.')}. {otherwise}") from None


class FlowOfVideos(Product):
    """``flowprep extract``."""

    def __init__(self, config: ExtractConfig, *, elsewhere: bool = False) -> None:
        """``elsewhere``: other machines compute it."""
        self._config = config
        self._elsewhere = elsewhere or config.cluster.remote
        self.settings, self.note = _resolve(config, elsewhere=self._elsewhere)
        self._algorithm = flow.configured(self.settings.flow, elsewhere=True)
        self.gpu = self._algorithm.gpu
        other = "--backend cpu" if self.gpu else "another --backend"
        self.otherwise = (
            f"Continue {config.output} where {self.settings.flow.backend} works, or write another dataset with {other}."
        )

    def source(self, say: Callable[[str], None]) -> Source:
        chosen = self._config.source
        source = read_source(
            Path(chosen.path),
            Path(chosen.annotations) if chosen.annotations else None,
            chosen.layout,
            Path(chosen.root) if chosen.root else None,
        )
        if source.ignored:
            say(f"Not taken for videos: {some(source.ignored)}")
        if all(video.size < 0 and not video.refused for video in source.videos):
            raise UsageError(
                f"{chosen.path}: not one of its {plural(len(source.videos), 'video')} exists below {source.root}, "
                f"beginning with {source.videos[0].id}. Name the folder that the paths start from (--root, or SOURCE "
                "with official lists); a line of a list is a path and a label, nothing else."
            )
        return source

    def root(self) -> Path:
        source = self._config.source
        try:
            return source_root(Path(source.path), Path(source.root) if source.root else None)
        except UsageError as error:
            raise StoreError(f"{error} It was there when the dataset was planned: is its disk mounted?") from None

    def estimates(self, root: Path, videos: Sequence[Video], workers: int) -> list[Estimate]:
        probes = probe_all(root, videos, limits_of(self._config.run), workers)
        return [estimate(video, probe, self.settings) for video, probe in zip(videos, probes, strict=True)]

    def seconds(self, guess: Estimate) -> float:
        each = self._algorithm.seconds_per_megapixel() * (guess.pixels or USUAL_PIXELS) / 1e6
        directions = 2 if self.settings.flow.direction == "both" else 1
        return guess.fields * each * directions + guess.decoded * OTHER_SECONDS_PER_FRAME

    def warm(self, say: Callable[[str], None]) -> None:
        warm_flow(self.settings.flow, say)
        quantise.warm(say)

    def check(self) -> None:
        if not self._elsewhere:
            require(self.settings.flow, self.otherwise)
