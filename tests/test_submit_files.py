"""No submission writes over the files of another dataset, of an earlier submission, or of a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowprep.config import ExtractConfig, SourceConfig, read_pipeline
from flowprep.submit import job as submit_job
from flowprep.submit.job import Job, Request, make_job, write
from flowprep.submit.slurm import Slurm


def written(output: str, folder: Path, pending: int = 10) -> Job:
    """The files of a job for ``output``, with the name that it got."""
    config = ExtractConfig(source=SourceConfig(path="videos"), output=output)
    job, _ = write(make_job(config, Request(), folder, pending, 1001), Slurm(), lambda _: False)
    return job


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_datasets_with_names_that_are_almost_alike(tmp_path: Path) -> None:
    outputs = (
        "flow.dis",
        "flow.fb",
        "flow.dis.zarr",
        "flow-dis.zarr",
        "flow.zarr",
        "elsewhere/flow.zarr",
        "flow.zarr.zarr",
    )
    names = {output: written(output, tmp_path).name for output in outputs}
    assert list(names.values()) == ["flow.dis", "flow.fb", "flow.dis-2", "flow-dis", "flow", "flow-2", "flow.zarr"]
    assert len(texts(tmp_path)) == 2 * len(outputs)
    for output, name in names.items():
        assert read_pipeline(tmp_path / f"{name}.yaml")["output"] == output
        assert f"-c {tmp_path}/{name}.yaml " in (tmp_path / f"{name}.sbatch").read_text()


@pytest.mark.parametrize("output", [".zarr", "..", "фильм.zarr"])
def test_datasets_that_give_a_job_no_name(tmp_path: Path, output: str) -> None:
    assert written(output, tmp_path).name == "flowprep"


def test_the_same_texts_are_used_as_they_are(tmp_path: Path) -> None:
    assert written("flow.zarr", tmp_path).name == "flow"
    (tmp_path / "flow.sbatch").chmod(0o400)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert written("flow.zarr", tmp_path).name == "flow"
    (tmp_path / "flow.yaml").unlink()  # only the other is left
    assert written("flow.zarr", tmp_path).name == "flow"
    after = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert after.keys() == before.keys() and after[tmp_path / "flow.sbatch"] == before[tmp_path / "flow.sbatch"]


@pytest.mark.parametrize("name", ["flow.sbatch", "flow.yaml"])
def test_what_was_edited_by_hand_is_left_alone(tmp_path: Path, name: str) -> None:
    written("flow.zarr", tmp_path)
    (tmp_path / name).write_text("mine")
    (tmp_path / "flow-2.sbatch").symlink_to("nowhere")
    before = {path.name for path in tmp_path.iterdir()}
    assert written("flow.zarr", tmp_path).name == "flow-3"
    assert {path.name for path in tmp_path.iterdir()} == before | {"flow-3.sbatch", "flow-3.yaml"}
    assert (tmp_path / name).read_text() == "mine" and not (tmp_path / "nowhere").exists()


def test_files_of_somebody_who_submits_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name looked free, and then it was not."""
    (tmp_path / "flow.yaml").write_text("another's")
    looks = iter([True, True])
    is_free = submit_job._is_free
    monkeypatch.setattr(submit_job, "_is_free", lambda path, text: next(looks, None) or is_free(path, text))
    assert written("flow.zarr", tmp_path).name == "flow-2"
    assert (tmp_path / "flow.yaml").read_text() == "another's"
