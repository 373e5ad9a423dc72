"""A checkpoint comes back as it was, or is refused; it never runs code."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flowprep.config import StreamConfig
from flowprep.errors import RefusedError, StoreError, UsageError
from flowprep.train.checkpoint import NAME, Checkpoint, Task, is_checkpoint, load, network, save
from flowprep.train.nets import build
from flowprep.train.torch_file import read_torch
from tests.training_data import tiny

TASKS = [Task("first", "a.zarr", "f" * 64, ("left", "right", "Grüße")), Task("second", "b.zarr", "0" * 64, ("x", "y"))]


def example(folder: Path, **changes: Any) -> Checkpoint:
    config = tiny(folder)
    torch.manual_seed(0)
    model = build(config.net, 4, [3, 2], crop=config.data.crop).state_dict()
    training = {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}, "sources": [{"batch": 3}]}
    fields: dict[str, Any] = {"config": config, "iteration": 3, "tasks": TASKS, "channels": 4, "settings": {"a": [1]}}
    fields |= {"model": model, "training": training, "learned": [{"a" * 64: 2}, {"b" * 64: 0}]}
    return Checkpoint(**fields | changes)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    written = example(tmp_path)
    save(tmp_path / NAME, written)
    for path in (tmp_path, tmp_path / NAME):
        read = load(path)
        for name in ("config", "iteration", "tasks", "channels", "settings", "versions", "learned"):
            assert getattr(read, name) == getattr(written, name)
        assert isinstance(read.config, StreamConfig)
        assert isinstance(read.tasks[0], Task)
        assert read.training
        assert torch.equal(read.training["optimizer"]["state"][0]["momentum_buffer"], torch.ones(2))
    assert sorted(item.name for item in tmp_path.iterdir()) == [NAME]


def test_the_network_of_a_checkpoint(tmp_path: Path) -> None:
    written = example(tmp_path)
    module = network(written)
    assert not module.training
    assert all(torch.equal(value, written.model[name]) for name, value in module.state_dict().items())
    assert [len(logits[0]) for logits in module(torch.zeros(1, 4, 32, 32))] == [3, 2]
    bias = written.model.pop("heads.1.bias")
    for wrong in ({}, {"heads.1.bias": torch.ones(3)}, {"heads.1.bias": bias.int()}, {"heads.1.bias": bias.double()}):
        with pytest.raises(RefusedError, match="do not fit its network cnn-m-2048: heads.1.bias"):
            network(replace(written, model=written.model | wrong))


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name, write in (
        ("torch", lambda path: torch.save({"flowprep_checkpoint": 1, "model": Touch(mark)}, path)),
        ("bare", lambda path: path.write_bytes(pickle.dumps(Touch(mark), protocol=2))),
    ):
        write(tmp_path / name)
        with pytest.raises(RefusedError, match=name):
            load(tmp_path / name)
        assert not mark.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"flowprep_checkpoint": 2},
        {"iteration": "7"},
        {"iteration": -7},
        {"iteration": 10**12},
        {"iteration": 6},  # all of them, of a training that is not finished
        {"config": {"stream": "sideways"}},
        {"config": {"stream": ""}},
        {"tasks": []},
        {"tasks": [["a", "b", "c", []]]},
        {"tasks": [["a", "b", "c", ["left", "left"]]]},
        {"learned": {}},
        {"learned": [["id"]]},
        {"learned": [{"id": "left"}]},
        {"config": None},
        {"tasks": [["only a name"]]},
        {"tasks": [["a", "b", "c", [1, 2]]]},
        {"model": {"w": 1}},
        {"training": []},
        {"model": {"w": torch.ones(2, 2).to_sparse()}},
        {"model": {"w": torch.ones(2, dtype=torch.complex64)}},
        {"model": {"w": torch.ones(2, device="meta")}},
        {"settings": None},
    ],
    ids=str,
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    save(tmp_path / NAME, example(tmp_path))
    tree = torch.load(tmp_path / NAME, weights_only=True)
    torch.save({**tree, **changes}, tmp_path / "other.pt")
    with pytest.raises(RefusedError, match="other.pt: not a checkpoint of flowprep"):
        load(tmp_path / "other.pt")


def test_keys_that_lack_are_refused(tmp_path: Path) -> None:
    save(tmp_path / NAME, example(tmp_path))
    tree = torch.load(tmp_path / NAME, weights_only=True)
    for name in tree.keys() - {"learned"}:
        torch.save({key: value for key, value in tree.items() if key != name}, tmp_path / "less.pt")
        with pytest.raises(RefusedError, match="less.pt: not a checkpoint of flowprep"):
            load(tmp_path / "less.pt")
    del tree["learned"]  # as in those of older versions
    torch.save(tree, tmp_path / "older.pt")
    assert load(tmp_path / "older.pt").learned is None


def test_damage_is_refused(tmp_path: Path) -> None:
    save(tmp_path / NAME, example(tmp_path))
    whole = (tmp_path / NAME).read_bytes()
    for size in (0, 10, 1000, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(RefusedError, match=r"cut\.pt"):
            load(tmp_path / "cut.pt")


def test_the_old_format_of_torch_is_refused_without_a_word_of_others(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """It has no checksums, and is never written; of pickles, PyTorch would warn."""
    save(tmp_path / NAME, example(tmp_path))
    tree = torch.load(tmp_path / NAME, weights_only=True)
    torch.save(tree, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    for name in ("old.pt", "pickle.pt"):
        with pytest.raises(RefusedError, match=f"{name}: no file of weights; it is damaged"):
            load(tmp_path / name)
    with pytest.raises(RefusedError, match="no file of weights"):
        read_torch(tmp_path / "pickle.pt", old=True)
    assert is_checkpoint(read_torch(tmp_path / "old.pt", old=True)), "which weights are taken of"
    assert not recwarn.list


def test_flipped_bits_are_refused(tmp_path: Path) -> None:
    """Of the weights themselves: torch would read them."""
    save(tmp_path / NAME, example(tmp_path))
    whole = bytearray((tmp_path / NAME).read_bytes())
    whole[len(whole) // 2] ^= 64
    (tmp_path / NAME).write_bytes(whole)
    torch.load(tmp_path / NAME, weights_only=True)
    with pytest.raises(RefusedError, match=rf"{NAME}: damaged: archive/data/\d+ in it is not what was written"):
        load(tmp_path)


def test_only_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(UsageError, match="not a file"):
        load(tmp_path)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=NAME):
        load(tmp_path)


def test_a_disk_that_fills_up_keeps_the_old_one(tmp_path: Path) -> None:
    """A limit on the size of files fails in the midst of writing, as a full disk does."""
    import resource

    save(tmp_path / NAME, example(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=f"{NAME}: .*run the same command again"):
            save(tmp_path / NAME, example(tmp_path, iteration=4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(tmp_path).iteration == 3
    assert [item.name for item in tmp_path.iterdir()] == [NAME]
