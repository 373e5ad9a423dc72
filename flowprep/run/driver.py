"""A run from its configuration to its exit code: list, plan, run what is missing, finalise, sum up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowprep import shard
from flowprep.config import ExtractConfig, StackingConfig, TranscodeConfig
from flowprep.errors import ExitCode, GPUError, RefusedError, StoreError, UnfinishedError, UsageError, Verdict
from flowprep.plan import Plan
from flowprep.records import many_objects
from flowprep.run.address import scheduler_address
from flowprep.run.batch import share
from flowprep.run.changes import refuse_other_settings
from flowprep.run.derived import StacksOfFields, Transcoded
from flowprep.run.engines import open_engine
from flowprep.run.expectation import Expectation
from flowprep.run.planning import Planner, refuse_foreign
from flowprep.run.product import FlowOfVideos, Product, limits_of
from flowprep.run.progress import Progress
from flowprep.run.signals import Stop, stop_on_signals
from flowprep.run.window import drive
from flowprep.shard import Work, give_up
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.digest import make_digest, write_digest
from flowprep.types import LedgerRow, ShardResult
from flowprep.wording import plural, some


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


class Run:
    """One run of a command that makes a dataset.

    ``say`` receives lines for the user (notes, not results); ``quiet`` turns off the progress display.
    """

    def __init__(
        self,
        product: Product,
        config: ExtractConfig | TranscodeConfig,
        say: Callable[[str], None] = print,
        *,
        quiet: bool = False,
    ) -> None:
        if not config.output:
            raise UsageError("no output: name the dataset to write, for example ucf101.zarr.")
        self.config = config
        self.say = say
        self.quiet = quiet
        self.told_to_stop = False  # by a signal, while it ran
        self.settings = product.settings
        if product.note:
            say(product.note)
        self.gpu = product.gpu
        self.output = Path(config.output)
        self.store = LocalStore(self.output)
        self.workers = config.run.workers or len(os.sched_getaffinity(0))  # with GPUs, too: they decode and encode
        self._product = product
        self._planner = Planner(product, self.output, config.run, self.workers, say)
        refuse_foreign(self.output)
        if config.cluster.remote:
            scheduler_address(config.cluster)  # not only after an hour of planning

    def dry_run(self) -> Expectation:
        """The plan for what is still to do, without writing anything."""
        with stop_on_signals(self.config.run.grace):
            return self._dry_run()

    def _dry_run(self) -> Expectation:
        source = self._planner.source()
        plans = self._planner.read()
        if not plans:
            return self._planner.expect(source, list(source.videos), 0)
        waiting = self._planner.pending_videos(plans)
        videos = {video.id: video for video in [*self._planner.checked_changes(source, plans).videos, *waiting]}
        return self._planner.expect(source, list(videos.values()), len(plans))

    def prepare(self) -> tuple[int, int]:
        """Write the plans that are missing, without running them: how many shards are pending, of how many.

        With none pending the dataset is finalised, in case its last task died on the way there.
        """
        started = time.monotonic()
        with stop_on_signals(self.config.run.grace):
            source = self._planner.source()
            plans = self._planner.plans(source)
            self._planner.again(source, plans)
            left = self._planner.pending(plans)
            if not left:
                self._summary(plans, 0, started)
            return left, sum(len(plan.shards) for plan in plans)

    def run(self) -> Summary:
        """Do what is missing and sum up. Raises UnfinishedError when told to stop by a signal."""
        if not __debug__:  # zarr relies on assert statements
            raise RefusedError("Python runs with -O or PYTHONOPTIMIZE, which breaks zarr: unset it.")
        with stop_on_signals(self.config.run.grace) as stop:
            summary = self._run_share(stop) if self.config.cluster.executor == "batch" else self._run_all(stop)
            self.told_to_stop = stop.asked
            return summary

    def _run_all(self, stop: Stop) -> Summary:
        started = time.monotonic()
        source = self._planner.source()
        plans = self._planner.plans(source)
        self.store.sweep()
        results = [self._run_shards(plan, shard.pending(self.store, plan), str(source.root), stop) for plan in plans]
        if self._planner.again(source, plans):
            plan = plans[-1]
            results.append(self._run_shards(plan, shard.pending(self.store, plan), str(source.root), stop))
        return self._summary(plans, sum(map(len, results)), started)

    def _run_share(self, stop: Stop) -> Summary:
        """One task of a job array: only its own shards. The source is not read again, however large it is."""
        if self.config.run.retry_status or self.config.run.extend:
            how = (
                "the same command without --executor batch and --task does that, and the work"
                if self.settings.derived
                else "flowprep submit does that"
            )
            raise UsageError(
                f"--retry-status and --extend plan new work, once, for all tasks of a job array: {how}. "
                "Leave them out here."
            )
        started = time.monotonic()
        mine = share(self.config.cluster.task)
        self.store.sweep()
        plans = self._planner.read() or self._planner.plans(self._planner.source())
        root = self._product.root()
        refuse_other_settings(self.output, plans, self.settings)
        done: list[ShardResult] = []
        for plan in plans:
            todo = [k for k in shard.pending(self.store, plan) if k in mine]
            done += self._run_shards(plan, todo, str(root), stop)
        left = self._planner.pending(plans)
        if not left:
            return self._summary(plans, len(done), started)
        done = [result for result in done if result.outcome == "committed"]
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

    def _run_shards(self, plan: Plan, todo: list[int], root: str, stop: Stop) -> list[ShardResult]:
        """Run the shards ``todo`` of ``plan``; what became of each."""
        if not todo:
            return []
        remote = self.config.cluster.remote
        if not remote:
            self._product.check()
            self._product.warm(self.say)  # once, not in each process
        total = len(plan.shards)
        if len(todo) < total and self.config.cluster.executor == "dask":
            self.say(f"Continuing: {total - len(todo)} of {total} shards are done.")
        videos = sum(len(plan.shards[k].videos) for k in todo)
        fields = sum(plan.shards[k].fields for k in todo)
        workers = self.config.run.workers if remote else min(self.workers, len(todo))
        work = Work(str(self.output.absolute()), plan.generation, limits_of(self.config.run), root)
        results: list[ShardResult] = []
        with Progress(videos, fields, unit=self.settings.unit, quiet=self.quiet) as progress:

            def committed(result: ShardResult) -> None:
                results.append(result)
                if remote or result.outcome == "already done":  # nothing was heard of it before
                    progress.shard(result)

            shard.listener = progress
            try:
                with open_engine(self.config.cluster, work, workers, gpu=self.gpu, say=progress.note) as engine:
                    aside = drive(engine, todo, committed, stop)
            except UnfinishedError as error:
                reason = "Stopped" if stop.asked else str(error).rstrip(".")
                raise UnfinishedError(f"{reason}: {self._how_far(plan)}; run the same command to continue.") from None
            except StoreError as error:
                raise StoreError(f"{error} ({self._how_far(plan)}.)") from None
            except GPUError as error:
                raise GPUError(f"{error} {self._product.otherwise}") from None
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

    @many_objects()
    def _summary(self, plans: list[Plan], shards_run: int, started: float) -> Summary:
        with self.store.exclusive("finalise", give_up):  # of two runs the later one has read all plans and commits
            if self.store.exists(layout.plan_key(len(plans))):
                plans = self._planner.read()
            digest = self._planner.digest(plans)
            if digest is None:
                from flowprep.store.finalise import finalise  # loads zarr: not for a run with nothing to do

                commits = self._planner.commits(plans)
                finalise(self.store, plans, commits)
                digest = make_digest(self.store, len(plans), commits)
                write_digest(self.store, digest)
        allowed = self.config.run.failures_allowed(sum(digest.verdicts.values()))
        return Summary(
            verdicts=digest.verdicts,
            failures=list(digest.failures),
            fields=digest.fields,
            bytes=digest.bytes,
            shards_run=shards_run,
            seconds=time.monotonic() - started,
            exit_code=ExitCode.OK if len(digest.failures) <= allowed else ExitCode.REFUSED,
        )


class Extraction(Run):
    """One run of ``flowprep extract``."""

    config: ExtractConfig

    def __init__(
        self,
        config: ExtractConfig,
        say: Callable[[str], None] = print,
        *,
        quiet: bool = False,
        elsewhere: bool = False,
    ) -> None:
        """``elsewhere``: other machines will run it, so that a backend that is named need not work on this one."""
        if not config.source.path:
            raise UsageError("no source: name a folder of videos or a list file.")
        super().__init__(FlowOfVideos(config, elsewhere=elsewhere), config, say, quiet=quiet)


class Stacking(Run):
    """One run of ``flowprep stack``."""

    def __init__(self, config: StackingConfig, say: Callable[[str], None] = print, *, quiet: bool = False) -> None:
        super().__init__(StacksOfFields(config), config, say, quiet=quiet)


class Transcoding(Run):
    """One run of ``flowprep transcode``."""

    def __init__(self, config: TranscodeConfig, say: Callable[[str], None] = print, *, quiet: bool = False) -> None:
        super().__init__(Transcoded(config), config, say, quiet=quiet)
