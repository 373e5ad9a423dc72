"""R4: a host drops off the network without a word, and comes back when others have done its work."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flowprep.store.blobs import LocalStore
from flowprep.store.commits import committed_shards
from tests.command import COMMAND, MISBEHAVE, await_, flowprep, stored_files
from tests.dask_rig import Cluster, write_work

METHOD = ("--method", "dis", "--set", "dis.preset=medium", "--no-rgb")
OWN = f"fp{os.getpid() % 1_000_000}"  # so that no two runs meet
BRIDGE = f"{OWN}b"
HOSTS = (f"{OWN}-driver", f"{OWN}-worker0", f"{OWN}-worker1")  # the driver's host runs the scheduler as well
CABLES = (f"{OWN}v0", f"{OWN}v1", f"{OWN}v2")
NETWORK = "10.213.77."  # of these three alone


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def network() -> Iterator[None]:
    """Three hosts on one bridge, each a network namespace; they reach each other and nothing else."""
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        for number, host in enumerate(HOSTS):
            ip("netns", "add", host)
            ip("link", "add", CABLES[number], "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("link", "set", CABLES[number], "master", BRIDGE, "up")
            ip("-n", host, "addr", "add", f"{NETWORK}{number + 1}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)
        for link in (*CABLES, BRIDGE):
            subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[tuple[str, ...]]]:
    """Command prefixes of the three hosts."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command ip (iproute2)")
    try:
        with network():
            yield [("ip", "netns", "exec", host) for host in HOSTS]
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")


def freeze_at_work(cluster: Cluster, out: Path) -> list[psutil.Process]:
    """The processes of worker 1, stopped in the middle of a shard."""
    for _ in range(100):
        processes = cluster.processes_of(1)
        for process in processes:
            process.suspend()
        scratches = [folder.name for folder in (out / ".flowprep/tmp").iterdir()]
        if any(f"-{process.pid}-" in name for process in processes for name in scratches):
            return processes
        for process in processes:
            process.resume()
        time.sleep(0.05)
    raise AssertionError("worker 1 had no shard in hand")


def partition(hosts: list[tuple[str, ...]], folder: Path, tcp: int, heal_after: float) -> float:
    """Seconds from the cut of one worker's cable to the commit of the last shard, those of that worker included.

    ``tcp``: seconds without an answer after which Dask gives a connection up, at least 11.
    """
    env = {
        **MISBEHAVE,
        "FLOWPREP_TEST_SHARD_SECONDS": "0.5",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{tcp}s",
    }
    write_work(folder / "videos")
    done = flowprep("extract", folder / "videos", folder / "clean.zarr", *METHOD, env=env)
    assert done.returncode == 0, done.stderr
    out = folder / "out.zarr"
    cluster = Cluster(folder / "cluster", env=env, hosts=hosts, address=f"{NETWORK}1")
    with cluster:
        options = [*METHOD, "--scheduler-file", str(cluster.file), "--insecure"]
        command = [*hosts[0], *COMMAND, "extract", str(folder / "videos"), str(out), *options]
        with (folder / "run.log").open("w") as log:
            run = subprocess.Popen(command, env={**os.environ, **env}, stderr=log, stdout=log)
        await_(lambda: len(committed_shards(LocalStore(out))) >= 1, "a commit")
        frozen = freeze_at_work(cluster, out)  # so that it cannot commit what it has in hand before others take over
        ip("link", "set", CABLES[2], "nomaster")
        cut = time.monotonic()
        before = len(committed_shards(LocalStore(out)))
        total = len(list((folder / "clean.zarr/.flowprep/commits").iterdir()))
        await_(lambda: len(committed_shards(LocalStore(out))) == total or run.poll() is not None, "progress", 120)
        seconds = time.monotonic() - cut
        assert run.wait(timeout=60) == 0, (folder / "run.log").read_text()
        assert before < total
        time.sleep(max(0.0, heal_after - (time.monotonic() - cut)))
        ip("link", "set", CABLES[2], "master", BRIDGE)
        for process in frozen:  # back again, it goes on with its shard and finds it committed
            process.resume()
        await_(lambda: not list((out / ".flowprep/tmp").iterdir()), "the end of the shard that comes too late", 30)
    assert len(committed_shards(LocalStore(out))) == total
    assert stored_files(out) == stored_files(folder / "clean.zarr")
    return seconds


@pytest.mark.system
@pytest.mark.timeout(200)
def test_a_cut_cable(hosts: list[tuple[str, ...]], tmp_path: Path) -> None:
    assert partition(hosts, tmp_path, tcp=12, heal_after=0) <= 40


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_cut_cable_with_the_usual_timeouts(
    hosts: list[tuple[str, ...]], tmp_path: Path, figure: Callable[[str, str], None]
) -> None:
    seconds = partition(hosts, tmp_path, tcp=30, heal_after=60)
    assert seconds <= 40
    figure(
        "R4",
        f"all shards committed {seconds:.1f} s after the cut; the shard that the cut worker went on with has 1 record",
    )
