"""Every setting, in one place: name, default, unit, help text, and where it may come from.

    source      which videos, which of their frames, which flow
    storage     from flow to bytes
    stack       from fields to stacks
    train       from stacks to a network
    experiment  the tables of the two-stream paper, made again
    run         how and where the work is done
    settings    what of all that shapes the stored numbers, and its fingerprint
    pipeline    a whole job: the sections of a pipeline file (YAML); the command line has one option for each key
    sizes       sizes in px

Settings name a dataset, and two datasets with different fingerprints never mix. The sections source, run and cluster
may change between two runs.
"""

from flowprep.config.experiment import ExperimentConfig
from flowprep.config.pipeline import (
    ExtractConfig,
    StackingConfig,
    TranscodeConfig,
    build,
    read_experiment,
    read_pipeline,
    read_training,
)
from flowprep.config.run import ClusterConfig, RunConfig
from flowprep.config.settings import FORMAT_VERSION, Settings, fingerprint
from flowprep.config.sizes import JPEG_SIDE, MIN_SIDE
from flowprep.config.source import LAYOUTS, METHODS, FlowConfig, SourceConfig, VideoConfig
from flowprep.config.stack import StackConfig, Stacking
from flowprep.config.storage import RANGES, ROUNDINGS, StorageConfig
from flowprep.config.train import (
    NETS,
    REGIMES,
    STREAMS,
    NetConfig,
    SolverConfig,
    StreamConfig,
    TrainDataConfig,
    TrainingConfig,
    stream_config,
)

__all__ = [
    "FORMAT_VERSION",
    "JPEG_SIDE",
    "LAYOUTS",
    "METHODS",
    "MIN_SIDE",
    "NETS",
    "RANGES",
    "REGIMES",
    "ROUNDINGS",
    "STREAMS",
    "ClusterConfig",
    "ExperimentConfig",
    "ExtractConfig",
    "FlowConfig",
    "NetConfig",
    "RunConfig",
    "Settings",
    "SolverConfig",
    "SourceConfig",
    "StackConfig",
    "Stacking",
    "StackingConfig",
    "StorageConfig",
    "StreamConfig",
    "TrainDataConfig",
    "TrainingConfig",
    "TranscodeConfig",
    "VideoConfig",
    "build",
    "fingerprint",
    "read_experiment",
    "read_pipeline",
    "read_training",
    "stream_config",
]
