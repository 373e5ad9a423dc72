"""The state of a training run in one file, written in one step and read without running code.

The file is what ``torch.save`` makes of plain values and tensors; ``torch.load(path, weights_only=True)`` reads it, and
its ``model`` is a state dict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from flowprep.config import STREAMS, StreamConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.store.replacing import replacing
from flowprep.train.nets import Network, build
from flowprep.train.schedule import schedule_of
from flowprep.train.torch_file import read_torch
from flowprep.versions import versions
from flowprep.wording import some

NAME = "checkpoint.pt"  # in the folder of a run
FORMAT = 1  # of the file


class Task(NamedTuple):
    """What one head of the network tells apart."""

    name: str  # of the dataset, for logs and tables
    dataset: str  # its path as it was given
    fingerprint: str  # of the settings that shaped its numbers
    classes: tuple[str, ...]  # by number of the output


@dataclass
class Checkpoint:
    """A network, what it was trained on, and how to go on."""

    config: StreamConfig
    iteration: int  # batches that were learned from
    tasks: list[Task]  # one for each head
    channels: int  # of the inputs
    settings: dict[str, Any]  # of the first task's dataset, Settings.to_json()
    model: dict[str, torch.Tensor]
    training: dict[str, Any] | None = None  # states of optimiser, inputs and log; None: the training is finished
    learned: list[dict[str, int]] | None = None  # of each dataset: identity of a video -> its class; None: not known
    versions: dict[str, str] = dataclasses.field(
        default_factory=lambda: {**versions(), "torch": str(torch.__version__)}
    )


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` in place of what is at ``path``; whatever happens, one of the two is there, whole.

    Raises StoreError where the disk is full or fails; the old file stays.
    """
    tree = {item.name: getattr(checkpoint, item.name) for item in dataclasses.fields(Checkpoint)}
    tree |= {"flowprep_checkpoint": FORMAT, "config": checkpoint.config.to_json()}
    tree["tasks"] = [[*task[:-1], list(task.classes)] for task in checkpoint.tasks]
    with replacing(path) as file:
        torch.save(tree, file)


def load(path: Path) -> Checkpoint:
    """The checkpoint at ``path``, or in the folder of a run, its tensors on the CPU.

    Raises UsageError where there is none, RefusedError naming the file if it is damaged, something else, or
    would run code.
    """
    path = path / NAME if path.is_dir() else path
    return parsed(path, read_torch(path))


def is_checkpoint(tree: Any) -> bool:
    """Whether what a file of torch.save holds calls itself a checkpoint of flowprep."""
    return isinstance(tree, dict) and "flowprep_checkpoint" in tree


def parsed(path: Path, tree: Any) -> Checkpoint:
    """The checkpoint in ``tree``, what the file at ``path`` holds; RefusedError where it is none."""
    try:
        return _checked(tree)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise RefusedError(f"{path}: not a checkpoint of flowprep ({_in_short(error)}).") from None


def network(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Network:
    """The network of ``checkpoint`` with its weights, on ``device``, in evaluation mode.

    Raises RefusedError where the weights are not those of the network that the configuration names.
    """
    config = checkpoint.config
    classes = [len(task.classes) for task in checkpoint.tasks]
    module = build(config.net, checkpoint.channels, classes, crop=config.data.crop)
    if wrong := misfits(module, checkpoint.model):
        raise RefusedError(f"the checkpoint's weights do not fit its network {config.net.name}: {some(wrong)}.")
    module.load_state_dict(checkpoint.model)
    return module.to(device).eval()


def misfits(module: nn.Module, model: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that only one of ``module`` and ``model`` has, or that have other shapes or types in them."""
    own, given = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        for tensors in (module.state_dict(), model)
    )
    return sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))


def _checked(tree: Any) -> Checkpoint:
    """The checkpoint that :func:`save` made ``tree`` of; KeyError, TypeError, ValueError or UsageError for others."""
    if not isinstance(tree, dict) or tree.get("flowprep_checkpoint") != FORMAT:
        raise ValueError(f"no mark of format {FORMAT}")
    config = StreamConfig.from_json(tree["config"])
    if config.stream not in STREAMS or not tree["tasks"]:
        raise ValueError("no stream, or no classes")
    finished = tree["training"] is None
    return Checkpoint(
        config=config,
        iteration=_count(tree["iteration"], schedule_of(config.solver).iterations - (not finished)),
        tasks=[_task(*item) for item in _of(list, tree["tasks"])],
        channels=_of(int, tree["channels"]),
        settings=_of(dict, tree["settings"]),
        model={_of(str, name): _plain(value) for name, value in _of(dict, tree["model"]).items()},
        training=None if finished else _of(dict, tree["training"]),
        learned=None if tree.get("learned") is None else [_videos(item) for item in _of(list, tree["learned"])],
        versions=_of(dict, tree["versions"]),
    )


def _task(name: str, dataset: str, fingerprint: str, classes: Sequence[str]) -> Task:
    names = tuple(_of(str, text) for text in classes)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"no classes for {name}, or one twice")
    return Task(_of(str, name), _of(str, dataset), _of(str, fingerprint), names)


def _videos(learned: Any) -> dict[str, int]:
    return {_of(str, video): _of(int, label) for video, label in _of(dict, learned).items()}


def _count(value: Any, most: int) -> int:
    if not 0 <= _of(int, value) <= most:
        raise ValueError(f"{value} in place of a count up to {most}")
    return int(value)


def _plain(value: Any) -> torch.Tensor:
    tensor: torch.Tensor = _of(torch.Tensor, value)
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
        raise TypeError(f"a tensor of {tensor.dtype}, {tensor.layout} on {tensor.device}, which no network has")
    return tensor


def _of(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
