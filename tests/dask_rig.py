"""A Dask cluster of real processes on this machine: a scheduler, workers under their nannies, and ways to hurt them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from flowprep.synthetic import write_demo_videos
from tests.command import await_

DASK = [sys.executable, "-m", "dask"]


def write_work(folder: Path) -> None:
    """Thirty clips of a fifth of a second of work each: six, and four copies of each under other names."""
    write_demo_videos(folder, clips_per_class=1, frames=40, height=120, width=160)
    for clip in sorted(folder.glob("*/*")):
        for copy in range(1, 5):
            shutil.copy(clip, clip.with_name(f"{clip.stem}_{copy}{clip.suffix}"))


class Cluster:
    """A scheduler and ``workers`` workers of one thread each, all on loopback; everything ends with the context."""

    def __init__(
        self,
        folder: Path,
        workers: int = 2,
        *,
        env: Mapping[str, str] | None = None,
        security: Sequence[str] = (),
        options: Sequence[str] = (),
        hosts: Sequence[Sequence[str]] = (),
        address: str = "127.0.0.1",
    ) -> None:
        """
        Parameters
        ----------
        folder: for logs and scratch files.
        env: of the workers, besides the environment.
        security: options for TLS, of scheduler and workers.
        options: of the workers.
        hosts: a prefix for the command of the scheduler and of each worker, as ("ip", "netns", "exec", "a").
        address: that the scheduler listens on.
        """
        self.file = folder / "scheduler.json"
        self._folder = folder
        self.env = {**os.environ, **(env or {})}
        self._security = list(security)
        self._options = list(options)
        self.hosts: list[Sequence[str]] = list(hosts) or [()] * (workers + 1)
        self._address = address
        self._count = workers
        self.scheduler: subprocess.Popen[bytes]
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        quiet = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0", *self._security]
        where = ["--host", self._address, "--port", "0", "--scheduler-file", str(self.file)]
        self.scheduler = self._start("scheduler", [*self.hosts[0], *DASK, "scheduler", *where, *quiet])
        await_(lambda: self.file.exists() and self.file.read_text().rstrip().endswith("}"), "the scheduler", 60)
        for number in range(self._count):
            self.add_worker(number)
        for number in range(self._count):
            log = self._folder / f"worker{number}.log"
            await_(lambda log=log: "Starting established connection" in log.read_text(), f"worker {number}", 60)

    def add_worker(self, number: int, *options: str) -> None:
        own = ["--nthreads", "1", "--name", f"w{number}", "--local-directory", str(self._folder / f"w{number}")]
        command = [*self.hosts[number + 1], *DASK, "worker", "--scheduler-file", str(self.file), *own]
        quiet = ["--no-dashboard", *self._security, *self._options, *options]
        self.workers.append(self._start(f"worker{number}", [*command, *quiet]))

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.env, cwd=self._folder, start_new_session=True
            )
        self._started.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """The processes that run tasks and the sandboxed children below them; not the nannies, which start new ones."""
        return [item for number in range(len(self.workers)) for item in self.processes_of(number)]

    def processes_of(self, number: int) -> list[psutil.Process]:
        try:
            return [item for item in psutil.Process(self.workers[number].pid).children(recursive=True) if _works(item)]
        except psutil.NoSuchProcess:
            return []

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            everyone = [process.pid]
            with suppress(psutil.NoSuchProcess):
                everyone += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            for pid in everyone:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _works(process: psutil.Process) -> bool:
    return _says(process, "spawn_main") or is_child(process)


def is_child(process: psutil.Process) -> bool:
    """Whether it decodes videos, below a process that runs tasks."""
    return _says(process, "flowprep.child")


def _says(process: psutil.Process, word: str) -> bool:
    try:
        return word in " ".join(process.cmdline())
    except psutil.Error:
        return False


def kill_some(cluster: Cluster, run: subprocess.Popen[bytes], chance: random.Random, mean: float) -> int:
    """kill -9 workers at random moments, ``mean`` seconds apart, until ``run`` ends; one time in five only a child.

    Returns how many kills that were.
    """
    kills = 0
    while run.poll() is None:
        pause = time.monotonic() + chance.expovariate(1 / mean)
        while run.poll() is None and time.monotonic() < pause:
            time.sleep(0.05)
        children = chance.random() < 0.2
        targets = [process for process in cluster.processes() if is_child(process) == children]
        if run.poll() is None and targets:
            with suppress(psutil.NoSuchProcess):
                chance.choice(targets).kill()
                kills += 1
    return kills
