"""Histories of runs that die between any two file operations: whatever happened, the next run ends with the same bytes.

Each step is the real driver in a forked process, which ends like a killed one (nothing cleaned up, its locks gone) at
its n-th change of the dataset's folder. Only decoding and flow are left out: each video has its rows ready.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import flowprep.store.finalise  # noqa: F401 - loads zarr now, not in each fork
from flowprep import plan, shard
from flowprep.config import ClusterConfig, ExtractConfig, FlowConfig, RunConfig, Settings, SourceConfig, StorageConfig
from flowprep.errors import ExitCode, FlowprepError, Verdict
from flowprep.extract import Extractor
from flowprep.run import batch, driver, product
from flowprep.shard import Work, file_sha256
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import committed_shards, read_commits, rows_in_force
from flowprep.store.litter import collect
from flowprep.store.plans import planned_videos, read_plans
from flowprep.synthetic import write_demo_videos
from flowprep.types import LedgerRow, Probe, ShardResult
from tests.command import stored_files
from tests.in_process import header

FLOW = FlowConfig("dis", "opencv", "forward", {"preset": "ultrafast"})
STORAGE = StorageConfig(rgb_short_side=16)

# --- a process that dies ---

KILLED = 99  # its exit code
NEVER = sys.maxsize
CHANGES = ("os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir")  # audit events; and files opened for writing


def in_fork(folder: Path, dies_at: int, action: Callable[[], object], *, may_refuse: bool = False) -> int:
    """Exit code of a process that does ``action``, but dies at its ``dies_at``-th change below ``folder``."""
    sys.stdout.flush()
    told = folder.parent / "error"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            die(folder, dies_at)
            action()
            code = 0
        except FlowprepError as error:
            code = error.exit_code
            told.write_text(str(error))
        except BaseException:  # noqa: BLE001 - told by the parent
            told.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED) or (may_refuse and code == ExitCode.REFUSED), f"exit code {code}: {told.read_text()}"
    return code


def die(folder: Path, dies_at: int) -> None:
    """End this process at its ``dies_at``-th change of ``folder``."""
    count = 0

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            changes = event in CHANGES
        path = str(arguments[0]) if changes else ""
        if changes and (path.startswith(str(folder)) or not Path(path).is_absolute()):  # rmtree names parts alone
            count += 1
            if count == dies_at:
                os._exit(KILLED)

    sys.addaudithook(look)


# --- videos whose rows are ready ---


class Stage:
    """A source of four good videos, one of which crashes in generation 0, and one that is no video."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "videos"
        good, more = [], write_demo_videos(self.source, clips_per_class=1, frames=4, height=16, width=24)
        for video in more:
            if len(good) < 4:
                good.append(video.id)
            else:
                (self.source / video.id).unlink()
        broken = "x/broken.avi"
        (self.source / broken).parent.mkdir()
        (self.source / broken).write_bytes(b"no video")
        self.crashes = good[1]
        extractor = Extractor(product.resolve(self.config(folder)))
        self.probes: dict[str, Probe | None] = {}
        self.rows: dict[str, tuple[LedgerRow, Path]] = {}
        for number, id in enumerate([*good, broken]):
            made = folder / f"rows{number}"
            made.mkdir()
            self.probes[id] = header(self.source / id)
            self.rows[id] = extractor.extract(self.source / id, id, made, lambda _: None), made
        self.undisturbed: dict[int, Path] = {}  # number of plans -> dataset

    def config(self, out: Path, cluster: ClusterConfig | None = None, retry: bool = False) -> ExtractConfig:
        run = RunConfig(workers=1, max_failed="9", retry_status="crashed" if retry else "")
        source = SourceConfig(str(self.source))
        return ExtractConfig(source, str(out), flow=FLOW, storage=STORAGE, run=run, cluster=cluster or ClusterConfig())

    def run(self, out: Path, dies_at: int = NEVER, *, retry: bool = False, task: str = "") -> int:
        cluster = ClusterConfig(executor="batch", task=task) if task else None
        extraction = driver.Extraction(self.config(out, cluster, retry), lambda _: None, quiet=True)
        return in_fork(out, dies_at, extraction.run)

    def prepare(self, out: Path, dies_at: int) -> int:
        extraction = driver.Extraction(self.config(out, retry=True), lambda _: None, quiet=True)
        return in_fork(out, dies_at, extraction.prepare, may_refuse=True)  # while shards are pending

    def answer(self, id: str, generation: int, folder: Path) -> LedgerRow:
        if id == self.crashes and generation == 0:
            return LedgerRow(id, Verdict.CRASHED, reason="as it should")
        row, made = self.rows[id]
        for path in made.iterdir():
            shutil.copy(path, folder)
        return row

    def check(self, out: Path) -> None:
        """The finished dataset ``out`` is what an undisturbed run makes of its plans, and nothing lies beside it."""
        store = LocalStore(out)
        plans = read_plans(store)
        expected = self.undisturbed[len(plans)]
        assert stored_files(out) == stored_files(expected)
        rows = rows_in_force(read_commits(store))
        assert rows.keys() == planned_videos(plans).keys() == self.rows.keys()
        collect(store, older_than=0.0)
        assert names(out) == names(expected)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Patched in: rows that are ready, a shard for each video, threads instead of a scheduler."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nothing here pulls the plug
    with tempfile.TemporaryDirectory(dir=memory) as folder, pytest.MonkeyPatch.context() as patch:
        made = Stage(Path(folder))
        generation = 0

        class Prepared:
            """Stands in for the sandbox."""

            def __init__(self, limits: object, _gpu: str) -> None:
                self.limits = limits

            def extract(self, _settings: Settings, _path: Path, id: str, folder: Path, _progress: object) -> LedgerRow:
                return made.answer(id, generation, folder)

        def extract_shard(work: Work, number: int) -> ShardResult:
            nonlocal generation
            generation = work.generation
            return shard.extract_shard(work, number)

        @contextmanager
        def open_engine(_config: ClusterConfig, work: Work, workers: int, **_: object) -> Iterator[object]:
            with batch.thread_engine(work, workers) as engine:
                yield engine

        patch.setattr(plan, "SHARD_SECONDS", (1e-6, 240.0))
        patch.setattr(shard, "Sandbox", Prepared)
        patch.setattr(shard, "_thread", threading.local())
        patch.setattr(batch, "extract_shard", extract_shard)
        patch.setattr(driver, "open_engine", open_engine)
        patch.setattr(product, "probe_all", lambda _root, videos, *_: [made.probes[video.id] for video in videos])
        for plans in (1, 2):
            out = made.undisturbed[plans] = made.folder / f"undisturbed{plans}" / "out.zarr"
            out.parent.mkdir()
            made.run(out)
            if plans == 2:
                made.run(out, retry=True)
            assert len(read_plans(LocalStore(out))) == plans
        yield made


