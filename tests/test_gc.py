"""``flowprep verify --gc`` takes away what is nobody's, nothing else; ``--sources`` finds videos that have changed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import flowprep
from flowprep.cli.verify import command
from flowprep.errors import ExitCode, RefusedError, UsageError
from flowprep.plan import BLOCK, Plan
from flowprep.store import layout, litter
from flowprep.store.blobs import LOCKS, SCRATCH, LocalStore
from flowprep.store.commits import read_commits
from flowprep.store.litter import collect
from flowprep.store.plans import read_plans
from flowprep.store.scratch import is_scratch, new_name
from flowprep.store.sources import check_sources
from flowprep.store.verify import verify
from flowprep.types import Video
from tests.in_process import CLIP, FAILED, extract, make_dataset, plan_more, write_clips

HOUR = 3600.0
ELSEWHERE, OTHER = f"elsewhere.1-1-{32 * 'a'}", f"a.b-c.4026531836-77-{32 * 'b'}"  # scratch folders of other machines
PARTIAL = f"zarr.{'0a' * 16}.partial"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source") / "videos"


@pytest.fixture(scope="module")
def videos(folder: Path) -> list[Video]:
    return [video for video in write_clips(folder) if not video.id.startswith("more/")][:4]


@pytest.fixture(scope="module")
def whole(folder: Path, videos: list[Video], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("whole") / "out.zarr", folder, videos)


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy to litter."""
    return Path(shutil.copytree(whole, tmp_path / "out.zarr"))


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def strew(out: Path) -> dict[str, list[str]]:
    """Litter of every kind: kind -> keys."""
    beyond = read_plans(LocalStore(out))[0].overflow(1, "flow_48x64")
    keys = {
        "orphan block": [
            layout.shard_key("flow_48x64", 77),
            layout.side_key(layout.ArrayName("flow", 48, 64), "stats", 77),
            layout.shard_key("flow_backward_48x64", beyond),
            layout.shard_key("frames_9x9", 0),
        ],
        "scratch folder": [f"{SCRATCH}/{ELSEWHERE}/video/flow.payload", f"{SCRATCH}/{OTHER}/data"],
        "lock file": [f"{LOCKS}/0.00001", f"{LOCKS}/12.123456", f"{LOCKS}/finalise", f"{LOCKS}/plan"],
        "temporary file": [PARTIAL, f"videos/id/c/{PARTIAL}"],
    }
    for key in (key for group in keys.values() for key in group):
        (out / key).parent.mkdir(parents=True, exist_ok=True)
        (out / key).write_bytes(b"12345")
    return keys


def said(out: Path, code: int, *options: str) -> str:
    result = CliRunner().invoke(command, [str(out), *options])
    if isinstance(result.exception, flowprep.errors.FlowprepError):
        assert result.exception.exit_code == code
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


def test_it_removes_each_kind_and_nothing_that_is_committed(whole: Path, out: Path) -> None:
    strewn = strew(out)
    young = collect(LocalStore(out), older_than=HOUR)
    assert {kind: heap.count for kind, heap in young.kept.items()} == {kind: len(keys) for kind, keys in strewn.items()}
    assert not any(heap.count for heap in young.removed.values())
    assert set(files(out)) == set(files(whole)) | {key for keys in strewn.values() for key in keys}

    found = collect(LocalStore(out), older_than=0)
    assert {kind: (heap.count, heap.bytes) for kind, heap in found.removed.items()} == {
        kind: (len(keys), 5 * len(keys)) for kind, keys in strewn.items()
    }
    assert not any(heap.count for heap in found.kept.values()) and not found.foreign
    assert files(out) == files(whole)
    assert not (out / "flow_48x64/c/77").exists(), "nor does its folder stay"
    assert verify(flowprep.open(out), full=True).clean


