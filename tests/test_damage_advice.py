"""What damage is said to be, by which exit code, and what to do about it: words to go by, however much is damaged."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowprep.cli import main
from flowprep.errors import ExitCode
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import Commit, repair_advice
from flowprep.store.plans import read_plans
from flowprep.store.reader import Dataset
from flowprep.store.verify import verify
from tests.in_process import make_dataset, small_dataset, write_clips

PLAN = layout.plan_key(0)
COMMIT = layout.commit_key(0, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "out.zarr"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def run(*arguments: str) -> int:
    """Exit code of a flowprep command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["flowprep", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.mark.parametrize("how", ["damaged commit record", "copied or renamed"])
def test_a_damaged_commit_is_one_fault_among_others(out: Path, how: str) -> None:
    """It says what to do, and the other records are checked all the same."""
    other = next(item.key for item in Commit.from_bytes((out / layout.commit_key(0, 0)).read_bytes(), "").files)
    flip(out / other)
    (out / COMMIT).write_bytes(b"{}" if how.startswith("damaged") else (out / layout.commit_key(0, 0)).read_bytes())
    report = verify(Dataset(out, lenient=True))
    first, *others = report.faults
    assert first.startswith(f"{out / COMMIT}: ") and how in first
    assert first.endswith("Delete it and run the command that made the dataset again: its shard is made anew.")
    assert f"{other}: its checksum is wrong; its commit record is {layout.commit_key(0, 0)}." in others
    assert report.damaged_commits == {COMMIT, layout.commit_key(0, 0)} and not report.unfinished
    assert not [fault for fault in others if "ledger row" in fault or "metadata" in fault], "it is no second fault"


def test_all_damaged_commits_can_be_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However many they are; one left out would stop the next run."""
    videos = write_clips(tmp_path / "videos")
    out = make_dataset(tmp_path / "out.zarr", tmp_path / "videos", videos, per_shard=1)
    keys = [layout.commit_key(0, shard) for shard in range(len(read_plans(LocalStore(out))[0].shards))]
    files = {key: [item.key for item in Commit.from_bytes((out / key).read_bytes(), key).files] for key in keys}
    for name in (name for names in files.values() for name in names):
        flip(out / name)
    with_files = [key for key in keys if files[key]]
    assert len([name for names in files.values() for name in names]) > 50, "more than are shown as faults"
    for option in ((), ("--full",)):
        assert run("verify", str(out), *option) == ExitCode.REFUSED
        words = capsys.readouterr().out
        assert [line.removeprefix("DAMAGED  ") for line in words.splitlines() if "DAMAGED  " in line] == with_files
        assert (
            f"Next: in {out}, delete {len(with_files)} commit records and run the command that made the dataset"
            in words
        )
    assert "flowprep verify names every one" in repair_advice([str(k) for k in range(11)])
    assert "flowprep verify" not in repair_advice([str(k) for k in range(10)])


@pytest.mark.parametrize("name", ["status", "verify", "info", "verify --gc", "verify --sources", "extract"])
def test_a_plan_that_is_missing_is_damage(
    whole: Path, out: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / PLAN).unlink()
    word, *options = name.split()
    source = [str(whole.parent / "videos")] if word == "extract" else []
    assert run(word, *source, str(out), *options) == ExitCode.REFUSED
    said = capsys.readouterr().err
    assert f"{out / PLAN}: damaged: missing" in said and "from a copy of the dataset" in said


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (Path.exists, ExitCode.OK, "clean"),
        (lambda out: (out / COMMIT).unlink(), ExitCode.UNFINISHED, "UNFINISHED  1 of 2 shards"),
        (lambda out: flip(next((out / "flow_48x64/c").glob("*/0/0/0"))), ExitCode.REFUSED, "FAULT  flow_48x64/c/"),
        (lambda out: (out / COMMIT).write_bytes(b"{}"), ExitCode.REFUSED, "damaged commit record"),
        (lambda out: (out / PLAN).write_bytes(b"{}"), ExitCode.REFUSED, "damaged plan"),
        (lambda out: shutil.rmtree(out / ".flowprep"), ExitCode.USAGE, "is not a flowprep dataset"),
    ],
    ids=["whole", "unfinished", "a block", "a commit", "the plan", "all records"],
)
def test_the_exit_code_says_so(
    out: Path,
    damage: Callable[[Path], Any],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(out)
    assert run("verify", str(out)) == code
    said = "".join(capsys.readouterr())
    assert words in said and "Traceback" not in said
