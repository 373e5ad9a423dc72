"""Whatever happens to the files of a dataset is found and named: by ``verify``, on opening, and by exit code 65."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowprep
from flowprep.config import fingerprint
from flowprep.errors import RefusedError, Verdict
from flowprep.plan import Plan
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import Commit, read_commits
from flowprep.store.verify import Report, verify
from flowprep.types import LedgerRow, Placement, StoredFile
from tests.in_process import CLIP, SETTINGS, small_dataset

PLAN = layout.plan_key(0)
COMMIT = layout.commit_key(0, 1)
KINDS = ["flow_48x64", "flow_backward_48x64", "frames_32x43", *(f"flow_48x64_{side}" for side in layout.SIDES)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "out.zarr"))


def faults(path: Path, *, full: bool = False) -> list[str]:
    report: Report = verify(flowprep.open(path), full=full)
    assert report.clean == (not report.faults and not report.unfinished)
    return report.faults


def block(path: Path, kind: str) -> Path:
    """A file of rows of one array."""
    return next(each for each in sorted((path / kind).rglob("*")) if each.is_file() and "c" in each.parts)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[Commit], Commit], key: str = COMMIT) -> None:
    """Put a changed commit record, with a checksum that is right, in place of the old one."""
    commit = Commit.from_bytes((path / key).read_bytes(), key)
    (path / key).write_bytes(change(commit).to_bytes())


# --- verify ---


def test_a_whole_dataset_is_clean(whole: Path) -> None:
    report = verify(flowprep.open(whole), full=True)
    assert report.clean and report.videos == 3
    assert report.files == sum(len(commit.files) for commit in read_commits(LocalStore(whole))) > 10
    assert report.rows_read == 2 * (2 * 5 + 6), "two videos: fields in both directions, and frames"


def test_every_committed_file_is_checked(whole: Path, out: Path) -> None:
    names = {item.key for commit in read_commits(LocalStore(whole)) for item in commit.files}
    assert {name.partition("/c/")[0] for name in names} >= set(KINDS)
    for name in names:
        flip(out / name, 1)
    found = faults(out)
    for commit in read_commits(LocalStore(whole)):
        record = layout.commit_key(0, commit.shard)
        for item in commit.files:
            assert f"{item.key}: its checksum is wrong; its commit record is {record}." in found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [0, -1], ids=["first byte", "last byte"])
def test_one_flipped_bit(out: Path, kind: str, at: int) -> None:
    damaged = block(out, kind)
    flip(damaged, at)
    assert f"{damaged.relative_to(out)}: its checksum is wrong; its commit record is " in "".join(faults(out))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file(out: Path, kind: str) -> None:
    damaged = block(out, kind)
    damaged.unlink()
    assert f"{damaged.relative_to(out)}: missing; its commit record is " in "".join(faults(out))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0, 100])
def test_a_truncated_file(out: Path, kind: str, left: int) -> None:
    damaged = block(out, kind)
    size = damaged.stat().st_size
    damaged.write_bytes(damaged.read_bytes()[:left])
    assert f"{damaged.relative_to(out)}: {left} bytes, {size} were committed; its commit record" in "".join(faults(out))


def test_a_missing_commit(out: Path) -> None:
    (out / COMMIT).unlink()
    report = verify(flowprep.open(out))
    assert not report.clean and not report.faults, "not finished is not damaged"
    assert report.unfinished == (
        "1 of 2 shards are not committed, it is not finished: unless it is at work or its job waits in a queue, "
        "run the command that made the dataset (or submit) again."
    )


def test_rows_claimed_twice(out: Path) -> None:
    first = flowprep.open(out).videos[CLIP].row.flow
    assert first

    def steal(commit: Commit) -> Commit:
        return replace(commit, rows=tuple(replace(row, flow=first) if row.flow else row for row in commit.rows))

    rewrite(out, steal, layout.commit_key(0, 0 if CLIP not in ids_of(out, 0) else 1))
    assert any(f"{first.array}: " in fault and "claim the same rows" in fault for fault in faults(out))


def ids_of(path: Path, shard: int) -> list[str]:
    key = layout.commit_key(0, shard)
    return [row.id for row in Commit.from_bytes((path / key).read_bytes(), key).rows]


def test_mixed_settings(out: Path) -> None:
    rewrite(out, lambda commit: replace(commit, settings_fingerprint="f" * 64))
    assert faults(out) == [
        f"settings are mixed: fingerprints {', '.join(sorted([SETTINGS.fingerprint()[:12], 'f' * 12]))}."
    ]


def test_a_record_that_leaves_a_video_out(out: Path) -> None:
    lost = ids_of(out, 1)[0]
    rewrite(out, lambda commit: replace(commit, rows=commit.rows[1:]))
    found = faults(out)
    assert "commit 0.00001 does not account for exactly the videos planned for it." in found
    assert f"{lost}: planned, but has no ledger row." in found


def test_a_record_that_belongs_to_no_plan(out: Path) -> None:
    commit = Commit.from_bytes((out / COMMIT).read_bytes(), COMMIT)
    (out / layout.commit_key(0, 7)).write_bytes(replace(commit, shard=7).to_bytes())
    assert "commit 0.00007 belongs to no plan." in faults(out)


def test_a_count_that_is_wrong(out: Path) -> None:
    def shorten(row: LedgerRow) -> LedgerRow:
        return replace(row, flow=replace(row.flow, length=row.flow.length - 1)) if row.flow else row

    rewrite(out, lambda commit: replace(commit, rows=tuple(map(shorten, commit.rows))))
    assert any("6 frames and 4 fields; there must be one field less than frames." in fault for fault in faults(out))


def test_rows_that_do_not_decode_are_found_only_by_reading_all(out: Path) -> None:
    """A file whose checksum is right and whose middle row is no image: a bug at writing, not damage on the disk."""
    store = LocalStore(out)
    (commit, row) = next((each, row) for each in read_commits(store) for row in each.rows if row.flow)
    assert row.flow
    key = layout.shard_key(row.flow.array, row.flow.start // 2048)
    data = (out / key).read_bytes()
    second = data.index(b"\xff\xd8", 2)
    data = data[:second] + b"\0\0" + data[second + 2 :]
    (out / key).write_bytes(data)
    files = tuple(
        replace(item, sha256=hashlib.sha256(data).hexdigest()) if item.key == key else item for item in commit.files
    )
    rewrite(out, lambda commit: replace(commit, files=files), layout.commit_key(0, commit.shard))
    assert faults(out) == []
    (found,) = faults(out, full=True)
    assert found == (
        f"{row.id}: field 1: {out / key}: row {row.flow.start + 1} of {row.flow.array}: damaged: its checksum is wrong"
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda out: (out / "zarr.json").write_text("{}"), "zarr.json is damaged"),
        (lambda out: (out / "zarr.json").write_text("[" * 100_000), "zarr.json is damaged"),
        (lambda out: (out / "flow_48x64/zarr.json").unlink(), "the Zarr metadata is damaged"),
        (lambda out: (out / "flow_48x64/zarr.json").write_text("[1"), "the Zarr metadata is damaged"),
        (lambda out: (out / "videos/start/c/0").unlink(), "videos/start is not what the commit records say"),
        (lambda out: flip(out / "videos/length/c/0", 0), "videos/length is not what the commit records say"),
        (lambda out: flip(out / "videos/id/c/0", -1), "videos/id|the Zarr metadata is damaged"),
        (
            lambda out: (out / "flow_48x64_zero/zarr.json").write_text(
                (out / "flow_48x64_zero/zarr.json").read_text().replace('"shape": [\n    ', '"shape": [\n    1')
            ),
            "flow_48x64_zero has .* rows in the metadata",
        ),
    ],
)
def test_metadata_that_is_not_the_records(out: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(out)
    found = faults(out)
    assert len(found) == 1
    assert re.search(words, found[0]) and "run the command that made the dataset again" in found[0]
    assert flowprep.open(out).flow(CLIP).shape[0] == 5, "flowprep itself reads the records"


@pytest.mark.parametrize("old", ["", "1 plans, 1 commits"], ids=["none", "older"])
def test_metadata_that_is_not_made_yet(out: Path, old: str) -> None:
    """Killed after the last commit."""
    text = (out / "zarr.json").read_text()
    (out / "zarr.json").write_text(text.replace("1 plans, 2 commits", old)) if old else (out / "zarr.json").unlink()
    report = verify(flowprep.open(out))
    assert not report.clean and not report.faults and "zarr.json is missing or older" in report.unfinished


# --- plans and records ---


quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("key", [PLAN, COMMIT])
@given(data=st.data())
@quick
def test_any_changed_byte_of_a_record_is_found(whole: Path, key: str, data: st.DataObject) -> None:
    raw = bytearray((whole / key).read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255).filter(lambda value: value != raw[at]))
    read = Plan.from_bytes if key == PLAN else Commit.from_bytes
    try:
        changed = read(bytes(raw), f"out.zarr/{key}")
    except RefusedError as error:
        found = str(error)
    else:  # a capital letter in the escape of a letter that is not ASCII
        assert changed == read((whole / key).read_bytes(), key)
        return
    assert found.startswith(f"out.zarr/{key}: ")


@pytest.mark.parametrize("key", [PLAN, COMMIT])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'"text"',
        b"[" * 100_000,
        b'{"format":2}',
        b'{"format":2,"sha256":""}',
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_record_is_refused_by_name(out: Path, key: str, data: bytes) -> None:
    (out / key).write_bytes(data)
    advice = (
        "from a copy of the dataset; without one, make"
        if key == PLAN
        else "Delete it and run the command that made the dataset"
    )
    with pytest.raises(RefusedError, match=f"{out / key}: damaged .* {advice}"):
        flowprep.open(out)


def test_another_format_is_named(out: Path) -> None:
    tree = json.loads((out / PLAN).read_bytes())
    (out / PLAN).write_text(json.dumps({**tree, "format": 99}))
    with pytest.raises(RefusedError, match=f"{out / PLAN}: dataset format 99, this flowprep reads format 2"):
        flowprep.open(out)


def test_records_under_another_name_are_refused(out: Path) -> None:
    shutil.copy(out / COMMIT, out / layout.commit_key(0, 0))
    with pytest.raises(RefusedError, match="0.00000.json: this is the record of another shard, copied or renamed"):
        flowprep.open(out)
    shutil.copy(out / PLAN, out / layout.plan_key(1))
    with pytest.raises(RefusedError, match="plan.1.json: the plan of another generation, copied or renamed"):
        flowprep.open(out)


def test_what_else_lies_among_the_records_is_left_alone(out: Path) -> None:
    for name in ("notes.txt", "0.1.json", "0.00001.json~", ".0.00001.json.swp"):
        (out / layout.COMMITS / name).write_text("not a record")
    assert faults(out) == []


# --- forged records: their checksums are right, what they say is not ---


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"files": [StoredFile("../../etc/passwd", 1, "0" * 64)]}, id="a file outside"),
        pytest.param({"files": [StoredFile("/etc/passwd", 1, "0" * 64)]}, id="an absolute file"),
        pytest.param({"files": [StoredFile("flow_48x64/c/0/../../../../x", 1, "0" * 64)]}, id="a way out of a block"),
        pytest.param({"files": [StoredFile("flow_48x64/c/00/0/0/0", 1, "0" * 64)]}, id="another spelling"),
        pytest.param({"files": [StoredFile("zarr.json", 1, "0" * 64)]}, id="the metadata"),
        pytest.param({"rows": [LedgerRow(CLIP, Verdict.OK, flow=Placement("../x_1x1", 0, 1))]}, id="an array outside"),
        pytest.param({"rows": [LedgerRow(CLIP, Verdict.OK, flow=Placement("flow_0x5", 0, 1))]}, id="an empty array"),
        pytest.param({"rows": [LedgerRow(CLIP, Verdict.OK, flow=Placement("flow_9x9", -1, 1))]}, id="rows before all"),
        pytest.param({"rows": [LedgerRow(CLIP, Verdict.OK, flow=Placement("flow_9x9", 0, 0))]}, id="no rows"),
        pytest.param({"rows": [LedgerRow(CLIP, Verdict.OK)]}, id="ok without rows"),
    ],
)
def test_forged_records_are_refused(out: Path, change: dict[str, Any]) -> None:
    rewrite(out, lambda commit: replace(commit, **{name: tuple(value) for name, value in change.items()}))
    with pytest.raises(RefusedError, match=f"{out / COMMIT}: damaged commit record"):
        flowprep.open(out)


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 5},
        {"shards": [{"videos": [], "blocks": [], "fields": 0}]},
        {"shards": [{"videos": [{"id": "x"}], "blocks": {}, "fields": 0}]},
        {"settings": {**SETTINGS.to_json(), "video": {"stride": "x"}}},
        {"settings": {**SETTINGS.to_json(), "flow": None}},
        {"settings": {**SETTINGS.to_json(), "engine": ["x"]}},
        {"settings": {**SETTINGS.to_json(), "storage": {"quality": 1000}}},
    ],
)
def test_forged_plans_are_refused(out: Path, change: dict[str, Any]) -> None:
    tree = {**json.loads((out / PLAN).read_bytes()), **change}
    del tree["sha256"]
    (out / PLAN).write_text(json.dumps({**tree, "sha256": fingerprint(tree)}))
    with pytest.raises(RefusedError, match=f"{out / PLAN}: damaged plan"):
        flowprep.open(out)


def test_rows_without_end_exhaust_nothing(out: Path) -> None:
    endless = Placement("flow_48x64", 0, 10**15)
    rewrite(
        out, lambda commit: replace(commit, rows=tuple(replace(row, flow=endless) for row in commit.rows if row.flow))
    )
    dataset = flowprep.open(out)
    row = next(row for row in dataset.videos if row.row.flow == endless)
    with pytest.raises(RefusedError, match="missing"):
        dataset.flow(row.id)


@pytest.mark.parametrize("kind", ["flow_48x64", "flow_48x64_scale", "frames_32x43"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")], ids=["missing", "short"])
def test_reading_what_is_damaged_names_the_file(out: Path, kind: str, damage: Callable[[Path], Any]) -> None:
    dataset = flowprep.open(out)
    for path in sorted((out / kind / "c").rglob("*")):
        if path.is_file():
            damage(path)
    with pytest.raises(RefusedError, match=f"{out}/{kind}/c/"):
        dataset.frames(CLIP) if kind.startswith("frames") else dataset.flow(CLIP)
