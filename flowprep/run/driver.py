"""An extraction from its configuration to its exit code: list, plan, run what is missing, finalise, sum up."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowprep import flow, shard
from flowprep.annotations import Source, read_source, source_root
from flowprep.config import ExtractConfig, Settings
from flowprep.devices import gpus
from flowprep.errors import ExitCode, RefusedError, StoreError, UnfinishedError, UsageError, Verdict
from flowprep.plan import Plan
from flowprep.run.address import scheduler_address
from flowprep.run.batch import share
from flowprep.run.changes import Changes, refuse_other_settings
from flowprep.run.engines import open_engine
from flowprep.run.expectation import Expectation, expect, used_blocks
from flowprep.run.headers import probe_all
from flowprep.run.progress import Progress
from flowprep.run.signals import Stop, stop_on_signals
from flowprep.run.window import drive
from flowprep.sandbox import Limits
from flowprep.shard import Work
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import (
    Commit,
    committed_shards,
    damaged,
    is_finalised,
    read_commits,
    repair_advice,
    rows_in_force,
    tally,
)
from flowprep.store.plans import read_plans, write_plan
from flowprep.types import LedgerRow, ShardResult, Video
from flowprep.wording import duration, plural, size, some


@dataclass(frozen=True)
class Summary:
    """What a run ends with."""

    verdicts: dict[str, int]  # videos by verdict, over the whole dataset
    failures: list[LedgerRow]  # rows that are not ok
    fields: int  # stored, in each direction
    bytes: int  # of all stored files
    shards_run: int  # in this run; 0 = there was nothing to do
    seconds: float  # wall time of this run
    exit_code: int
    shards_left: int = 0  # for the other tasks of a job array; then all of the above is of this run alone


def resolve(config: ExtractConfig) -> Settings:
    """The complete settings: the backend chosen, every parameter of the method named, the engine's version noted."""
    chosen = config.flow
    algorithm = flow.find(chosen.method, chosen.backend or None, elsewhere=config.cluster.remote)
    parameters = algorithm.parameters_type.of(chosen.method, chosen.parameters, algorithm.backend).to_json()
    full = replace(chosen, backend=algorithm.backend, parameters=parameters)
    return Settings(config.video, full, config.storage, algorithm.engine())


