"""How far an extraction is: the answer of ``flowprep status``, from plans and commit records alone.

Nothing here asks the processes at work, so it is the same while they run, after a crash, and from another machine.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flowprep.errors import Verdict
from flowprep.records import many_objects
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import Commit, is_finalised, read_commits, rows_in_force, tally
from flowprep.store.plans import existing_plans, planned_videos

RECENT_SECONDS = 3600.0  # commits this long before the newest make the rate and are named with their hosts ...
PAUSE_SECONDS = 120.0  # ... but none from before a time as long as this in which no shard was worked on
LIFE_SECONDS = 300.0  # whoever is at work writes or commits something more often


@dataclass(frozen=True)
class Status:
    """An extraction in numbers; times in seconds, None where nothing can be said."""

    path: str
    unit: str  # what the rows are that ``fields`` counts: "field" or "stack"
    complete: bool  # all is committed, and the metadata for Zarr readers made from it
    shards: int  # planned
    shards_done: int
    videos: int  # planned
    videos_done: int
    verdicts: dict[str, int]  # videos by verdict, of the rows in force
    fields: int  # stored, in each direction
    fields_left: int  # expected of the shards that are not done
    bytes: int  # of all committed files
    last_commit: float | None  # seconds ago
    recent: float | None  # length of the time that the recent commits were made in, see :func:`recent_commits`
    rate: float | None  # fields per second of all workers together: fields of the recent commits / that time
    eta: float | None  # for fields_left, at the pace at which the recent commits got through their expected fields
    hosts: dict[str, int]  # who made the recent commits, and how many each
    scratches: int  # scratch folders: tries that are at work or were given up
    scratches_quiet: float | None  # since something changed in any of them
    scratches_oldest: float | None  # since something changed in the one that has been quiet for longest

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "alive": self.alive, "failed": self.failed}

    @property
    def alive(self) -> bool:
        """Whether somebody seems to be at work."""
        signs = [sign for sign in (self.last_commit, self.scratches_quiet) if sign is not None]
        return not self.complete and min(signs, default=LIFE_SECONDS) < LIFE_SECONDS

    @property
    def failed(self) -> int:
        """Videos whose verdict is not ok."""
        return sum(count for verdict, count in self.verdicts.items() if verdict != Verdict.OK)


@many_objects()
def status(store: LocalStore) -> Status:
    """Read all records of a dataset and add them up. Raises UsageError where there is none, RefusedError for damage."""
    plans = existing_plans(store)
    commits = read_commits(store, plans)
    done = {(commit.generation, commit.shard) for commit in commits}
    planned = {(plan.generation, number): shard for plan in plans for number, shard in enumerate(plan.shards)}
    left = [shard for item, shard in planned.items() if item not in done]
    fields_left = sum(shard.fields for shard in left)
    videos = planned_videos(plans)
    rows = {id: row for id, row in rows_in_force(commits).items() if id in videos}
    recent = recent_commits(commits)
    seconds = seconds_of(recent)
    expected = sum(planned[c.generation, c.shard].fields for c in recent if (c.generation, c.shard) in planned)
    now = time.time()
    quiet = [now - scratch.changed() for scratch in store.scratches()]
    return Status(
        path=str(store.root),
        unit=plans[-1].settings.unit,
        complete=not left and is_finalised(store, len(plans), len(commits)),
        shards=len(planned),
        shards_done=len(planned) - len(left),
        videos=len(videos),
        videos_done=len(videos) - len({video.id for shard in left for video in shard.videos}),
        verdicts=tally(rows),
        fields=sum(row.flow.length for row in rows.values() if row.flow),
        fields_left=fields_left,
        bytes=sum(item.bytes for commit in commits for item in commit.files),
        last_commit=max(0.0, now - recent[0].finished) if recent else None,
        recent=seconds,
        rate=_fields(recent) / seconds if seconds else None,
        eta=fields_left * seconds / expected if left and seconds and expected else None,
        hosts=dict(Counter(commit.host for commit in recent).most_common()),
        scratches=len(quiet),
        scratches_quiet=max(0.0, min(quiet)) if quiet else None,
        scratches_oldest=max(0.0, *quiet) if quiet else None,
    )


def recent_commits(commits: Sequence[Commit]) -> list[Commit]:
    """Those of the hour before the newest one, back to the last pause, newest first; only with known times."""
    found: list[Commit] = []
    begin = float("inf")  # of the earliest of them
    for commit in sorted((commit for commit in commits if commit.finished), key=lambda c: c.finished, reverse=True):
        if found and commit.finished < max(found[0].finished - RECENT_SECONDS, begin - PAUSE_SECONDS):
            break
        found.append(commit)
        begin = min(begin, commit.finished - commit.seconds)
    return found


def seconds_of(recent: Sequence[Commit]) -> float | None:
    """From the begin of the hour before the newest commit, or of the earliest if that is later, until the newest."""
    if not recent:
        return None
    newest = recent[0]
    longest = max(RECENT_SECONDS, newest.seconds)
    return max(1e-3, min(longest, newest.finished - min(commit.finished - commit.seconds for commit in recent)))


def _fields(commits: Sequence[Commit]) -> int:
    return sum(row.flow.length for commit in commits for row in commit.rows if row.flow)
