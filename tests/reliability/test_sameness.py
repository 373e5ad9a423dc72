"""R12: however a dataset is made, it is the same dataset, byte for byte."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import flowprep
from flowprep.synthetic import write_demo_videos
from tests.command import MISBEHAVE, stored_files
from tests.command import flowprep as run
from tests.dask_rig import Cluster

ENV = {**MISBEHAVE, "FLOWPREP_TEST_SHARD_SECONDS": "0.3"}
METHOD = ("--method", "tvl1", "--set", "tvl1.warps=1", "--direction", "both", "--rgb-short-side", "64")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sameness") / "videos"
    write_demo_videos(folder, clips_per_class=2, frames=12, height=64, width=96)
    write_demo_videos(folder / "other size", clips_per_class=1, frames=9, height=48, width=64)
    return folder


def extract(source: Path, out: Path, *options: str | Path) -> None:
    done = run("extract", source, out, *METHOD, *options, env=ENV)
    assert done.returncode == 0, done.stderr


def local(source: Path, out: Path, count: int) -> None:
    extract(source, out, "--workers", str(count))


def batch(source: Path, out: Path, count: int) -> None:
    for task in random.Random(count).sample(range(count), count):
        extract(source, out, "--executor", "batch", "--task", f"{task}/{count}", "--workers", "1")


@contextmanager
def on_a_cluster(folder: Path, count: int) -> Iterator[Callable[[Path, Path, int], None]]:
    with Cluster(folder, count, env=ENV) as cluster:
        yield lambda source, out, _: extract(source, out, "--scheduler-file", cluster.file)


def shuffled(videos: Path, folder: Path) -> Path:
    """The same videos named by a list, in another order, with the labels that the folder gives them."""
    ids = [path.relative_to(videos).as_posix() for path in sorted(videos.rglob("*")) if path.is_file()]
    random.Random(0).shuffle(ids)
    table = folder / "table.csv"
    table.write_text("path,label\n" + "".join(f"{id},{id.split('/')[0]}\n" for id in ids), encoding="utf-8")
    return table


def content(out: Path) -> str:
    from flowprep.store.summary import summarise

    return summarise(flowprep.open(out)).content_fingerprint


def check(videos: Path, folder: Path, counts: tuple[int, ...]) -> int:
    """Make the dataset in every way, with these numbers of workers or tasks; how many ways that were."""
    local(videos, folder / "first.zarr", 1)
    wanted, files = content(folder / "first.zarr"), stored_files(folder / "first.zarr")
    assert len(list((folder / "first.zarr/.flowprep/commits").iterdir())) >= 4
    ways = 1

    def same(make: Callable[[Path, Path, int], None], source: Path, count: int) -> None:
        nonlocal ways
        out = folder / "next.zarr"
        make(source, out, count)
        assert content(out) == wanted
        assert stored_files(out) == files
        shutil.rmtree(out)
        ways += 1

    for count in counts:
        same(local, videos, count)
        same(batch, videos, count)
        with on_a_cluster(folder / f"cluster{count}", count) as make:
            same(make, videos, count)
    extract(shuffled(videos, folder), folder / "list.zarr", "--root", videos)
    assert content(folder / "list.zarr") == wanted
    assert stored_files(folder / "list.zarr") == files
    return ways + 1


@pytest.mark.system  # test_extract.py has a shorter one, on one machine
@pytest.mark.timeout(200)
def test_two_workers_two_tasks_a_cluster_of_two(videos: Path, tmp_path: Path) -> None:
    check(videos, tmp_path, (2,))


@pytest.mark.system
@pytest.mark.timeout(900)
def test_one_two_and_four_of_each(videos: Path, tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    ways = check(videos, tmp_path, (1, 2, 4))
    figure("R12", f"{ways} ways to make it (threads, batch tasks, a cluster; 1, 2, 4 each; another order): equal bytes")
