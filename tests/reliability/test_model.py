"""Histories of runs that die between any two file operations: whatever happened, the next run ends with the same bytes.

Each step is the real driver in a forked process, which ends like a killed one (no clean-up, locks gone) at its n-th
change of the dataset's folder. Only decoding and flow are left out: each video has its rows ready.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from flowprep import plan, shard
from flowprep.config import ClusterConfig, ExtractConfig, FlowConfig, RunConfig, Settings, SourceConfig, StorageConfig
from flowprep.errors import ExitCode, Verdict
from flowprep.extract import Extractor
from flowprep.run import batch, driver
from flowprep.shard import Work, file_sha256
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import committed_shards, read_commits, rows_in_force
from flowprep.store.finalise import finalise  # noqa: F401 - loads zarr before any fork
from flowprep.store.litter import collect
from flowprep.store.plans import planned_videos, read_plans
from flowprep.synthetic import write_demo_videos
from flowprep.types import LedgerRow, Probe, ShardResult
from tests.command import stored_files
from tests.in_process import header

KILLED = 99  # exit code of a step that died
CHANGES = 160  # of the folder, about as many as a whole run makes
OUTSET = (0, 160)

FLOW = FlowConfig("dis", "opencv", "forward", {"preset": "ultrafast"})
STORAGE = StorageConfig(rgb_short_side=16)


# --- videos whose rows are ready ---


class World:
    """A source folder, and what its videos come to: one crashes in generation 0, one always fails, the others are ok."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "videos"
        ids = [v.id for v in write_demo_videos(self.source, clips_per_class=1, frames=4, height=16, width=16)]
        for id in ids[4:]:
            (self.source / id).unlink()
        self.crashes, self.fails = ids[1], "x/broken.avi"
        (self.source / self.fails).parent.mkdir()
        (self.source / self.fails).write_bytes(b"no video")
        self.probes: dict[str, Probe | None] = {}
        self.rows: dict[str, tuple[LedgerRow, Path]] = {}
        extractor = Extractor(driver.resolve(self.config(Path("x"))))
        for number, id in enumerate([*ids[:4], self.fails]):
            made = folder / str(number)
            made.mkdir()
            self.probes[id] = header(self.source / id)
            self.rows[id] = extractor.extract(self.source / id, id, made, lambda _: None), made

    def config(self, out: Path, cluster: ClusterConfig | None = None, **run: Any) -> ExtractConfig:
        source, most = SourceConfig(str(self.source)), RunConfig(workers=1, max_failed="9", **run)
        return ExtractConfig(source, str(out), flow=FLOW, storage=STORAGE, run=most, cluster=cluster or ClusterConfig())

    def answer(self, id: str, generation: int, folder: Path) -> LedgerRow:
        row, made = self.rows[id]
        if id == self.crashes and generation == 0:
            return LedgerRow(id, Verdict.CRASHED, reason="as it should")
        for path in made.iterdir():
            shutil.copy(path, folder)
        return row


class Prepared:
    """Stands in for the sandbox."""

    world: World
    generation = 0

    def __init__(self, limits: Any, *_: Any) -> None:
        self.limits = limits

    def extract(self, _settings: Settings, _path: Path, id: str, folder: Path, _progress: object) -> LedgerRow:
        return self.world.answer(id, self.generation, folder)


def extract_shard(work: Work, number: int) -> ShardResult:
    Prepared.generation = work.generation
    return shard.extract_shard(work, number)


@contextmanager
def open_engine(_config: ClusterConfig, work: Work, workers: int, **_: Any):
    with batch.thread_engine(work, workers) as engine:
        yield engine


@cache
def world() -> World:
    kept = tempfile.TemporaryDirectory()
    made = World(Path(kept.name))
    made.kept = kept  # type: ignore[attr-defined]
    return made


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> World:
    made = world()
    monkeypatch.setattr(Prepared, "world", made, raising=False)
    monkeypatch.setattr(plan, "SHARD_SECONDS", (1e-6, 240.0))  # a shard a video
    monkeypatch.setattr(shard, "Sandbox", Prepared)
    monkeypatch.setattr(shard, "_thread", threading.local())
    monkeypatch.setattr(batch, "extract_shard", extract_shard)
    monkeypatch.setattr(driver, "open_engine", open_engine)
    monkeypatch.setattr(driver, "probe_all", lambda _root, videos, *_: [made.probes[v.id] for v in videos])
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug here
    return made
