"""R10: what handing out work costs, beside the work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EMPTY_WORK = """
import json, sys, time
import psutil
from flowprep.run import {engine} as module
from flowprep.run.signals import Stop
from flowprep.run.window import drive
from flowprep.sandbox import Limits
from flowprep.shard import Work
from flowprep.types import ShardResult

module.extract_shard = lambda work, shard: ShardResult(0, shard, {{"ok": 64}}, 4000, 1, 0.0)
shards, done, rss = {shards}, 0, []

def count(_result):
    global done
    done += 1
    if done in (shards // 10, shards):
        rss.append(psutil.Process().memory_info().rss / 2**20)

with module.{open}(Work("/nowhere", 0, Limits()), 2) as engine:
    begun = time.monotonic()
    assert drive(engine, range(shards), count, Stop(0)) == []
    seconds = time.monotonic() - begun
print(json.dumps({{"ms": 1000 * seconds / shards, "rss": rss, "done": done}}))
"""


def empty_work(engine: str, opener: str, shards: int) -> dict[str, Any]:
    """ms a shard that does nothing, with two workers, and the MiB of the driver after a tenth and after all of them."""
    script = EMPTY_WORK.format(engine=engine, open=opener, shards=shards)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=500)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["done"] == shards
    return found


@pytest.mark.parametrize(("engine", "opener"), [("dask", "local_engine"), ("batch", "thread_engine")])
def test_a_few_shards_that_do_nothing(engine: str, opener: str) -> None:
    found = empty_work(engine, opener, 300)
    assert found["ms"] < 30  # on a busy machine; the bound of 10 is the system test's
    assert found["rss"][1] < 300


@pytest.mark.system
@pytest.mark.timeout(600)
def test_five_thousand_shards_that_do_nothing(figure: Callable[[str, str], None]) -> None:
    dask, batch = empty_work("dask", "local_engine", 5000), empty_work("batch", "thread_engine", 5000)
    for found in (dask, batch):
        assert found["ms"] <= 10
        assert found["rss"][1] < 300
        assert found["rss"][1] - found["rss"][0] < 20
    figure(
        "R10a",
        f"{dask['ms']:.1f} ms a shard (batch: {batch['ms']:.2f}); driver {dask['rss'][1]:.0f} MiB, "
        f"{dask['rss'][1] - dask['rss'][0]:+.0f} MiB between shard 500 and 5,000",
    )


REAL_WORK = """
import json, sys, time
from flowprep.config import ExtractConfig, RunConfig, SourceConfig
from flowprep.run import driver
from flowprep.store.commits import read_commits

honest, spent = driver.drive, []

def drive(*arguments):
    begun = time.monotonic()
    aside = honest(*arguments)
    spent.append(time.monotonic() - begun)
    return aside

driver.drive = drive
run = driver.Extraction(ExtractConfig(SourceConfig(sys.argv[1]), sys.argv[2], run=RunConfig(workers=1)), quiet=True)
run.run()
rows = [row for commit in read_commits(run.store) for row in commit.rows]
stages = {name: sum(row.seconds[name] for row in rows) for name in ("decode", "flow", "encode")}
print(json.dumps({"wall": sum(spent), "shards": len(read_commits(run.store)), **stages}))
"""


@pytest.mark.system
@pytest.mark.timeout(900)
def test_real_flow(data: Path, tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    """One worker on real clips, some 60 s to a shard: what is neither decoding nor flow nor encoding."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in sorted((data / "ucf10/videos").rglob("*.avi"))[:14]:
        shutil.copy(path, videos)
    env_script = "from flowprep import plan\nplan.SHARD_SECONDS = (60.0, 240.0)\n" + REAL_WORK
    done = subprocess.run(
        [sys.executable, "-c", env_script, str(videos), str(tmp_path / "out.zarr")],
        capture_output=True, text=True, check=True, timeout=800,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    work = found["decode"] + found["flow"] + found["encode"]
    share = (found["wall"] - work) / found["flow"]
    assert found["wall"] / found["shards"] >= 50
    assert share <= 0.02
    figure("R10c", f"{100 * share:.1f} % of the flow time ({found['shards']} shards, {found['wall']:.0f} s, 1 worker)")
