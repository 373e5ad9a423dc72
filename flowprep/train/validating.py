"""A quick look at how well a network does: one input of each video. Evaluation proper takes 250."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cross_entropy

from flowprep.errors import RefusedError
from flowprep.stacks import StackLoader
from flowprep.stacks.torch_loader import TensorBatch, tensors, to_pixels
from flowprep.train.device import autocast
from flowprep.train.nets import Network
from flowprep.train.processes import Processes

AT_ONCE = 64  # videos


@dataclass(frozen=True)
class Validation:
    """Of the videos that are not trained on."""

    loss: float  # mean cross-entropy
    accuracy: float  # share whose class has the highest score
    videos: int
    damaged: int  # videos that could not be read, and were skipped


def validate(
    network: Network, loader: StackLoader, *, crop: int, precision: str, processes: Processes, workers: int
) -> Validation:
    """Loss and accuracy of the first head on the centre of the first input of each video of ``loader``.

    Each process looks at some of them. Raises RefusedError for damage, unless the loader skips it.
    """
    mine = range(processes.rank, len(loader.sampler.clips), processes.size)
    counts = torch.zeros(4, dtype=torch.float64)  # sum of losses, right ones, videos, damaged ones
    was_training = network.training
    network.eval()
    with ThreadPoolExecutor(workers, "flowprep-validation") as pool, torch.inference_mode():
        for start in range(0, len(mine), AT_ONCE):
            found = pool.map(lambda clip: _centre(loader, clip, crop), mine[start : start + AT_ONCE])
            inputs = [batch for batch in found if batch is not None]
            counts[3] += len(mine[start : start + AT_ONCE]) - len(inputs)
            if inputs:
                counts[:3] += _measured(network, inputs, precision, processes.device)
    network.train(was_training)
    loss, right, videos, damaged = processes.sum(counts.to(processes.device)).tolist()
    videos = max(1, videos)
    return Validation(loss / videos, right / videos, round(videos), round(damaged))


def _measured(network: Network, inputs: list[TensorBatch], precision: str, device: torch.device) -> torch.Tensor:
    """(3,) float64: sum of losses, right ones, inputs."""
    x = torch.cat([to_pixels(batch, device) for batch in inputs])  # (B, C, crop, crop)
    labels = torch.cat([batch.labels for batch in inputs]).to(device)  # (B,)
    with autocast(precision, device):
        logits = network(x)[0].float()  # (B, classes)
    loss = cross_entropy(logits, labels, reduction="sum")
    right = (logits.argmax(1) == labels).sum()
    return torch.tensor([loss.item(), right.item(), len(labels)], dtype=torch.float64)


def _centre(loader: StackLoader, clip: int, crop: int) -> TensorBatch | None:
    """The centre of the first input of a video; None where it is damaged and skipped."""
    try:
        batch = tensors(loader.test_batch(clip, 1))
    except RefusedError:
        if loader.on_damage == "raise":
            raise
        return None
    height, width = batch.levels.shape[2:]
    top, left = (height - crop) // 2, (width - crop) // 2
    return replace(batch, levels=batch.levels[:, :, top : top + crop, left : left + crop])
