"""How quickly does a network train, beside what the device could compute, and how long does it wait for data?

    python -m benchmarks.training DATASET [--stream temporal] [--net cnn-m-2048] [--batch 32] [--iterations 30]
        [--workers 0] [--device cpu] [--set SECTION.KEY=VALUE]... [--json training.json]

bound      floating-point operations of a step (forward and backward, as PyTorch counts them) at the rate of large
           matrix products on the same device in the same precision
step       steps on one batch that is on the device already: the network without data
training   flowprep's training, from the dataset: the second half of the iterations; data wait is the share of their
           time that went by in waiting for a batch

The three are measured in turns, round by round; medians are printed. The dataset's page cache is warm.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import flowprep
from flowprep.cli.training import assignments
from flowprep.config import STREAMS, StreamConfig, stream_config
from flowprep.schema import merged
from flowprep.train import loop
from flowprep.train.device import autocast, choose_device, memory_format
from flowprep.train.inputs import channels_of
from flowprep.train.nets import build
from flowprep.train.progress import read_log

SIDE = 4096  # of the matrices
REPEATS = 3  # of a product or a step in a round


class Step:
    """Steps on one batch of noise, and the operations in one of them."""

    def __init__(self, config: StreamConfig, channels: int, classes: int) -> None:
        self.device = choose_device(config.solver.device)
        self.precision = config.solver.precision
        crop, self.batch = config.data.crop, config.solver.batch
        self.network = build(config.net, channels, [classes], crop).to(
            self.device, memory_format=memory_format(self.device)
        )
        self.optimiser = torch.optim.SGD(self.network.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4)
        self.inputs = torch.randn(self.batch, channels, crop, crop, device=self.device)
        self.labels = torch.randint(classes, (self.batch,), device=self.device)
        with autocast(self.precision, self.device):
            kind = (torch.ones(1, 1, device=self.device) @ torch.ones(1, 1, device=self.device)).dtype
        self.matrix = torch.randn(SIDE, SIDE, device=self.device).to(kind)
        with FlopCounterMode(display=False) as counter:
            self.run()
        self.operations = counter.get_total_flops()

    def run(self) -> None:
        with autocast(self.precision, self.device):
            (logits,) = self.network(self.inputs)
        loss = torch.nn.functional.cross_entropy(logits.float(), self.labels)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def product(self) -> None:
        """2 SIDE^3 operations."""
        torch.mm(self.matrix, self.matrix)

    def seconds(self, action: Callable[[], None]) -> float:
        """On the clock, until the device has done it; the first time does not count."""
        action()
        self._wait()
        start = time.perf_counter()
        for _ in range(REPEATS):
            action()
        self._wait()
        return (time.perf_counter() - start) / REPEATS

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def trained(config: StreamConfig) -> tuple[float, float]:
    """Samples a second and share of time spent waiting, in the second half of a run."""
    with tempfile.TemporaryDirectory() as folder:
        loop.train(dataclasses.replace(config, output=folder), lambda _: None, quiet=True)
        last = [line for line in read_log(Path(folder) / "log.jsonl") if "data_wait" in line][-1]
    return last["samples_per_second"], last["data_wait"]


def measure(config: StreamConfig, rounds: int) -> dict[str, Any]:
    dataset = flowprep.open(config.dataset)
    classes = len({row.label for row in dataset.videos})
    step = Step(config, channels_of(config, dataset), classes)
    found: dict[str, list[float]] = {"bound": [], "step": [], "training": [], "data_wait": []}
    for _ in range(rounds):
        rate = 2 * SIDE**3 / step.seconds(step.product)
        found["bound"].append(step.batch * rate / step.operations)
        found["step"].append(step.batch / step.seconds(step.run))
        training, wait = trained(config)
        found["training"].append(training)
        found["data_wait"].append(wait)
    return {
        "device": str(step.device),
        "gigaflop_per_sample": step.operations / step.batch / 1e9,
        **{name: statistics.median(values) for name, values in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("dataset")
    parser.add_argument("--stream", choices=STREAMS, default="temporal")
    parser.add_argument("--net", default="cnn-m-2048")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=30, help="an even number")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="threads that read ahead; 0 = as flowprep train does")
    parser.add_argument("--device", default="")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    tree = {
        "dataset": options.dataset,
        "data": {"workers": options.workers},
        "net": {"name": options.net},
        "solver": {
            "batch": options.batch,
            "iterations": options.iterations,
            "device": options.device,
            "log_every": max(1, options.iterations // 2),  # a line for each half
            "checkpoint_every": 10**8,
        },
    }
    config = stream_config(merged(tree, assignments(options.settings)), options.stream, "command line")
    result = measure(config, options.rounds)
    print(f"{options.net}, {options.stream}, batches of {options.batch}, on {result['device']}:", end=" ")
    print(f"{result['gigaflop_per_sample']:.2f} GFLOP a sample, forward and backward\n")
    print("| | samples/s | of the bound |\n|---|---|---|")
    for name in ("bound", "step", "training"):
        print(f"| {name} | {result[name]:.1f} | {result[name] / result['bound']:.0%} |")
    print(f"\ndata wait {result['data_wait']:.1%}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
