"""Training one stream of a two-stream recogniser: what is read, which network, how it is optimised."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from flowprep.config.stack import Stacking
from flowprep.errors import UsageError
from flowprep.schema import check_choices, from_mapping, merged, setting
from flowprep.types import SPLITS

STREAMS = ("spatial", "temporal")
NETS = ("cnn-m-2048", "vgg16", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
REGIMES = ("scratch", "fine-tune", "last-layer")
INITS = ("gaussian", "he")
POSITIONS = ("random", "centre", "corners")
ON_DAMAGE = ("raise", "skip")
PRECISIONS = ("auto", "float32", "bfloat16")
LEAST_SCALE = 0.1


@dataclass(frozen=True)
class TrainDataConfig:
    """What training samples are, and where they come from."""

    split: int = setting(1, "Which of the dataset's splits is trained on: 1, 2 or 3.", metavar="N")
    whole: bool = setting(False, "Train on all videos of the dataset, also those of the split's other parts.")
    also: list[str] = setting([], "Datasets of further tasks, all their videos: a head and a loss for each.")
    added: list[str] = setting([], "Datasets whose classes join those of the first, all their videos.")
    leave_out: list[str] = setting([], "Classes that are left out of the added datasets.")
    crop: int = setting(224, "Height and width of the inputs in px.", metavar="PX")
    position: str = setting("random", "Where training crops lie in the frame.", choices=POSITIONS)
    scales: list[float] = setting([], "Sides of the crop as shares of the shorter side, resized to crop; none: as is.")
    flip: bool = setting(True, "Mirror every second input, on average; u changes its sign.")
    jitter: bool = setting(True, "Jitter the colours of RGB inputs.")
    on_damage: str = setting("raise", "Damaged samples: stop, or skip to another and say so.", choices=ON_DAMAGE)
    workers: int = setting(0, "Threads that read ahead; 0 = one for each processor, up to 8.", metavar="N")

    def __post_init__(self) -> None:
        check_choices(self)
        _check_range(self, "split", 1, SPLITS)
        _check_range(self, "crop", 16, 4096)
        _check_range(self, "workers", 0, 256)
        for name in ("also", "added"):
            if not all(getattr(self, name)):
                raise UsageError(f"data.{name}: an empty path among {getattr(self, name)}; give those of datasets.")
        if not all(LEAST_SCALE <= scale <= 1 for scale in self.scales):
            raise UsageError(f"data.scales {self.scales}: give shares of the shorter side from {LEAST_SCALE} to 1.")
        if self.also and self.added:
            raise UsageError("also and added exclude each other: further tasks, or more classes for the one.")
        if self.leave_out and not self.added:
            raise UsageError("leave_out is for the classes of added datasets: name one in added.")


@dataclass(frozen=True)
class NetConfig:
    """The network."""

    name: str = setting("cnn-m-2048", "Which network.", choices=NETS)
    width: float = setting(1.0, "Factor for the channels of all hidden layers.", metavar="X")
    dropout: float = setting(0.9, "Share of units dropped after each hidden fully connected layer.", metavar="P")
    init: str = setting("gaussian", "Weights at the start: N(0, 0.01), or by He et al. 2015.", choices=INITS)
    weights: str = setting("", "File of weights to start from (torch or safetensors).", metavar="PATH")

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"net.dropout {self.dropout}: give a share from 0 up to 1.")
        if not 0.01 <= self.width <= 4:
            raise UsageError(f"net.width {self.width}: give a factor from 0.01 to 4.")


@dataclass(frozen=True)
class SolverConfig:
    """How it is optimised: stochastic gradient descent with momentum (two-stream paper, section 5)."""

    regime: str = setting(
        "scratch",
        "scratch, fine-tune (all layers) or last-layer: which layers learn, and the paper's schedule for it.",
        choices=REGIMES,
    )
    iterations: int = setting(0, "Batches in all; the schedule shrinks with them. 0 = the paper's.", metavar="N")
    batch: int = setting(256, "Samples of one step.", metavar="N")
    micro_batch: int = setting(0, "At most so many samples at once, gradients added up; 0 = all.", metavar="N")
    learning_rate: float = setting(0.01, "At the beginning; the schedule divides it by ten.", metavar="LR")
    momentum: float = setting(0.9, "Of the gradient.", metavar="M")
    weight_decay: float = setting(5e-4, "Of all weights and biases.", metavar="W")
    precision: str = setting("auto", "Of matrix products; auto: bfloat16 where the GPU has it.", choices=PRECISIONS)
    compile: bool = setting(
        False, "Compile the network (torch.compile), on a GPU: a minute at the start, faster steps."
    )
    device: str = setting("", "cpu, cuda or cuda:1; default: a GPU where there is one.", metavar="NAME")
    seed: int = setting(0, "Of weights, draws and dropout.", metavar="N")
    log_every: int = setting(20, "Iterations between two lines of progress.", metavar="N")
    checkpoint_every: int = setting(500, "Iterations between two checkpoints.", metavar="N")
    validate_every: int = setting(0, "Iterations between two looks at the test part; 0 = at the end only.", metavar="N")

    def __post_init__(self) -> None:
        check_choices(self)
        for name, low, high in (
            ("iterations", 0, 10**8),
            ("batch", 1, 2**16),
            ("micro_batch", 0, 2**16),
            ("seed", 0, 2**32 - 1),
            ("log_every", 1, 10**8),
            ("checkpoint_every", 1, 10**8),
            ("validate_every", 0, 10**8),
        ):
            _check_range(self, name, low, high)
        if not 0 < self.learning_rate <= 100 or not 0 <= self.momentum < 1 or not 0 <= self.weight_decay <= 1:
            raise UsageError(
                f"learning_rate {self.learning_rate}, momentum {self.momentum}, weight_decay {self.weight_decay}: "
                "give a positive rate, a momentum from 0 up to 1, a decay from 0 to 1."
            )


@dataclass(frozen=True)
class StreamConfig:
    """One stream to train, complete."""

    stream: str = setting("", "spatial or temporal.", choices=("", *STREAMS))
    dataset: str = setting("", "Dataset of flow (with RGB frames for the spatial stream), or of stacks.")
    output: str = setting("", "Folder of the run: checkpoint, log, TensorBoard events. Made, or continued.")
    data: TrainDataConfig = field(default_factory=TrainDataConfig)
    stack: Stacking = field(default_factory=Stacking)
    net: NetConfig = field(default_factory=NetConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any], where: str = "configuration") -> StreamConfig:
        """What :meth:`to_json` gave. Raises UsageError for anything else."""
        return from_mapping(cls, tree, where)


@dataclass(frozen=True)
class TrainingConfig(StreamConfig):
    """The section ``train`` of a pipeline file: what both streams share, and what is otherwise in each."""

    spatial: dict[str, Any] = setting({}, "The same keys, for the spatial stream alone.")
    temporal: dict[str, Any] = setting({}, "The same keys, for the temporal stream alone.")


def stream_config(
    tree: dict[str, Any],
    stream: str,
    where: str,
    over: dict[str, Any] | None = None,
    stacking: Stacking | None = None,
) -> StreamConfig:
    """The configuration of one ``stream`` from the section ``train`` of a pipeline file.

    The keys of the section apply to both streams, those in its own subsection go before them, and ``over`` (the same
    tree of keys, from the command line) before all. What all of them leave out of ``stack``, or empty, is as in
    ``stacking``. ``output`` becomes the stream's own folder in the one named there.

    Raises UsageError naming ``where`` and the key.
    """
    if stream not in STREAMS:
        raise UsageError(f"stream {stream!r}: give {' or '.join(STREAMS)}.")
    from_mapping(TrainingConfig, tree, where, "train.")
    shared = {key: value for key, value in tree.items() if key not in STREAMS}
    tree = merged(merged(shared, tree.get(stream) or {}), over or {})
    said = tree.get("stack") or {}
    if stacking and isinstance(said, dict):  # else it is refused as it is
        given = {key: value for key, value in said.items() if value is not None}
        tree = tree | {"stack": dataclasses.asdict(stacking) | given}
    config = from_mapping(StreamConfig, tree, where, f"train.{stream}.")
    return dataclasses.replace(config, stream=stream, output=f"{config.output}/{stream}-split{config.data.split}")


def _check_range(config: Any, name: str, low: int, high: int) -> None:
    if not low <= getattr(config, name) <= high:
        raise UsageError(f"{name} {getattr(config, name)}: give a whole number from {low} to {high}.")
