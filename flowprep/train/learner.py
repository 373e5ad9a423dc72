"""One step of stochastic gradient descent: batches on the device, losses, gradients, new weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from flowprep.config import StreamConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks.batch import Batch
from flowprep.stacks.torch_loader import TENSORS, TensorBatch, tensors, to_pixels
from flowprep.train.checkpoint import NAME, Task, misfits
from flowprep.train.compiling import check_gradients, compiled
from flowprep.train.device import autocast, memory_format
from flowprep.train.nets import build
from flowprep.train.processes import Processes
from flowprep.train.progress import diverged
from flowprep.train.tasks import Lessons, Source
from flowprep.train.weights import load_weights
from flowprep.wording import plural

OTHER = -1  # target of a sample that a head does not learn from


class Part(NamedTuple):
    """What a batch has of one dataset, on the device."""

    batch: TensorBatch  # n samples
    targets: torch.Tensor  # (heads, n) int64: number of the class, OTHER for all heads but one

    def portion(self, first: int, every: int) -> Part:
        """Sample ``first`` and each that follows ``every`` samples later."""
        return Part(_each(self.batch, lambda tensor: tensor[first::every]), self.targets[:, first::every])


class Learner:
    """A network and what it learns by."""

    def __init__(
        self, config: StreamConfig, lessons: Lessons, processes: Processes, say: Callable[[str], None], *, begin: bool
    ) -> None:
        """``begin``: with the weights that the configuration names, if any; they are not read where a checkpoint is."""
        solver = config.solver
        self._config, self._processes, self._say = config, processes, say
        self._samples = [0] * len(lessons.tasks)  # of each task in a batch, over all processes
        for source in lessons.sources:
            self._samples[source.task] += source.samples
        rank, size = processes.share
        self._own = sum(  # samples of a batch that are this process's
            source.samples * (rank + 1) // size - source.samples * rank // size for source in lessons.sources
        )
        self._portions = -(-self._own // solver.micro_batch) if solver.micro_batch else 1
        # Batch normalisation takes its mean and variance over the samples of a portion.
        self._least = 2 if config.net.name.startswith("resnet") and solver.regime != "last-layer" else 1
        if self._own // self._portions < self._least:
            raise UsageError(
                f"solver.batch {solver.batch}, solver.micro_batch {solver.micro_batch}: {config.net.name} needs "
                f"{self._least} samples at once, in each portion of a batch, for its batch normalisation."
            )
        torch.manual_seed(solver.seed)
        classes = [len(task.classes) for task in lessons.tasks]
        self.network = build(config.net, lessons.channels, classes, crop=config.data.crop)
        if begin and config.net.weights:
            self._load(Path(config.net.weights), lessons.tasks)
        if solver.regime == "last-layer":
            self.network.last_layer_only()
        self.network.to(processes.device, memory_format=memory_format(processes.device)).train()  # type: ignore[call-overload]
        learning = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.SGD(
            learning, solver.learning_rate, solver.momentum, weight_decay=solver.weight_decay
        )
        self._parallel = processes.parallel(self.network)
        self._forward: Callable[[torch.Tensor], list[torch.Tensor]] = self._parallel
        self._untried = compiled(self._parallel, processes.device) if solver.compile else None
        torch.backends.cudnn.benchmark = True  # inputs are all of one size

    def part(self, batch: Batch, source: Source) -> Part:
        """``batch`` on the device. From there on the GPU's own order of work says when it has come."""
        device = self._processes.device
        shipped = tensors(batch)
        targets = torch.full((len(self._samples), len(shipped.labels)), OTHER)
        targets[source.task] = source.labels[shipped.labels]
        if device.type == "cuda":
            shipped, targets = shipped.pin_memory(), targets.pin_memory()
        there = _each(shipped, lambda tensor: tensor.to(device, non_blocking=True))
        return Part(there, targets.to(device, non_blocking=True))

    def step(self, iteration: int, learning_rate: float, parts: Sequence[Part]) -> torch.Tensor:
        """Learn from a batch. Returns the tasks' mean losses and the accuracy, (tasks + 1,): its part of both."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        if self._untried:
            self._go_over_to(self._untried, iteration, parts)
            self._untried = None
        measured = self._learned(iteration, parts)
        self.optimiser.step()
        return measured

    def check_weights(self, iteration: int) -> None:
        """Raises RefusedError if a weight is no longer finite."""
        finite = [weight.isfinite().all() for weight in self.network.state_dict().values()]
        if not torch.stack(finite).all().item():
            raise RefusedError(diverged(f"weights are not finite after iteration {iteration}"))

    def state(self) -> dict[str, torch.Tensor]:
        """Of the network, on the CPU."""
        return {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}

    def go_on(self, model: dict[str, torch.Tensor], optimiser: dict[str, Any]) -> None:
        """With the states of a checkpoint. Raises RefusedError where they are not of this network."""
        learning = self.optimiser.param_groups[0]["params"] if self._config.solver.momentum else []
        try:
            momenta = [optimiser["state"][number]["momentum_buffer"] for number in range(len(learning))]
            fits = not misfits(self.network, model) and all(map(_alike, learning, momenta))
        except (KeyError, TypeError, IndexError):
            fits = False
        if not fits:
            raise RefusedError(
                f"{self._config.output}/{NAME}: not of this network, or its momentum is not: delete it to begin anew."
            )
        self.network.load_state_dict(model)
        for weight, momentum in zip(learning, momenta, strict=True):
            # In memory of its own, which lies as that of the weight, however that of the file does.
            self.optimiser.state[weight] = {"momentum_buffer": torch.empty_like(weight).copy_(momentum)}

    def _go_over_to(
        self, forward: Callable[[torch.Tensor], list[torch.Tensor]], iteration: int, parts: Sequence[Part]
    ) -> None:
        """Compute by ``forward`` from now on. Raises RefusedError where its gradients of a batch are others."""
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        found = []
        for way in (self._forward, forward):
            self._forward = way
            self._learned(iteration, parts)
            weights = self.network.named_parameters()
            found.append({name: weight.grad.clone() for name, weight in weights if weight.grad is not None})
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
        check_gradients(*found)

    def _learned(self, iteration: int, parts: Sequence[Part]) -> torch.Tensor:
        """The gradients of a batch, in portions as small as the memory asks for. Returns what :meth:`step` does."""
        while (measured := self._gradients(iteration, parts)) is None:
            self._take_smaller_portions()
        return measured

    def _gradients(self, iteration: int, parts: Sequence[Part]) -> torch.Tensor | None:
        """The gradients of a batch, in its portions; None where the GPU's memory was too small for them."""
        heads, device = len(self._samples), self._processes.device
        self.optimiser.zero_grad()
        torch.manual_seed(_seed(self._config.solver.seed, iteration, self._processes.rank))  # of dropout
        samples = torch.tensor(self._samples, device=device)  # (heads,)
        measured = torch.zeros(heads + 1, device=device)
        try:
            for number in range(self._portions):
                portions = _portions(parts, number, self._portions)
                x = _joined([to_pixels(part.batch, device) for part in portions])  # (b, C, crop, crop) float32
                targets = torch.cat([part.targets for part in portions], dim=1)  # (heads, b)
                x = x.contiguous(memory_format=memory_format(device))
                apart = number < self._portions - 1
                with self._processes.apart(self._parallel) if apart else nullcontext():
                    with autocast(self._config.solver.precision, device):
                        logits = self._forward(x)  # of each head (b, its classes)
                    losses = torch.stack([_loss(*pair) for pair in zip(logits, targets, strict=True)]) / samples
                    # Parallel processes take the mean of their gradients, and each has only its part of the sums.
                    (losses.sum() * self._processes.size).backward()  # type: ignore[no-untyped-call]
                right = sum(_right(*pair) for pair in zip(logits, targets, strict=True))
                measured[:-1] += losses.detach()
                measured[-1] += right / samples.sum()
        except torch.cuda.OutOfMemoryError:
            return None
        return measured

    def _take_smaller_portions(self) -> None:
        """Here, where the error is over and the memory of the failed try is free again."""
        smaller = self._own // (2 * self._portions)
        if self._processes.size > 1 or smaller < self._least:
            advice = f"solver.micro_batch {smaller}" if smaller >= self._least else "a narrower network"
            raise RefusedError(f"{self._processes.device}: its memory is too small; try {advice}.")
        self._portions *= 2
        torch.cuda.empty_cache()
        self._say(f"The GPU's memory is too small for that: going on with {plural(smaller, 'sample')} at once.")

    def _load(self, path: Path, tasks: Sequence[Task]) -> None:
        loaded = load_weights(self.network, path, self._config, [task.classes for task in tasks])
        text = f"{path}: {plural(len(loaded.kept), 'tensor')} taken"
        if loaded.averaged:
            text += ", the first layer averaged over its colours"
        if loaded.skipped:
            text += f", {', '.join(loaded.skipped)} left out"
        self._say(text + ".")


