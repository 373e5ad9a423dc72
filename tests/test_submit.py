"""Jobs for SLURM and Kubernetes: their texts, what they do with signals and exit codes, and what is refused."""

from __future__ import annotations

import copy
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner, Result

from flowprep.cli import flowprep as group
from flowprep.config import ExtractConfig, RunConfig, SourceConfig, build, read_pipeline
from flowprep.errors import ExitCode, RefusedError, UsageError
from flowprep.run.planning import resolve
from flowprep.submit.job import Job, Request, make_job
from flowprep.submit.kubernetes import Kubernetes
from flowprep.submit.slurm import Slurm
from flowprep.submit.volumes import in_pods, volumes
from flowprep.synthetic import write_demo_videos
from tests.command import flowprep, stored_files

ROOT = Path(__file__).parents[1]
BASH = str(shutil.which("bash"))

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


# --- the texts ---


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
    assert not (here / "data/ucf101/ucf101.zarr").exists()


NOTHING_ASKED = Request()


def job(here: Path, request: Request = NOTHING_ASKED, **given: Any) -> Job:
    config = ExtractConfig(source=SourceConfig(path="data/ucf101/videos"), output=given.pop("output", "flow.zarr"))
    return make_job(config, request, here / "a folder", given.pop("pending", 10), 1001)


def script(slurm: Slurm, made: Job) -> str:
    return slurm.files(made)[f"{made.name}.sbatch"]


