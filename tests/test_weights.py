"""Weights of a file become those of a network exactly, or are refused; reading them runs nothing."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from flowprep.config import NetConfig, StreamConfig, TrainDataConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.train import checkpoint as checkpoints
from flowprep.train.checkpoint import Checkpoint, Task
from flowprep.train.nets import Network, build
from flowprep.train.weights import load_weights

CROP = 32
LAST = {"cnn-m-2048": "fc8", "vgg16": "classifier.6", "resnet18": "fc"}
FIRST = {"cnn-m-2048": "conv1", "vgg16": "features.0", "resnet18": "conv1"}

Tensors = dict[str, torch.Tensor]


def tiny(name: str = "resnet18", channels: int = 3, classes: tuple[int, ...] = (7,), seed: int = 1) -> Network:
    torch.manual_seed(seed)
    return build(NetConfig(name, width=0.05, init="he"), channels, classes, CROP)


def published(network: Network, name: str = "resnet18") -> Tensors:
    """The tensors of ``network`` by the names that published weights have."""
    return {
        key.removeprefix("trunk.").replace("heads.0", LAST[name]): tensor.clone()
        for key, tensor in network.state_dict().items()
    }


def write(path: Path, tree: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(tree, path)
    else:
        torch.save(tree, path)
    return path


def assert_equal(network: Network, expected: Tensors, *, without: str = "nothing") -> None:
    found = network.state_dict()
    names = [name for name in expected if not name.startswith(without)]
    assert names and all(torch.equal(found[name], expected[name]) for name in names)


@pytest.fixture
def refuses(tmp_path: Path) -> Any:
    """``refuses(tree, text)``: such a file is refused, with such words, and leaves the network as it is."""

    def check(tree: Any, text: str, network: Network | None = None, name: str = "w.pt") -> None:
        path = tree if isinstance(tree, Path) else write(tmp_path / name, tree)
        network = network or tiny()
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        with pytest.raises(RefusedError, match=text) as caught:
            load_weights(network, path)
        assert str(path) in str(caught.value)
        assert_equal(network, before)

    return check


# --- what loads ---


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("name", LAST)
def test_published_weights(tmp_path: Path, name: str, suffix: str) -> None:
    source, network = tiny(name), tiny(name, seed=2)
    loaded = load_weights(network, write(tmp_path / f"w.{suffix}", published(source, name)))
    assert_equal(network, source.state_dict())
    assert (sorted(loaded.kept), loaded.skipped, loaded.averaged) == (sorted(source.state_dict()), [], False)


@pytest.mark.parametrize("name", LAST)
def test_a_head_for_other_classes_stays_as_it_is(tmp_path: Path, name: str) -> None:
    source, network = tiny(name), tiny(name, classes=(9, 4), seed=2)
    before = network.state_dict()
    heads = {key: tensor.clone() for key, tensor in before.items() if key.startswith("heads")}
    loaded = load_weights(network, write(tmp_path / "w.pt", published(source, name)))
    assert_equal(network, source.state_dict(), without="heads.")
    assert_equal(network, heads)
    assert loaded.skipped == ["heads.0.weight", "heads.0.bias"]
    assert not any(key.startswith("heads") for key in loaded.kept)


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_first_layer_of_rgb_is_averaged(tmp_path: Path, name: str, suffix: str) -> None:
    source, network = tiny(name), tiny(name, channels=20, seed=2)
    loaded = load_weights(network, write(tmp_path / f"w.{suffix}", published(source, name)))
    assert loaded.averaged and f"trunk.{FIRST[name]}.weight" in loaded.kept
    red, green, blue = source.first_layer.weight.detach().unbind(1)
    assert network.first_layer.weight.shape[1] == 20
    for filters in network.first_layer.weight.detach().unbind(1):
        torch.testing.assert_close(filters, (red + green + blue) / 3, rtol=1e-6, atol=1e-8)
        assert torch.equal(filters, network.first_layer.weight[:, 0])
    assert_equal(network, source.state_dict(), without=f"trunk.{FIRST[name]}.weight")
    with torch.no_grad():
        network.first_layer.weight[:, 0] += 1  # memory of its own for each channel
    assert not torch.equal(network.first_layer.weight[:, 0], network.first_layer.weight[:, 1])


def test_weights_of_flow_are_not_averaged(tmp_path: Path) -> None:
    source, network = tiny(channels=8), tiny(channels=8, seed=2)
    assert not load_weights(network, write(tmp_path / "w.pt", published(source))).averaged
    assert_equal(network, source.state_dict())


@pytest.mark.parametrize("key", ["", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_checkpoints_and_prefixes(tmp_path: Path, key: str, prefix: str) -> None:
    source, network = tiny(), tiny(seed=2)
    tree: Any = OrderedDict((prefix + name, tensor) for name, tensor in published(source).items())
    load_weights(network, write(tmp_path / "w.pt", {key: tree, "epoch": 3, "best": 0.5} if key else tree))
    assert_equal(network, source.state_dict())


def test_a_checkpoint_of_flowprep(tmp_path: Path) -> None:
    source, network = tiny(classes=(7, 4)), tiny(classes=(7, 3), seed=2)
    tree = {"model": source.state_dict(), "config": {"net": {"name": "resnet18"}}, "tasks": [["ucf101", "a.zarr"]]}
    loaded = load_weights(network, write(tmp_path / "checkpoint.pt", tree))
    assert_equal(network, source.state_dict(), without="heads.1")
    assert loaded.skipped == ["heads.1.weight", "heads.1.bias"]


def saved(folder: Path, init: str, *classes: tuple[str, ...]) -> tuple[Path, Tensors]:
    """A checkpoint of a run that began with ``init``, and its weights."""
    config = configured(init)
    model = build(config.net, 4, [len(names) for names in classes], CROP).state_dict()
    tasks = [Task(f"task {number}", "a.zarr", "f", names) for number, names in enumerate(classes)]
    checkpoints.save(folder / "checkpoint.pt", Checkpoint(config, 7, tasks, 4, {}, model))
    return folder / "checkpoint.pt", model


def configured(init: str, name: str = "cnn-m-2048") -> StreamConfig:
    net = NetConfig(name, width=0.05, init=init)
    return StreamConfig("temporal", data=TrainDataConfig(crop=CROP), net=net)


def test_heads_of_other_classes_are_told_by_their_names(tmp_path: Path) -> None:
    path, weights = saved(tmp_path, "he", ("left", "right"), ("up", "down"))
    network = tiny("cnn-m-2048", channels=4, classes=(2, 2), seed=2)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    loaded = load_weights(network, path, configured("he"), [("left", "right"), ("down", "up")])
    assert loaded.skipped == ["heads.1.weight", "heads.1.bias"]
    assert "heads.0.weight" in loaded.kept
    assert_equal(network, weights, without="heads.1")
    assert torch.equal(network.state_dict()["heads.1.weight"], before["heads.1.weight"])


def test_inputs_in_another_range_are_refused(tmp_path: Path) -> None:
    """Of CNN-M-2048 they follow from net.init, 58-fold."""
    path, weights = saved(tmp_path, "he", ("left", "right"))
    network = tiny("cnn-m-2048", channels=4, classes=(2,), seed=2)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(RefusedError, match="checkpoint.pt: trained with net.init he, .* net.init he, not gaussian"):
        load_weights(network, path, configured("gaussian"), [("left", "right")])
    assert_equal(network, before)
    load_weights(network, path, configured("he"), [("left", "right")])
    assert_equal(network, weights)


def test_a_damaged_checkpoint_of_flowprep_is_refused(tmp_path: Path, refuses: Any) -> None:
    path, _ = saved(tmp_path, "he", ("left", "right"))
    torch.save({**torch.load(path, weights_only=True), "tasks": 3}, path)
    refuses(path, "not a checkpoint of flowprep", tiny("cnn-m-2048", channels=4, classes=(2,)))


def test_old_files_and_half_precision(tmp_path: Path) -> None:
    source, network = tiny(), tiny(seed=2)
    tensors = {name: tensor for name, tensor in published(source).items() if "num_batches" not in name}
    path = tmp_path / "w.pt"
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, path, _use_new_zipfile_serialization=False)
    load_weights(network, path)
    assert network.first_layer.weight.dtype == torch.float32
    torch.testing.assert_close(network.first_layer.weight, source.first_layer.weight, rtol=1e-3, atol=1e-6)


# --- what does not fit ---


def test_other_networks_are_refused(refuses: Any) -> None:
    refuses(published(tiny("cnn-m-2048"), "cnn-m-2048"), "it has no bn1.weight: weights of another network")
    wide = build(NetConfig("resnet18", width=0.125), 3, [7], CROP)
    refuses(published(wide), r"conv1.weight is \(8, 3, 7, 7\), and \(4, 3, 7, 7\) in the network")
    refuses(published(tiny(channels=20)), r"conv1.weight is \(4, 20, 7, 7\), and \(4, 3, 7, 7\) in the network")
    refuses(published(tiny(channels=20)), r"\(4, 20, 7, 7\), and \(4, 10, 7, 7\)", tiny(channels=10))
    refuses({**published(tiny()), "layer5.weight": torch.zeros(2)}, "the network has no layer5.weight")


def test_another_crop_of_cnn_m_is_refused(refuses: Any) -> None:
    source = build(NetConfig(width=0.05), 3, [7], 128)
    refuses(
        published(source, "cnn-m-2048"),
        r"fc6.weight is \(204, 216\), and \(204, 24\) in the network",
        tiny("cnn-m-2048"),
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.full((4,), torch.nan), "bn1.bias has values that are infinite or no numbers"),
        (torch.full((4,), torch.inf), "bn1.bias has values that are infinite or no numbers"),
        (torch.zeros(4, dtype=torch.int64), "bn1.bias is of torch.int64"),
        (torch.zeros(4, dtype=torch.complex64), "bn1.bias is of torch.complex64"),
        (torch.zeros(4).to_sparse(), "bn1.bias is of torch.float32, torch.sparse_coo"),
        (torch.zeros(1).expand(10**12), r"bn1.bias is \(1000000000000,\), and \(4,\)"),  # of four bytes
        ([0.0] * 4, "no names with tensors, neither at the top nor under state_dict or model"),
    ],
)
def test_values_that_are_no_weights_are_refused(refuses: Any, value: Any, text: str) -> None:
    refuses({**published(tiny()), "bn1.bias": value}, text)


@pytest.mark.parametrize(
    "convert", [torch.Tensor.int, torch.Tensor.to_sparse, lambda x: x.to(torch.float8_e4m3fn), lambda x: x.to("meta")]
)
def test_no_average_of_what_are_no_weights(refuses: Any, convert: Any) -> None:
    weights = published(tiny())
    weights["conv1.weight"] = convert(weights["conv1.weight"])
    refuses(weights, "conv1.weight is of torch.", tiny(channels=20))


@pytest.mark.parametrize("tree", [{}, [], torch.zeros(3), {"model": {}}, {3: torch.zeros(3)}, {"epoch": 4}])
def test_files_without_weights_are_refused(refuses: Any, tree: Any) -> None:
    refuses(tree, "no names with tensors")


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            load_weights(tiny(), path)


# --- hostile and damaged files ---


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["top", "within", "beside"])
def test_code_in_a_file_is_not_run(tmp_path: Path, refuses: Any, place: str, zipped: bool) -> None:
    trap = Hostile(tmp_path / "ran")
    weights = published(tiny())
    tree = {"top": trap, "within": {**weights, "bn1.bias": trap}, "beside": {"model": weights, "optimizer": trap}}
    torch.save(tree[place], tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    refuses(tmp_path / "w.pt", "damaged, or holds objects whose reading would run code")
    assert not trap.path.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert trap.path.exists(), "the trap is none"


def test_a_network_saved_whole_is_refused(refuses: Any) -> None:
    refuses(tiny(), r"Of a network saved whole, save the state_dict\(\) instead")


def test_a_small_file_does_not_fill_the_memory(tmp_path: Path, refuses: Any) -> None:
    whole = write(tmp_path / "w.pt", {**published(tiny()), "bn1.bias": torch.zeros(2 * 10**6)})
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 10**6
    refuses(tmp_path / "bomb.pt", "compressed within")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"<html>404</html>", b"PK\3\4" + b"\1" * 60, b"\xff" * 4000])
def test_other_files_are_refused(tmp_path: Path, refuses: Any, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    refuses(path, "damaged")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(["pt", "safetensors"]))
def test_files_cut_short_are_refused(tmp_path: Path, refuses: Any, suffix: str, data: st.DataObject) -> None:
    path = write(tmp_path / f"w.{suffix}", published(tiny()))
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refuses(path, "damaged")
