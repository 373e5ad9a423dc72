"""The networks are those of their papers: layers, shapes, numbers of parameters, normalisation, dropout, heads.

Networks of full size are made on PyTorch's "meta" device: shapes without numbers, in milliseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowprep.config import NetConfig
from flowprep.errors import UsageError
from flowprep.train.nets import Network, build
from flowprep.train.nets.cnn_m import LocalResponseNorm
from flowprep.train.nets.network import scaled
from flowprep.train.nets.resnet import Basic
from tests.small_nets import FAMILIES, inputs, layers, tiny

DROPOUTS = {"cnn-m-2048": ["dropout6", "dropout7"], "vgg16": ["classifier.2", "classifier.5"], "resnet18": ["dropout"]}
SMALLEST = {"cnn-m-2048": 17, "vgg16": 32}


def meta(name: str, channels: int = 3, classes: int = 1000, crop: int = 224) -> Network:
    with torch.device("meta"):
        return build(NetConfig(name), channels, [classes], crop)


def outputs_of(network: Network, x: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(input, output) of every layer of the trunk in one pass, by name."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(name: str) -> Any:
        def note(_: nn.Module, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
            seen[name] = given[0].detach().clone(), made.detach().clone()

        return note

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in network.trunk.named_modules()]
    network(x)
    for hook in hooks:
        hook.remove()
    return seen


# --- as published ---


@pytest.mark.parametrize(
    ("name", "channels", "classes", "expected"),
    [
        ("cnn-m-2048", 3, 101, 90_627_813),  # the spatial and the temporal network of the two-stream paper
        ("cnn-m-2048", 20, 101, 90_707_781),
        ("cnn-m-2048", 3, 51, 90_525_363),
        ("cnn-m-2048", 20, 51, 90_605_331),
        ("cnn-m-2048", 3, 1000, 92_469_864),
        ("vgg16", 3, 1000, 138_357_544),
        ("vgg16", 3, 101, 134_674_341),
        ("vgg16", 20, 101, 134_684_133),
        ("resnet18", 3, 1000, 11_689_512),
        ("resnet34", 3, 1000, 21_797_672),
        ("resnet50", 3, 1000, 25_557_032),
        ("resnet101", 3, 1000, 44_549_160),
        ("resnet152", 3, 1000, 60_192_808),
    ],
)
def test_numbers_of_parameters(name: str, channels: int, classes: int, expected: int) -> None:
    assert sum(weight.numel() for weight in meta(name, channels, classes).parameters()) == expected


@pytest.mark.parametrize("channels", [3, 20])
def test_shapes_of_cnn_m(channels: int) -> None:
    seen = outputs_of(meta("cnn-m-2048", channels), torch.empty(2, channels, 224, 224, device="meta"))
    shapes = {name: tuple(made.shape[1:]) for name, (_, made) in seen.items()}
    expected = {
        "conv1": (96, 109, 109),
        "norm1": (96, 109, 109),
        "pool1": (96, 54, 54),
        "conv2": (256, 26, 26),
        "norm2": (256, 26, 26),
        "pool2": (256, 13, 13),
        "conv3": (512, 13, 13),
        "conv4": (512, 13, 13),
        "conv5": (512, 13, 13),
        "pool5": (512, 6, 6),
        "fc6": (4096,),
        "fc7": (2048,),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert seen["fc6"][0].shape == (2, 18432)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", {"features.3": (64, 224, 224), "features.4": (64, 112, 112), "features.30": (512, 7, 7)}),
        ("resnet34", {"maxpool": (64, 56, 56), "layer1": (64, 56, 56), "layer4": (512, 7, 7)}),
        ("resnet50", {"conv1": (64, 112, 112), "layer2": (512, 28, 28), "layer3": (1024, 14, 14), "dropout": (2048,)}),
    ],
)
def test_shapes_of_the_others(name: str, expected: dict[str, tuple[int, ...]]) -> None:
    seen = outputs_of(meta(name), torch.empty(2, 3, 224, 224, device="meta"))
    assert {layer: tuple(seen[layer][1].shape[1:]) for layer in expected} == expected


def torchvision_resnet(block: int, blocks: tuple[int, ...]) -> set[str]:
    """Names of the tensors of torchvision's resnets with ``block`` convolutions a block."""

    def norm(name: str) -> set[str]:
        return {f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    names = {"conv1.weight", *norm("bn1")}
    for stage, count in enumerate(blocks, 1):
        for index in range(count):
            where = f"layer{stage}.{index}"
            for number in range(1, block + 1):
                names |= {f"{where}.conv{number}.weight", *norm(f"{where}.bn{number}")}
            if index == 0 and (stage > 1 or block == 3):
                names |= {f"{where}.downsample.0.weight", *norm(f"{where}.downsample.1")}
    return names


@pytest.mark.parametrize(
    ("name", "block", "blocks", "count"),
    [
        ("resnet18", 2, (2, 2, 2, 2), 120),
        ("resnet34", 2, (3, 4, 6, 3), 216),
        ("resnet50", 3, (3, 4, 6, 3), 318),
        ("resnet101", 3, (3, 4, 23, 3), 624),
        ("resnet152", 3, (3, 8, 36, 3), 930),
    ],
)
def test_resnets_have_the_names_of_torchvision(name: str, block: int, blocks: tuple[int, ...], count: int) -> None:
    state = meta(name).trunk.state_dict()
    assert state.keys() == torchvision_resnet(block, blocks) and len(state) == count


def test_vgg_has_the_names_of_torchvision() -> None:
    state = meta("vgg16").trunk.state_dict()
    convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    layers = [*(f"features.{number}" for number in convolutions), "classifier.0", "classifier.3"]
    assert list(state) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    assert state["features.28.weight"].shape == (512, 512, 3, 3)
    assert state["classifier.0.weight"].shape == (4096, 25088)


def test_the_3x3_convolution_of_a_bottleneck_has_the_stride() -> None:
    trunk = meta("resnet50").trunk
    strides = {name: layer.stride[0] for name, layer in trunk.named_modules() if isinstance(layer, nn.Conv2d)}
    wide = {name for name, stride in strides.items() if stride == 2}
    assert wide == {"conv1", *(f"layer{n}.0.{layer}" for n in (2, 3, 4) for layer in ("conv2", "downsample.0"))}


def test_a_block_adds_its_input() -> None:
    block = Basic(4, 4, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = inputs()
    assert torch.equal(block(x), x.relu())


# --- local response normalisation, and where there is none ---


def test_local_response_normalisation_is_the_formula() -> None:
    a = np.random.default_rng(3).normal(0, 40, (2, 7, 3, 4))
    expected = np.empty_like(a)
    for i in range(7):
        neighbours = a[:, max(0, i - 2) : i + 3]
        expected[:, i] = a[:, i] / (2 + 1e-4 * (neighbours**2).sum(1)) ** 0.75
    assert np.ptp(expected / a) > 0.1, "normalises nothing"
    np.testing.assert_allclose(LocalResponseNorm()(torch.from_numpy(a)).numpy(), expected, rtol=1e-12)
    found = LocalResponseNorm()(torch.from_numpy(a).float()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_local_response_normalisation_is_that_of_pytorch_and_of_caffe() -> None:
    x = (40 * torch.randn(2, 9, 5, 6, dtype=torch.float64)).requires_grad_()
    theirs = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(LocalResponseNorm()(x), theirs(x))
    assert torch.autograd.gradcheck(LocalResponseNorm(), (x,), fast_mode=True)


def test_the_temporal_network_has_one_normalisation() -> None:
    for channels, count in ((3, 2), (20, 1), (2, 1)):
        layers = [layer for layer in meta("cnn-m-2048", channels).modules() if isinstance(layer, LocalResponseNorm)]
        assert len(layers) == count
    x = 100 * inputs(20)
    seen = outputs_of(tiny(channels=20), x)
    assert torch.equal(seen["pool2"][0], seen["conv2"][1].relu())
    assert not torch.allclose(seen["pool1"][0], seen["conv1"][1].relu(), rtol=0.01)


def test_pool2_sees_the_last_row_and_column() -> None:
    trunk = build(NetConfig(width=0.05), 3, [2]).trunk
    x = torch.zeros(1, 1, 26, 26)
    x[..., 25, 25] = 1
    pooled = trunk.get_submodule("pool2")(x)
    assert pooled.shape == (1, 1, 13, 13) and pooled[..., 12, 12] == 1 and pooled.sum() == 1


# --- dropout ---


@pytest.mark.parametrize("name", FAMILIES)
def test_places_of_dropout(name: str) -> None:
    network = tiny(name, dropout=0.9, width=0.1).train()
    layers = {where: layer for where, layer in network.trunk.named_modules() if isinstance(layer, nn.Dropout)}
    assert list(layers) == DROPOUTS[name] and {layer.p for layer in layers.values()} == {0.9}
    seen = outputs_of(network, inputs(batch=8))
    for where in layers:
        before, after = seen[where]
        assert (before >= 0).all() and (before > 0).any(), "not behind a ReLU"
        kept = after[before > 0] != 0
        assert 0.02 < kept.float().mean() < 0.25
        torch.testing.assert_close(after[before > 0][kept], before[before > 0][kept] * 10)
    following = {"cnn-m-2048": "fc7", "vgg16": "classifier.3"}.get(name)
    if following:
        assert torch.equal(seen[following][0], seen[DROPOUTS[name][0]][1])


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_what_the_heads_see(name: str) -> None:
    network = tiny(name, classes=(5, 3), dropout=0.5)
    torch.manual_seed(4)
    features = network.features(inputs())  # in training, dropout included
    torch.manual_seed(4)
    network = tiny(name, classes=(5, 3), dropout=0.5)  # batch normalisation, too, as it was
    torch.manual_seed(4)
    logits = network(inputs())
    assert [found.shape for found in logits] == [(3, 5), (3, 3)]
    for head, found in zip(network.heads, logits, strict=True):
        torch.testing.assert_close(found, features @ head.weight.T + head.bias)
    network.eval()
    assert torch.equal(network(inputs())[1], network(inputs())[1])


# --- crops, widths, memory formats ---


@settings(max_examples=12, deadline=None)
@given(name=st.sampled_from(FAMILIES), crop=st.integers(16, 400))
def test_any_crop_fits_or_is_refused(name: str, crop: int) -> None:
    smallest = SMALLEST.get(name, 16)
    if crop < smallest:
        with pytest.raises(UsageError, match=f"data.crop {crop}: {name} takes inputs of {smallest} px and more"):
            meta(name, 20, 7, crop)
    else:
        (logits,) = meta(name, 20, 7, crop)(torch.empty(2, 20, crop, crop, device="meta"))
        assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_crop(name: str) -> None:
    network = build(NetConfig(name, width=0.05), 4, [5], SMALLEST[name])
    assert network(torch.zeros(2, 4, SMALLEST[name], SMALLEST[name]))[0].shape == (2, 5)


@given(st.integers(1, 8192), st.floats(0.01, 4))
def test_scaled_channels(channels: int, width: float) -> None:
    found = scaled(channels, width)
    assert found % 4 == 0 and found >= 4
    assert found == 4 or abs(found - channels * width) <= 2
    assert scaled(4 * channels, 1.0) == 4 * channels


@pytest.mark.parametrize("name", [*FAMILIES, "resnet50"])
def test_narrow_networks(name: str) -> None:
    network = tiny(name)
    assert sum(weight.numel() for weight in network.parameters()) < 1_100_000
    assert network.first_layer.in_channels == 4 and network.first_layer is next(layers(network))
    x = inputs().requires_grad_()
    sum(logits.sum() for logits in network.eval()(x)).backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_is_the_same_network(name: str) -> None:
    network, x = tiny(name).eval(), inputs()
    (expected,) = network(x)
    network = network.to(memory_format=torch.channels_last)
    (found,) = network(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