def manifest(here: Path, request: Request = NOTHING_ASKED, hosts: tuple[str, ...] = (), **given: Any) -> list[Any]:
    """The ConfigMap and the Job."""
    kubernetes = Kubernetes("flowprep:1", volumes(["ucf101=data/ucf101"], hosts), **given)
    (text,) = kubernetes.files(job(here, request, output="data/ucf101/flow.zarr")).values()
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("all_there_is", [False, True])
def test_kubernetes_knows_every_key(here: Path, version: str, all_there_is: bool) -> None:
    more = {"request": Request(gpus=2, at_once=3), "hosts": ("data/ucf101/videos",), "namespace": "video"}
    settings, job = manifest(here, **(more if all_there_is else {}))
    for document in (settings, job):
        kubernetes_validate.validate(document, version, strict=True)
    wrong = copy.deepcopy(job)
    wrong["spec"]["template"]["spec"]["containers"][0]["workingdir"] = "/data"
    with pytest.raises(kubernetes_validate.ValidationError, match="workingdir"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_what_a_pod_may(here: Path) -> None:
    _, job = manifest(here, Request(memory="6G", cpus=3))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["requests"] == {"cpu": 3, "memory": "6144Mi"}
    data = {mount["mountPath"]: mount for mount in container["volumeMounts"] if mount["name"].startswith("data")}
    readable = {path.removeprefix(str(here)) for path, mount in data.items() if mount.get("readOnly")}
    assert readable == {"/data/ucf101/videos"}
    assert data.keys() - {f"{here}{path}" for path in readable} == {f"{here}/data/ucf101/flow.zarr"}
    assert [volume["name"] for volume in pod["volumes"]] == ["data-0", "settings", "scratch"]


def test_every_exit_code_means_something_to_kubernetes(here: Path) -> None:
    _, job = manifest(here)
    disrupted, *rules = job["spec"]["podFailurePolicy"]["rules"]
    meaning = {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}
    again = {ExitCode.STORE: "Count", ExitCode.UNFINISHED: "Count"}
    assert meaning == {ExitCode.USAGE: "FailIndex", ExitCode.REFUSED: "FailIndex", ExitCode.BUG: "FailIndex", **again}
    assert meaning.keys() | {ExitCode.OK} == {value for name, value in vars(ExitCode).items() if name.isupper()}
    assert disrupted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def test_the_pods_of_a_job_make_the_dataset(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a pod would run, with the environment that it would have, here."""
    assert submit(*EXAMPLE, *K8S, *QUICK, "--tasks", "2").exit_code == 0
    settings, job = yaml.safe_load_all((here / "pipelines/k8s/ucf101.yaml").read_text())
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


def test_a_task_is_told_before_its_grace_begins(here: Path) -> None:
    text = script(Slurm(), job(here, Request(grace=200)))
    assert "#SBATCH --signal=B:USR2@230\n" in text and "--grace 200 &" in text
    _, manifested = manifest(here, Request(grace=200))
    pod = manifested["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 230
    assert pod["containers"][0]["args"][-2:] == ["--grace", "200"]


def test_the_pipeline_of_the_tasks_has_the_same_settings(here: Path) -> None:
    retry = ("--retry-status", "crashed", "--extend", "--stall-seconds", "7", "--set", "tvl1.preset=ipol")
    assert submit(*EXAMPLE, *SLURM, *retry).exit_code == 0
    found = build(read_pipeline(here / "pipelines/slurm/ucf101.yaml"), "written")
    assert found.run == RunConfig(stall_seconds=7)  # what is for one run stays out
    assert resolve(found).flow.parameters["preset"] == "ipol"
    assert submit(*EXAMPLE, *K8S).exit_code == 0
    settings, _ = yaml.safe_load_all((here / "pipelines/k8s/ucf101.yaml").read_text())
    in_pod = build(yaml.safe_load(settings["data"]["pipeline.yaml"]), "written")
    assert resolve(in_pod) == resolve(build(read_pipeline(here / "pipelines/ucf101.yaml"), "original"))
    assert Path(in_pod.output) == here / "data/ucf101/ucf101.zarr"


def test_names_with_spaces_and_quotes(here: Path) -> None:
    made = job(here, output='it\'s a "test" %j.zarr')
    text = script(Slurm(partition="long", setup=("module load x",)), made)
    assert made.name == "it-s-a-test-j"
    assert f"#SBATCH --output='{here}/a folder/it-s-a-test-j-%A_%a.log'" in text
    assert "#SBATCH --partition=long\n" in text and "\nmodule load x\n" in text
    assert subprocess.run([BASH, "-n", "-c", text], check=False).returncode == 0
    assert "/per%%cent/" in script(Slurm(), make_job(made.config, Request(), Path("/per%cent"), 1, 9))


def test_shellcheck(here: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("no shellcheck: apt-get install shellcheck (Debian, Ubuntu)")
    for slurm in (Slurm(), Slurm(partition="a", account="b", qos="c", setup=("module load x",))):
        text = script(slurm, job(here, Request(gpus=2)))
        done = subprocess.run([shellcheck, "-"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("request_", "pending", "expected"),
    [
        (Request(), 10, (3, 4, 4, 8192)),  # tasks, cpus, workers, MiB
        (Request(cpus=1), 10, (10, 1, 1, 2048)),
        (Request(cpus=1), 5000, (1001, 1, 1, 2048)),
        (Request(gpus=2), 10, (5, 4, 2, 4096)),
        (Request(gpus=8, memory="1T"), 10, (2, 8, 8, 1048576)),
        (Request(tasks=7, memory="500M"), 1, (7, 4, 4, 500)),
    ],
)
def test_how_large_a_job_is(here: Path, request_: Request, pending: int, expected: tuple[int, ...]) -> None:
    made = job(here, request_, pending=pending)
    assert (made.tasks, made.cpus, made.workers, made.memory) == expected


# --- handing it over ---


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


def test_what_was_edited_by_hand_is_kept(here: Path) -> None:
    assert submit(*EXAMPLE, *SLURM).exit_code == 0
    path = here / "pipelines/slurm/ucf101.sbatch"
    assert ".old" not in submit(*EXAMPLE, *SLURM).output
    path.write_text("mine")
    assert "ucf101.sbatch.old" in submit(*EXAMPLE, *SLURM).output
    assert path.with_name("ucf101.sbatch.old").read_text() == "mine" and "#SBATCH" in path.read_text()


def test_kubectl_is_told_and_heard(here: Path, programs: Path) -> None:
    arguments = ("-c", "pipelines/ucf101.yaml", "--to", "k8s", *IMAGE, "--claim", "c=data", *QUICK)
    put(programs / "kubectl", f'echo "$@" > {here}/asked; echo configmap/ucf101 created; echo job.batch/ucf101 created')
    assert "Submitted job.batch/ucf101: 1 task" in submit(*arguments).output
    assert asked(here) == "apply -f data/ucf101/ucf101-k8s/ucf101.yaml\n"
    put(programs / "kubectl", "echo configmap/ucf101 unchanged; echo job.batch/ucf101 unchanged")
    with pytest.raises(RefusedError, match="kubectl delete -f data/ucf101/ucf101-k8s/ucf101.yaml"):
        submit(*arguments)
    put(programs / "kubectl", "echo no such server >&2; exit 1")
    with pytest.raises(RefusedError, match="kubectl refuses: no such server"):
        submit(*arguments)


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
        (("--to", "k8s", "--image", "x: y"), "name the image"),
        ((*K8S, "--namespace", "No"), "not a name that Kubernetes can have"),
    ],
)
def test_refusals(here: Path, arguments: tuple[str, ...], message: str) -> None:
    before = tree(here)
    with pytest.raises(UsageError, match=message):
        submit("-c", "pipelines/ucf101.yaml", "--dry-run", *arguments)
    assert tree(here) == before


def test_the_nearest_volume_and_the_folder_of_a_list(here: Path) -> None:
    (here / "lists").mkdir()
    (here / "lists/all.txt").write_text("a.avi 0\n")
    config = ExtractConfig(source=SourceConfig(path="lists/all.txt"), output="out/flow.zarr")
    _, mounts = in_pods(config, volumes(["all=.", "fast=out"], []))
    assert list(mounts.mounts()) == [
        {"name": "data-0", "mountPath": f"{here}/lists", "subPath": "lists", "readOnly": True},
        {"name": "data-1", "mountPath": f"{here}/out/flow.zarr", "subPath": "flow.zarr"},
    ]
    assert [item["persistentVolumeClaim"]["claimName"] for item in mounts.volumes()] == ["all", "fast"]
