"""Clusters that somebody else started: which addresses are used, TLS, GPUs, and what a worker must have in common."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from flowprep import __version__, shard
from flowprep.annotations import read_source
from flowprep.config import ClusterConfig, build
from flowprep.errors import FlowprepError, RefusedError, StoreError, UnfinishedError, UsageError
from flowprep.extract import file_sha256
from flowprep.plan import estimate, make_plan
from flowprep.run.address import scheduler_address
from flowprep.sandbox import Limits
from flowprep.shard import Work, extract_shard
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import committed_shards
from flowprep.store.plans import write_plan
from flowprep.synthetic import write_demo_videos
from tests.command import MISBEHAVE, flowprep, stored_files
from tests.dask_rig import Cluster
from tests.in_process import SETTINGS

METHOD = ("--method", "dis", "--set", "dis.preset=ultrafast", "--no-rgb")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_demo_videos(tmp_path / "videos", clips_per_class=1, frames=6, height=48, width=64)
    return tmp_path / "videos"


# --- addresses ---


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"scheduler": "a:1", "scheduler_file": "b"}, "--scheduler and --scheduler-file exclude each other"),
        ({"executor": "batch", "scheduler": "a:1"}, "--executor batch knows no scheduler"),
        ({"task": "0/2"}, "add --executor batch"),
        ({"insecure": True}, "add --scheduler or --scheduler-file"),
        ({"tls_cert": "a.pem"}, "add --scheduler or --scheduler-file"),
        ({"scheduler": "tls://a:1", "tls_cert": "a.pem"}, "together"),
    ],
)
def test_keys_that_do_not_go_together(keys: dict[str, str | bool], words: str) -> None:
    with pytest.raises(UsageError, match=rf"^x.yaml: .*{words}"):
        build({"cluster": keys}, "x.yaml")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("tcp://127.9.9.9:1", "tcp://127.9.9.9:1"),
        ("localhost:8786", "tcp://localhost:8786"),
        ("tcp://[::1]:8786", "tcp://[::1]:8786"),
        ("tls://node1.example.org:8786", "tls://node1.example.org:8786"),
        ("tls://10.0.0.1:8786", "tls://10.0.0.1:8786"),
    ],
)
def test_a_safe_address(given: str, address: str) -> None:
    assert scheduler_address(ClusterConfig(scheduler=given)) == address


@pytest.mark.parametrize(
    "given", ["tcp://10.0.0.1:8786", "node1:8786", "0.0.0.0:8786", "tcp://[2001:db8::1]:8786", "localhost.evil.org:80"]
)
def test_an_open_address_is_refused_unless_it_is_allowed_in_words(given: str) -> None:
    with pytest.raises(RefusedError, match=r"without TLS: .* --insecure"):
        scheduler_address(ClusterConfig(scheduler=given))
    scheduler_address(ClusterConfig(scheduler=given, insecure=True))


@pytest.mark.parametrize(
    "given",
    [
        *("node1", "tls://", "tls://:1", "tls://node1:0", "tls://node1:70000", "inproc://1/2/3", "ucx://a:1"),
        *(
            "http://a:1",
            "tls://a b:1",
            "tls://user@node1:1",
            "tls://node1:1/path",
            "tls://node1:1\n",
            "file:///etc/passwd",
        ),
    ],
)
def test_no_address_at_all(given: str) -> None:
    with pytest.raises(UsageError, match="give tls://HOST:PORT"):
        scheduler_address(ClusterConfig(scheduler=given, insecure=True))


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b'{"address": "tls://node1:8786", "id": "x"}', None, ""),
        (b'{"address": "tcp://10.0.0.1:8786"}', RefusedError, "without TLS"),
        (b'{"address": 7}', UsageError, "not a scheduler file"),
        (b'{"workers": {}}', UsageError, "not a scheduler file"),
        (b"[]", UsageError, "not a scheduler file"),
        (b"\xff\xfe", UsageError, "not a scheduler file"),
        (b"[" * 100_000, UsageError, "not a scheduler file"),
        (b'{"address": "tls://node1"}', UsageError, "give tls://HOST:PORT"),
        (None, UnfinishedError, "no such file"),
    ],
)
def test_a_scheduler_file(tmp_path: Path, content: bytes | None, kind: type[FlowprepError] | None, words: str) -> None:
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_bytes(content)
    config = ClusterConfig(scheduler_file=str(path))
    if kind is None:
        assert scheduler_address(config) == "tls://node1:8786"
    else:
        with pytest.raises(kind, match=words):
            scheduler_address(config)


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowprep.run import dask

    monkeypatch.setattr(dask, "CONNECT_SECONDS", 1)
    config = ClusterConfig(scheduler="127.0.0.1:1")
    with (
        pytest.raises(
            UnfinishedError, match=r"No Dask scheduler answers at tcp://127.0.0.1:1 .*: start it, or correct"
        ),
        dask.cluster_engine(Work(str(tmp_path), 0, Limits()), config, 0, gpu=False, say=print),
    ):
        pass


# --- TLS ---


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Path]:
    """Two authorities, each with a certificate that it has signed: ours, and a stranger's."""
    folder = tmp_path / "tls"
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ours", "strange"):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl(
            "req",
            "-x509",
            *key,
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}-ca.key",
            "-out",
            f"{name}-ca.pem",
        )
        openssl("req", *key, "-subj", "/CN=flowprep", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        authority = ["-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key", "-CAcreateserial"]
        openssl("x509", "-req", "-in", f"{name}.csr", *authority, "-days", "2", "-out", f"{name}.pem")
    return {path.name: path for path in folder.iterdir()}


def tls(certificates: dict[str, Path], name: str) -> list[str]:
    files = {"--tls-ca-file": f"{name}-ca.pem", "--tls-cert": f"{name}.pem", "--tls-key": f"{name}.key"}
    return [word for option, file in files.items() for word in (option, str(certificates[file]))]


@pytest.mark.system
@pytest.mark.timeout(200)
def test_tls(certificates: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    security = [*tls(certificates, "ours"), "--protocol", "tls"]
    with Cluster(tmp_path / "cluster", 1, security=security) as cluster:
        address = json.loads(cluster.file.read_text())["address"]
        assert address.startswith("tls://")

        def extract(*options: str) -> subprocess.CompletedProcess[str]:
            return flowprep("extract", videos, out, *METHOD, *options)

        without = extract("--scheduler", address)
        assert without.returncode == 2 and "--tls-ca-file" in without.stderr
        strange = extract("--scheduler", address, *tls(certificates, "strange"))
        assert strange.returncode == 65 and "certificate and ours are not of one authority" in strange.stderr
        assert "Traceback" not in strange.stderr
        mixed = extract("--scheduler", address.replace("tls", "tcp"), *tls(certificates, "ours"))
        assert mixed.returncode == 2 and "is an address without TLS: use tls://" in mixed.stderr
        files = {"--tls-cert": "ours.pem", "--tls-key": "strange.key", "--tls-ca-file": "ours-ca.pem"}
        wrong = extract("--scheduler", address, *(str(certificates.get(x, x)) for pair in files.items() for x in pair))
        assert wrong.returncode == 2 and "--tls-key do not go together" in wrong.stderr
        done = extract("--scheduler-file", str(cluster.file), *tls(certificates, "ours"))
        assert done.returncode == 0, done.stderr
    local = flowprep("extract", videos, tmp_path / "local.zarr", *METHOD)
    assert local.returncode == 0
    assert stored_files(out) == stored_files(tmp_path / "local.zarr")


def test_tls_with_files_that_are_not_there(videos: Path, tmp_path: Path) -> None:
    files = ["--tls-ca-file", "a.pem", "--tls-cert", "b.pem", "--tls-key", "c.pem"]
    done = flowprep("extract", videos, tmp_path / "out.zarr", *METHOD, "--scheduler", "tls://127.0.0.1:1", *files)
    assert done.returncode == 2
    assert "a.pem: no such file; it was given for TLS" in done.stderr


# --- GPUs ---


GPU = {**MISBEHAVE, "FLOWPREP_TEST_SHARD_SECONDS": "0.001"}


def seen(log: Path) -> set[str]:
    return {line.split("\t")[0] for line in log.read_text().splitlines()}


@pytest.mark.timeout(200)
def test_on_a_cluster_only_workers_with_a_gpu_work(videos: Path, tmp_path: Path) -> None:
    env = {**GPU, "FLOWPREP_TEST_GPU": str(tmp_path / "log"), "CUDA_VISIBLE_DEVICES": "5"}
    with Cluster(tmp_path / "cluster", 1, env=env, options=["--resources", "GPU=1", "--nthreads", "2"]) as cluster:
        cluster.hosts.append(())
        cluster.env["CUDA_VISIBLE_DEVICES"] = "6"
        cluster.add_worker(1, "--resources", "CPU=1")  # the later option counts: no GPU here
        driver = {**env, "CUDA_VISIBLE_DEVICES": ""}  # the machine of the driver has none
        options = ["--backend", "gpu", "--scheduler-file", str(cluster.file)]
        done = flowprep("extract", videos, tmp_path / "out.zarr", *METHOD, *options, env=driver)
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path / "log") == {"5"}


# --- what a worker must have in common with the driver ---


def test_another_version_of_flowprep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=rf"has flowprep {__version__}, the run was started with 9.9: install"):
        extract_shard(Work(str(tmp_path), 0, Limits(), version="9.9"), 0)
    assert shard.Work("x", 0, Limits()).version == __version__


