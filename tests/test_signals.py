"""What signals ask for, and what becomes of lines that nobody reads."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowprep.cli.running import told
from flowprep.errors import ExitCode
from flowprep.run.signals import stop_on_signals
from flowprep.sandbox import STOP


@pytest.fixture(autouse=True)
def _in_a_terminal() -> Iterator[None]:
    """Tests that are run under nohup ignore SIGHUP, and so would all that they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_asks_for_the_end(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals(math.inf) as stop, stop.patience():
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        assert STOP.is_set() == (number in (signal.SIGINT, signal.SIGHUP))
    assert signal.getsignal(number) == before and not STOP.is_set()


def test_a_closed_terminal_is_nothing_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(math.inf) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def command(body: str) -> list[str]:
    """``flowprep doctor``, doing something else."""
    code = (
        "import atexit, os, signal, sys, time, warnings\nfrom flowprep import cli\n"
        "from flowprep.cli import doctor\nfrom flowprep.cli.running import told\n"
        f"def work(**_):\n  {body}\n"
        "doctor.command.callback = work\nsys.argv = ['flowprep', 'doctor']\ncli.main()"
    )
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("[told()('line') for _ in range(9999)]; warnings.warn('odd'); print('done')", 0),
        ("print('done', flush=True); raise cli.UsageError('no')", ExitCode.USAGE),
        ("print('done', flush=True); raise cli.click.UsageError('no')", ExitCode.USAGE),
        ("print('done', flush=True); 1 / 0", ExitCode.BUG),
    ],
)
def test_lines_that_cannot_be_written_stop_nothing(body: str, code: int) -> None:
    read, broken = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)
    for messages in (broken, full):
        done = subprocess.run(command(body), stdout=subprocess.PIPE, stderr=messages, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, "done\n")
        os.close(messages)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2])
def test_outside_of_runs_a_signal_ends_a_command_and_more_of_them_change_nothing(number: signal.Signals) -> None:
    body = (
        "atexit.register(lambda: (print('leaving', flush=True), time.sleep(60)))\n"
        "  try: print('ready', flush=True); time.sleep(60)\n"
        f"  finally: os.kill(os.getpid(), {int(number)}); print('in good order', flush=True)"
    )
    process = subprocess.Popen(command(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert [process.stdout.readline() for _ in range(2)] == ["in good order\n", "leaving\n"]
    process.send_signal(number)
    assert process.communicate() == ("", "")
    assert process.returncode == ExitCode.UNFINISHED


def test_under_nohup_a_closed_terminal_ends_no_command() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        body = "os.kill(os.getpid(), signal.SIGHUP); print('done')"
        done = subprocess.run(command(body), capture_output=True, text=True, check=False)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_working_directory_that_was_deleted_is_said(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    inside = ["/bin/sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(tmp_path / "gone"), *command("print('done')")]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert done.stderr == "flowprep: the working directory is no longer there: change to one that is.\n"


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    told(quiet=True)("line")
    assert capsys.readouterr() == ("", "")
    told()("line")
    assert capsys.readouterr().err == "line\n"
