"""The benchmark of loading runs and says something about everything that it promises to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loader_data import flow_folder

ROOT = Path(__file__).parents[1]


@pytest.mark.system
@pytest.mark.parametrize("options", [["--rounds", "1"], ["--memory", "20"]], ids=str)
def test_loader(tmp_path: Path, options: list[str]) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.loader", flow_folder(), "--crop", "32", "--samples", "4"]
    done = subprocess.run(
        [*command, *options, "--json", figures], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(figures.read_text())
    assert result.pop("codec") == "jpeg"
    assert set(result) == ({"memory"} if "--memory" in options else {"one_core", "many_cores"})
    for rows in result.values():
        assert len(rows) >= 2
        assert all(number > 0 for row in rows for name, number in row.items() if name != "way")
    ways = {row["way"] for row in result.get("one_core", [])}
    if ways:
        assert {"floor: decoding alone", "flowprep", "zarr-python a[i:i+10]", "folder of JPEG, cv2.imread"} <= ways
