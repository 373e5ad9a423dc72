"""The wheel alone, in an empty environment, gives a working command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
SOURCES = ["setup.cfg", "pyproject.toml", "README.md", "LICENSE"]


def run(*command: str | Path) -> str:
    """Standard output of a command that must succeed."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{command}:\n{process.stdout}{process.stderr}"
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that no earlier build gets into it and none stays in the checkout."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "flowprep", source / "flowprep", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", target, source)
    (path,) = target.glob("*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {name for name in names if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flowprep").rglob("*.py")}
    assert package == modules | {"flowprep/py.typed"}
    assert any(name.endswith("/LICENSE") for name in names)


@pytest.mark.parametrize("python", ["python3.11", "python3.13"])
def test_installed_wheel_runs(wheel: Path, tmp_path: Path, python: str) -> None:
    found = shutil.which(python)
    if not found or subprocess.run([found, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{python} is not installed here")
    environment = tmp_path / "an environment"
    run(found, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "-qq", "-c", ROOT / "constraints.txt", wheel)
    run(environment / "bin" / "pip", "check")
    flowprep = environment / "bin" / "flowprep"
    assert "extract" in run(flowprep, "--help")
    assert version("flowprep") in run(flowprep, "--version")
    assert run(flowprep, "doctor")
    codec = "from zarr.registry import get_codec_class; print(get_codec_class('imagecodecs_jpeg'))"
    assert "flowprep." in run(environment / "bin" / "python", "-c", codec)
