"""One whole job, as a pipeline file or the command line describes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from flowprep.config.experiment import ExperimentConfig
from flowprep.config.run import ClusterConfig, RunConfig
from flowprep.config.source import FlowConfig, SourceConfig, VideoConfig
from flowprep.config.stack import StackConfig
from flowprep.config.storage import StorageConfig
from flowprep.config.train import STREAMS, TrainingConfig, stream_config
from flowprep.errors import UsageError
from flowprep.schema import from_mapping

T = TypeVar("T")
TRAINING, EXPERIMENT = "train", "experiment"  # the sections of training; files of all commands may have them
STACKING = {"dataset", "stack"}  # sections that only a file for flowprep stack has


@dataclass(frozen=True)
class ExtractConfig:
    """One extraction, as a pipeline file or the command line describes it."""

    source: SourceConfig = field(default_factory=SourceConfig)
    output: str = field(default="", metadata={"help": "Dataset to write, a folder named like ucf101.zarr."})
    video: VideoConfig = field(default_factory=VideoConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    run: RunConfig = field(default_factory=RunConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(frozen=True)
class TranscodeConfig:
    """A dataset stored in another way."""

    dataset: str = field(default="", metadata={"help": "Dataset to read."})
    output: str = field(default="", metadata={"help": "Dataset to write, a folder named like small.zarr."})
    storage: StorageConfig = field(default_factory=StorageConfig)
    run: RunConfig = field(default_factory=RunConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        for key in ("rgb_short_side", "rgb_quality"):
            if getattr(self.storage, key) != getattr(StorageConfig, key):
                raise UsageError(f"storage.{key}: frames are taken over as they are; leave it out.")


@dataclass(frozen=True)
class StackingConfig(TranscodeConfig):
    """Stacks of a dataset's fields, as a dataset."""

    stack: StackConfig = field(default_factory=StackConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.storage.rgb:
            raise UsageError("storage.rgb: stacks have no frames beside them; leave it out.")


def read_pipeline(path: Path, kind: type[Any] = ExtractConfig) -> dict[str, Any]:
    """The mapping in a pipeline file, checked as :func:`build` does, without its empty sections and those of training.

    Raises UsageError naming the file, and the line where YAML knows it.
    """
    tree = _mapping(path, kind)
    _take_training(tree, str(path))
    build(tree, str(path), kind)
    return {key: value for key, value in tree.items() if value is not None}


def read_training(path: Path) -> dict[str, Any]:
    """The section ``train`` of a pipeline file, for :func:`flowprep.config.stream_config`; the others are checked, too.

    Raises UsageError naming the file, and the line where YAML knows it.
    """
    tree = _mapping(path, ExtractConfig)
    training, _ = _take_training(tree, str(path))
    if training is None:
        raise UsageError(f"{path}: it has no section {TRAINING}; pipelines/demo.yaml shows one.")
    build(tree, str(path), StackingConfig if STACKING & tree.keys() else ExtractConfig)
    return training


def read_experiment(path: Path) -> tuple[dict[str, Any], ExperimentConfig]:
    """The sections ``train``, as :func:`read_training` gives it, and ``experiment`` of a pipeline file."""
    training = read_training(path)
    _, experiment = _take_training(_mapping(path, ExtractConfig), str(path))
    if experiment is None:
        raise UsageError(f"{path}: it has no section {EXPERIMENT}; pipelines/ucf101.yaml shows one.")
    return training, experiment


def _take_training(tree: dict[str, Any], where: str) -> tuple[dict[str, Any] | None, ExperimentConfig | None]:
    """Take the sections of training out of ``tree`` and check them; None for what is not there."""
    training: dict[str, Any] | None = tree.pop(TRAINING, None)
    if training is not None:
        from_mapping(TrainingConfig, training, where, f"{TRAINING}.")
        for stream in STREAMS:
            stream_config(training, stream, where)
    experiment = tree.pop(EXPERIMENT, None)
    if experiment is None:
        return training, None
    return training, from_mapping(ExperimentConfig, experiment, where, f"{EXPERIMENT}.")


def _mapping(path: Path, kind: type[Any]) -> dict[str, Any]:
    """What a file holds, in YAML."""
    import yaml

    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: not a file.")
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a day like 2000-13-01
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        keys = ", ".join([*(item.name for item in dataclasses.fields(kind)), TRAINING, EXPERIMENT])
        raise UsageError(f"{path}: a pipeline file is a mapping with the keys {keys}.")
    return tree


@overload
def build(tree: dict[str, Any], where: str) -> ExtractConfig: ...
@overload
def build(tree: dict[str, Any], where: str, kind: type[T]) -> T: ...
def build(tree: dict[str, Any], where: str, kind: type[Any] = ExtractConfig) -> Any:
    """Check a mapping key by key and make the configuration of it; ``where`` names its origin in errors."""
    return from_mapping(kind, tree, where)
