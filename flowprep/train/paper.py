"""The results of the two-stream paper, as data to compare with.

K. Simonyan and A. Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos", NIPS 2014,
arXiv 1406.2199: tables 1a, 1b, 2, 3 and 4; rows "in the text" stand in its section 6, not in the table itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAMES = {"ucf101": "UCF-101", "hmdb51": "HMDB-51"}
CLASSES = {"ucf101": 101, "hmdb51": 51}
# Videos in the test parts of splits 1 to 3, by the official lists.
TEST_VIDEOS = {"ucf101": {1: 3783, 2: 3734, 3: 3696}, "hmdb51": {1: 1530, 2: 1530, 3: 1530}}

CAPTIONS = {
    "1a": "spatial net, by training",
    "1b": "temporal net, by input",
    "2": "temporal net, by training",
    "3": "two-stream net",
    "4": "mean over the three splits",
}

# Settings: the values that make a run one of a row's kind; see flowprep.train.report.comparison.
_NET = {"net": "cnn-m-2048", "width": 1.0}
_FLOW = {**_NET, "kind": "flow", "length": 10, "bidirectional": False, "mean_subtract": True, "dropout": 0.9}
_ALONE = {**_FLOW, "regime": "scratch", "tasks": "one"}
_MULTI = {**_FLOW, "tasks": "multi-task"}
_LAST_LAYER = {**_NET, "regime": "last-layer"}


@dataclass(frozen=True)
class Result:
    """One number of the paper."""

    table: str  # key of CAPTIONS
    row: str
    stream: str  # "spatial", "temporal" or "fused"; "" = another method than two-stream nets
    dataset: str  # key of NAMES
    splits: tuple[int, ...]  # several: the mean over them
    accuracy: float  # per cent of test videos
    setting: Mapping[str, Any] = field(default_factory=dict)


def _spatial(row: str, accuracy: float, regime: str, dropout: float) -> Result:
    return Result("1a", row, "spatial", "ucf101", (1,), accuracy, {**_NET, "regime": regime, "dropout": dropout})


def _temporal(row: str, accuracy: float, **stacking: Any) -> Result:
    return Result("1b", row, "temporal", "ucf101", (1,), accuracy, {**_ALONE, **stacking})


def _trained(row: str, accuracy: float, **training: Any) -> Result:
    return Result("2", row, "temporal", "hmdb51", (1,), accuracy, {**_FLOW, **training})


def _two_stream(row: str, accuracy: float, method: str, **temporal: Any) -> Result:
    setting = {"method": method, "spatial": "last-layer", **_FLOW, **temporal}
    return Result("3", row, "fused", "ucf101", (1,), accuracy, setting)


def _mean(row: str, ucf101: float | None, hmdb51: float | None, stream: str = "", **setting: Any) -> list[Result]:
    numbers = {"ucf101": ucf101, "hmdb51": hmdb51}
    return [
        Result("4", row, stream, dataset, (1, 2, 3), accuracy, setting)
        for dataset, accuracy in numbers.items()
        if accuracy is not None
    ]


RESULTS: tuple[Result, ...] = (
    _spatial("from scratch, dropout 0.5", 42.5, "scratch", 0.5),
    _spatial("from scratch, dropout 0.9", 52.3, "scratch", 0.9),
    _spatial("pre-trained, all layers fine-tuned, dropout 0.5", 70.8, "fine-tune", 0.5),
    _spatial("pre-trained, all layers fine-tuned, dropout 0.9", 72.8, "fine-tune", 0.9),
    _spatial("pre-trained, last layer only, dropout 0.5", 72.7, "last-layer", 0.5),
    _spatial("pre-trained, last layer only, dropout 0.9", 59.9, "last-layer", 0.9),
    _temporal("one field (L=1), means subtracted", 73.9, length=1),
    _temporal("flow stacking L=5, means subtracted", 80.4, length=5),
    _temporal("flow stacking L=10, means not subtracted", 79.9, mean_subtract=False),
    _temporal("flow stacking L=10, means subtracted", 81.0),
    _temporal("trajectory stacking L=10, means not subtracted", 79.6, kind="trajectory", mean_subtract=False),
    _temporal("trajectory stacking L=10, means subtracted", 80.2, kind="trajectory"),
    _temporal("flow stacking L=10, bidirectional, means subtracted", 81.2, bidirectional=True),
    Result("1a", "in the text: slow fusion of 11 frames, from scratch", "", "ucf101", (1,), 56.4),
    _trained("HMDB-51 only", 46.6, regime="scratch", tasks="one"),
    _trained("fine-tuned from UCF-101", 49.0, regime="fine-tune", tasks="one"),
    _trained("with 78 classes of UCF-101 added", 52.8, tasks="added classes"),
    _trained("multi-task with UCF-101", 55.4, tasks="multi-task"),
    Result("2", "in the text: UCF-101, multi-task with HMDB-51", "temporal", "ucf101", (1,), 81.5, _MULTI),
    _two_stream("bidirectional, averaging", 85.6, "average", bidirectional=True, tasks="one"),
    _two_stream("one direction, averaging", 85.9, "average", tasks="one"),
    _two_stream("one direction, multi-task, averaging", 86.2, "average", tasks="multi-task"),
    _two_stream("one direction, multi-task, SVM", 87.0, "svm", tasks="multi-task"),
    *_mean("improved dense trajectories", 85.9, 57.2),
    *_mean("improved dense trajectories, higher-dimensional encodings", 87.9, 61.1),
    *_mean("improved dense trajectories, stacked Fisher encoding", None, 66.8),
    *_mean("spatio-temporal HMAX", None, 22.8),
    *_mean("slow fusion", 65.4, None),
    *_mean("spatial net", 73.0, 40.5, "spatial", **_LAST_LAYER),
    *_mean("temporal net", 83.7, 54.6, "temporal", **_MULTI),
    *_mean("two-stream, averaging", 86.9, 58.0, "fused", method="average", spatial="last-layer", **_MULTI),
    *_mean("two-stream, SVM", 88.0, 59.4, "fused", method="svm", spatial="last-layer", **_MULTI),
)
