"""What a job is made of, whichever cluster it is for: how many tasks, with what, on which pipeline."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from flowprep import flow
from flowprep.config import ExtractConfig
from flowprep.errors import RefusedError, UsageError

CPUS = 4  # of a task, where nobody says
CPUS_FOR_GPU = 8  # of a task with GPUs, for each: so many that decode and encode keep one busy
MEMORY = 2048  # MiB for each worker, where nobody says: a decoding process takes a few hundred, long 4K videos more
MEMORY_FOR_GPU = 4096  # MiB for the process that owns a GPU
GRACE = 90  # s that shards in flight have after a signal
NOTICE = 30  # s from the end of that grace to the end of the task, to sum up and to leave
ANSWER_SECONDS = 120  # for a program of the cluster to answer

ON_TOP = {"cluster"}  # section of a pipeline that the job decides
ONCE = {"workers", "grace", "retry_status", "extend", "dry_run"}  # keys of run for one run, not for each task


@dataclass(frozen=True)
class Request:
    """What the command line asks for; 0 and "" leave it to :func:`make_job`."""

    tasks: int = 0
    at_once: int = 0  # 0 = all that the cluster has room for
    cpus: int = 0
    memory: str = ""
    gpus: int = 0
    grace: int = GRACE

    def __post_init__(self) -> None:
        for name in ("tasks", "at_once", "cpus", "gpus"):
            if (value := getattr(self, name)) < 0:
                raise UsageError(f"--{name.replace('_', '-')} {value}: give 1 or more.")
        if not 0 <= self.grace <= 3600:
            raise UsageError(f"--grace {self.grace}: give 0 to 3600 seconds.")
        self.mebibytes()

    def mebibytes(self) -> int:
        """``memory`` in MiB; 0 where it is not given."""
        if not self.memory:
            return 0
        match = re.fullmatch(r"([1-9][0-9]{0,8})([MGT])", self.memory)
        if not match:
            raise UsageError(f"--memory {self.memory!r}: give a whole number of M, G or T, for example 16G.")
        return int(match[1]) * {"M": 1, "G": 2**10, "T": 2**20}[match[2]]


@dataclass(frozen=True)
class Job:
    """An array of tasks that share the shards of one dataset."""

    name: str  # of the dataset, in letters, digits, ".", "-" and "_"; of a later submission with its number
    config: ExtractConfig
    folder: Path  # where the job's files go
    tasks: int
    at_once: int  # 0 = all
    workers: int  # of one task, as all below; each has a processor
    memory: int  # MiB
    gpus: int
    grace: int  # s


class Cluster(Protocol):
    """A system that jobs are handed to."""

    @property
    def most_tasks(self) -> int:
        """How many tasks one job may have."""

    def check(self) -> None:
        """RefusedError where the program that takes jobs is missing."""

    def files(self, job: Job) -> dict[str, str]:
        """The job as files: name -> text."""

    def has(self, job: Job) -> bool:
        """Whether there is a job, waiting, running or finished, that one of this name would take the place of."""

    def submit(self, job: Job) -> str:
        """Hand the written job over; what it is called there."""

    def command(self, job: Job) -> str:
        """What one would type to hand it over."""

    def by_hand(self, job: Job) -> str:
        """What has to be typed once the job is submitted, so that it can work; "" = nothing."""


def make_job(config: ExtractConfig, request: Request, folder: Path, pending: int, most_tasks: int) -> Job:
    """The job for ``pending`` shards: by default as many tasks as give every worker one of them.

    Raises UsageError for more tasks than ``most_tasks``, for GPUs that would stand idle, and for paths that no job
    file can hold.
    """
    for path in (str(folder), config.source.path, config.output):
        if not path.isprintable():
            raise UsageError(f"{path!r}: a job file cannot name a path with such characters: rename it.")
    gpus = _gpus(config, request.gpus)
    workers = request.cpus or config.run.workers or CPUS_FOR_GPU * gpus or CPUS
    if request.tasks > most_tasks:
        raise UsageError(
            f"--tasks {request.tasks}: this cluster takes at most {most_tasks:,} in one job. "
            "Each task does many shards; fewer tasks do the same work."
        )
    tasks = request.tasks or min(math.ceil(pending / workers), most_tasks)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", dataset_name(config.output)).strip("-.")[:40].rstrip("-.")
    return Job(
        name=name or "flowprep",
        config=config,
        folder=folder,
        tasks=tasks,
        at_once=min(request.at_once, tasks),
        workers=workers,
        memory=request.mebibytes() or MEMORY * workers + MEMORY_FOR_GPU * gpus,
        gpus=gpus,
        grace=request.grace,
    )


def _gpus(config: ExtractConfig, asked: int) -> int:
    """GPUs of a task: one, where the flow is computed on GPUs and nobody says how many."""
    algorithm = flow.find(config.flow.method, config.flow.backend or None, elsewhere=True)
    if asked and not algorithm.gpu:
        raise UsageError(
            f"--gpus {asked}: {algorithm.method} is computed on processors by the backend {algorithm.backend}, so that "
            "GPUs would stand idle: leave that out, or add --backend cuda, for tvl1 and brox."
        )
    return asked or int(algorithm.gpu)


def dataset_name(output: str) -> str:
    """``flow.dis`` for ``out/flow.dis`` and for ``out/flow.dis.zarr``: only that one ending is none of the name."""
    return Path(output).name.removesuffix(".zarr") or "flowprep"


def pipeline(config: ExtractConfig, written_for: str) -> str:
    """The pipeline file of the tasks: every setting, but those that the job decides or that were for one run."""
    import yaml

    tree: dict[str, Any] = {key: value for key, value in dataclasses.asdict(config).items() if key not in ON_TOP}
    tree["run"] = {key: value for key, value in tree["run"].items() if key not in ONCE}
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
    return f'# The settings of {written_for}, all of them; written by "flowprep submit".\n{text}'


def write(job: Job, cluster: Cluster, has: Callable[[Job], bool]) -> tuple[Job, list[tuple[Path, bool]]]:
    """Write the files of ``job``: the job with its name, and where each file is and whether it is new.

    The name is the first of NAME, NAME-2, NAME-3 ... that no other submission has: no job of the cluster
    (``has``), and no file with another text, which tasks that wait may read, or somebody has edited.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        named = replace(job, name=f"{job.name}-{number}") if number > 1 else job
        files = {job.folder / name: text for name, text in cluster.files(named).items()}
        if all(_is_free(path, text) for path, text in files.items()) and not has(named):
            try:
                return named, [(path, _put(path, text)) for path, text in files.items()]
            except FileExistsError:  # of somebody who submits at the same time
                continue
    raise AssertionError("there is always a next number")


def _is_free(path: Path, text: str) -> bool:
    """Whether there is no ``path``, or it has this ``text``."""
    return not os.path.lexists(path) or (path.is_file() and path.read_bytes() == text.encode())


def _put(path: Path, text: str) -> bool:
    """Write a new file; False if it is there already. Raises FileExistsError if it has another text."""
    if path.exists() and _is_free(path, text):
        return False
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return True


def ask(*command: str) -> str:
    """What a program of the cluster prints. Raises RefusedError with its message where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RefusedError(f"{command[0]} has not answered for {ANSWER_SECONDS} s. Is the cluster up?") from None
    if done.returncode:
        raise RefusedError(f"{command[0]} refuses: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
