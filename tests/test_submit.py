"""flowprep submit: what it writes and where, what it hands over, what it says, and what it refuses."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from flowprep.cli import flowprep as group
from flowprep.config import RunConfig, build, read_pipeline
from flowprep.errors import ExitCode, RefusedError, UsageError
from flowprep.run.product import resolve
from flowprep.store.blobs import LocalStore
from flowprep.submit.slurm import Slurm
from flowprep.synthetic import write_demo_videos
from tests.command import flowprep, stored_files

ROOT = Path(__file__).parents[1]

# What pipelines/slurm and pipelines/k8s were written with, where the data lie in /data/ucf101.
EXAMPLE = ("-c", "pipelines/ucf101.yaml", "--dry-run", "--tasks", "100", "--at-once", "50")
SLURM = ("--to", "slurm", "--folder", "pipelines/slurm", "--setup", "source .venv/bin/activate")
IMAGE = ("--image", "registry.example.org/flowprep:0.1")
K8S = ("--to", "k8s", "--folder", "pipelines/k8s", *IMAGE, "--claim", "ucf101=data/ucf101")
QUICK = ("--method", "dis", "--short-side", "0", "--rgb-short-side", "32")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipelines, and two clips and their lists where pipelines/ucf101.yaml has them."""
    root = tmp_path_factory.mktemp("prepared")
    shutil.copytree(ROOT / "pipelines", root / "pipelines")
    folder = root / "data/ucf101"
    (left, *_, zoom) = write_demo_videos(folder / "videos", clips_per_class=1, frames=4, height=32, width=48)
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text(f"1 {left.label}\n2 {zoom.label}\n")
    (lists / "trainlist01.txt").write_text(f"{left.id} 1\n")
    (lists / "testlist01.txt").write_text(f"{zoom.id}\n")
    return root


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, a copy of what is prepared."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put(path: Path, script: str, interpreter: str = "/bin/sh") -> None:
    path.write_text(f"#!{interpreter}\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def submit(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["submit", *arguments], catch_exceptions=False)


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("to", "names"), [(SLURM, ["slurm/ucf101.sbatch", "slurm/ucf101.yaml"]), (K8S, ["k8s/ucf101.yaml"])]
)
def test_the_examples_are_what_a_dry_run_writes(
    here: Path, monkeypatch: pytest.MonkeyPatch, to: tuple[str, ...], names: list[str]
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 1000)
    shutil.rmtree(here / "pipelines/slurm")
    shutil.rmtree(here / "pipelines/k8s")
    result = submit(*EXAMPLE, *to)
    assert result.exit_code == 0 and "Nothing was submitted: 100 tasks" in result.output
    for name in names:
        text = (here / "pipelines" / name).read_text().replace(str(here / "data"), "/data")
        assert text == (ROOT / "pipelines" / name).read_text(), f"write pipelines/{name} anew: flowprep submit ..."
    assert sorted(names) == [name for name in tree(here / "pipelines") if "/" in name]
    again = submit(*EXAMPLE, *to).output  # the same texts are used as they are
    assert "just like that" in again and "Wrote" not in again
    assert sorted(names) == [name for name in tree(here / "pipelines") if "/" in name]
    assert not (here / "data/ucf101/ucf101.zarr").exists()


