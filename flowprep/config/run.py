"""How and where the work is done: none of it changes a stored byte."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from flowprep.errors import UsageError, Verdict, did_you_mean
from flowprep.schema import setting

MAX_WORKERS = 4096  # on one machine
MIN_MEMORY, MAX_MEMORY = 1024, 2**32  # MiB of one decoding process: its libraries alone take hundreds
MAX_GRACE = 3600  # s: no job manager waits longer
EXECUTORS = ("dask", "batch")


@dataclass(frozen=True)
class RunConfig:
    """How the work is done; none of it changes a stored byte."""

    workers: int = setting(0, "Videos worked on at once; 0 = one for each processor.", metavar="N")
    max_failed: str = setting(
        "0", "Failures that still count as success: a number, or a share like 1%.", metavar="N|P%"
    )
    retry_status: str = setting(
        "", "Try videos with these verdicts again, for example crashed,timeout.", metavar="LIST"
    )
    extend: bool = setting(False, "Take in videos that are new in the source, or changed.")
    stall_seconds: float = setting(120.0, "Give a video up when it makes no frame for so long.", metavar="SEC")
    memory_limit: int = setting(4096, "Address space of one decoding process, in MiB.", metavar="MIB")
    grace: float = setting(10.0, "Seconds that SIGTERM and SIGUSR2 leave to the shards in flight.", metavar="SEC")
    dry_run: bool = setting(False, "Print the plan (videos, frames, bytes, time expected) and stop.")

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= MAX_WORKERS:
            raise UsageError(f"--workers {self.workers}: give 1 to {MAX_WORKERS}, or 0 for one per processor.")
        if self.stall_seconds <= 0:
            raise UsageError(f"--stall-seconds {self.stall_seconds}: give a positive number of seconds.")
        if not 0 <= self.grace <= MAX_GRACE:
            raise UsageError(f"--grace {self.grace}: give 0 to {MAX_GRACE} seconds.")
        if not MIN_MEMORY <= self.memory_limit <= MAX_MEMORY:
            raise UsageError(f"--memory-limit {self.memory_limit}: give {MIN_MEMORY} to {MAX_MEMORY} MiB.")
        self.failures_allowed(100)
        self.retry_verdicts()

    def failures_allowed(self, videos: int) -> int:
        """How many of ``videos`` may fail before the exit code says so."""
        number = re.fullmatch(r"[0-9]{1,12}", self.max_failed)
        share = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,12})?)%", self.max_failed)
        if number:
            return int(number[0])
        if share and Fraction(share[1]) <= 100:
            return int(Fraction(share[1]) * videos / 100)
        raise UsageError(f"--max-failed {self.max_failed!r}: give a number like 3 or a share like 1%.")

    def retry_verdicts(self) -> frozenset[Verdict]:
        """The verdicts named by ``retry_status``."""
        names = [name.strip() for name in self.retry_status.split(",") if name.strip()]
        known = [str(verdict) for verdict in Verdict if verdict is not Verdict.OK]
        for name in names:
            if name not in known:
                raise UsageError(f"--retry-status {name}: no such verdict.{did_you_mean(name, known)}")
        return frozenset(Verdict(name) for name in names)


@dataclass(frozen=True)
class ClusterConfig:
    """Where the tasks run, if not on this machine alone; none of it changes a stored byte."""

    executor: str = setting(
        "dask", "dask: this machine, or the cluster of a scheduler; batch: one task of a job array.", choices=EXECUTORS
    )
    scheduler: str = setting("", "Address of a Dask scheduler, for example tls://node1:8786.", metavar="ADDRESS")
    scheduler_file: str = setting("", "File in which a Dask scheduler has written its address.", metavar="PATH")
    tls_ca_file: str = setting("", "Certificate of the authority that signed the cluster's, as PEM.", metavar="PATH")
    tls_cert: str = setting("", "Own certificate for the cluster, as PEM.", metavar="PATH")
    tls_key: str = setting("", "Private key of that certificate, as PEM.", metavar="PATH")
    insecure: bool = setting(False, "Use a scheduler on another machine without TLS: only in a network you trust.")
    task: str = setting("", "Batch: which task of how many, from 0, as 3/100; default: the array's.", metavar="I/N")

    def __post_init__(self) -> None:
        tls = [self.tls_ca_file, self.tls_cert, self.tls_key]
        if self.scheduler and self.scheduler_file:
            raise UsageError("--scheduler and --scheduler-file exclude each other: give one of them.")
        if self.executor == "batch" and self.remote:
            raise UsageError("--executor batch knows no scheduler: leave --scheduler and --scheduler-file out.")
        if (any(tls) or self.insecure) and not self.remote:
            raise UsageError("--tls-... and --insecure are for a cluster: add --scheduler or --scheduler-file.")
        if any(tls) and not all(tls):
            raise UsageError("TLS needs --tls-ca-file, --tls-cert and --tls-key together.")
        if self.task and self.executor != "batch":
            raise UsageError(f"--task {self.task} is for a job array: add --executor batch.")

    @property
    def remote(self) -> bool:
        """Whether the tasks run on a cluster that somebody started."""
        return bool(self.scheduler or self.scheduler_file)
