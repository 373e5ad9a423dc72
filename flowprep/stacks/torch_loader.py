"""Batches for PyTorch: read by processes of a DataLoader, shipped as small integers, made pixels on the device.

One item of the data set is one whole batch, so that nothing is collated and one object a batch crosses processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from flowprep import opencv
from flowprep.errors import UsageError
from flowprep.stacks.batch import Batch
from flowprep.stacks.loader import StackLoader

PREFETCH = 2  # batches that each worker reads ahead
TENSORS = ("levels", "scale", "zero", "mean", "labels", "videos", "frames")  # of a TensorBatch


@dataclass(frozen=True)
class TensorBatch:
    """:class:`~flowprep.stacks.batch.Batch` as tensors; :func:`to_pixels` finishes it."""

    levels: torch.Tensor  # (B, C, h, w) uint8, uint16, int8 or int16, as stored
    scale: torch.Tensor  # (B, C) float32
    zero: torch.Tensor  # (B, C) float32
    mean: torch.Tensor  # (B, C) float32
    labels: torch.Tensor  # (B,) int64
    videos: torch.Tensor  # (B,) int64
    frames: torch.Tensor  # (B,) int64
    position: tuple[int, int]  # epoch, and number of the batch in it
    damaged: tuple[str, ...]  # ids of videos whose samples were damaged, and replaced

    def pin_memory(self) -> TensorBatch:
        """A copy in pinned memory (what a DataLoader calls)."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in TENSORS})


class TorchBatches(Dataset[TensorBatch]):
    """Item (epoch, number) is that batch of ``loader``, in memory of its own."""

    def __init__(self, loader: StackLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def __getitem__(self, position: tuple[int, int]) -> TensorBatch:
        return tensors(self.loader.batch(*position))


class VideosForTesting(Dataset[TensorBatch]):
    """Item n is the test batch of video n of ``loader.sampler.clips``: ``count`` whole inputs."""

    def __init__(self, loader: StackLoader, count: int = 25) -> None:
        self.loader = loader
        self.count = count

    def __len__(self) -> int:
        return len(self.loader.sampler.clips)

    def __getitem__(self, clip: int) -> TensorBatch:
        return tensors(self.loader.test_batch(clip, self.count))


class Epochs(Sampler[tuple[int, int]]):
    """Positions (epoch, number): each iteration goes through an epoch, the first one from ``start`` on."""

    def __init__(self, batches: int, start: tuple[int, int] = (0, 0)) -> None:
        if start[0] < 0 or not 0 <= start[1] <= batches:
            raise UsageError(f"start {start}: give an epoch and one of its batches, 0 to {batches - 1}.")
        self.batches = batches
        self.next = start if start[1] < batches else (start[0] + 1, 0)

    def __len__(self) -> int:
        """Positions that the next iteration has."""
        return self.batches - self.next[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, first = self.next  # when the first position is asked for: a DataLoader may make iterators for nothing
        self.next = (epoch + 1, 0)
        for number in range(first, self.batches):
            yield epoch, number


def data_loader(
    loader: StackLoader,
    *,
    workers: int = 0,
    start: tuple[int, int] = (0, 0),
    context: str | None = None,
    pin_memory: bool | None = None,
) -> DataLoader[TensorBatch]:
    """A DataLoader of the batches of ``loader``; each iteration over it is one epoch, from ``start`` on.

    An iteration that is left early (``break``) ends its epoch: the next one begins the next epoch. To go on in the same
    epoch make a new one with ``start``. What ``loader`` has iterated over itself does not count.

    Parameters
    ----------
    workers: processes that read ahead; 0 reads in this one.
    start: (epoch, number) of the first batch. A run that was stopped goes on behind the last batch it has seen, at
        ``(batch.position[0], batch.position[1] + 1)``, with the very batches that it would have seen.
    context: how workers start, "fork", "forkserver" or "spawn"; default: as the system does.
    pin_memory: for quicker copies to a GPU; default: where there is CUDA.
    """
    return DataLoader(
        TorchBatches(loader),
        batch_size=None,
        sampler=Epochs(len(loader), start),
        num_workers=workers,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        worker_init_fn=_begin_worker,
        multiprocessing_context=context if workers else None,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
    )


def tensors(batch: Batch) -> TensorBatch:
    """The arrays of ``batch`` as tensors that share their memory."""
    arrays: dict[str, Any] = vars(batch)
    return TensorBatch(
        **{name: torch.from_numpy(arrays[name]) for name in TENSORS},
        position=batch.position,
        damaged=batch.damaged,
    )


def to_pixels(
    batch: TensorBatch, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The batch in px (flow) or in levels of 0 to 255 (RGB, which jitter may lead out of that range); normalised,
    if the loader normalises. (B, C, h, w) on ``device``, computed in float32.

    The integers travel, not the floats; from pinned memory without waiting.
    """
    levels, scale, zero, mean = (
        tensor.to(device, non_blocking=True) for tensor in (batch.levels, batch.scale, batch.zero, batch.mean)
    )
    values = levels.to(torch.float32)
    for change, by in ((values.sub_, zero), (values.mul_, scale), (values.sub_, mean)):
        change(by[:, :, None, None])
    return values.to(dtype)


def _begin_worker(_: int) -> None:
    """Workers are the parallelism: one thread each."""
    opencv.load().setNumThreads(1)
    torch.set_num_threads(1)