def test_the_pods_of_a_job_make_the_dataset(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a pod would run, with the environment that it would have, here."""
    assert submit(*EXAMPLE, *K8S, *QUICK, "--folder", "jobs", "--tasks", "2").exit_code == 0
    settings, job = yaml.safe_load_all((here / "jobs/ucf101.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    written = tmp_path_factory.mktemp("etc") / "pipeline.yaml"
    written.write_text(settings["data"]["pipeline.yaml"])
    place = {"/etc/flowprep/pipeline.yaml": str(written), "$(WORKERS)": "1"}
    variables = {item["name"]: item.get("value", "1") for item in container["env"]}
    for index in range(job["spec"]["completions"]):
        given = {"FLOWPREP_TASKS": variables["FLOWPREP_TASKS"], "JOB_COMPLETION_INDEX": str(index)}
        done = flowprep(*(place.get(word, word) for word in container["args"]), env=given, cwd=written.parent)
        assert done.returncode == 0, done.stderr
    local = here / "local.zarr"
    assert flowprep("extract", "-c", "pipelines/ucf101.yaml", "data/ucf101/videos", local, *QUICK).returncode == 0
    assert stored_files(here / "data/ucf101/ucf101.zarr") == stored_files(local)


def test_the_pipeline_of_the_tasks_has_the_same_settings(here: Path) -> None:
    retry = ("--retry-status", "crashed", "--extend", "--stall-seconds", "7", "--set", "tvl1.preset=ipol")
    assert submit(*EXAMPLE, *SLURM, *retry, "--folder", "slurm").exit_code == 0
    found = build(read_pipeline(here / "slurm/ucf101.yaml"), "written")
    assert found.run == RunConfig(stall_seconds=7)  # what is for one run stays out
    assert resolve(found).flow.parameters["preset"] == "ipol"
    assert submit(*EXAMPLE, *K8S, "--folder", "k8s").exit_code == 0
    settings, _ = yaml.safe_load_all((here / "k8s/ucf101.yaml").read_text())
    in_pod = build(yaml.safe_load(settings["data"]["pipeline.yaml"]), "written")
    assert resolve(in_pod) == resolve(build(read_pipeline(here / "pipelines/ucf101.yaml"), "original"))
    assert Path(in_pod.output) == here / "data/ucf101/ucf101.zarr"


def asked(here: Path) -> str:
    return (here / "asked").read_text() if (here / "asked").exists() else ""


def test_a_job_is_planned_written_and_submitted(here: Path, programs: Path) -> None:
    put(programs / "sbatch", f'echo "$@" > {here}/asked; echo "123;cluster"')
    result = submit("-c", "pipelines/ucf101.yaml", "--to", "slurm", *QUICK)
    assert asked(here) == "--parsable data/ucf101/ucf101-slurm/ucf101.sbatch\n"
    assert "Submitted job 123: 1 task for 1 of 1 shard. Next: flowprep status data/ucf101/ucf101.zarr" in result.output
    assert (here / "data/ucf101/ucf101.zarr/.flowprep/plan.0.json").exists()
    assert "export PATH=" in (here / "data/ucf101/ucf101-slurm/ucf101.sbatch").read_text()

    assert CliRunner().invoke(group, ["extract", "-c", "pipelines/ucf101.yaml", *QUICK]).exit_code == 0
    (here / "asked").unlink()
    result = submit("-c", "pipelines/ucf101.yaml", "--to", "slurm", *QUICK)
    assert result.exit_code == 0 and "Nothing to submit" in result.output
    assert not asked(here)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_every_submission_has_files_of_its_own(here: Path, programs: Path) -> None:
    """Tasks that wait read their pipeline file when they start: nothing that comes later may reach it."""
    put(programs / "sbatch", f'echo "$@" >> {here}/asked; echo 1')
    given = ("-c", "pipelines/ucf101.yaml", "--to", "slurm", *QUICK)
    folder = here / "data/ucf101/ucf101-slurm"
    submit(*given)
    first = texts(folder)
    assert first.keys() == {"ucf101.sbatch", "ucf101.yaml"}
    submit(*given, "--stall-seconds", "7")
    submit(*given, "--stall-seconds", "8", "--cpus", "2")
    later = texts(folder)
    assert later.keys() == first.keys() | {f"ucf101-{n}.{end}" for n in (2, 3) for end in ("sbatch", "yaml")}
    assert {name: later[name] for name in first} == first
    assert [read_pipeline(folder / f"ucf101-{n}.yaml")["run"]["stall_seconds"] for n in (2, 3)] == [7, 8]
    script = later["ucf101-2.sbatch"]
    for text in ("--job-name=ucf101-2\n", "/ucf101-2-%A_%a.log\n", "-c data/ucf101/ucf101-slurm/ucf101-2.yaml "):
        assert text in script
    assert [line.split("/")[-1] for line in asked(here).splitlines()] == [
        "ucf101.sbatch",
        "ucf101-2.sbatch",
        "ucf101-3.sbatch",
    ]


def test_the_folder_has_the_whole_name(here: Path) -> None:
    submit("data/ucf101/videos", "flow.dis", *QUICK, "--to", "slurm", "--dry-run")
    assert read_pipeline(here / "flow.dis-slurm/flow.dis.yaml")["output"] == "flow.dis"


ON_K8S = ("-c", "pipelines/ucf101.yaml", "--to", "k8s", *IMAGE, "--claim", "c=data", *QUICK)


def put_kubectl(programs: Path, here: Path) -> None:
    """A kubectl that has, and is asked for, what is in files below the folder "has"."""
    script = f"""
echo "$@" >> {here}/asked
case $1 in
get) for name in $2 $3; do test -e {here}/has/$name && echo $name; done; true;;
create) test "$2" = -f && read -r first < $3 && echo created;;
*) exit 1;;
esac"""
    put(programs / "kubectl", script)


def names_of(path: Path) -> list[str]:
    """Of all objects of a manifest, and of the ConfigMap that the pods take."""
    settings, job = yaml.safe_load_all(path.read_text())
    (used,) = (v["configMap"]["name"] for v in job["spec"]["template"]["spec"]["volumes"] if "configMap" in v)
    return [settings["metadata"]["name"], job["metadata"]["name"], used]


def test_no_job_of_kubernetes_is_touched(here: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    put_kubectl(programs, here)
    folder = here / "data/ucf101/ucf101-k8s"
    submit(*ON_K8S, "--dry-run")
    assert not asked(here)  # a dry run asks nobody
    result = submit(*ON_K8S)
    assert "Submitted job.batch/ucf101: 1 task for 1 of 1 shard. Next: flowprep status" in result.output
    assert asked(here).splitlines() == [
        "get job/ucf101 configmap/ucf101 --ignore-not-found --output name",
        "create -f data/ucf101/ucf101-k8s/ucf101.yaml",
    ]
    assert texts(folder).keys() == {"ucf101.yaml"}  # that of the dry run

    for number, kind in ((2, "job"), (3, "configmap")):  # there still is one, of whichever submission
        name = "ucf101" if number == 2 else "ucf101-2"
        (here / "has" / kind).mkdir(parents=True)
        (here / "has" / kind / name).touch()
        assert f"Submitted job.batch/ucf101-{number}: 1 task" in submit(*ON_K8S).output
        assert asked(here).splitlines()[-1] == f"create -f data/ucf101/ucf101-k8s/ucf101-{number}.yaml"
        assert names_of(folder / f"ucf101-{number}.yaml") == [f"ucf101-{number}"] * 3
    assert names_of(folder / "ucf101.yaml") == ["ucf101"] * 3


def test_kubectl_is_heard(here: Path, programs: Path) -> None:
    put(programs / "kubectl", "echo no such server >&2; exit 1")
    with pytest.raises(RefusedError, match="kubectl refuses: no such server"):
        submit(*ON_K8S)
    assert not (here / "data/ucf101/ucf101-k8s/ucf101.yaml").exists()


def test_every_kubectl_has_the_namespace(here: Path, programs: Path) -> None:
    put_kubectl(programs, here)
    output = submit(*ON_K8S, "--namespace", "video", "--dry-run").output
    output += submit(*ON_K8S, "--namespace", "video").output
    output += (here / "data/ucf101/ucf101-k8s/ucf101.yaml").read_text()
    called = [f"kubectl {line}" for line in asked(here).splitlines()]
    advice = [line for line in output.splitlines() if "kubectl " in line]
    assert len(called) == 2 and len(advice) == 3
    assert all("--namespace video" in line for line in called + advice)
    assert "in the namespace video" in output


@pytest.mark.parametrize("root", [False, True])
def test_the_pods_may_write_the_dataset(
    here: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, *, root: bool
) -> None:
    """A folder that is not there a node would make, as root; and what root has made no pod can write."""
    monkeypatch.setattr(os, "getuid", lambda: 0 if root else 1234)
    monkeypatch.setattr(os, "getgid", lambda: 0 if root else 1234)
    put_kubectl(programs, here)
    made = "mkdir -p data/ucf101/ucf101.zarr && "
    given = "chown -R 1000:1000 data/ucf101/ucf101.zarr" if root else ""
    sent = "kubectl create -f data/ucf101/ucf101-k8s/ucf101.yaml"
    steps = made + (f"{given} && " if root else "") + sent
    assert f"Next: {steps}\n" in submit(*ON_K8S, "--dry-run").output
    text = (here / "data/ucf101/ucf101-k8s/ucf101.yaml").read_text()
    assert f"#   {steps}\n" in text and f"runAsUser: {1000 if root else 1234}\n" in text
    told = submit(*ON_K8S).output
    assert f"Next: {given} (for the pods, which are not root), then flowprep status" in told if root else True
    assert ("chown" in told) == root and (here / "data/ucf101/ucf101.zarr").is_dir()


@pytest.mark.parametrize(("to", "program"), [(("--to", "slurm"), "sbatch"), (K8S, "kubectl")])
def test_without_the_program_nothing_is_planned(here: Path, programs: Path, to: tuple[str, ...], program: str) -> None:
    assert not list(programs.iterdir())
    before = tree(here)
    with pytest.raises(RefusedError, match=f"{program} is not on the PATH.*--dry-run"):
        submit("-c", "pipelines/ucf101.yaml", *to)
    assert tree(here) == before


@pytest.mark.usefixtures("here")
def test_the_limit_of_the_cluster(programs: Path) -> None:
    assert Slurm().most_tasks == 1001
    put(programs / "scontrol", 'echo "MaxArraySize            = 5"')
    assert Slurm().most_tasks == 5
    with pytest.raises(UsageError, match="at most 5 in one job"):
        submit(*EXAMPLE, *SLURM)
    put(programs / "scontrol", "exit 1")
    assert Slurm().most_tasks == 1001


RETRY = ("--retry-status", "undecodable,missing")
THE_SAME = "Next: the same command without --dry-run\n"


def test_a_dry_run_says_what_comes_next(here: Path) -> None:
    """With a dataset of 2 shards: one pending, none pending, one to try again, one that is new."""
    given = ("data/ucf101/videos", "flow.zarr", *QUICK)
    dry = ("--to", "slurm", "--dry-run", *given)
    script = "sbatch flow-slurm/flow"
    videos = here / "data/ucf101/videos"
    broken = videos / "broken/a.avi"
    broken.parent.mkdir()
    broken.write_bytes(b"nothing")

    assert f"1 task for 1 of 1 shard. Next: {script}.sbatch\n" in submit(*dry, *RETRY).output  # nothing planned yet
    assert CliRunner().invoke(group, ["extract", *given]).exit_code == ExitCode.REFUSED  # one has failed
    for options in ((), ("--extend",), ("--retry-status", "crashed")):
        assert "Nothing to submit: all shards are committed" in submit(*dry, *options).output

    before = tree(here / "flow.zarr")
    told = submit(*dry, *RETRY).output
    assert f"1 task for 1 of 2 shards, once they are planned. {THE_SAME}" in told and "sbatch flow" not in told
    shutil.copyfile(next(videos.glob("left/*")), videos / "left/new.avi")
    assert f"1 task for 1 of 2 shards, once they are planned. {THE_SAME}" in submit(*dry, "--extend").output
    assert tree(here / "flow.zarr") == before

    (commit,) = (here / "flow.zarr/.flowprep/commits").glob("*.json")
    commit.unlink()
    told = submit(*dry, "--extend").output
    assert f"1 of 1 shard. Next: {script}.sbatch; when that is done, the same command without --dry-run\n" in told


def test_somebody_at_work_is_noticed(here: Path, programs: Path) -> None:
    put(programs / "sbatch", "echo 1")
    given = ("--to", "slurm", "data/ucf101/videos", "flow.zarr", *QUICK)
    note = "Note: somebody has been at work on flow.zarr"
    assert note not in submit(*given).output
    assert note not in submit(*given).output  # a plan alone is nobody
    with LocalStore(here / "flow.zarr").scratch() as scratch:  # of a task
        told = submit(*given).output
        assert note in told and "Submitted job 1: 1 task" in told
        assert note in submit(*given, "--dry-run").output
        long_ago = time.time() - 1000
        for path in (scratch, scratch.parent):
            os.utime(path, (long_ago, long_ago))
        assert note not in submit(*given, "--dry-run").output


@pytest.mark.usefixtures("here")
def test_a_cluster_without_arrays(programs: Path) -> None:
    put(programs / "scontrol", 'echo "MaxArraySize            = 0"')
    with pytest.raises(RefusedError, match=r"takes no job arrays \(MaxArraySize is 0.*--task 0/1"):
        submit(*EXAMPLE, *SLURM)


@pytest.mark.parametrize(
    ("time", "grace", "message"),
    [
        ("2:00", "90", "--time 2:00 is 2 minutes to SLURM; hours are written 2:00:00. Give more than the 90 s"),
        ("1", "90", "--time 1 is 1 minute to SLURM; hours are written 1:00:00"),
        ("0-0:1", "90", r"--time 0-0:1 is 1 minute to SLURM\. Give more"),
        ("0", "0", "--time 0 is no limit at all to SLURM: leave it out"),
        ("2:00:00", "3600", ""),
        ("2:01", "90", ""),
        ("1", "29", ""),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_time_that_is_over_as_it_begins(time: str, grace: str, message: str) -> None:
    given = (*EXAMPLE, *SLURM, "--time", time, "--grace", grace)
    if message:
        with pytest.raises(UsageError, match=message):
            submit(*given)
    else:
        assert submit(*given).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "slurm", *IMAGE), "--image is an option of --to k8s"),
        ((*K8S, "--host-path", "data", "--partition", "x"), "--partition is an option of --to slurm"),
        (("--to", "slurm", "--partition", "x\n#SBATCH --uid=0"), "not a name that SLURM can have"),
        (("--to", "slurm", "--time", "soon"), "hours:minutes:seconds"),
        (("--to", "slurm", "--memory", "8 GB"), "for example 16G"),
        (("--to", "slurm", "--tasks", "-1"), "give 1 or more"),
        (("--to", "slurm", "--grace", "4000"), "0 to 3600 seconds"),
        (("--to", "slurm", "--folder", "a\nb"), "rename it"),
        (("--to", "k8s"), "name the image"),
        (("--to", "k8s", *IMAGE), "Add --claim NAME=FOLDER"),
        (("--to", "k8s", *IMAGE, "--claim", "data"), "give NAME=FOLDER"),
        (("--to", "k8s", *IMAGE, "--claim", "c=gone"), "there is no folder gone"),
        ((*K8S, "--host-path", "gone"), "--host-path gone: there is no such folder"),
        (("--to", "k8s", "--image", "x: y"), "name the image"),
        ((*K8S, "--namespace", "No"), "not a name that Kubernetes can have"),
    ],
)
def test_refusals(here: Path, arguments: tuple[str, ...], message: str) -> None:
    before = tree(here)
    with pytest.raises(UsageError, match=message):
        submit("-c", "pipelines/ucf101.yaml", "--dry-run", *arguments)
    assert tree(here) == before
