"""What a run of a finished dataset says, in one small file, so that it need not read hundreds of thousands of rows.

Derived from the commit records, as the Zarr metadata is, and only believed where it was made from as many as there are.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from flowprep.errors import Verdict
from flowprep.records import check_seal, seal
from flowprep.store import layout
from flowprep.store.blobs import BlobStore
from flowprep.store.commits import Commit, rows_in_force, state_of, tally
from flowprep.types import LedgerRow


@dataclass(frozen=True)
class Digest:
    """A whole dataset in numbers."""

    state: str  # that it was made from
    verdicts: dict[str, int]  # videos by verdict
    failures: tuple[LedgerRow, ...]  # rows in force that are not ok
    fields: int  # stored, in each direction
    sizes: dict[str, int]  # bytes of each committed file, by key
    records: dict[str, int]  # bytes of each commit record, by key

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def is_intact(self, store: BlobStore) -> bool:
        """Whether all files are there, at their full length."""
        return all(store.size(key) == size for key, size in (self.sizes | self.records).items())


def make_digest(store: BlobStore, plans: int, commits: list[Commit]) -> Digest:
    """The digest of the dataset in ``store`` that has so many plans, and these commits."""
    keys = [layout.commit_key(commit.generation, commit.shard) for commit in commits]
    rows = rows_in_force(commits)
    return Digest(
        state=state_of(plans, len(commits)),
        verdicts=tally(rows),
        failures=tuple(row for row in rows.values() if row.verdict is not Verdict.OK),
        fields=sum(row.flow.length for row in rows.values() if row.flow),
        sizes={item.key: item.bytes for commit in commits for item in commit.files},
        records={key: store.size(key) for key in keys},
    )


def write_digest(store: BlobStore, digest: Digest) -> None:
    """Put it in place of an older one."""
    tree = {**asdict(digest), "failures": [row.to_json() for row in digest.failures]}
    with store.scratch() as folder:
        path = folder / "digest"
        path.write_bytes(seal(tree))
        store.replace(layout.DIGEST, path)


def read_digest(store: BlobStore, state: str) -> Digest | None:
    """The digest, if there is one of just this ``state`` and it is undamaged."""
    if not store.exists(layout.DIGEST):
        return None
    data = store.get(layout.DIGEST)
    try:
        tree = json.loads(data)
        check_seal(tree, data)
        failures = tuple(LedgerRow.from_json(row) for row in tree.pop("failures"))
        digest = Digest(**tree, failures=failures)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return digest if digest.state == state else None
