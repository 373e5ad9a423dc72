"""Plans and commit records: found though a listing lacks them, read once, and whatever their layout was."""

from __future__ import annotations

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import flowprep
from flowprep.config import fingerprint
from flowprep.errors import RefusedError
from flowprep.plan import Plan
from flowprep.records import many_objects
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import Commit, committed_shards, read_commits
from flowprep.store.plans import read_plans
from tests.bad_nfs import BadNfs
from tests.in_process import CLIP, small_dataset

PLAN = layout.plan_key(0)
COMMIT = layout.commit_key(0, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(whole, tmp_path / "out.zarr"))


def test_records_that_the_folder_does_not_list_yet(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NFS a listing may be seconds old; a planned record is found by its name."""
    nfs = BadNfs(out, monkeypatch, hidden=3600)
    store = LocalStore(out)
    plans = read_plans(store)
    assert committed_shards(store) == set() and nfs.met["hidden"]
    assert committed_shards(store, plans) == {(0, 0), (0, 1)}
    assert [commit.shard for commit in read_commits(store, plans)] == [0, 1]
    assert flowprep.open(out).flow(CLIP).shape[0] == 5
    (out / COMMIT).unlink()
    assert committed_shards(store, plans) == {(0, 0)}


def test_records_are_read_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(out)
    (first, second) = read_commits(store)
    monkeypatch.setattr(store, "get", {layout.commit_key(0, 1): (out / COMMIT).read_bytes()}.__getitem__)
    assert read_commits(store, known=[first]) == [first, second]
    assert read_commits(store, known=[first])[0] is first
    monkeypatch.setattr(store, "keys", lambda _: [])
    assert read_commits(store, known=[first, second]) == [first, second], "though a listing lacks it"


def test_records_of_older_layouts_are_read(out: Path) -> None:
    """Before records had ``finished``, and ended with their checksum."""
    tree = json.loads((out / COMMIT).read_bytes())
    whole = Commit.from_bytes((out / COMMIT).read_bytes(), COMMIT)
    del tree["sha256"]
    tree.pop("finished", None)
    old = json.dumps({"sha256": fingerprint(tree), **tree}, indent=1).encode()
    assert Commit.from_bytes(old, COMMIT) == replace(whole, finished=0.0)
    tree = json.loads((out / PLAN).read_bytes())
    del tree["sha256"]
    old = json.dumps({"sha256": fingerprint(tree), **tree}, indent=1).encode()
    assert Plan.from_bytes(old, PLAN) == Plan.from_bytes((out / PLAN).read_bytes(), PLAN)
    with pytest.raises(RefusedError, match="its checksum is wrong"):
        Plan.from_bytes(old.replace(b"left_00", b"left_01"), PLAN)


def test_the_collector_rests_only_while_records_are_read() -> None:
    assert gc.isenabled()
    with many_objects(), many_objects():
        assert not gc.isenabled()
    assert gc.isenabled()
