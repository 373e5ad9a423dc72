"""Small datasets in the place of the two-stream paper's two, and a pipeline file for them, made once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from click.testing import CliRunner, Result

from flowprep.cli import flowprep as group
from flowprep.config import FlowConfig, NetConfig, StorageConfig, read_experiment
from flowprep.schema import merged
from flowprep.synthetic import write_demo_videos
from flowprep.train.experiment import Laboratory
from flowprep.train.nets import build
from flowprep.types import Video
from tests.in_process import SETTINGS, make_dataset

HEIGHT, WIDTH, FRAMES, CROP = 48, 64, 12, 32  # stacks of ten fields fit
UCF = {"left": "Left", "rotate": "Rotate", "zoom_in": "ZoomIn"}  # class of rendered clips -> class of the dataset
HMDB = {"heighten": "heighten", "rotate": "rotate"}


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@cache
def _videos() -> Path:
    folder = Path(_kept().name) / "videos"
    write_demo_videos(folder, clips_per_class=3, frames=FRAMES, height=HEIGHT, width=WIDTH)
    return folder


@cache
def dataset(name: str) -> Path:
    """ "ucf101" or "hmdb51", with forward flow; "both": the former with flow in both directions.

    Of each class two clips are for training and one for testing, in all splits.
    """
    found = []
    for label, own in (HMDB if name == "hmdb51" else UCF).items():
        for path in sorted((_videos() / label).iterdir()):
            part = "test" if path.stem.endswith("_02") else "train"
            found.append(Video(f"{label}/{path.name}", own, (part, part, part), path.stat().st_size))
    flow = FlowConfig("dis", "opencv", "both" if name == "both" else "forward", {"preset": "ultrafast"})
    settings = replace(SETTINGS, flow=flow, storage=StorageConfig(rgb_short_side=HEIGHT))
    return make_dataset(Path(_kept().name) / f"{name}.zarr", _videos(), found, settings=settings, per_shard=20)


@cache
def weights() -> Path:
    """Of the network that all runs here have, for RGB and a thousand classes."""
    path = Path(_kept().name) / "weights.pt"
    torch.manual_seed(0)
    torch.save(build(NetConfig(width=0.02, init="he"), 3, [1000], crop=CROP).state_dict(), path)
    return path


def pipeline(folder: Path, **changes: Any) -> Path:
    """A pipeline file whose runs take a moment, in ``folder``; ``changes`` are sections, put over its own."""
    tree: dict[str, Any] = {
        "train": {
            "data": {"crop": CROP, "workers": 1},
            "net": {"width": 0.02, "init": "he"},
            "solver": {"iterations": 2, "batch": 6, "log_every": 1, "checkpoint_every": 1, "device": "cpu"},
            "spatial": {"net": {"weights": str(weights())}},
        },
        "experiment": {
            **{name: str(dataset(name)) for name in ("ucf101", "hmdb51")},
            "bidirectional": str(dataset("both")),
            "leave_out": ["Rotate"],
            "output": str(folder / "runs"),
            "frames": 2,
            "crops": 1,
        },
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(merged(tree, changes)))
    return path


def run(file: Path, table: str, *arguments: str, code: int = 0) -> Result:
    """What ``flowprep experiment`` says; raises its error, where the program would end with a message."""
    command = ["experiment", "-c", str(file), "--table", table, *arguments]
    result = CliRunner().invoke(group, command, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def made_by(file: Path, say: Callable[[str], None] = lambda _: None, **over: Any) -> Laboratory:
    training, experiment = read_experiment(file)
    return Laboratory(training, experiment, str(file), over, say)
