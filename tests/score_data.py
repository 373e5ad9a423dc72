"""Scores made up for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.train.scores import Scores


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def scores_of(
    values: NDArray[np.float32], labels: NDArray[np.int64], name: str = "temporal", prefix: str = "v", **other: Any
) -> Scores:
    """Scores ``values`` (N, C) of videos v0000, v0001, ... for classes c00, c01, ..."""
    fields = {
        "ids": tuple(f"{prefix}{number:04d}" for number in range(len(values))),
        "classes": tuple(f"c{number:02d}" for number in range(values.shape[1])),
        "stream": name if name in ("spatial", "temporal") else "temporal",
        "split": 1,
        "part": "test",
        "frames": 25,
        "crops": 10,
        "checkpoint": f"runs/{name}/checkpoint.pt",
        "net": "cnn-m-2048",
    }
    return Scores(scores=values, labels=labels, name=name, **fields | other)


def random_scores(seed: int, videos: int, classes: int, name: str = "temporal", **other: Any) -> Scores:
    """Of videos with labels that some have not, by a net that is somewhat right."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % (classes + 1) - 1
    logits = rng.normal(size=(videos, classes))
    logits[np.arange(videos), labels] += 1
    return scores_of(softmax(logits), labels, name, **other)
