"""An extraction from its configuration to its exit code: list, plan, run what is missing, finalise, sum up."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flowprep import flow, shard
from flowprep.annotations import Source, read_source
from flowprep.config import ExtractConfig, Settings
from flowprep.errors import ExitCode, RefusedError, StoreError, UnfinishedError, UsageError, Verdict
from flowprep.plan import Plan
from flowprep.run.expectation import Expectation, expect, used_blocks
from flowprep.run.headers import probe_all
from flowprep.run.progress import Progress
from flowprep.run.signals import stop_on_signals
from flowprep.run.window import Work, drive
from flowprep.sandbox import Limits
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import (
    committed_shards,
    damaged,
    is_finalised,
    read_commits,
    repair_advice,
    rows_in_force,
    tally,
)
from flowprep.store.plans import planned_videos, read_plans, write_plan
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


def resolve(config: ExtractConfig) -> Settings:
    """The complete settings: the backend chosen, every parameter of the method named, the engine's version noted."""
    chosen = config.flow
    algorithm = flow.find(chosen.method, chosen.backend or None)
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
        self.output = Path(config.output)
        self.store = LocalStore(self.output)
        self.workers = config.run.workers or len(os.sched_getaffinity(0))
        self.limits = Limits(config.run.stall_seconds, config.run.memory_limit)
        self._refuse_foreign_output()

    def dry_run(self) -> Expectation:
        """The plan for what is still to do, without writing anything."""
        source = self._source()
        plans = read_plans(self.store)
        self._check(plans, source)
        if not plans:
            return self._expect(source, list(source.videos), 0)
        videos = self._to_plan_again(source, plans)
        done = committed_shards(self.store)
        for plan in plans:
            for k, item in enumerate(plan.shards):
                videos += [] if (plan.generation, k) in done else item.videos
        return self._expect(source, videos, len(plans))

    def run(self) -> Summary:
        """Do what is missing and sum up. Raises UnfinishedError when told to stop by a signal."""
        if not __debug__:  # zarr relies on assert statements
            raise RefusedError("Python runs with -O or PYTHONOPTIMIZE, which breaks zarr: unset it.")
        with stop_on_signals():
            return self._run()

    def _run(self) -> Summary:
        started = time.monotonic()
        source = self._source()
        plans = read_plans(self.store)
        self._check(plans, source)
        self.store.sweep()
        shards_run = 0
        if broken := damaged(self.store, read_commits(self.store)):
            raise RefusedError(f"{self.output} is damaged: files are missing or cut short. {repair_advice(broken)}")
        if not plans:
            plans = [self._write(self._expect(source, list(source.videos), 0).plan)]
        for plan in plans:
            shards_run += self._run_shards(plan, source)
        again, described = self._to_plan_again(source, plans), self._described_anew(source, plans)
        if again or described:
            plan = replace(self._expect(source, again, len(plans)).plan, described=tuple(described))
            plans.append(self._write(plan))
            shards_run += self._run_shards(plans[-1], source)
        return self._summary(plans, shards_run, started)

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

    def _check(self, plans: list[Plan], source: Source) -> None:
        """Refuse changed settings, and a changed source unless --extend takes it in."""
        if not plans:
            if committed_shards(self.store):
                raise RefusedError(f"{self.output} is damaged: its plan ({layout.plan_key(0)}) is missing.")
            return
        written = plans[0].settings
        if written.fingerprint() != self.settings.fingerprint():
            changes = "\n  ".join(written.differences(self.settings))
            raise RefusedError(
                f"{self.output} was made with other settings ({written.fingerprint()[:12]} there, "
                f"{self.settings.fingerprint()[:12]} here); what differs:\n  {changes}\n"
                "Give the same settings again, or write to another folder."
            )
        planned = planned_videos(plans)
        retried = {video.id for video in self._to_retry(source)}
        changed = [video.id for video in self._new_or_changed(source, plans) if video.id not in retried]
        gone = sorted(planned.keys() - {video.id for video in source.videos})
        if changed and not self.config.run.extend:
            raise RefusedError(
                f"The source has changed since {self.output} was planned. New or of another size: {some(changed)}. "
                "Add --extend to take them in."
            )
        relabelled = [video.id for video in self._labels_changed(source, plans)]
        if relabelled and not self.config.run.extend:
            raise RefusedError(
                f"Labels or splits are not those that {self.output} was planned with: {some(relabelled)}. "
                "Add --extend to take over the new ones; no flow is computed again for that."
            )
        if gone:
            self.say(f"No longer in the source (what is stored of them stays): {some(gone)}")

    @staticmethod
    def _new_or_changed(source: Source, plans: list[Plan]) -> list[Video]:
        planned = planned_videos(plans)
        return [video for video in source.videos if video.id not in planned or planned[video.id].size != video.size]

    @staticmethod
    def _labels_changed(source: Source, plans: list[Plan]) -> list[Video]:
        """Videos of the source whose label or splits differ from the plan's."""
        planned = planned_videos(plans)
        return [
            video
            for video in source.videos
            if (old := planned.get(video.id)) and (old.label, old.splits) != (video.label, video.splits)
        ]

    def _described_anew(self, source: Source, plans: list[Plan]) -> list[Video]:
        """With --extend: planned videos whose labels or splits are to be taken over."""
        return self._labels_changed(source, plans) if self.config.run.extend else []

    def _to_plan_again(self, source: Source, plans: list[Plan]) -> list[Video]:
        """Videos for a new generation: grown or changed ones with --extend, failed ones with --retry-status."""
        grown = self._new_or_changed(source, plans) if self.config.run.extend else []
        again = {video.id: video for video in [*grown, *self._to_retry(source)]}
        return [again[id] for id in sorted(again)]

    def _to_retry(self, source: Source) -> list[Video]:
        """Videos whose row in force has a verdict that --retry-status names."""
        verdicts = self.config.run.retry_verdicts()
        if not verdicts:
            return []
        rows = rows_in_force(read_commits(self.store))
        return [video for video in source.videos if video.id in rows and rows[video.id].verdict in verdicts]

    def _expect(self, source: Source, videos: list[Video], generation: int) -> Expectation:
        """Plan ``videos``, from what their headers say."""
        if videos:
            self.say(f"Planning {plural(len(videos), 'video')}.")
        used = used_blocks(read_commits(self.store)) if generation else {}
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

    def _run_shards(self, plan: Plan, source: Source) -> int:
        """Run the shards of ``plan`` that have no commit record; how many that were."""
        todo = shard.pending(self.store, plan)
        if not todo:
            return 0
        from flowprep.run.dask import local_engine  # costs a second: not for a run with nothing to do

        chosen = self.settings.flow
        flow.get(chosen.method, chosen.backend, **chosen.parameters).warm(self.say)  # once, not in each process

        total = len(plan.shards)
        done = total - len(todo)
        if done:
            self.say(f"Continuing: {done} of {total} shards are done.")
        videos = sum(len(plan.shards[k].videos) for k in todo)
        fields = sum(plan.shards[k].fields for k in todo)
        workers = min(self.workers, len(todo))
        work = Work(str(self.output.absolute()), plan.generation, self.limits, str(source.root))

        def committed(_result: ShardResult) -> None:
            nonlocal done
            done += 1

        with Progress(videos, fields, quiet=self.quiet) as progress:
            shard.listener = progress
            try:
                with local_engine(work, workers) as engine:
                    drive(engine, todo, committed)
            except UnfinishedError:
                raise UnfinishedError(
                    f"Stopped: {done} of {total} shards are committed; run the same command to continue."
                ) from None
            except StoreError as error:
                raise StoreError(f"{error} {done} of {total} shards are committed.") from None
            finally:
                shard.listener = shard.Listener()
        return len(todo)

    def _summary(self, plans: list[Plan], shards_run: int, started: float) -> Summary:
        with self.store.exclusive("finalise"):  # of two runs the later one has read all commits
            commits = read_commits(self.store)
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
