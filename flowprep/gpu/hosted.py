"""The flow of some settings, computed for many: a batch of requests goes in, what is stored of each comes out."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import flow, quantise
from flowprep.config import Settings, StorageConfig
from flowprep.errors import RefusedError
from flowprep.flow.batch import DeviceFields
from flowprep.gpu.memory import Request
from flowprep.quantise.host_fields import HostFields

THREADS = 2  # that compute

Arrays = dict[str, NDArray[Any]]


def key_of(settings: Settings) -> str:
    """What settings have in common whose requests are computed together."""
    flow = {name: value for name, value in vars(settings.flow).items() if name != "direction"}
    return json.dumps([flow, settings.storage.to_json(), settings.engine], sort_keys=True)


class Hosted:
    """The flow of some settings: an algorithm object for each thread that computes, made and used by that alone."""

    def __init__(self, settings: Settings) -> None:
        """By the first of the threads. Raises RefusedError where it cannot run here, or has not the run's engine."""
        first = flow.configured(settings.flow)
        here = first.engine()
        if here != settings.engine:
            raise RefusedError(
                f"{socket.gethostname()} computes {settings.flow.method} with {here}, the run was started with "
                f"{settings.engine}: install the same versions everywhere."
            )
        first.warm()
        self.at_once = min(first.at_once, THREADS)
        self._settings = settings
        self._asked = first  # and never computes
        self._algorithms: dict[int, flow.FlowAlgorithm] = {}  # by thread

    def most(self, height: int, width: int) -> int:
        """Fields of one batch; raises VideoError where not one fits."""
        return self._asked.pairs_in_a_batch(height, width)

    def compute(self, thread: int, requests: Sequence[Request], frames: Sequence[NDArray[Any]]) -> list[Arrays]:
        """What comes out for each of the ``requests``, of one size, whose ``frames`` are given.

        Raises FloatingPointError for flow that is not finite, which is the GPU's failure, whatever the frames.
        """
        if thread not in self._algorithms:
            self._algorithms[thread] = flow.configured(self._settings.flow)
        batch = _Batch(requests)
        computed = self._algorithms[thread].fields(np.concatenate(frames), batch.first, batch.second)
        fields = HostFields(computed) if isinstance(computed, np.ndarray) else computed
        return batch.share_out(fields, self._settings.storage if requests[0].levels else None)

    def give_back(self, thread: int) -> None:
        """Give back the memory on the GPU that the algorithm of ``thread`` has; called there."""
        if algorithm := self._algorithms.pop(thread, None):
            algorithm.give_back()


class _Batch:
    """Several requests as one batch: its pairs, and which of its fields are whose."""

    def __init__(self, requests: Sequence[Request]) -> None:
        first: list[NDArray[np.int32]] = []
        second: list[NDArray[np.int32]] = []
        self._originals: list[list[int]] = []  # fields of each request that are wanted as float32
        self._fields: list[slice] = []  # of each request
        frames = fields = 0
        for request in requests:
            start = fields
            self._originals.append([])
            for direction in request.directions:
                here = np.arange(frames, frames + request.pairs, dtype=np.int32)
                first.append(here if direction == "forward" else here + 1)
                second.append(here + 1 if direction == "forward" else here)
                self._originals[-1] += [fields + pair for pair in request.originals]
                fields += request.pairs
            self._fields.append(slice(start, fields))
            frames += request.frames
        self.first, self.second = np.concatenate(first), np.concatenate(second)

    def share_out(self, fields: DeviceFields, storage: StorageConfig | None) -> list[Arrays]:
        """The arrays of each request. ``storage``: how levels are made, if any."""
        wanted = [number for numbers in self._originals for number in numbers]
        originals = fields[wanted]
        ends = np.cumsum([len(numbers) for numbers in self._originals])
        parts = [originals[end - len(numbers) : end] for end, numbers in zip(ends, self._originals, strict=True)]
        if storage is None:
            _check_finite(originals)
            return [{"originals": part} for part in parts]
        extremes, means = fields.extremes(), fields.means()
        _check_finite(extremes)
        made = quantise.scaling(extremes, storage)
        levels = fields.levels(made.coding)
        whole = {"levels": levels, "scale": made.scale, "zero": made.zero, "extremes": extremes, "means": means}
        return [
            {"originals": part} | {name: values[own] for name, values in whole.items()}
            for part, own in zip(parts, self._fields, strict=True)
        ]


def _check_finite(values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise FloatingPointError(quantise.NOT_FINITE)
