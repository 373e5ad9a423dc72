"""An array job of SLURM as a script that a person can read and edit."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from flowprep.errors import RefusedError, UsageError
from flowprep.submit.job import NOTICE, Job, ask, pipeline
from flowprep.wording import plural

MOST_TASKS = 1001  # SLURM's own MaxArraySize
RESTARTS = 50

SCRIPT = """\
#!/bin/bash
# Optical flow for {output} with SLURM: written by "flowprep submit", made to be read and edited.
#   {command}
# from the folder that its paths start from. Sent again, it continues; a task with nothing left to do ends at once.

# What squeue shows.
#SBATCH --job-name={name}
# Tasks, counted from 0; of the unfinished shards each does its share. The number after % is how many run at once.
#SBATCH --array=0-{last}{at_once}
# Of each task: processors, one for each video that it works on at once.
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task={workers}
# Of each task: memory, about 2 GiB for each such video.
#SBATCH --mem={memory}M
{gpus}\
# Of each task: hours:minutes:seconds. A task that is not done by then is queued again and continues, so that a short
# time, which often starts earlier, costs little. "##" switches a line off: then the partition has a time of its own.
{time}
# Where it runs and who pays.
{partition}
{account}
{qos}
# What each task says, all its starts one after the other. %A: number of the job; %a: of the task.
#SBATCH --output={log}
#SBATCH --open-mode=append
# When it is preempted, or its node fails, SLURM queues it again.
#SBATCH --requeue
# So many seconds before the end of its time this script gets SIGUSR2: {notice} s more than --grace below.
#SBATCH --signal=B:USR2@{lead}

# How often a task may be queued again in all; for one that never ends its shard in --time, this is the end.
restarts={restarts}

# What has to be set up before flowprep can run: modules, an environment.
{setup}

flowprep extract -c {pipeline} --executor batch --workers "$SLURM_CPUS_PER_TASK" --grace {grace} &
work=$!

# SIGUSR2 is handed on. SIGTERM (preempted, cancelled) SLURM itself sends to all processes of a job. Either way flowprep
# stops in good order with code 75. A signal interrupts "wait", so that it has to wait again.
signal=none interrupted=yes
trap 'signal=USR2 interrupted=yes; kill -s USR2 "$work"' USR2
trap 'signal=TERM interrupted=yes' TERM
while [ "$interrupted" = yes ]; do
    interrupted=no
    wait "$work"
    code=$?
done

# 75: unfinished. After SIGTERM it is for SLURM to queue the task again, or not to: it may have been cancelled.
# 0: done. 2, 65, 70: trying again would not help. 74: the disk; repair that and send the job again.
if [ "$code" -eq 75 ] && [ "$signal" != TERM ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt "$restarts" ]; then
        echo "Task $SLURM_ARRAY_TASK_ID is queued again: start $((${{SLURM_RESTART_COUNT:-0}} + 2))."
        scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    else
        echo "Task $SLURM_ARRAY_TASK_ID has been queued again $restarts times: give it more --time."
    fi
