"""The texts of jobs for SLURM and Kubernetes: what they ask for, mount and mean, and that both understand them."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flowprep.config import ExtractConfig, FlowConfig, SourceConfig
from flowprep.errors import ExitCode, UsageError
from flowprep.submit.job import Job, Request, make_job
from flowprep.submit.kubernetes import Kubernetes
from flowprep.submit.slurm import Slurm, minutes
from flowprep.submit.volumes import in_pods, volumes

BASH = str(shutil.which("bash"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/ucf101/videos").mkdir(parents=True)
    return tmp_path


NOTHING_ASKED = Request()


def job(here: Path, request: Request = NOTHING_ASKED, **given: Any) -> Job:
    config = ExtractConfig(
        source=SourceConfig(path="data/ucf101/videos"),
        output=given.pop("output", "flow.zarr"),
        flow=FlowConfig(backend=given.pop("backend", "cuda" if request.gpus else "cpu")),
    )
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


def test_a_task_is_told_before_its_grace_begins(here: Path) -> None:
    text = script(Slurm(), job(here, Request(grace=200)))
    assert "#SBATCH --signal=B:USR2@230\n" in text and "--grace 200 &" in text
    _, manifested = manifest(here, Request(grace=200))
    pod = manifested["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 230
    assert pod["containers"][0]["args"][-2:] == ["--grace", "200"]


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
        (Request(), 10, (3, 4, 8192)),  # tasks, workers, MiB
        (Request(cpus=1), 10, (10, 1, 2048)),
        (Request(cpus=1), 5000, (1001, 1, 2048)),
        (Request(gpus=2), 100, (7, 16, 16 * 2048 + 2 * 4096)),
        (Request(gpus=1, cpus=4), 10, (3, 4, 4 * 2048 + 4096)),
        (Request(gpus=8, memory="1T"), 100, (2, 64, 1048576)),
        (Request(tasks=7, memory="500M"), 1, (7, 4, 500)),
    ],
)
def test_how_large_a_job_is(here: Path, request_: Request, pending: int, expected: tuple[int, ...]) -> None:
    made = job(here, request_, pending=pending)
    assert (made.tasks, made.workers, made.memory) == expected


def test_gpus_are_asked_for_where_there_is_work_for_them(here: Path) -> None:
    made = job(here, backend="cuda")
    assert (made.gpus, made.workers, made.memory) == (1, 8, 8 * 2048 + 4096)
    assert "#SBATCH --gpus-per-node=1\n" in script(Slurm(), made)
    with pytest.raises(
        UsageError, match=r"--gpus 2: tvl1 is computed on processors by the backend cpu.*--backend cuda"
    ):
        job(here, Request(gpus=2), backend="cpu")


@pytest.mark.parametrize(
    ("time", "minutes_"),
    [
        *[("90", 90), ("2:00", 2), ("2:01", 3), ("0:30", 1), ("2:00:00", 120), ("2:00:01", 121), ("0", 0)],
        *[("1-0", 1440), ("2-12", 3600), ("1-2:30", 1590), ("1-02:30:30", 1591), ("0:90:0", 90)],
        *[
            (wrong, None)
            for wrong in (
                "",
                "soon",
                "1:2:3:4",
                "1-2:3:4:5",
                "1-",
                "-1",
                "1:",
                "1-2-3",
                "1.5",
                "2h",
                "\N{ARABIC-INDIC DIGIT ONE}",
            )
        ],
    ],
)
def test_times_as_slurm_reads_them(time: str, minutes_: int | None) -> None:
    assert minutes(time) == minutes_


def test_the_nearest_volume_and_the_folder_of_a_list(here: Path) -> None:
    (here / "lists").mkdir()
    (here / "out").mkdir()
    (here / "lists/all.txt").write_text("a.avi 0\n")
    config = ExtractConfig(source=SourceConfig(path="lists/all.txt"), output="out/flow.zarr")
    _, mounts = in_pods(config, volumes(["all=.", "fast=out"], []))
    assert list(mounts.mounts()) == [
        {"name": "data-0", "mountPath": f"{here}/lists", "subPath": "lists", "readOnly": True},
        {"name": "data-1", "mountPath": f"{here}/out/flow.zarr", "subPath": "flow.zarr"},
    ]
    assert [item["persistentVolumeClaim"]["claimName"] for item in mounts.volumes()] == ["all", "fast"]
