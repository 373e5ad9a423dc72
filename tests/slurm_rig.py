"""A real SLURM with two nodes, all on this machine and in one folder: its own key, configuration, state and ports.

Needs root (a job may be any user's) and Debian's packages, which also make the user munge. The machine's own SLURM, if
there is one, is neither read nor touched: everything here finds its configuration by ``SLURM_CONF``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.command import await_

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
NODES = ("n1", "n2")
CPUS = 2  # of each node, whatever the machine has

# Two partitions on the same nodes: a job of "high" pushes jobs of "low" back into the queue.
CONFIGURATION = """\
ClusterName=rig
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=1,sched_interval=1
ReturnToService=2
SlurmdTimeout=5
KillWait=10
{nodes}
PartitionName=low Nodes=n1,n2 PriorityTier=1 Default=YES MaxTime=1:00:00
PartitionName=high Nodes=n1,n2 PriorityTier=2 PreemptMode=OFF MaxTime=1:00:00
"""


def missing() -> str:
    """Why the rig cannot run here, with what to do; "" where it can."""
    if absent := [name for name in PROGRAMS if not find(name)]:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge (Debian, Ubuntu)"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root to run jobs"


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Slurm:
    """The running cluster. ``environment`` is what its commands, and so flowprep submit, need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        ports = iter(free_ports(1 + len(NODES)))
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        host = socket.gethostname().split(".")[0]
        port = next(ports)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={next(ports)} CPUs={CPUS} RealMemory=100000"
            for name in NODES
        )
        text = CONFIGURATION.format(host=host, port=port, folder=self.folder, nodes=nodes)
        (self.folder / "slurm.conf").write_text(text)
        files = {"key": "munge.key", "socket": "munge.socket", "pid": "munged.pid", "log": "munged.log", "seed": "seed"}
        paths = {name: str(self.folder / file) for name, file in files.items()}
        options = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in paths.items()]
        self._start("munged", "--foreground", "--force", *options)
        await_((self.folder / "munge.socket").exists, "munged listens")
        self._start("slurmctld", "-D")
        for name in NODES:
            self.start_node(name)
        await_(lambda: self.ask("sinfo", "--noheader", "-o", "%T") == "idle", "both nodes are idle")

    def start_node(self, name: str) -> None:
        self._start("slurmd", "-D", "-N", name, known_as=name)

    def _start(self, program: str, *arguments: str, known_as: str = "") -> None:
        name = known_as or program
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [str(find(program)), *arguments],
                env={**self.environment, "SLURM_RIG": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints; "" while the controller does not answer."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def said(self) -> str:
        """What the controller has written into its log: starts, ends and why jobs were queued again."""
        return (self.folder / "slurmctld.out").read_text(errors="replace")

    def jobs(self, form: str = "%T") -> list[str]:
        """One text for each job that has not ended, array elements apart, in a format of squeue."""
        return self.ask("squeue", "--noheader", "--array", "--format", form).splitlines()

    def wait_for_the_end(self, seconds: float = 120) -> None:
        await_(lambda: self.ask("sinfo", "--noheader") and not self.jobs(), "the queue is empty", seconds)

    def kill_node(self, name: str) -> None:
        """What a power cut does: slurmd and everything it runs are gone at once, without a word."""
        for process in self._processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._daemons.pop(name).wait()

    def stop(self) -> None:
        """End all jobs and daemons; whatever does not end by itself is killed."""
        if self.jobs():
            self.ask("scancel", "--state=PENDING", "--user=root")
            self.ask("scancel", "--signal=KILL", "--user=root")
            self.ask("scancel", "--full", "--signal=KILL", "--user=root")
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _processes(self, node: str = "") -> list[psutil.Process]:
        """All processes of this cluster, or of one node, jobs included; SLURM's own first, so that none can report."""
        found: dict[psutil.Process, bool] = {}  # process -> whether it is SLURM's
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                variables = process.environ()
                if variables.get("SLURM_CONF") != self.environment["SLURM_CONF"] or process.pid == os.getpid():
                    continue
                if node in ("", variables.get("SLURM_RIG"), variables.get("SLURMD_NODENAME")):
                    found[process] = process.name() == "slurmd"
                    # What starts a job writes its title over its environment.
                    found |= {parent: True for parent in process.parents() if parent.name() == "slurmstepd"}
        return sorted(found, key=lambda process: not found[process])


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A running cluster, stopped and removed at the end."""
    # Not below pytest's folder: a socket's path may have 107 bytes, and munge's clients must be able to get there.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        cluster = Slurm(folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