# --- histories ---

moments = st.one_of(st.integers(1, 40), st.integers(1, 640))  # about all that a whole run changes


def machine(stage: Stage) -> type[RuleBasedStateMachine]:
    """The rules, over ``stage``."""

    class Histories(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.out = Path(tempfile.mkdtemp(dir=stage.folder)) / "out.zarr"
            self.store = LocalStore(self.out)

        @rule(dies_at=moments, retry=st.booleans())
        def run_that_dies(self, dies_at: int, retry: bool) -> None:
            stage.run(self.out, dies_at, retry=retry)

        @rule(dies_at=moments, index=st.integers(0, 1))
        def task_that_dies(self, dies_at: int, index: int) -> None:
            stage.run(self.out, dies_at, task=f"{index}/2")

        @rule(dies_at=moments)
        def plan_that_dies(self, dies_at: int) -> None:
            stage.prepare(self.out, dies_at)

        @rule(retry=st.booleans())
        def run_to_the_end(self, retry: bool) -> None:
            stage.run(self.out, retry=retry)

        @precondition(lambda self: self.out.exists())
        @rule(dies_at=moments)
        def clean_up_that_dies(self, dies_at: int) -> None:
            in_fork(self.out, dies_at, lambda: collect(self.store, older_than=0.0))

        @precondition(lambda self: committed_shards(self.store))
        @rule(data=st.data())
        def record_lost(self, data: st.DataObject) -> None:
            """As somebody does who was told to delete a damaged commit."""
            chosen = data.draw(st.sampled_from(sorted(committed_shards(self.store))))
            self.store.path(layout.commit_key(*chosen)).unlink()

        @invariant()
        def all_that_is_committed_is_whole(self) -> None:
            for commit in read_commits(self.store):
                for item in commit.files:
                    assert file_sha256(self.store.path(item.key)) == item.sha256, item.key

        def teardown(self) -> None:
            stage.run(self.out)
            stage.check(self.out)
            shutil.rmtree(self.out.parent)

    return Histories


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def play(stage: Stage, examples: int) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=8,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # no shrinking: eight steps are readable, and each try takes a second
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine(stage), settings=chosen)


@pytest.mark.timeout(300)
def test_ten_histories(stage: Stage) -> None:
    play(stage, 10)


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_five_hundred_histories(stage: Stage, figure: Callable[[str, str], None]) -> None:
    play(stage, 500)
    figure("R13", "500 histories of up to 8 steps: 0 with other bytes, 0 videos lost or twice")


def test_every_change_is_a_moment_to_die(stage: Stage) -> None:
    """What the histories rest on: with each later moment, no less is left behind, up to a whole run."""
    out = stage.folder / "moments" / "out.zarr"
    out.parent.mkdir()
    left, moment = [], 1
    while stage.run(out, moment) == KILLED:
        left.append(len(committed_shards(LocalStore(out))))
        shutil.rmtree(out, ignore_errors=True)
        moment += 37
    assert left == sorted(left) and len(set(left)) >= 4, left
    assert moment > 400


def test_a_retry_is_asked_for_before_all_is_done(stage: Stage) -> None:
    """Its plan must not hand out the rows of shards that are still pending."""
    out = stage.folder / "early" / "out.zarr"
    out.parent.mkdir()
    moment = 1
    while not 3 <= len(committed_shards(LocalStore(out))) < 5:
        stage.run(out, moment)
        moment += 20
    stage.prepare(out, NEVER)
    stage.run(out)
    stage.run(out, retry=True)
    stage.check(out)
