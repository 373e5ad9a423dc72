"""The script that ``flowprep submit`` writes for SLURM, at work without SLURM: exit codes, signals, another start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowprep.config import ExtractConfig, SourceConfig
from flowprep.submit.job import Request, make_job
from flowprep.submit.slurm import Slurm
from tests.command import await_

BASH = str(shutil.which("bash"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the job."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Start the script with a flowprep that runs a line of Python; scontrol writes down what it is asked."""
    programs = tmp_path_factory.mktemp("bin")
    config = ExtractConfig(source=SourceConfig(path="videos"), output="flow.zarr")
    job = make_job(config, Request(), here / "a folder", 10, 1001)
    script = Slurm(setup=(":",)).files(job)["flow.sbatch"]

    def put(name: str, text: str) -> None:
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    put("scontrol", f'#!/bin/sh\necho "$@" >> {here}/asked\n')

    def run(line: str, restarts: int = 0) -> subprocess.Popen[str]:
        put("flowprep", f"#!{sys.executable}\nimport os, pathlib, signal, sys, time\n{line}\n")
        environment = {"SLURM_CPUS_PER_TASK": "4", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
        restarted = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        return subprocess.Popen(
            [BASH, "-c", script],
            env={**os.environ, "PATH": str(programs), **environment, **restarted},
            stdout=subprocess.PIPE,
            text=True,
        )

    return run


def asked(here: Path) -> str:
    return (here / "asked").read_text() if (here / "asked").exists() else ""


@pytest.mark.parametrize("code", [0, 2, 65, 70, 74, 137])
def test_exit_codes_are_passed_on(here: Path, start: Any, code: int) -> None:
    assert start(f"sys.exit({code})").wait(20) == code
    assert not asked(here)


def test_unfinished_tasks_are_queued_again_but_not_for_ever(here: Path, start: Any) -> None:
    first = start("print(*sys.argv[1:]); sys.exit(75)")
    out, _ = first.communicate(timeout=20)
    assert out.splitlines()[0].endswith("flow.yaml --executor batch --workers 4 --grace 90")
    assert "start 2" in out and first.returncode == 75 and asked(here) == "requeue 7_3\n"
    last = start("sys.exit(75)", restarts=50)
    assert "more --time" in last.communicate(timeout=20)[0] and last.returncode == 75
    assert asked(here) == "requeue 7_3\n"


STUBBORN = """
def note(number, _):
    pathlib.Path("signal").write_text(str(number))
signal.signal(signal.SIGUSR2, note)
signal.signal(signal.SIGTERM, note)
pathlib.Path("ready").touch()
while not pathlib.Path("end").exists():
    time.sleep(0.02)
sys.exit(75)
"""


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_does_not_end_the_script_before_the_work(here: Path, start: Any, number: signal.Signals) -> None:
    process = start(STUBBORN)
    await_((here / "ready").exists, "the work has started")
    process.send_signal(number)
    if number == signal.SIGUSR2:
        await_((here / "signal").exists, "the signal is handed on")
        assert (here / "signal").read_text() == str(int(number))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    (here / "end").touch()
    assert process.wait(20) == 75
    # Before the time limit the task asks for another start; after SIGTERM it is for SLURM to know.
    assert asked(here) == ("requeue 7_3\n" if number == signal.SIGUSR2 else "")
    assert (here / "signal").exists() == (number == signal.SIGUSR2)  # SLURM sends SIGTERM to both
