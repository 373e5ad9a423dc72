"""How the networks begin, what of them learns, and what their inputs are brought to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from flowprep.config import NETS, NetConfig
from flowprep.stacks import IMAGENET
from flowprep.train.nets import Network, build, normalisation
from tests.small_nets import CROP, FAMILIES, inputs, layers, tiny

# --- weights at the start ---


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("init", ["gaussian", "he"])
def test_weights_at_the_start(name: str, init: str) -> None:
    torch.manual_seed(5)
    network = build(NetConfig(name, width=0.12, init=init), 20, [101, 51], 64)
    seen = 0
    for layer in layers(network):
        count = layer.weight.numel()
        inputs_of_unit = count / layer.weight.shape[0]
        hidden = not any(layer is head for head in network.heads)
        std = math.sqrt(2 / inputs_of_unit) if init == "he" and hidden else 0.01
        spread = 5 * std / math.sqrt(2 * count)  # five standard errors of a standard deviation
        assert abs(layer.weight.std().item() - std) < spread
        assert abs(layer.weight.mean().item()) < 5 * std / math.sqrt(count)
        assert layer.bias is None or not layer.bias.any()
        seen += 1
    assert seen >= 9


@pytest.mark.parametrize("name", FAMILIES)
def test_the_seed_alone_says_what_the_weights_are(name: str) -> None:
    first, again = tiny(name).state_dict(), tiny(name).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    more = tiny(name, classes=(5, 3, 8)).state_dict()
    assert all(torch.equal(first[key], more[key]) for key in first), "further heads change the weights"
    other = build(NetConfig(name, width=0.05, init="he"), 4, [5], CROP).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


# --- what learns ---


def step(network: Network, *, head: int = 0) -> None:
    """One step of training, of the loss of one head."""
    optimiser = torch.optim.SGD((weight for weight in network.parameters() if weight.requires_grad), 0.1, 0.9)
    loss = nn.functional.cross_entropy(network(inputs())[head], torch.tensor([0, 1, 2]))
    loss.backward()
    optimiser.step()


def changed(network: Network, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(network: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_last_layer_only(name: str) -> None:
    network = tiny(name, dropout=0.5).train()
    network.last_layer_only()
    before = copied(network)
    step(network)
    assert changed(network, before) == {"heads.0.weight", "heads.0.bias"}
    network.eval()
    network.train()  # as after a look at the test part
    before = copied(network)
    step(network)
    assert changed(network, before) == {"heads.0.weight", "heads.0.bias"}
    assert not torch.equal(network.features(inputs()), network.features(inputs())), "dropout is off"


@pytest.mark.parametrize("name", FAMILIES)
def test_otherwise_everything_learns(name: str) -> None:
    network = tiny(name, dropout=0.0).train()
    before = copied(network)
    step(network)
    still = before.keys() - changed(network, before)
    assert not any("running" in key or "heads" in key for key in still)
    assert len(still) < len(before) / 4, still  # a few units never fire


def test_a_task_teaches_the_trunk_and_its_own_head() -> None:
    network = tiny("resnet18", classes=(5, 3), dropout=0.0).train()
    before = copied(network)
    step(network, head=1)
    found = changed(network, before)
    assert "trunk.conv1.weight" in found and "heads.1.weight" in found
    assert not {"heads.0.weight", "heads.0.bias"} & found


# --- inputs ---


def test_normalisation_of_flow() -> None:
    (paper,) = normalisation("cnn-m-2048", colour=False).std
    assert 20 / paper == pytest.approx(127.5) and normalisation("cnn-m-2048", colour=False).mean == ()
    for name in NETS[1:]:
        (std,) = normalisation(name, colour=False).std
        level = 127.5 + 3 / paper  # of 3 px, coded in 8 bits
        assert 3 / std == pytest.approx((level / 255 - 0.5) / np.mean([0.229, 0.224, 0.225]), rel=1e-3)  # TSN's
    assert normalisation("cnn-m-2048", False, "he") == normalisation("vgg16", False, "he")


def test_normalisation_of_colour() -> None:
    assert normalisation("cnn-m-2048", colour=True).mean == IMAGENET.mean
    assert normalisation("cnn-m-2048", colour=True).std == ()
    for name in NETS[1:]:
        assert normalisation(name, colour=True) == IMAGENET
    assert normalisation("cnn-m-2048", True, "he") == IMAGENET


@pytest.mark.parametrize(("name", "init"), [("cnn-m-2048", "gaussian"), ("cnn-m-2048", "he"), ("vgg16", "he")])
@pytest.mark.parametrize("colour", [False, True])
def test_training_begins_at_the_loss_of_guessing(name: str, init: str, colour: bool) -> None:
    channels = 3 if colour else 4
    network = tiny(name, channels=channels, init=init, width=0.1, classes=(101,), dropout=0.5).train()
    chosen = normalisation(name, colour, init)
    x = 128 + 60 * inputs(3) if colour else 2 * inputs()  # levels, or px
    mean = torch.tensor(np.resize(chosen.mean or 0.0, channels), dtype=torch.float32)[:, None, None]
    std = torch.tensor(np.resize(chosen.std or 1.0, channels), dtype=torch.float32)[:, None, None]
    loss = nn.functional.cross_entropy(network((x - mean) / std)[0], torch.tensor([0, 50, 100]))
    assert abs(loss.item() - math.log(101)) < 1
