"""flowprep submit on a real SLURM: whatever happens to the tasks, the dataset is that of a run on one machine."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowprep.submit.slurm import minutes
from flowprep.synthetic import write_demo_videos
from tests.command import await_, flowprep, stored_files
from tests.slurm_rig import Slurm, missing, slurm

METHOD = ("--method", "dis", "--set", "dis.preset=ultrafast", "--rgb-short-side", "32")
JOB = ("--to", "slurm", "--cpus", "1", "--memory", "500M", "--partition", "low")
BACK = 30  # s at most until SLURM has noticed what happened and the task runs again

# Every video takes some seconds longer: the work is long, and the machine is not busy.
PAUSE = """
import os, sys, time
if sys.argv[0] == "-m":  # a decoding process, while it starts
    from flowprep.extract import Extractor
    at_once = Extractor.extract
    def extract(*arguments):
        time.sleep(float(os.environ["PAUSE"]))
        return at_once(*arguments)
    Extractor.extract = extract
else:  # a shard for each video
    from flowprep import plan
    plan.SHARD_SECONDS = (0.001, 240.0)
"""


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(reason)
    with slurm() as running:
        yield running


class Array:
    """A dataset made by an array job, and what its tasks have said."""

    def __init__(self, cluster: Slurm, folder: Path, pause: float, *options: str) -> None:
        self.cluster = cluster
        self.out = folder / "flow.zarr"
        (folder / "sitecustomize.py").write_text(PAUSE)
        self.env = {**cluster.environment, "PYTHONPATH": str(folder), "PAUSE": str(pause)}
        self.arguments = (folder / "videos", self.out, *METHOD)
        done = flowprep("submit", *self.arguments, *JOB, *options, env=self.env)
        assert done.returncode == 0, done.stderr
        found = re.search(r"^Submitted job (\d+): .*Next: flowprep status", done.stdout, re.M)
        assert found, done.stdout
        self.number = found[1]

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.out.with_name("flow-slurm").glob("*.log")))

    def commits(self) -> int:
        return len(list((self.out / ".flowprep/commits").glob("*.json")))

    def task(self, number: int, key: str) -> str:
        """What scontrol knows of a task: ("JobState", "Restarts", ...)."""
        shown = self.cluster.ask("scontrol", "show", "job", f"{self.number}_{number}")
        found = re.search(rf"\b{key}=(\S+)", shown)
        return found[1] if found else ""

    def runs_on(self, node: str) -> bool:
        return f"{self.number} RUNNING {node}" in self.cluster.jobs("%F %T %N")

    def queued_again(self, why: str) -> int:
        """How often SLURM has queued a task again and said ``why``, with {} for its name."""
        task = rf"{self.number}_\d+\(\d+\)"
        return len(re.findall(why.format(task), self.cluster.said()))

    def is_like(self, local: Path) -> None:
        """Whole, and byte for byte what ``flowprep extract`` makes on one machine."""
        done = flowprep("extract", *self.arguments[:1], local, *METHOD, env={**self.env, "PAUSE": "0"})
        assert done.returncode == 0, done.stderr
        assert stored_files(self.out) == stored_files(local)
        assert flowprep("verify", self.out, "--full").returncode == 0


@pytest.mark.timeout(300)
def test_an_array_and_a_finished_task_that_is_queued_again(cluster: Slurm, tmp_path: Path) -> None:
    write_demo_videos(tmp_path / "videos", clips_per_class=1, frames=4, height=32, width=48)
    array = Array(cluster, tmp_path, 0, "--tasks", "2")
    cluster.wait_for_the_end()
    assert array.commits() == 6
    cluster.ask("scontrol", "requeue", f"{array.number}_0")
    await_(lambda: array.task(0, "Restarts") == "1", "the finished task is queued again")
    cluster.wait_for_the_end()
    assert array.task(0, "JobState") == "COMPLETED" and "nothing to do" in array.log(), array.log()
    array.is_like(tmp_path / "local.zarr")


def test_times_are_what_slurm_makes_of_them(cluster: Slurm) -> None:
    for time_ in ("90", "2:00", "2:01", "0:30", "2:00:00", "2:00:01", "1-0", "2-12", "1-2:30", "1-02:30:30", "0:90:0"):
        number = cluster.ask("sbatch", "--parsable", "--hold", "--output=/dev/null", f"--time={time_}", "--wrap=true")
        (made,) = cluster.jobs("%l")  # [days-][hours:]minutes:seconds
        days, _, rest = made.rpartition("-")
        hours, minute, seconds = f"0:{rest}".split(":")[-3:]
        assert minutes(time_) == int(days or 0) * 1440 + int(hours) * 60 + int(minute) and seconds == "00", made
        cluster.ask("scancel", number)
        cluster.wait_for_the_end()
    for wrong in ("soon", "1:2:3:4", "1-2:3:4:5", "1:", "1.5", "2h"):
        assert minutes(wrong) is None
        assert not cluster.ask("sbatch", "--parsable", "--hold", f"--time={wrong}", "--wrap=true")


@pytest.mark.system
@pytest.mark.timeout(400)
def test_preempted_out_of_time_and_on_a_node_that_dies(
    cluster: Slurm, tmp_path: Path, figure: Callable[[str, str], None]
) -> None:
    write_demo_videos(tmp_path / "videos", clips_per_class=4, frames=8, height=48, width=64)
    begun = time.monotonic()
    array = Array(cluster, tmp_path, 5, "--tasks", "4", "--time", "1", "--grace", "3")
    await_(lambda: cluster.jobs() == ["RUNNING"] * 4, "all tasks run")
    await_(lambda: array.commits() >= 4, "each has committed a shard")

    await_(lambda: array.runs_on("n1"), "a task runs on n1")
    cluster.ask(
        "sbatch", "--partition=high", "--nodelist=n1", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 3"
    )
    await_(lambda: "DUE TO PREEMPTION" in array.log(), "the tasks on n1 are preempted")

    await_(lambda: array.runs_on("n2"), "a task runs on n2")
    cluster.kill_node("n2")
    await_(lambda: "down" in cluster.ask("sinfo", "--noheader", "-n", "n2", "-o", "%T"), "SLURM misses n2")
    cluster.start_node("n2")

    cluster.wait_for_the_end(200)
    seconds = time.monotonic() - begun
    restarts = sum(int(array.task(number, "Restarts")) for number in range(4))
    preempted = array.queued_again("preempted JobId={} has been requeued to reclaim resources")
    lost = array.queued_again("requeue job JobId={} due to failure of node n2")
    out_of_time = array.log().count("is queued again")  # what the script says before it asks for that
    assert preempted and lost and out_of_time, cluster.said()
    assert restarts == preempted + lost + out_of_time, cluster.said()
    assert [array.task(number, "JobState") for number in range(4)] == ["COMPLETED"] * 4, array.log()
    array.is_like(tmp_path / "local.zarr")

    cluster.ask("scontrol", "requeue", f"{array.number}_1")
    await_(lambda: array.task(1, "JobState") == "RUNNING", "the finished task runs again", BACK)
    again = time.monotonic()
    cluster.wait_for_the_end()
    again = time.monotonic() - again
    assert array.commits() == 24
    figure(
        "R8",
        f"4 tasks of 24 shards, queued again {preempted} times when preempted, {lost} when a node died, {out_of_time} "
        f"when out of time; same bytes after {seconds:.0f} s; a finished task, queued again, ends in {again:.1f} s",
    )
    assert seconds <= 120 and again <= 3