def test_a_machine_without_the_videos_is_not_a_thousand_missing_files(videos: Path, tmp_path: Path) -> None:
    """Their disk is not mounted there: an error that names folder and machine, and no verdict at all."""
    out, empty = tmp_path / "out.zarr", tmp_path / "empty"
    source = read_source(videos)
    guesses = [(video, estimate(video, None, SETTINGS)) for video in source.videos]
    plan = make_plan(guesses, SETTINGS, str(videos), seconds=lambda _: 1.0)
    assert write_plan(LocalStore(out), plan)
    empty.mkdir()
    for root, words in ((empty, "empty, where the videos were"), (tmp_path / "gone", "No such file")):
        work = Work(str(out), 0, Limits(), str(root), host="driver")
        with pytest.raises(StoreError, match=rf"^On {socket.gethostname()}: {root}: {words}"):
            extract_shard(work, 0)
    assert not committed_shards(LocalStore(out))


def test_a_machine_that_does_not_see_the_dataset(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"plan.0.json: not there. Every machine must see the dataset"):
        extract_shard(Work(str(tmp_path), 0, Limits()), 0)


def test_a_disk_of_videos_that_goes_away_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "open", stale)
    with pytest.raises(StoreError, match="Stale file handle"):
        file_sha256(tmp_path / "a.avi")
