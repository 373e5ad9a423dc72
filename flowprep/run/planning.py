"""From a configuration to plans: the source read, what is new in it planned, and what does not fit refused."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from flowprep.annotations import Source
from flowprep.config import RunConfig
from flowprep.errors import RefusedError, StoreError, UnfinishedError, UsageError
from flowprep.plan import Plan
from flowprep.records import many_objects
from flowprep.run.changes import Changes, refuse_other_settings
from flowprep.run.expectation import Expectation, expect, used_blocks
from flowprep.run.product import Product
from flowprep.shard import give_up
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
    state_of,
)
from flowprep.store.digest import Digest, read_digest
from flowprep.store.plans import read_plans, write_plan
from flowprep.types import Video
from flowprep.wording import duration, plural, size, some

PATIENCE = 3.0  # s until a wait is explained


class Planner:
    """The plans of the dataset ``output``. ``workers``: how many headers to read at once, and for estimates of time."""

    def __init__(
        self, product: Product, output: Path, run: RunConfig, workers: int, say: Callable[[str], None]
    ) -> None:
        self.product = product
        self.output = output
        self.run = run
        self.workers = workers
        self.say = say
        self.store = LocalStore(output)
        self._known: list[Commit] = []  # commits read so far

    @many_objects()
    def source(self) -> Source:
        """What the product names. Raises UsageError where there is nothing."""
        return self.product.source(self.say)

    @many_objects()
    def plans(self, source: Source) -> list[Plan]:
        """The plans of the dataset, the first one made now if there is none; refused if they do not fit ``source``."""
        with self.store.exclusive("plan", self._wait_for_planner()):  # of several that start together one plans
            plans = self.read()
            if not plans:
                return [self._write(self.expect(source, list(source.videos), 0).plan)]
        changes = self.checked_changes(source, plans)
        if changes.gone:
            self.say(f"No longer in the source (what is stored of them stays): {some(changes.gone)}")
        digest = self.digest(plans)
        if digest and digest.is_intact(self.store):
            return plans
        if broken := damaged(self.store, self.commits(plans)):
            raise RefusedError(f"{self.output} is damaged: files are missing or cut short. {repair_advice(broken)}")
        return plans

    def _wait_for_planner(self) -> Callable[[], None]:
        """What to do while another process plans: say so, once, and give up when told to stop."""
        begun, said = time.monotonic(), False

        def waiting() -> None:
            nonlocal said
            give_up()
            if not said and time.monotonic() > begun + PATIENCE:
                said = True
                self.say(f"Another process plans {self.output}; waiting for it.")

        return waiting

    def read(self) -> list[Plan]:
        """The plans that there are."""
        return read_plans(self.store)

    def checked_changes(self, source: Source, plans: list[Plan]) -> Changes:
        refuse_other_settings(self.output, plans, self.product.settings)
        changes = self._changes(source, plans)
        changes.refuse(self.output)
        return changes

    @many_objects()
    def _changes(self, source: Source, plans: list[Plan]) -> Changes:
        rows = rows_in_force(self.commits(plans)) if self.run.retry_verdicts() else {}
        return Changes(source, plans, rows, self.run)

    def again(self, source: Source, plans: list[Plan]) -> bool:
        """Add a generation to ``plans`` for what is new, changed or to be tried again; False if nothing is."""
        changes = self._changes(source, plans)
        waiting = {video.id for video in self.pending_videos(plans)}  # asked for before
        videos, described = [video for video in changes.videos if video.id not in waiting], changes.described
        if videos and waiting:
            # Where the rows of a pending shard will lie is not known yet: it may need more blocks than planned.
            self.say(
                f"Of what was planned before, {plural(len(waiting), 'video')} still to do. "
                f"{plural(len(videos), 'new or failed video')} will be planned by the same command after that."
            )
            return False
        if videos:
            self.product.check()
        if videos or described:
            plan = self.expect(source, videos, len(plans)).plan
            plans.append(self._write(replace(plan, described=tuple(described))))
        return bool(videos or described)

    def commits(self, plans: Sequence[Plan]) -> list[Commit]:
        self._known = read_commits(self.store, plans, known=self._known)
        return self._known

    def pending_videos(self, plans: list[Plan]) -> list[Video]:
        """Videos of the shards that are not committed."""
        done = committed_shards(self.store, plans)
        return [
            video
            for plan in plans
            for number, shard in enumerate(plan.shards)
            if (plan.generation, number) not in done
            for video in shard.videos
        ]

    def pending(self, plans: list[Plan]) -> int:
        """Shards of all ``plans`` that are not committed."""
        return sum(len(plan.shards) for plan in plans) - len(committed_shards(self.store, plans))

    def expect(self, source: Source, videos: list[Video], generation: int) -> Expectation:
        """Plan ``videos``."""
        if videos:
            self.say(f"Planning {plural(len(videos), 'video')}.")
        used = used_blocks(self.commits(read_plans(self.store))) if generation else {}
        try:
            expected = expect(self.product, source.root, videos, generation, used, self.workers)
        except UnfinishedError:
            raise UnfinishedError("Stopped while planning; run the same command to start again.") from None
        if videos:
            workers = min(self.workers, len(expected.plan.shards))
            about = duration(expected.seconds / workers)
            self.say(
                f"About {plural(expected.fields, self.product.settings.unit)}, {about} on {plural(workers, 'worker')}."
            )
        if expected.bytes > (free := free_bytes(self.output)):
            self.say(f"Warning: about {size(expected.bytes)} will be written, {size(free)} are free there.")
        return expected

    def _write(self, plan: Plan) -> Plan:
        """Publish a plan; if another run has just published the same, all the better."""
        key = layout.plan_key(plan.generation)
        if not write_plan(self.store, plan) and not (self.store.exists(key) and self.store.get(key) == plan.to_bytes()):
            raise RefusedError(f"{self.output}: another run has just planned it, and not alike. Run the command again.")
        return plan

    def digest(self, plans: list[Plan]) -> Digest | None:
        """The digest of the dataset as it is, if it is finalised."""
        commits = len(committed_shards(self.store, plans))
        return (
            read_digest(self.store, state_of(len(plans), commits))
            if is_finalised(self.store, len(plans), commits)
            else None
        )


def refuse_foreign(output: Path) -> None:
    """A folder that holds something else must not get our files mixed in; one that cannot be made is named now."""
    parent = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if parent.is_dir() and not os.access(parent, os.W_OK | os.X_OK):
        raise StoreError(f"{parent}: not writable, so {output} cannot be made there. Check its permissions.")
    if not parent.is_dir() and parent != output.absolute():
        raise UsageError(f"{parent} is a file, so {output} cannot be made below it: name another folder.")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: name a new folder, for example {output}.zarr.")
    if output.is_dir() and any(output.iterdir()) and not (output / layout.PLANS).is_dir():
        raise RefusedError(f"{output} exists and is not a flowprep dataset: name another folder.")


def free_bytes(path: Path) -> int:
    """Free space of the disk that ``path`` (or its nearest existing parent) lies on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
