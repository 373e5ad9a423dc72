"""From videos to a dataset by kernels: ``flowprep extract --backend cuda``, the GPU simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowprep.config import ExtractConfig, FlowConfig, SourceConfig
from flowprep.errors import UsageError
from flowprep.run.driver import Extraction
from flowprep.store.reader import Dataset
from flowprep.synthetic import Motion, render
from flowprep.video import write_video

LITTLE = {"nscales": 1, "warps": 1, "inner_iterations": 2, "outer_iterations": 1}
COMMAND = [sys.executable, "-c", "from flowprep.cli import main; main()", "extract", "--quiet", "--short-side", "32"]


def test_a_wrong_amount_of_memory_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    monkeypatch.setenv("FLOWPREP_GPU_MEMORY", "lots")
    out = tmp_path / "out.zarr"
    config = ExtractConfig(SourceConfig(str(tmp_path)), str(out), flow=FlowConfig("tvl1", "cuda"))
    with pytest.raises(UsageError, match="FLOWPREP_GPU_MEMORY=lots: give a number of MiB"):
        Extraction(config, lambda _: None)
    assert not out.exists()


@pytest.mark.system
def test_the_dataset_is_that_of_the_cpu(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(2):
        clip = render(Motion("right", velocity=(1.0, 0.0)), seed=number, frames=4, height=32, width=32)
        write_video(videos / f"{number}.avi", clip.frames)
    given = [f"--set=tvl1.{name}={value}" for name, value in LITTLE.items()]
    found = {}
    for backend, environment in (("cpu", {}), ("cuda", {"NUMBA_ENABLE_CUDASIM": "1", "CUDA_VISIBLE_DEVICES": "0"})):
        out = tmp_path / f"{backend}.zarr"
        command = [*COMMAND, str(videos), str(out), "--backend", backend, *given]
        subprocess.run(command, env={**os.environ, **environment}, check=True)
        found[backend] = Dataset(out)
    assert found["cuda"].settings.flow.backend == "cuda"
    for ours, cpu in zip(found["cuda"].videos, found["cpu"].videos, strict=True):
        assert ours.id == cpu.id and ours.row.flow and ours.row.flow.length == 3
        assert ours.row.sampled_fields == cpu.row.sampled_fields == 1
        assert ours.row.added_epe == pytest.approx(cpu.row.added_epe, rel=0.05)
        fields, wanted = found["cuda"].flow(ours.id), found["cpu"].flow(cpu.id)
        assert np.abs(wanted).mean() > 0.1
        assert np.abs(fields - wanted).mean() < 0.01  # px, both as they are stored