def test_age_is_counted_from_the_last_change(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strewn = strew(out)
    now = time.time()
    monkeypatch.setattr(litter.time, "time", lambda: now + 25 * HOUR)
    os.utime(out / SCRATCH / OTHER / "data", (now + 24 * HOUR, now + 24 * HOUR))
    found = collect(LocalStore(out), older_than=24 * HOUR)
    assert found.removed["scratch folder"].count == found.kept["scratch folder"].count == 1
    assert found.removed["orphan block"].count == len(strewn["orphan block"])


def test_a_block_put_long_after_it_was_written_is_young(out: Path) -> None:
    """A link keeps the time of writing: what counts is when the block came to its place."""
    key = strew(out)["orphan block"][0]
    os.utime(out / key, (0, 0))
    assert collect(LocalStore(out), older_than=HOUR).kept["orphan block"].count == 4
    assert (out / key).exists()


def test_what_is_foreign_is_named_and_stays(out: Path, tmp_path: Path) -> None:
    foreign = ["notes.txt", "flow_48x64/notes.txt", "flow_48x64/c/00/0/0/0", ".flowprep/plan.9.json", "x/zarr.json"]
    foreign += [".flowprep/commits/0.00001.json~", f"{SCRATCH}.txt"]
    for key in foreign:
        (out / key).parent.mkdir(parents=True, exist_ok=True)
        (out / key).write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/flow").write_text("mine")
    (out / "flow_9x9").symlink_to(tmp_path / "elsewhere")
    found = collect(LocalStore(out), older_than=0)
    assert sorted(found.foreign) == sorted([*foreign, "flow_9x9"])
    assert all((out / key).read_text() == "mine" for key in [*foreign, "flow_9x9/flow"])


def test_only_folders_of_its_own_are_scratch_folders(out: Path) -> None:
    names = ["mine", "backup.2024-11-21", "x.1-1-0a", f"{ELSEWHERE}.old", f"{ELSEWHERE}.{32 * 'c'}.partial"]
    for name in names:
        (out / SCRATCH / name / "sub").mkdir(parents=True)
        (out / SCRATCH / name / "sub/data").write_text("mine")
        for path in (out / SCRATCH / name / "sub/data", out / SCRATCH / name / "sub", out / SCRATCH / name):
            os.utime(path, (0, 0))
    (out / SCRATCH / "empty").mkdir()
    (out / LOCKS).mkdir(exist_ok=True)
    (out / LOCKS / "my list").write_text("mine")
    LocalStore(out).sweep()
    found = collect(LocalStore(out), older_than=0)
    assert sorted(found.foreign) == sorted([*(f"{SCRATCH}/{name}" for name in [*names, "empty"]), f"{LOCKS}/my list"])
    assert not any(heap.count for heap in found.removed.values())
    assert all((out / SCRATCH / name / "sub/data").read_text() == "mine" for name in names)
    assert f"FOREIGN  {SCRATCH}/mine: not flowprep's, it stays" in said(out, ExitCode.OK, "--gc")


def test_a_scratch_folder_of_flowprep_is_known_by_its_name() -> None:
    assert is_scratch(new_name())


def hold(root: Path, name: str, held: object, free: object) -> None:
    with LocalStore(root).exclusive(name), LocalStore(root).scratch() as scratch:
        (scratch / "file").write_bytes(b"12345")
        held.set()
        free.wait(60)


def test_what_is_in_use_stays_however_old(out: Path) -> None:
    processes = multiprocessing.get_context("fork")
    held, free = processes.Event(), processes.Event()
    holder = processes.Process(target=hold, args=(out, "finalise", held, free))
    holder.start()
    assert held.wait(60)
    found = collect(LocalStore(out), older_than=0)
    assert found.kept["lock file"].count == found.kept["scratch folder"].count == 1
    free.set()
    holder.join()
    assert holder.exitcode == 0
    assert not any(heap.count for heap in collect(LocalStore(out), older_than=0).kept.values())


def test_a_block_that_is_committed_meanwhile_stays(whole: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of a running task may appear after the others were read."""
    hidden = layout.commit_key(0, 1)
    monkeypatch.setattr(
        litter, "read_commits", lambda store, plans: [c for c in read_commits(store, plans) if c.shard != 1]
    )
    ours = {item.key for commit in read_commits(LocalStore(whole)) if commit.shard == 1 for item in commit.files}
    found = collect(LocalStore(out), older_than=0)
    assert ours and found.kept["orphan block"].count == len(ours) and not found.removed["orphan block"].count
    assert found.foreign == [hidden]
    assert files(out) == files(whole)


def test_a_shard_without_a_commit_is_made_again(whole: Path, out: Path) -> None:
    """Its blocks are litter; the next run writes them as they were."""
    (out / layout.commit_key(0, 1)).unlink()
    found = collect(LocalStore(out), older_than=0)
    assert found.removed["orphan block"].count > 4
    extract(out, read_plans(LocalStore(out))[0])
    blocks = {key: data for key, data in files(out).items() if not key.startswith(".flowprep")}
    assert blocks == {key: data for key, data in files(whole).items() if not key.startswith(".flowprep")}


def test_nothing_is_removed_when_a_record_is_damaged(out: Path) -> None:
    strew(out)
    (out / layout.commit_key(0, 1)).write_bytes(b"{}")
    before = files(out)
    with pytest.raises(
        RefusedError, match="damaged commit record .* Delete it and run the command that made the dataset again"
    ):
        collect(LocalStore(out), older_than=0)
    assert files(out) == before


def test_every_block_has_its_owner(folder: Path, videos: list[Video], tmp_path: Path) -> None:
    plan: Plan = plan_more(tmp_path / "out.zarr", folder, videos, per_shard=1)
    for number, shard in enumerate(plan.shards):
        for array, run in shard.blocks.items():
            assert [plan.owner(array, block) for block in range(run.first, run.first + run.count)] == [
                number
            ] * run.count
    for array in ("flow_48x64", "flow_9x9"):
        room = -(-plan.settings.video.max_frames // BLOCK)
        for number in range(len(plan.shards)):
            first = plan.overflow(number, array)
            assert plan.owner(array, first) == plan.owner(array, first + room - 1) == number
        assert plan.owner(array, plan.overflow(len(plan.shards), array)) is None


def test_the_command(out: Path) -> None:
    strew(out)
    (out / "notes.txt").write_text("mine")
    words = said(out, ExitCode.OK, "--gc")
    assert "0 orphan blocks removed, 0 bytes; 4 orphan blocks kept, 20 bytes: in use, or younger" in words
    assert "FOREIGN  notes.txt" in words
    assert "2 scratch folders removed, 10 bytes\n" in said(out, ExitCode.OK, "--gc", "--older-than", "0")
    assert "0 lock files removed, 0 bytes\n" in said(out, ExitCode.OK, "--gc", "--older-than", "0.5")


def test_cleaning_up_and_checking_the_sources_in_one_go(out: Path, moved: Path) -> None:
    strew(out)
    words = said(out, ExitCode.OK, "--gc", "--older-than", "0", "--sources", "--root", str(moved))
    assert "2 scratch folders removed, 10 bytes\n" in words and "as they were extracted" in words
    next(path for path in sorted(moved.rglob("*")) if path.is_file()).unlink()
    words = said(out, ExitCode.REFUSED, "--gc", "--sources", "--root", str(moved))
    assert "0 scratch folders removed, 0 bytes\n" in words and "FAULT" in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gc", "--full"], "--full is for the check of the dataset itself"),
        (["--sources", "--full"], "--full is for the check of the dataset itself"),
        (["--older-than", "3"], "--older-than is for --gc"),
        (["--gc", "--older-than", "nan"], "--older-than nan: give a number of hours, 0 or more"),
        (["--gc", "--older-than", "inf"], "--older-than inf: give"),
        (["--gc", "--older-than", "-1"], "--older-than -1: give"),
        (["--root", "x"], "--root is for --sources"),
        (["--sources", "--root", "no such folder"], "is not a folder"),
    ],
)
def test_options_that_would_be_ignored(out: Path, options: list[str], words: str) -> None:
    assert words in said(out, ExitCode.USAGE, *options)


# --- sources ---


@pytest.fixture
def moved(folder: Path, tmp_path: Path) -> Path:
    """A copy of the videos, to change."""
    return Path(shutil.copytree(folder, tmp_path / "moved"))


def test_sources_as_they_were(whole: Path, moved: Path, videos: list[Video]) -> None:
    report = check_sources(flowprep.open(whole))
    assert not report.faults and report.videos == 4 and report.bytes == sum(video.size for video in videos)
    assert "4 sources below" in said(whole, ExitCode.OK, "--sources", "--root", str(moved))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "changed, at the same size. Put the old file back"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "with --extend"),
        (Path.unlink, "name the folder that the videos are in with --root"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file any more"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "not read: "),
        (lambda path: (path.unlink(), path.symlink_to(path.name)), "not read: "),
    ],
    ids=["a bit", "longer", "missing", "a pipe", "a link out", "a link to itself"],
)
@pytest.mark.parametrize("id", [CLIP, FAILED])
def test_a_changed_source_is_named(
    whole: Path, moved: Path, id: str, damage: Callable[[Path], object], words: str
) -> None:
    damage(moved / id)
    said_words = said(whole, ExitCode.REFUSED, "--sources", "--root", str(moved))
    (fault,) = [line for line in said_words.splitlines() if line.startswith("FAULT")]
    assert fault.startswith(f"FAULT  {id}: ") and words in fault
    assert said_words.splitlines()[-1].endswith(": 1 fault")


def test_a_source_that_cannot_be_read(whole: Path, moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Path.open

    def failing(path: Path, *arguments: object, **named: object) -> object:
        if path == moved / CLIP:
            raise PermissionError(13, "Permission denied")
        return honest(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", failing)
    (fault,) = check_sources(flowprep.open(whole), moved).faults
    assert fault == f"{CLIP}: cannot be read (Permission denied). Check its permissions and the disk."


def test_videos_without_a_file_are_not_compared(folder: Path, tmp_path: Path) -> None:
    video = Video("left/nowhere.avi", "left")
    out = make_dataset(tmp_path / "out.zarr", folder, [video])
    report = check_sources(flowprep.open(out))
    assert (report.videos, report.unread, report.faults) == (0, 1, [])
    assert "1 video without a file to compare with" in said(out, ExitCode.OK, "--sources")


def test_a_root_that_is_gone(out: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = flowprep.open(out)
    monkeypatch.setattr(Path, "is_dir", lambda path: path != folder)
    with pytest.raises(UsageError, match="is not a folder .* in now with --root"):
        check_sources(dataset)


def test_the_videos_of_an_unfinished_dataset(out: Path, moved: Path) -> None:
    """That those of the other shards were not looked at is said, and nobody takes it for the whole."""
    (out / layout.commit_key(0, 1)).unlink()
    shown = len(flowprep.open(out).videos)
    assert 0 < shown < 4
    words = said(out, ExitCode.UNFINISHED, "--sources").splitlines()
    assert words[0].startswith(f"{shown} source") and words[0].endswith("as they were extracted")
    assert words[1].startswith(f"UNFINISHED  looked at {shown} of 4 planned videos: 1 of 2 shards")
    flip(moved / flowprep.open(out).videos[0].id)
    assert "UNFINISHED" in said(out, ExitCode.REFUSED, "--sources", "--root", str(moved)), "a fault comes first"
