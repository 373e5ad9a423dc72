"""Data parallel training: one process a GPU, started by torchrun, each with its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from flowprep.errors import UsageError
from flowprep.train.device import choose_device


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone, unless torchrun says otherwise."""

    device: torch.device  # of this process
    rank: int = 0
    size: int = 1
    hosts: Any = None  # group of the same processes that talks without their GPUs

    @property
    def leads(self) -> bool:
        """Whether it is this one that writes and speaks."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """(r, W): of each batch, the r-th of W parts."""
        return self.rank, self.size

    def parallel(self, network: nn.Module) -> nn.Module:
        """``network``, with gradients that are the mean over all processes."""
        if self.size == 1:
            return network
        gpus = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=gpus)

    def apart(self, network: nn.Module) -> AbstractContextManager[None]:
        """While here, gradients of ``network``, from :meth:`parallel`, stay in this process, and add up."""
        if isinstance(network, nn.parallel.DistributedDataParallel):
            return network.no_sync()
        return nullcontext()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of ``values`` over all processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, here: bool) -> bool:
        """Whether it is so in any process. Nobody waits for a GPU."""
        if self.size == 1:
            return here
        there = torch.tensor(int(here))
        distributed.all_reduce(there, distributed.ReduceOp.MAX, group=self.hosts)
        return bool(there.item())


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that torchrun has started (it sets WORLD_SIZE), or this one alone.

    device: as in a configuration. Raises UsageError where there are fewer GPUs than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and ":" in device:
        raise UsageError(f"device {device}: {size} processes cannot share one GPU; give cuda, and each takes its own.")
    own = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if size == 1:
        yield Processes(own)
        return
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(own, distributed.get_rank(), size, distributed.new_group(backend="gloo"))
    finally:
        distributed.destroy_process_group()
