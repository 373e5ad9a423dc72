"""Commit records: the only truth about what is in a dataset, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowprep.errors import RefusedError, StoreError, Verdict
from flowprep.plan import Plan
from flowprep.records import check_seal, many_objects, seal
from flowprep.store import layout
from flowprep.store.blobs import BlobStore
from flowprep.types import LedgerRow, StoredFile
from flowprep.wording import LISTED, some

MADE_ANEW = "Delete it and run the command that made the dataset again: its shard is made anew."
CONTINUE = "unless it is at work or its job waits in a queue, run the command that made the dataset (or submit) again."


@dataclass(frozen=True)
class Commit:
    """What one task stored: written once, never changed."""

    generation: int
    shard: int
    settings_fingerprint: str
    files: tuple[StoredFile, ...]
    rows: tuple[LedgerRow, ...]
    attempt: str  # unique name of the try that won
    host: str
    seconds: float  # wall time of that try
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries at work
    finished: float = 0.0  # UTC seconds since 1970 when it was committed; 0 = not noted

    def to_bytes(self) -> bytes:
        tree = {
            **{key: value for key, value in vars(self).items() if key not in ("files", "rows")},
            "files": [vars(item) for item in self.files],
            "rows": [row.to_json() for row in self.rows],
        }
        return seal(tree)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Commit:
        """The record that :meth:`to_bytes` wrote at ``where``. Raises RefusedError for damage and for forged names."""
        try:
            tree: dict[str, Any] = json.loads(data)
            check_seal(tree, data)
            tree["files"] = tuple(StoredFile(**item) for item in tree["files"])
            tree["rows"] = tuple(LedgerRow.from_json(row) for row in tree["rows"])
            commit = cls(**tree)
            commit._check_names()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RefusedError(f"{where}: damaged commit record ({error}). {MADE_ANEW}") from None
        return commit

    def _check_names(self) -> None:
        """Raise ValueError for what no extraction writes: a file that is no block, a row that is in no array."""
        for item in self.files:
            layout.parse_block_key(item.key)
        arrays = set()
        for row in self.rows:
            if row.verdict is Verdict.OK and not row.flow:
                raise ValueError(f"{row.id} is ok, but has no fields")
            for place in (row.flow, row.frames):
                if place:
                    arrays.add(place.array)
                    if place.start < 0 or place.length < 1:
                        raise ValueError(f"{row.id} has {place.length} rows from {place.start} on")
        for name in arrays:
            layout.ArrayName.parse(name)


def committed_shards(store: BlobStore, plans: Iterable[Plan] = ()) -> set[tuple[int, int]]:
    """(generation, shard) of every commit record: those that the folder lists, and planned ones that it omits.

    Over NFS a folder may be listed as it was some seconds ago, but a file that is there can be opened.
    """
    listed = (layout.parse_commit_key(key) for key in store.keys(layout.COMMITS))
    found = {item for item in listed if item is not None}
    planned = {(plan.generation, number) for plan in plans for number in range(len(plan.shards))}
    return found | {item for item in planned - found if store.exists(layout.commit_key(*item))}


def read_commits(
    store: BlobStore,
    plans: Iterable[Plan] = (),
    known: Sequence[Commit] = (),
    broken: dict[tuple[int, int], str] | None = None,
) -> list[Commit]:
    """All commit records, oldest generation first. Raises RefusedError naming a damaged one.

    Parameters
    ----------
    plans: for :func:`committed_shards`.
    known: records read before; they never change, so that these are not read again.
    broken: where given, takes (generation, shard) of each damaged record and what to say of it, instead of the error.
    """
    have = {(commit.generation, commit.shard): commit for commit in known}
    commits = []
    with many_objects():
        for item in sorted(committed_shards(store, plans) | have.keys()):
            try:
                commits.append(have.get(item) or _read(store, *item))
            except RefusedError as error:
                if broken is None:
                    raise
                broken[item] = str(error)
    return commits


def _read(store: BlobStore, generation: int, shard: int) -> Commit:
    key = layout.commit_key(generation, shard)
    commit = Commit.from_bytes(store.get(key), store.address(key))
    if (commit.generation, commit.shard) != (generation, shard):
        raise RefusedError(f"{store.address(key)}: this is the record of another shard, copied or renamed. {MADE_ANEW}")
    return commit


def rows_in_force(commits: list[Commit]) -> dict[str, LedgerRow]:
    """Video id -> its newest row: a later generation replaces an earlier one."""
    rows: dict[str, LedgerRow] = {}
    for commit in commits:
        for row in commit.rows:
            rows[row.id] = row
    return {id: rows[id] for id in sorted(rows)}


def damaged(store: BlobStore, commits: list[Commit]) -> list[str]:
    """Keys of the commit records with files that are missing or of another size: what a look at the disk tells."""
    return [
        layout.commit_key(commit.generation, commit.shard)
        for commit in commits
        if any(store.size(item.key) != item.bytes for item in commit.files)
    ]


def repair_advice(keys: Collection[str]) -> str:
    """What to do about damaged commits."""
    every = " flowprep verify names every one of them." if len(keys) > LISTED else ""
    these = some(sorted(keys))
    return f"Delete {these} and run the command that made the dataset again: those shards are made anew.{every}"


def tally(rows: dict[str, LedgerRow]) -> dict[str, int]:
    """Videos by verdict, ok first."""
    counts = {str(verdict): 0 for verdict in Verdict}
    for row in rows.values():
        counts[str(row.verdict)] += 1
    return {verdict: count for verdict, count in counts.items() if count}


def state_of(plans: int, commits: int) -> str:
    """Names a state of the dataset: plans and commits are only ever added."""
    return f"{plans} plans, {commits} commits"


def state_written(store: BlobStore) -> str:
    """The :func:`state_of` that the Zarr metadata was made from; "" where there is none. RefusedError for damage."""
    if not store.exists("zarr.json"):
        return ""
    try:
        return str(json.loads(store.get("zarr.json"))["attributes"]["flowprep"]["state"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RefusedError(
            f"{store.address('zarr.json')} is damaged: run the command that made the dataset again."
        ) from None


def is_finalised(store: BlobStore, plans: int, commits: int) -> bool:
    """Whether the Zarr metadata and the videos table were made from just this number of plans and commits."""
    try:
        return state_written(store) == state_of(plans, commits)
    except (RefusedError, StoreError):
        return False