class Extraction:
    """One run of ``flowprep extract``.

    ``say`` receives lines for the user (notes, not results); ``quiet`` turns off the progress display.
    """

    def __init__(self, config: ExtractConfig, say: Callable[[str], None] = print, *, quiet: bool = False) -> None:
        if not config.source.path:
            raise UsageError("no source: name a folder of videos or a list file.")
        if not config.output:
            raise UsageError("no output: name the dataset to write, for example ucf101.zarr.")
        self.config = config
        self.say = say
        self.quiet = quiet
        self.settings = resolve(config)
        self.gpu = flow.find(self.settings.flow.method, self.settings.flow.backend, elsewhere=True).gpu
        self.output = Path(config.output)
        self.store = LocalStore(self.output)
        here = len(gpus()) if self.gpu else len(os.sched_getaffinity(0))
        self.workers = config.run.workers or max(1, here)
        self.limits = Limits(config.run.stall_seconds, config.run.memory_limit)
        self._commits: list[Commit] = []  # read so far
        self._refuse_foreign_output()
        if config.cluster.remote:
            scheduler_address(config.cluster)  # not only after an hour of planning

    def dry_run(self) -> Expectation:
        """The plan for what is still to do, without writing anything."""
        source = self._source()
        plans = self._read_plans()
        if not plans:
            return self._expect(source, list(source.videos), 0)
        videos = self._checked_changes(source, plans).videos
        done = committed_shards(self.store, plans)
        for plan in plans:
            for k, item in enumerate(plan.shards):
                videos += [] if (plan.generation, k) in done else item.videos
        return self._expect(source, videos, len(plans))

    def prepare(self) -> tuple[int, int]:
        """Write the plans that are missing, without running them: how many shards are pending, of how many.

        With none pending the dataset is finalised, in case its last task died on the way there.
        """
        started = time.monotonic()
        with stop_on_signals(self.config.run.grace):
            source = self._source()
            plans = self._plans(source)
            self._plan_again(source, plans)
            left = self._pending(plans)
            if not left:
                self._summary(plans, 0, started)
            return left, sum(len(plan.shards) for plan in plans)

    def run(self) -> Summary:
        """Do what is missing and sum up. Raises UnfinishedError when told to stop by a signal."""
        if not __debug__:  # zarr relies on assert statements
            raise RefusedError("Python runs with -O or PYTHONOPTIMIZE, which breaks zarr: unset it.")
        with stop_on_signals(self.config.run.grace) as stop:
            return self._run_share(stop) if self.config.cluster.executor == "batch" else self._run_all(stop)

    def _run_all(self, stop: Stop) -> Summary:
        started = time.monotonic()
        source = self._source()
        plans = self._plans(source)
        self.store.sweep()
        results = [self._run_shards(plan, shard.pending(self.store, plan), str(source.root), stop) for plan in plans]
        if self._plan_again(source, plans):
            plan = plans[-1]
            results.append(self._run_shards(plan, shard.pending(self.store, plan), str(source.root), stop))
        return self._summary(plans, sum(map(len, results)), started)

    def _run_share(self, stop: Stop) -> Summary:
        """One task of a job array: only its own shards. The source is not read again, however large it is."""
        if self.config.run.retry_status or self.config.run.extend:
            raise UsageError(
                "--retry-status and --extend plan new work, once, for all tasks of a job array: "
                "flowprep submit does that. Leave them out here."
            )
        started = time.monotonic()
        mine = share(self.config.cluster.task)
        source = self.config.source
        root = source_root(Path(source.path), Path(source.root) if source.root else None)
        plans = self._read_plans() or self._plans(self._source())
        refuse_other_settings(self.output, plans, self.settings)
        done: list[ShardResult] = []
        for plan in plans:
            todo = [k for k in shard.pending(self.store, plan) if k in mine]
            done += self._run_shards(plan, todo, str(root), stop)
        left = self._pending(plans)
        if not left:
            return self._summary(plans, len(done), started)
        verdicts = {str(verdict): sum(result.verdicts.get(verdict, 0) for result in done) for verdict in Verdict}
        return Summary(
            verdicts={verdict: count for verdict, count in verdicts.items() if count},
            failures=[],
            fields=sum(result.fields for result in done),
            bytes=sum(result.bytes for result in done),
            shards_run=len(done),
            seconds=time.monotonic() - started,
            exit_code=ExitCode.OK,
            shards_left=left,
        )

    def _source(self) -> Source:
        chosen = self.config.source
        source = read_source(
            Path(chosen.path),
            Path(chosen.annotations) if chosen.annotations else None,
            chosen.layout,
            Path(chosen.root) if chosen.root else None,
        )
        if source.ignored:
            self.say(f"Not taken for videos: {some(source.ignored)}")
        if all(video.size < 0 and not video.refused for video in source.videos):
            raise UsageError(
                f"{chosen.path}: not one of its {plural(len(source.videos), 'video')} exists below {source.root}, "
                f"beginning with {source.videos[0].id}. Name the folder that the paths start from (--root, or SOURCE "
                "with official lists); a line of a list is a path and a label, nothing else."
            )
        return source

    def _refuse_foreign_output(self) -> None:
        """A folder that holds something else must not get our files mixed in; one that cannot be made is named now."""
        parent = next(path for path in (self.output.absolute(), *self.output.absolute().parents) if path.exists())
        if parent.is_dir() and not os.access(parent, os.W_OK | os.X_OK):
            raise StoreError(f"{parent}: not writable, so {self.output} cannot be made there. Check its permissions.")
        if not parent.is_dir() and parent != self.output.absolute():
            raise UsageError(f"{parent} is a file, so {self.output} cannot be made below it: name another folder.")
        if self.output.exists() and not self.output.is_dir():
            raise UsageError(f"{self.output} is a file: name a new folder, for example {self.output}.zarr.")
        if self.output.is_dir() and any(self.output.iterdir()) and not self.store.path(layout.PLANS).is_dir():
            raise RefusedError(f"{self.output} exists and is not a flowprep dataset: name another folder.")

    def _plans(self, source: Source) -> list[Plan]:
        """The plans of the dataset, the first one made now if there is none; refused if they do not fit ``source``."""
        with self.store.exclusive("plan"):  # of several processes that start together one plans
            plans = self._read_plans()
            if not plans:
                return [self._write(self._expect(source, list(source.videos), 0).plan)]
        changes = self._checked_changes(source, plans)
        if changes.gone:
            self.say(f"No longer in the source (what is stored of them stays): {some(changes.gone)}")
        if broken := damaged(self.store, self._read_commits(plans)):
            raise RefusedError(f"{self.output} is damaged: files are missing or cut short. {repair_advice(broken)}")
        return plans

    def _read_plans(self) -> list[Plan]:
        plans = read_plans(self.store)
        if not plans and committed_shards(self.store):
            raise RefusedError(f"{self.output} is damaged: its plan ({layout.plan_key(0)}) is missing.")
        return plans

    def _checked_changes(self, source: Source, plans: list[Plan]) -> Changes:
        refuse_other_settings(self.output, plans, self.settings)
        changes = self._changes(source, plans)
        changes.refuse(self.output)
        return changes

    def _changes(self, source: Source, plans: list[Plan]) -> Changes:
        rows = rows_in_force(self._read_commits(plans)) if self.config.run.retry_verdicts() else {}
        return Changes(source, plans, rows, self.config.run)

    def _plan_again(self, source: Source, plans: list[Plan]) -> bool:
        """Add a generation to ``plans`` for what is new, changed or to be tried again; False if nothing is."""
        changes = self._changes(source, plans)
        videos, described = changes.videos, changes.described
        if videos or described:
            plan = self._expect(source, videos, len(plans)).plan
            plans.append(self._write(replace(plan, described=tuple(described))))
        return bool(videos or described)

    def _read_commits(self, plans: Sequence[Plan]) -> list[Commit]:
        self._commits = read_commits(self.store, plans, known=self._commits)
        return self._commits

    def _pending(self, plans: list[Plan]) -> int:
        """Shards of all ``plans`` that are not committed."""
        return sum(len(plan.shards) for plan in plans) - len(committed_shards(self.store, plans))

    def _expect(self, source: Source, videos: list[Video], generation: int) -> Expectation:
        """Plan ``videos``, from what their headers say."""
        if videos:
            self.say(f"Planning {plural(len(videos), 'video')}.")
        used = used_blocks(self._read_commits(())) if generation else {}
        try:
            probes = probe_all(source.root, videos, self.limits, self.workers)
        except UnfinishedError:
            raise UnfinishedError("Stopped while planning; run the same command to start again.") from None
        expected = expect(self.settings, source.root, videos, probes, generation, used)
        if videos:
            workers = min(self.workers, len(expected.plan.shards))
            about = duration(expected.seconds / workers)
            self.say(f"About {plural(expected.fields, 'field')}, {about} on {plural(workers, 'worker')}.")
        if expected.bytes > (free := free_bytes(self.output)):
            self.say(f"Warning: about {size(expected.bytes)} will be written, {size(free)} are free there.")
        return expected

    def _write(self, plan: Plan) -> Plan:
        """Publish a plan; if another run has just published the same, all the better."""
        key = layout.plan_key(plan.generation)
        if not write_plan(self.store, plan) and not (self.store.exists(key) and self.store.get(key) == plan.to_bytes()):
            raise RefusedError(f"{self.output}: another run has just planned it, and not alike. Run the command again.")
        return plan

    def _run_shards(self, plan: Plan, todo: list[int], root: str, stop: Stop) -> list[ShardResult]:
        """Run the shards ``todo`` of ``plan``; what became of each."""
        if not todo:
            return []
        remote = self.config.cluster.remote
        chosen = self.settings.flow
        if not remote:
            flow.get(chosen.method, chosen.backend, **chosen.parameters).warm(self.say)  # once, not in each process
        total = len(plan.shards)
        if len(todo) < total and self.config.cluster.executor == "dask":
            self.say(f"Continuing: {total - len(todo)} of {total} shards are done.")
        videos = sum(len(plan.shards[k].videos) for k in todo)
        fields = sum(plan.shards[k].fields for k in todo)
        workers = self.config.run.workers if remote else min(self.workers, len(todo))
        work = Work(str(self.output.absolute()), plan.generation, self.limits, root)
        results: list[ShardResult] = []
        with Progress(videos, fields, quiet=self.quiet) as progress:

            def committed(result: ShardResult) -> None:
                results.append(result)
                if remote:  # nothing was heard of it before
                    key = layout.commit_key(result.generation, result.shard)
                    progress.shard(Commit.from_bytes(self.store.get(key), key))

            shard.listener = progress
            try:
                with open_engine(self.config.cluster, work, workers, gpu=self.gpu, say=progress.note) as engine:
                    aside = drive(engine, todo, committed, stop)
            except UnfinishedError as error:
                reason = "Stopped" if stop.asked else str(error).rstrip(".")
                raise UnfinishedError(f"{reason}: {self._how_far(plan)}; run the same command to continue.") from None
            except StoreError as error:
                raise StoreError(f"{error} ({self._how_far(plan)}.)") from None
            finally:
                shard.listener = shard.Listener()
        if aside:
            raise UnfinishedError(
                f"{plural(len(aside), 'shard')} lost the worker again and again ({some([str(k) for k in aside])}): "
                f"is a machine short of memory? {self._how_far(plan)}; run the same command to try the rest again."
            )
        return results

    def _how_far(self, plan: Plan) -> str:
        total = len(plan.shards)
        return f"{total - len(shard.pending(self.store, plan))} of {total} shards are committed"

    def _summary(self, plans: list[Plan], shards_run: int, started: float) -> Summary:
        with self.store.exclusive("finalise"):  # of two runs the later one has read all commits
            commits = self._read_commits(plans)
            if not is_finalised(self.store, len(plans), len(commits)):
                from flowprep.store.finalise import finalise  # loads zarr: not for a run with nothing to do

                finalise(self.store, plans, commits)
        rows = rows_in_force(commits)
        failures = [row for row in rows.values() if row.verdict is not Verdict.OK]
        allowed = self.config.run.failures_allowed(len(rows))
        return Summary(
            verdicts=tally(rows),
            failures=failures,
            fields=sum(row.flow.length for row in rows.values() if row.flow),
            bytes=sum(item.bytes for commit in commits for item in commit.files),
            shards_run=shards_run,
            seconds=time.monotonic() - started,
            exit_code=ExitCode.OK if len(failures) <= allowed else ExitCode.REFUSED,
        )


def free_bytes(path: Path) -> int:
    """Free space of the disk that ``path`` (or its nearest existing parent) lies on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
