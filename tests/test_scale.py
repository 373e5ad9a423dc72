"""The bookkeeping of hundreds of thousands of videos takes seconds, and grows with their number, not with its square.

Costs are CPU seconds (tests/scale.py has the steps). Neighbours on the same cores stretch CPU time, too: the short
tests allow for them, the targets of the long one are for a machine at rest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowprep.plan import Plan
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import committed_shards, read_commits
from flowprep.store.litter import collect
from flowprep.store.plans import read_plans
from tests import scale

MANY = 300_000  # videos of Kinetics-400, and some
BUSY = 2.5  # how much longer everything may take on a machine with other things to do
ROOT = Path(__file__).parents[1]


def in_a_process(step: str, out: Path, videos: int) -> dict[str, float]:
    """CPU and wall seconds, and peak memory in bytes, of one step in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.scale", step, str(out), str(videos)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Videos -> a finished dataset of so many."""
    made = {videos: tmp_path_factory.mktemp("scale") / f"{videos}.zarr" for videos in (1250, 5000)}
    for videos, out in made.items():
        scale.films(out, videos)
        scale.make(out, videos)
        scale.finish(out, videos)
    return made


@pytest.mark.parametrize("step", ["make", "resume", "status"])
def test_the_cost_is_linear(datasets: dict[int, Path], tmp_path: Path, step: str) -> None:
    """Four times the videos: about 4 times the cost, where a square would be 16 times."""
    costs = {}
    for videos, out in datasets.items():
        fresh = [tmp_path / f"{videos}.{k}" if step == "make" else out for k in range(3)]
        costs[videos] = min(scale.cost(lambda path=path, n=videos: scale.STEPS[step](path, n)) for path in fresh)
    assert costs[5000] < 8 * costs[1250] + 0.02, costs
    assert costs[5000] < 1.0 * BUSY, costs


def test_the_records_are_what_a_run_would_have_written(datasets: dict[int, Path]) -> None:
    """That nothing above is fast because there was nothing to do."""
    store = LocalStore(datasets[5000])
    (plan,) = read_plans(store)
    commits = read_commits(store, [plan])
    assert sum(len(commit.rows) for commit in commits) == sum(len(shard.videos) for shard in plan.shards) == 5000
    assert len(plan.shards) == len(commits) == len(committed_shards(store)) > 70
    assert all(row.flow and row.frames and len(row.sha256) == 64 for commit in commits for row in commit.rows)
    assert sum(len(commit.files) for commit in commits) > 15 * len(commits)
    found = collect(store, older_than=0)
    assert not found.foreign and not any(heap.count for heap in found.removed.values())


def test_only_what_the_listing_lacks_is_looked_up(datasets: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(datasets[5000])
    plan: Plan = read_plans(store)[0]
    opened: list[str] = []
    monkeypatch.setattr(store, "exists", lambda key: not opened.append(key))
    monkeypatch.setattr(store, "keys", lambda _: [layout.commit_key(0, k) for k in range(3, len(plan.shards))])
    assert len(committed_shards(store, [plan])) == len(plan.shards)
    assert sorted(opened) == [layout.commit_key(0, k) for k in range(3)]


def test_a_finished_run_reads_no_commit(datasets: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest says it all."""
    monkeypatch.setattr("flowprep.store.commits.Commit.from_bytes", None)
    scale.resume(datasets[1250], 1250)
    with pytest.raises(TypeError):
        read_commits(LocalStore(datasets[1250]))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder that is not kept: hundreds of thousands of files take long to remove later, when it is unexpected."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.system
@pytest.mark.timeout(900)
def test_three_hundred_thousand_videos(room: Path, figure: Callable[[str, str], None]) -> None:
    out = room / "out.zarr"
    in_a_process("films", out, MANY)
    made = in_a_process("make", out, MANY)
    in_a_process("finish", out, MANY)
    assert len(committed_shards(LocalStore(out))) > 4600
    resumed = in_a_process("resume", out, MANY)
    told = in_a_process("status", out, MANY)
    for number in range(0, 4600, 2):  # half of it is still to do
        (out / layout.commit_key(0, number)).unlink()
    decided = in_a_process("decide", out, MANY)
    assert made["cpu"] < 60 and resumed["cpu"] < 10 and told["cpu"] < 60 and decided["cpu"] < 2
    assert max(made["rss"], resumed["rss"], told["rss"]) < 1e9
    figure(
        "R10b",
        f"CPU seconds: planned {made['cpu']:.1f}, resumed {resumed['cpu']:.1f} ({resumed['wall']:.1f} s of wall time), "
        f"`status` {told['cpu']:.1f}, 4,688 commits looked through {decided['cpu']:.2f}; "
        f"{max(made['rss'], resumed['rss'], told['rss']) / 1e6:.0f} MB",
    )
