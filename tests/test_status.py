"""``flowprep status``: how far an extraction is, from its records alone, at every stage of its life."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowprep.cli.info import command as info_command
from flowprep.cli.status import command
from flowprep.cli.verify import command as verify_command
from flowprep.errors import ExitCode, RefusedError, UsageError
from flowprep.store import layout
from flowprep.store import status as module
from flowprep.store.blobs import SCRATCH, LocalStore
from flowprep.store.commits import Commit, read_commits
from flowprep.store.status import PAUSE_SECONDS, RECENT_SECONDS, recent_commits, seconds_of, status
from flowprep.types import LedgerRow, Placement, Video
from tests.in_process import FAILED, extract, finish, make_dataset, plan_more, write_clips

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source") / "videos"


@pytest.fixture(scope="module")
def videos(folder: Path) -> list[Video]:
    """One that is no video, and four of six frames."""
    return [video for video in write_clips(folder) if not video.id.startswith("more/")][:5]


@pytest.fixture(scope="module")
def whole(folder: Path, videos: list[Video], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("whole") / "out.zarr", folder, videos)


def said(out: Path, code: int, *options: str) -> str:
    result = CliRunner().invoke(command, [str(out), *options])
    assert result.exit_code == code, result.output
    return result.output


def date_back(out: Path, seconds: float) -> None:
    """Let every commit be older, and all scratch folders quiet for as long."""
    for commit in read_commits(LocalStore(out)):
        path = out / layout.commit_key(commit.generation, commit.shard)
        path.write_bytes(replace(commit, finished=time.time() - seconds).to_bytes())
    for path in (out / SCRATCH).rglob("*"):
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_from_the_plan_to_the_end(folder: Path, videos: list[Video], tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    plan = plan_more(out, folder, videos)
    found = status(LocalStore(out))
    assert (found.shards, found.shards_done, found.videos, found.videos_done) == (len(plan.shards), 0, 5, 0)
    assert found.rate is found.eta is found.last_commit is None and not found.complete and not found.alive
    assert found.fields_left == sum(shard.fields for shard in plan.shards) > 0
    words = said(out, ExitCode.UNFINISHED)
    assert f"shards       0 of {len(plan.shards)} committed" in words and "no pace known yet" in words
    assert (
        "next         if no job is waiting in a queue, which cannot be seen here, run the command that made the"
        in words
    )

    extract(out, plan, [1])
    date_back(out, 1.0)
    found = status(LocalStore(out))
    assert found.shards_done == 1 and found.videos_done == len(plan.shards[1].videos) and found.alive
    assert found.rate and found.rate > 0 and found.eta
    assert found.eta == pytest.approx(found.recent * found.fields_left / plan.shards[1].fields)
    words = said(out, ExitCode.UNFINISHED)
    assert "1 s ago; lately by" in words.replace("1.0 s", "1 s") and "it seems to be at work" in words

    date_back(out, 7200.0)
    words = said(out, ExitCode.UNFINISHED)
    assert "last commit  120 min ago" in words or "last commit  2 h 0 min ago" in words
    assert "nobody seems to be at work" in words

    extract(out, plan)
    assert status(LocalStore(out)).shards_done == len(plan.shards)
    said(out, ExitCode.UNFINISHED)  # Zarr readers do not see it yet
    finish(out)
    words = said(out, ExitCode.OK)
    assert "next         complete; flowprep info" in words and "why 1 video failed" in words


def test_a_finished_dataset_in_numbers(whole: Path) -> None:
    found = json.loads(said(whole, ExitCode.OK, "--json"))
    commits = read_commits(LocalStore(whole))
    assert found["complete"] and found["shards"] == found["shards_done"] == len(commits)
    assert found["videos"] == found["videos_done"] == 5
    assert found["verdicts"] == {"ok": 4, "undecodable": 1}
    assert found["fields"] == 4 * 5 and found["fields_left"] == 0 and found["eta"] is None
    assert found["bytes"] == sum(item.bytes for commit in commits for item in commit.files)
    assert found["scratches"] == 0


def test_a_retry_is_work_to_do_again(folder: Path, videos: list[Video], whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out.zarr"))
    plan_more(out, folder, [video for video in videos if video.id == FAILED])
    found = status(LocalStore(out))
    assert not found.complete and found.shards - found.shards_done == 1
    assert found.videos == 5 and found.videos_done == 4, "the failed one has a row in force, and waits for the next"
    assert found.verdicts == {"ok": 4, "undecodable": 1}


def test_tries_that_are_not_committed(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out.zarr"))
    (out / layout.commit_key(0, 0)).unlink()
    for name, quiet in ((f"node-1.4026531836-17-{32 * 'a'}", 30.0), (f"node-2.4026531836-17-{32 * 'b'}", 5000.0)):
        (out / SCRATCH / name / "video").mkdir(parents=True)
        for path in (out / SCRATCH / name / "video", out / SCRATCH / name):
            os.utime(path, (time.time() - quiet, time.time() - quiet))
    found = status(LocalStore(out))
    assert found.scratches == 2 and found.alive
    assert found.scratches_quiet == pytest.approx(30, abs=20)
    assert found.scratches_oldest == pytest.approx(5000, abs=20)
    assert "tries        2 not committed" in said(out, ExitCode.UNFINISHED)


def test_what_somebody_else_put_beside_the_scratch_folders_is_no_try(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out.zarr"))
    (out / SCRATCH / "mine").mkdir(parents=True)
    assert status(LocalStore(out)).scratches == 0


def test_a_job_in_a_queue_cannot_be_seen(folder: Path, videos: list[Video], tmp_path: Path) -> None:
    """Right after ``flowprep submit`` nobody must be told to do the job's work where he sits."""
    plan = plan_more(tmp_path / "out.zarr", folder, videos)
    for say in (command, verify_command, info_command):
        words = CliRunner().invoke(say, [str(tmp_path / "out.zarr")]).output
        (advice,) = [line for line in words.splitlines() if "made the dataset (or submit) again" in line]
        assert "queue" in advice.partition("made the dataset")[0]
    extract(tmp_path / "out.zarr", plan, [0])
    date_back(tmp_path / "out.zarr", 1.0)
    assert "if not, and no job is waiting, run the command that made the dataset (or" in said(tmp_path / "out.zarr", 75)


