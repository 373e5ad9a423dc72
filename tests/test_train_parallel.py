"""Two processes that train together make the network that one makes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowprep.errors import ExitCode
from flowprep.train.checkpoint import load
from flowprep.train.log import LOG, read_log
from tests.training_data import dataset, run, tiny

ROOT = Path(__file__).parents[1]
CODE = """
import json, os, sys, torch
from flowprep.config import StreamConfig
from flowprep.errors import UnfinishedError
from flowprep.train.loop import train
from tests.training_data import kill_at
torch.set_num_threads(1)
say = kill_at(2, int(sys.argv[2]))
for attempt, port in enumerate(sys.argv[3:]):
    os.environ["MASTER_PORT"] = port
    try:
        outcome = train(StreamConfig.from_json(json.loads(sys.argv[1])), say)
        assert outcome.leads == (os.environ["RANK"] == "0")
        sys.exit(0 if attempt else 1)
    except UnfinishedError:
        say = lambda text: print(text, flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.system
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    """An odd batch, two tasks, portions; stopped by a signal to the leading process alone, and taken up again."""
    changes = {
        "data": {"also": [str(dataset("second"))]},
        "net": {"dropout": 0.0},
        "solver": {"batch": 9, "iterations": 5, "micro_batch": 2, "learning_rate": 0.05},
    }
    _, alone = run(tiny(tmp_path / "one", **changes))
    config = tiny(tmp_path / "two", **changes)
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ports = [str(free_port()), str(free_port())]
    command = [sys.executable, "-c", CODE, json.dumps(config.to_json()), str(int(signal.SIGTERM)), *ports]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=100)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [ExitCode.OK, ExitCode.OK], said
    assert "going on after iteration 2" in said[0]
    assert "iteration" not in said[1], "one of them speaks"
    together = load(tmp_path / "two")
    moved = 0.0
    for name, weight in alone.model.items():
        torch.testing.assert_close(together.model[name], weight, rtol=1e-3, atol=1e-5)
        moved = max(moved, weight.abs().max().item())
    assert moved > 0.1
    logs = [[line for line in read_log(tmp_path / name / LOG) if "loss" in line] for name in ("one", "two")]
    assert [line["iteration"] for line in logs[1]] == [1, 2, 3, 4, 5]
    for one, two in zip(*logs, strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-3
        assert abs(one["accuracy"] - two["accuracy"]) < 1e-6
