"""Frames, settings and requests for tests of the process that computes for many."""

from __future__ import annotations

import numpy as np

from flowprep import flow, quantise
from flowprep.config import FlowConfig, Settings, StorageConfig, VideoConfig
from flowprep.gpu.memory import Request

HEIGHT, WIDTH = 32, 40
STORAGES = {
    "field": StorageConfig(),
    "htj2k": StorageConfig("htj2k"),
    "blosc": StorageConfig("blosc", bits=8),
    "trunc": StorageConfig(range="fixed", rounding="trunc", bound=0.5),
}
RNG = np.random.default_rng(5)
VIDEO = np.cumsum(RNG.integers(-9, 10, (12, HEIGHT, WIDTH)), axis=0).clip(0, 255).astype(np.uint8)


def settings(storage: StorageConfig = STORAGES["field"], direction: str = "forward", backend: str = "gpu") -> Settings:
    return Settings(VideoConfig(), FlowConfig("dis", backend, direction, {"preset": "ultrafast"}), storage, ENGINE)


ENGINE = flow.find("dis", "opencv").engine()
DIS = flow.get("dis", "opencv", preset="ultrafast")


def request(frames: np.ndarray, direction: str, storage: StorageConfig, first: int = 0, every: int = 0) -> Request:
    size = (len(frames), *frames.shape[1:])
    return Request(*size, str(frames.dtype), direction, quantise.level_type(storage), first, every)


def fields_of(frames: np.ndarray, direction: str) -> np.ndarray:
    both = {"forward": DIS.flow, "backward": DIS.backward}
    return np.concatenate(
        [both[way](frames) for way in (("forward", "backward") if direction == "both" else [direction])]
    )
