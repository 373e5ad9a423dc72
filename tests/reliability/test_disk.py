"""Disks that are full and disks that die: a clear error, nothing half-written, and the same command finishes."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from flowprep.shard import file_sha256
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import read_commits
from flowprep.synthetic import write_demo_videos
from tests.command import FAULTS, MISBEHAVE, flowprep, stored_files

ENV = {  # each video a shard of its own
    **MISBEHAVE,
    "FLOWPREP_TEST_SHARD_SECONDS": "0.001",
}
METHOD = ("--method", "dis", "--set", "dis.preset=ultrafast", "--rgb-short-side", "48", "--workers", "1")
PAGE = 4096  # bytes: what a tmpfs counts in


class Case(NamedTuple):
    source: Path
    clean: Path  # the dataset of an undisturbed run

    def extract(self, out: Path, **env: str) -> subprocess.CompletedProcess[str]:
        return flowprep("extract", self.source, out, *METHOD, env={**ENV, **env})


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    write_demo_videos(folder / "videos", clips_per_class=1, frames=6, height=48, width=64)
    case = Case(folder / "videos", folder / "clean.zarr")
    done = case.extract(case.clean)
    assert done.returncode == 0, done.stderr
    assert len(names(case.clean / ".flowprep/commits")) >= 5
    assert flowprep("verify", case.clean, "--full").returncode == 0
    return case


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def check_failure(done: subprocess.CompletedProcess[str], out: Path, words: str) -> int:
    """Exit code and message are right, and all that is committed is whole; how many shards that are."""
    assert done.returncode == 74, done.stderr
    assert words in done.stderr and "run the same command again" in done.stderr and "Traceback" not in done.stderr
    commits = read_commits(LocalStore(out))
    for item in (item for commit in commits for item in commit.files):
        assert file_sha256(out / item.key) == item.sha256, item.key
    return len(commits)


def check_recovery(case: Case, out: Path) -> None:
    """With the disk sound again, the same command ends with the bytes of a run that nothing disturbed."""
    done = case.extract(out)
    assert done.returncode == 0, done.stderr
    assert stored_files(out) == stored_files(case.clean)
    done = flowprep("verify", out, "--gc", "--older-than", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert names(out) == names(case.clean)


# --- full ---


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A new file system of so many bytes, at each call."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def fill(case: Case, disk: Callable[[int], Path], times: int, seed: int) -> list[int]:
    """Shards that were committed when the disk was full, for disks of random sizes, all too small."""
    needed = sum(-(-path.stat().st_size // PAGE) for path in case.clean.rglob("*") if path.is_file())  # pages
    done = []
    for pages in np.random.default_rng(seed).integers(1, needed - 1, times):
        folder = disk(int(pages) * PAGE)
        out = folder / "out.zarr"
        done.append(check_failure(case.extract(out), out, "No space left on device. Free some space"))
        subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
        check_recovery(case, out)
    return done


def test_full_at_two_moments(case: Case, disk: Callable[[int], Path]) -> None:
    assert sum(fill(case, disk, 2, seed=0)) > 0


@pytest.mark.system
@pytest.mark.timeout(900)
def test_full_at_twenty_moments(case: Case, disk: Callable[[int], Path], figure: Callable[[str, str], None]) -> None:
    done = fill(case, disk, 20, seed=1)
    assert len(set(done)) > 3
    figure("R6a", f"{len(done)} times full, after {min(done)} to {max(done)} shards: 0 torn, 0 bytes differ, 0 litter")


# --- dying ---


@pytest.fixture(scope="module")
def dying_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes file operations fail."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler (cc) for the library that makes file operations fail")
    library = tmp_path_factory.mktemp("library") / "disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, f"{FAULTS}/disk.c", "-ldl"], check=True)
    return library


def die(case: Case, library: Path, folder: Path, times: int, seed: int) -> list[int]:
    """Shards that were committed when the disk died, at random uses of it."""
    uses = folder / "uses"

    def extract(out: Path, fails_at: int) -> subprocess.CompletedProcess[str]:
        uses.write_bytes(struct.pack("=qq", 0, fails_at))
        env = {"LD_PRELOAD": str(library), "FLOWPREP_TEST_DISK": str(out), "FLOWPREP_TEST_DISK_USES": str(uses)}
        return case.extract(out, **env)

    assert extract(folder / "honest.zarr", 2**62).returncode == 0
    (total, _) = struct.unpack("=qq", uses.read_bytes())
    assert total > 100
    done = []
    for number, moment in enumerate(np.random.default_rng(seed).integers(1, total, times)):
        out = folder / f"{number}.zarr"
        done.append(check_failure(extract(out, int(moment)), out, "Input/output error. Check the disk"))
        check_recovery(case, out)
    return done


def test_errors_of_the_disk_at_three_moments(case: Case, dying_disk: Path, tmp_path: Path) -> None:
    assert sum(die(case, dying_disk, tmp_path, 3, seed=0)) > 0


@pytest.mark.system
@pytest.mark.timeout(900)
def test_errors_of_the_disk_at_twenty_moments(
    case: Case, dying_disk: Path, tmp_path: Path, figure: Callable[[str, str], None]
) -> None:
    done = die(case, dying_disk, tmp_path, 20, seed=1)
    assert len(set(done)) > 3
    figure("R6b", f"{len(done)} deaths, after {min(done)} to {max(done)} shards: 0 torn, 0 bytes differ, 0 litter")