def _alike(weight: torch.Tensor, momentum: Any) -> bool:
    """Whether ``momentum`` may be that of ``weight``."""
    return (
        isinstance(momentum, torch.Tensor)
        and (momentum.shape, momentum.dtype, momentum.layout) == (weight.shape, weight.dtype, weight.layout)
        and not (momentum.is_meta or momentum.requires_grad)
    )


def _each(batch: TensorBatch, change: Callable[[torch.Tensor], torch.Tensor]) -> TensorBatch:
    """``batch`` with all its tensors changed alike."""
    changed: dict[str, Any] = {name: change(getattr(batch, name)) for name in TENSORS}
    return replace(batch, **changed)


def _portions(parts: Sequence[Part], number: int, of: int) -> list[Part]:
    """Of all samples, one part after the other, every ``of``-th: as many in each portion, of all parts."""
    portions, before = [], 0
    for part in parts:
        portions.append(part.portion((number - before) % of, of))
        before += len(part.batch.labels)
    return portions


def _joined(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Along the first axis. They are large: a single one is not copied."""
    return inputs[0] if len(inputs) == 1 else torch.cat([*inputs])


def _loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the losses of the samples that a head learns from: logits (b, classes), targets (b,)."""
    return cross_entropy(logits.float(), targets, ignore_index=OTHER, reduction="sum")


def _right(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How many of the samples that a head learns from have the highest score at their class."""
    return (logits.detach().argmax(1) == targets).sum()


def _seed(*numbers: int) -> int:
    """A seed of its own for each combination: what an iteration draws follows from nothing that was before."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
