"""The networks: one file a family, a trunk of hidden layers in each and a linear head for each task.

    network         what they have in common: trunk and heads, width, weights at the start
    cnn_m           CNN-M-2048, the network of the two-stream paper
    vgg             VGG-16
    resnet          ResNet-18, -34, -50, -101 and -152

Trunks name their layers as published weights do, so that those load unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprep.config import NetConfig
from flowprep.stacks import IMAGENET, Normalisation
from flowprep.train.nets.cnn_m import CNNM2048
from flowprep.train.nets.network import Network, Trunk, initialise
from flowprep.train.nets.resnet import ResNet
from flowprep.train.nets.vgg import VGG16

__all__ = ["Network", "build", "normalisation"]

LEVEL = 20 / 127.5  # px of flow in one of the 256 levels that [-20, 20] px is coded in
RGB_STD = 255 * 0.226  # levels, the mean standard deviation of R, G and B in ImageNet


def build(config: NetConfig, channels: int, classes: Sequence[int], crop: int = 224) -> Network:
    """The network of ``config``, its weights drawn from PyTorch's default generator.

    channels: of the inputs: 3 of RGB, 2L of flow.
    classes: outputs of each head, one head a task.
    crop: height and width of the inputs in px. Raises UsageError where it is too small for the layers.

    Weights of a file are another step: :func:`flowprep.train.weights.load_weights`.
    """
    trunk = _trunk(config, channels, crop)
    initialise(trunk, config.init)
    return Network(trunk, classes)


def _trunk(config: NetConfig, channels: int, crop: int) -> Trunk:
    if config.name == "cnn-m-2048":
        return CNNM2048(channels, crop, config.width, config.dropout)
    if config.name == "vgg16":
        return VGG16(channels, crop, config.width, config.dropout)
    return ResNet(int(config.name.removeprefix("resnet")), channels, config.width, config.dropout)


def normalisation(name: str, colour: bool, init: str = "gaussian") -> Normalisation:
    """How the inputs of the network ``name`` are brought to the range that its weights expect.

    Published weights of CNN-M-2048 were trained on levels of [0, 255] less the mean of ImageNet, and so is N(0, 0.01) a
    start for inputs of tens. The weights of torchvision were trained on levels less that mean and divided by their
    standard deviation; "he" takes all networks to begin with inputs of that range.

    Flow: its inputs are levels, too, of [-20, 20] px coded in 8 bits, about that of 0 px: 1 px is 6.375, as in the
    networks of two-stream fusion (Feichtenhofer et al. 2016). Where RGB is divided, 1 px is 0.11, levels divided by the
    mean standard deviation of R, G and B, 57.63, as TSN (Wang et al. 2016) does to begin with weights of ImageNet.
    """
    levels = name == "cnn-m-2048" and init == "gaussian"
    if colour:
        return Normalisation(mean=IMAGENET.mean) if levels else IMAGENET
    return Normalisation(std=(LEVEL if levels else LEVEL * RGB_STD,))
