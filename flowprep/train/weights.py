"""Weights to start from: those that others published, or a network that was trained before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flowprep.config import StreamConfig
from flowprep.errors import RefusedError
from flowprep.train.checkpoint import Checkpoint, is_checkpoint, parsed
from flowprep.train.nets import Network, normalisation
from flowprep.train.nets.network import RGB
from flowprep.train.torch_file import check_file, read_torch

SAVED_WHOLE = "Of a network saved whole, save the state_dict() instead."
WHOLES = ("state_dict", "model")  # keys that a checkpoint may have its weights under
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PREFIXES = ("module.", "_orig_mod.")  # that training in parallel, or compiled, puts before all names


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a file's tensors, by their names in the network."""

    kept: list[str]  # tensors that the network has now
    skipped: list[str]  # left out: of heads that the network has not, or with other classes
    averaged: bool  # whether an RGB network's first layer became one of flow


def load_weights(
    network: Network, path: Path, config: StreamConfig | None = None, classes: Sequence[Sequence[str]] = ()
) -> LoadedWeights:
    """Give ``network`` the weights in a file; what the file lacks of heads stays as it is.

    path: a .safetensors file, or one of torch.save: names and tensors, also under "state_dict" or "model" as in
        checkpoints. The names are flowprep's own, or those of torchvision; of CNN-M-2048, those of Caffe.
    config, classes: how ``network`` is to be trained, and what each of its heads tells apart: a checkpoint of flowprep
        says the same of its own. Its heads of other classes are left out.

    Filters of a first layer that reads RGB are averaged over its channels, and the average is copied to each of the
    channels of flow, not scaled, as in two-stream fusion and TSN (Feichtenhofer et al. 2016, Wang et al. 2016).

    Raises UsageError where the file cannot be opened, RefusedError where it is damaged, holds anything but weights,
    weights of another network, or a checkpoint whose inputs were in another range; the network is then as it was.
    """
    tree = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path, SAVED_WHOLE, old=True)
    before = parsed(path, tree) if is_checkpoint(tree) else None
    own = network.state_dict()
    found = {_own_name(name, network): tensor for name, tensor in _tensors(path, tree).items()}
    skipped = [name for name in found if _is_head(name) and (name not in own or found[name].shape != own[name].shape)]
    if before:
        skipped += [name for name in found if name not in skipped and _tells_others_apart(name, before, classes)]
    found = {name: tensor for name, tensor in found.items() if name not in skipped}
    _check_names(path, found, own)
    _check_kinds(path, found, own)
    first = next(name for name, weight in network.named_parameters() if weight is network.first_layer.weight)
    averaged = own[first].shape[1] != RGB and found[first].shape == (own[first].shape[0], RGB, *own[first].shape[2:])
    if averaged:
        found[first] = found[first].float().mean(1, keepdim=True).expand_as(own[first])
    _check_shapes(path, found, own)
    if before and config:
        _check_range(path, before.config, config)
    network.load_state_dict(found, strict=False)
    return LoadedWeights(list(found), skipped, averaged)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_file(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise RefusedError(f"{path}: a damaged file of safetensors ({error}).") from error


def _tensors(path: Path, tree: Any) -> dict[str, torch.Tensor]:
    """The tensors in what a file holds, by their names there without prefixes."""
    for key in WHOLES:
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    if not isinstance(tree, dict) or not tree or not all(_is_weight(name, value) for name, value in tree.items()):
        raise RefusedError(f"{path}: no names with tensors, neither at the top nor under {' or '.join(WHOLES)}.")
    while prefix := next((text for text in PREFIXES if all(name.startswith(text) for name in tree)), ""):
        tree = {name.removeprefix(prefix): tensor for name, tensor in tree.items()}
    tensors: dict[str, torch.Tensor] = tree
    return tensors


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor)


def _own_name(name: str, network: Network) -> str:
    """The name that a published tensor has in ``network``."""
    last_layer = f"{network.trunk.last_layer}."
    if name.startswith(("trunk.", "heads.")):
        return name
    if name.startswith(last_layer):
        return "heads.0." + name.removeprefix(last_layer)
    return f"trunk.{name}"


def _is_head(name: str) -> bool:
    return name.startswith("heads.")


def _tells_others_apart(name: str, before: Checkpoint, classes: Sequence[Sequence[str]]) -> bool:
    """Whether the tensor is of a head that had other classes before, however many."""
    both = enumerate(zip(before.tasks, classes, strict=False))
    return name.startswith(tuple(f"heads.{number}." for number, (task, now) in both if task.classes != tuple(now)))


def _check_range(path: Path, then: StreamConfig, now: StreamConfig) -> None:
    """Raises RefusedError unless the inputs of a network are brought to the range that its weights expect."""
    colour = now.stream == "spatial"
    ranges = [normalisation(config.net.name, colour, config.net.init) for config in (then, now)]
    if ranges[0] != ranges[1]:
        raise RefusedError(
            f"{path}: trained with net.init {then.net.init}, which sets the range of the inputs, too: give net.init "
            f"{then.net.init}, not {now.net.init}."
        )


def _check_names(path: Path, found: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """Raises RefusedError unless ``found`` is what ``own`` has; old files have no num_batches_tracked."""
    lacking = [name for name in own if name not in found and not _is_head(name) and "num_batches" not in name]
    if lacking:
        raise RefusedError(f"{path}: it has no {_shown(lacking[0])}: weights of another network than net.name says.")
    more = [name for name in found if name not in own]
    if more:
        raise RefusedError(f"{path}: the network has no {_shown(more[0])}: weights of another than net.name says.")


def _check_kinds(path: Path, found: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """Raises RefusedError unless all of ``found`` are plain tensors of numbers."""
    for name, tensor in found.items():
        kinds = FLOATS if own[name].is_floating_point() else (own[name].dtype,)
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in kinds:
            raise RefusedError(
                f"{path}: {_shown(name)} is of {tensor.dtype}, {tensor.layout}, where plain {own[name].dtype} belongs."
            )


def _check_shapes(path: Path, found: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """Raises RefusedError unless all of ``found`` have the shapes of ``own``, and finite values."""
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise RefusedError(
                f"{path}: {_shown(name)} is {tuple(tensor.shape)}, and {tuple(own[name].shape)} in the network: "
                "weights of another net.name or net.width, or for other inputs."
            )
        if not tensor.isfinite().all():
            raise RefusedError(f"{path}: {_shown(name)} has values that are infinite or no numbers.")


def _shown(name: str) -> str:
    """A name as published files have it."""
    return name.removeprefix("trunk.")