fi
exit "$code"
"""


@dataclass(frozen=True)
class Slurm:
    """SLURM, as ``flowprep submit --to slurm`` asks it."""

    time: str = ""  # the partition's; one that is longer than a partition allows would wait for ever
    partition: str = ""
    account: str = ""
    qos: str = ""
    setup: tuple[str, ...] = ()  # lines of the shell

    def __post_init__(self) -> None:
        if self.time and minutes(self.time) is None:
            raise UsageError(f"--time {self.time!r}: give hours:minutes:seconds, as 4:00:00, or days-hours, as 2-12.")
        for name in ("partition", "account", "qos"):
            if not re.fullmatch(r"[\w.,@+-]*", value := getattr(self, name), re.ASCII):
                raise UsageError(f"--{name} {value!r}: not a name that SLURM can have.")

    @property
    def most_tasks(self) -> int:
        """What this cluster allows in an array; where there is none to ask, SLURM's default."""
        if not shutil.which("scontrol"):
            return MOST_TASKS
        try:
            found = re.search(r"^MaxArraySize\s*=\s*([0-9]+)", ask("scontrol", "show", "config"), re.M)
        except RefusedError:  # sbatch will say what is wrong
            return MOST_TASKS
        most = int(found[1]) if found else MOST_TASKS
        if not most:
            raise RefusedError(
                "This SLURM takes no job arrays (MaxArraySize is 0 in its configuration), which flowprep submit is "
                "made of. Ask who runs it, or send a script of your own for one task, with the line: "
                "flowprep extract SOURCE OUT.zarr --executor batch --task 0/1"
            )
        return most

    def check(self) -> None:
        if not shutil.which("sbatch"):
            raise RefusedError(
                "sbatch is not on the PATH, so that no job can be handed to SLURM from here. Run this on a login node "
                "of the cluster, load its module, or write the files with --dry-run and send them from there."
            )

    def files(self, job: Job) -> dict[str, str]:
        self._refuse_too_short(job.grace)
        settings, script = f"{job.name}.yaml", _script(job).name
        return {
            settings: pipeline(job.config, f"the tasks of {script}"),
            script: SCRIPT.format(
                output=job.config.output,
                command=self.command(job),
                name=job.name,
                last=job.tasks - 1,
                at_once=f"%{job.at_once}" if job.at_once else "",
                workers=job.workers,
                memory=job.memory,
                gpus=_gpus(job),
                time=_directive("time", self.time, "4:00:00"),
                partition=_directive("partition", self.partition),
                account=_directive("account", self.account),
                qos=_directive("qos", self.qos),
                log=shlex.quote(str(job.folder).replace("%", "%%") + f"/{job.name}-%A_%a.log"),
                notice=NOTICE,
                lead=job.grace + NOTICE,
                restarts=RESTARTS,
                setup="\n".join(self.setup or _own_environment()),
                pipeline=shlex.quote(str(job.folder / settings)),
                grace=job.grace,
            ),
        }

    def has(self, job: Job) -> bool:  # noqa: ARG002 - jobs of SLURM have numbers: none takes the place of another
        return False

    def submit(self, job: Job) -> str:
        number = ask("sbatch", "--parsable", str(_script(job))).split(";")[0]
        return f"job {number}"

    def command(self, job: Job) -> str:
        return shlex.join(["sbatch", str(_script(job))])

    def by_hand(self, job: Job) -> str:  # noqa: ARG002 - the signature is that of Cluster
        return ""

    def _refuse_too_short(self, grace: int) -> None:
        """UsageError for a time in which a task would be told to stop as it starts."""
        limit = minutes(self.time) if self.time else None
        if limit is None or limit * 60 > grace + NOTICE:
            return
        if not limit:
            raise UsageError(f"--time {self.time} is no limit at all to SLURM: leave it out for the partition's own.")
        hours = {0: f"{self.time}:00:00", 1: f"{self.time}:00"}.get(self.time.count(":"))
        meant = f"; hours are written {hours}" if hours and "-" not in self.time else ""
        raise UsageError(
            f"--time {self.time} is {plural(limit, 'minute')} to SLURM{meant}. "
            f"Give more than the {grace} s of --grace and {NOTICE} s to leave."
        )


def minutes(time: str) -> int | None:
    """What SLURM makes of ``time``, one of the formats of sbatch(1); it rounds up. 0 = no limit; None = no time."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if len(parts) > 3 or not all(re.fullmatch("[0-9]{1,9}", part) for part in [*parts, *([days] if dash else [])]):
        return None
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    seconds = sum(int(part) * unit for part, unit in zip(parts, units, strict=False))
    return math.ceil((int(days or 0) * 86400 + seconds) / 60)


def _script(job: Job) -> Path:
    return job.folder / f"{job.name}.sbatch"


def _directive(name: str, value: str, example: str = "NAME") -> str:
    """A line for sbatch; without a value one with an example, switched off."""
    return f"#SBATCH --{name}={value}" if value else f"##SBATCH --{name}={example}"


def _gpus(job: Job) -> str:
    text = "# Of each task: GPUs, which compute for all its processors; each takes about 4 GiB of the memory above.\n"
    return f"{text}#SBATCH --gpus-per-node={job.gpus}\n" if job.gpus else ""


def _own_environment() -> list[str]:
    """A job has the PATH of who submits it; where flowprep was called by its path, that does not lead to it."""
    if not shutil.which("flowprep"):
        for folder in (Path(sys.argv[0]).absolute().parent, Path(sys.executable).parent):
            if (folder / "flowprep").is_file():
                return [f'export PATH={shlex.quote(str(folder))}:"$PATH"']
    return ["# module load ...", "# source VENV/bin/activate"]
