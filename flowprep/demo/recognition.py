"""From the flow of the demonstration's clips to a two-stream recogniser: stacks, training, scores, fusion, report.

Everything small: clips of 160x120 px, stacks of five fields, an eighth of the filters of CNN-M-2048. Textures are
random in all classes alike, so that a single frame tells nothing: the temporal stream has to see the motion, and the
spatial one has to guess. pipelines/demo.yaml has the same settings, for the commands one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowprep.config import STREAMS, StackConfig, StackingConfig, StreamConfig, stream_config
from flowprep.run.driver import Stacking
from flowprep.train.scores import Scores

TRAINING: dict[str, Any] = {
    "data": {"crop": 112},
    "net": {"width": 0.125, "dropout": 0.5, "init": "he"},
    "solver": {"iterations": 120, "batch": 64, "checkpoint_every": 60},
}
STACKS = StackConfig(length=5, every=2)
FRAMES, CROPS = 5, 2  # inputs of a video that is tested

Timer = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Recognition:
    """Shares of the test videos that were recognised."""

    spatial_accuracy: float
    spatial_training_accuracy: float  # of the clips that were learned from: no more than chance, nothing was learned
    spatial_training_loss: float  # mean cross-entropy of those; guessing has the logarithm of the number of classes
    temporal_accuracy: float
    fused_accuracy: float  # average of the scores
    svm_accuracy: float  # SVM on the scores, trained on those of the training videos
    chance: float
    test_videos: int
    seeds: dict[str, int]  # of weights, draws and dropout, by stream
    page: str  # path of the report


def stream(output: Path, name: str) -> StreamConfig:
    """How the demonstration in ``output`` trains the stream ``name``."""
    tree = TRAINING | {
        "dataset": str(output / "flow.zarr"),
        "output": str(output / "runs"),
        "temporal": {"dataset": str(output / "stacks.zarr"), "stack": {"length": STACKS.length}},
    }
    return stream_config(tree, name, "demo")


def recognise(output: Path, timed: Timer, say: Callable[[str], None]) -> Recognition:
    """Train and test both streams on ``output``/flow.zarr. Raises FlowprepError."""
    from flowprep.train.evaluate import evaluate
    from flowprep.train.fusion import fuse
    from flowprep.train.loop import train
    from flowprep.train.report import write_report

    with timed("stack"):
        stacking = StackingConfig(
            dataset=str(output / "flow.zarr"),
            output=str(output / "stacks.zarr"),
            stack=STACKS,
        )
        Stacking(stacking, say, quiet=True).run()
    streams = {name: stream(output, name) for name in STREAMS}
    test, learnt = {}, {}
    for name, config in streams.items():
        say(f"Training the {name} stream.")
        with timed(f"train {name}"):
            run = train(config, say).checkpoint
        with timed("evaluate"):
            test[name], learnt[name] = (
                evaluate(run, config.dataset, part=part, frames=FRAMES, crops=CROPS) for part in ("test", "train")
            )
            for scores in (test[name], learnt[name]):
                scores.save(run.with_name(f"{name}-split1-{scores.part}.npz"))
    with timed("fuse"):
        fused = [fuse([*test.values()], "average"), fuse([*test.values()], "svm", training=[*learnt.values()])]
        for scores, method in zip(fused, ("average", "svm"), strict=True):
            scores.save(output / f"runs/fused-{method}.npz")
    with timed("report"):
        page = output / "report.html"
        write_report([*test.values(), *fused], page, say=say)
    return Recognition(
        spatial_accuracy=round(test["spatial"].accuracy, 4),
        spatial_training_accuracy=round(learnt["spatial"].accuracy, 4),
        spatial_training_loss=round(_loss(learnt["spatial"]), 4),
        temporal_accuracy=round(test["temporal"].accuracy, 4),
        fused_accuracy=round(fused[0].accuracy, 4),
        svm_accuracy=round(fused[1].accuracy, 4),
        chance=round(1 / len(fused[0].classes), 4),
        test_videos=len(fused[0]),
        seeds={name: config.solver.seed for name, config in streams.items()},
        page=str(page),
    )


def _loss(scores: Scores) -> float:
    """Mean cross-entropy of videos that all have a label."""
    likely = scores.scores[np.arange(len(scores)), scores.labels]
    return float(-np.log(np.maximum(likely, np.finfo(np.float32).tiny)).mean())


def add_to_report(output: Path, numbers: dict[str, Any]) -> None:
    """Put ``numbers`` before what report.json says."""
    path = output / "report.json"
    path.write_text(json.dumps(numbers | json.loads(path.read_text(encoding="utf-8")), indent=2) + "\n")
