"""What signals ask for, and what becomes of lines that nobody reads."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys

import pytest

from flowprep.cli.running import told
from flowprep.run.signals import stop_on_signals
from flowprep.sandbox import STOP


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


def test_work_goes_on_when_nobody_reads_its_lines() -> None:
    code = "from flowprep.cli.running import told\nfor n in range(99): told()('line')\nopen(1, 'w').write('done')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stderr.close()
    assert process.stdout.read() == b"done" and process.wait() == 0
    process.stdout.close()


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    told(quiet=True)("line")
    assert capsys.readouterr() == ("", "")
    told()("line")
    assert capsys.readouterr().err == "line\n"