def test_every_key_is_documented(whole: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/dataset.md").read_text(encoding="utf-8")
    table = page.partition("| key of `--json` |")[2].partition("\n\n")[0]
    keys = json.loads(said(whole, ExitCode.OK, "--json"))
    assert re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.M)[1:])) == list(keys)
    assert keys["alive"] is False and keys["failed"] == 1


def test_where_there_is_nothing_to_say(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist. Make one with"):
        status(LocalStore(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="is not a flowprep dataset"):
        status(LocalStore(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a flowprep dataset"):
        status(LocalStore(tmp_path / "file"))
    out = Path(shutil.copytree(whole, tmp_path / "out.zarr"))
    (out / layout.commit_key(0, 0)).write_bytes(b"{}")
    with pytest.raises(RefusedError, match="damaged commit record"):
        status(LocalStore(out))


def test_it_starts_at_once(whole: Path) -> None:
    """Without the libraries that only computing needs."""
    code = (
        "import sys; from flowprep.cli import main\nsys.argv = ['flowprep', 'status', sys.argv[1]]\nmain()\n"
        "heavy = {'zarr', 'dask', 'distributed', 'av', 'cv2', 'numba'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(whole)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the rate ---


def commit(finished: float, *, seconds: float = 60.0, fields: int = 600) -> Commit:
    row = LedgerRow("x", module.Verdict.OK, flow=Placement("flow_9x9", 0, fields))
    return Commit(0, 0, "", (), (row,), "", "host", seconds, {}, NOW + finished)


def test_the_rate_of_workers_side_by_side() -> None:
    """Four workers, a shard a minute each: 40 fields a second."""
    commits = [commit(60.0 * minute) for minute in range(1, 200) for _ in range(4)]
    recent = recent_commits(commits)
    assert len(recent) == pytest.approx(4 * RECENT_SECONDS / 60, abs=4)
    assert seconds_of(recent) == RECENT_SECONDS
    assert module._fields(recent) / seconds_of(recent) == pytest.approx(40, rel=0.05)


def test_the_first_commit_makes_a_rate() -> None:
    recent = recent_commits([commit(0.0, seconds=30.0)])
    assert seconds_of(recent) == 30.0 and module._fields(recent) == 600


def test_a_shard_longer_than_the_hour() -> None:
    recent = recent_commits([commit(0.0, seconds=3 * RECENT_SECONDS)])
    assert seconds_of(recent) == 3 * RECENT_SECONDS


def test_a_pause_is_not_time_at_work() -> None:
    before = [commit(60.0 * minute) for minute in range(10)]
    after = [commit(60.0 * minute + 9 * 60 + 60 + PAUSE_SECONDS + 10) for minute in range(5)]
    assert {c.finished for c in recent_commits([*before, *after])} == {c.finished for c in after}
    assert seconds_of(recent_commits([*before, *after])) == 5 * 60
    overlapping = [commit(0.0, seconds=10.0), commit(30 * 60.0, seconds=30 * 60.0 - PAUSE_SECONDS)]
    assert len(recent_commits(overlapping)) == 2, "one was at work all the while"


def test_records_without_a_time_make_no_rate() -> None:
    assert recent_commits([replace(commit(0.0), finished=0.0)]) == []
    assert seconds_of([]) is None
