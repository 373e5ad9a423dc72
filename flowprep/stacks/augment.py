"""Crops, mirrors and colour: what of a frame a network sees.

A crop of another size than wanted is resized, and its flow grows by the same factor along each axis; a mirrored u
points the other way (:func:`geometry` gives both as one factor for each channel).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.errors import UsageError
from flowprep.stacks.resizing import resize
from flowprep.stacks.sampler import Draws

POSITIONS = ("random", "centre", "corners")
TSN_SCALES = (1.0, 0.875, 0.75, 0.66)  # of the shorter side (Wang et al., ECCV 2016)

# Principal axes (columns) of the RGB values of ImageNet, and the spread along each, in levels of [0, 255].
AXES = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32)
SPREADS = np.array([55.46, 4.794, 1.148], np.float32)


class Crop(NamedTuple):
    """A window of a frame, px."""

    top: int
    left: int
    height: int
    width: int

    def of(self, planes: NDArray[Any]) -> NDArray[Any]:
        """The window of planes (..., H, W), a view."""
        return planes[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Jitter:
    """Changes of colour of RGB frames; all zero is none. Values may leave [0, 255], and are not clipped."""

    pca: float = 0.1  # standard deviation of the noise along the principal axes (Krizhevsky et al., NIPS 2012)
    brightness: float = 0.0  # a factor uniform in 1 +- this
    contrast: float = 0.0  # a factor about mid-grey, uniform in 1 +- this

    def of(self, draws: tuple[float, ...]) -> tuple[float, NDArray[np.float32]]:
        """(factor, (3,) shift): a level x in [0, 255] becomes x * factor + shift."""
        brightness = 1 + self.brightness * (2 * draws[6] - 1)
        contrast = 1 + self.contrast * (2 * draws[7] - 1)
        noise = AXES @ (SPREADS * self.pca * np.array(_normal(draws[:6]), np.float32))
        return brightness * contrast, noise + np.float32(127.5 * (1 - contrast) * brightness)


@dataclass(frozen=True)
class Augmentation:
    """How a training input is cut from a frame.

    position: "random" anywhere in the frame, "centre", or "corners": one of the four corners and the centre.
    scales: sides of the crop as shares of the frame's shorter side, resized to ``crop``: height and width are drawn
        from neighbours in the list (Wang et al. 2016 use 1, 0.875, 0.75 and 0.66). Empty: the crop as it is.
    """

    crop: int = 224  # px: height and width of what the network gets
    position: str = "random"
    scales: tuple[float, ...] = ()
    flip: bool = True  # mirror every second input, on average
    jitter: Jitter | None = Jitter()  # of RGB frames; None leaves their colours

    def __post_init__(self) -> None:
        if not isinstance(self.crop, int) or self.crop < 1:
            raise UsageError(f"crop {self.crop}: give a whole number, the side of a square of 1 pixel or more.")
        if self.position not in POSITIONS:
            raise UsageError(f"position {self.position!r}: give {', '.join(POSITIONS)}.")
        if not all(0 < scale <= 1 for scale in self.scales):
            raise UsageError(f"scales {self.scales}: give shares of the shorter side, over 0 and up to 1.")

    def check(self, height: int, width: int) -> None:
        """Raises UsageError where frames of ``height`` x ``width`` px are too small for the crop."""
        if not self.scales and self.crop > min(height, width):
            raise UsageError(
                f"a crop of {self.crop}x{self.crop} does not fit into {width}x{height} pixels: give a smaller crop, "
                "or scales, which resize."
            )

    def window(self, height: int, width: int, draws: Draws) -> Crop:
        """The crop of a frame of ``height`` x ``width`` px. Raises UsageError where the frame is too small for it."""
        self.check(height, width)
        rows, columns = self._sides(min(height, width), draws.scale)
        down, right = height - rows, width - columns
        if self.position == "random":
            return Crop(int(draws.top * (down + 1)), int(draws.left * (right + 1)), rows, columns)
        place = int(draws.place * 5) if self.position == "corners" else 4
        return Crop(*_places(down, right)[place], rows, columns)

    def mirrored(self, draws: Draws) -> bool:
        return self.flip and draws.mirror < 0.5

    def _sides(self, shorter: int, draw: float) -> tuple[int, int]:
        if not self.scales:
            return self.crop, self.crop
        count = len(self.scales)
        pairs = [(i, j) for i in range(count) for j in range(count) if abs(i - j) <= 1]
        rows, columns = pairs[int(draw * len(pairs))]
        return max(1, int(shorter * self.scales[rows])), max(1, int(shorter * self.scales[columns]))


def fit(window: NDArray[Any], out: NDArray[Any], *, mirror: bool = False) -> None:
    """Put planes (C, h, w) into ``out`` (C, H, W), contiguous: resized where sizes differ, then mirrored."""
    for plane, target in zip(window, out, strict=True):
        resize(plane, target)
    if mirror:
        mirror_columns(out)


def mirror_columns(planes: NDArray[Any]) -> None:
    """Mirror planes (C, H, W), contiguous, in place. The sign of u is left to its scale."""
    image = planes.reshape(-1, planes.shape[-1])
    opencv.load().flip(image, 1, dst=image)


def geometry(window: Crop, height: int, width: int, *, mirror: bool) -> tuple[float, float]:
    """Factors of u and v when ``window`` is resized to ``height`` x ``width`` and then perhaps mirrored."""
    along_x, along_y = width / window.width, height / window.height
    return (-along_x if mirror else along_x), along_y


def ten_crops(x: Any, size: int, *, flow: bool) -> Any:
    """Four corners and the centre, then the mirror image of each: (10, ..., C, size, size) of ``x`` (..., C, H, W).

    ``x``: a NumPy array or a torch tensor, RGB or, with ``flow``, flow in px, whose even channels (u) change their
    sign where they are mirrored. Raises UsageError where ``x`` is smaller than ``size``.
    """
    height, width = x.shape[-2:]
    if size > min(height, width):
        raise UsageError(f"crops of {size}x{size} do not fit into {width}x{height} pixels: give a smaller size.")
    shape = (10, *x.shape[:-2], size, size)
    crops: Any = np.empty(shape, x.dtype) if isinstance(x, np.ndarray) else x.new_empty(shape)
    for number, (top, left) in enumerate(_places(height - size, width - size)):
        crops[number] = x[..., top : top + size, left : left + size]
    crops[5:] = crops[:5, ..., ::-1] if isinstance(x, np.ndarray) else crops[:5].flip(-1)
    if flow:
        crops[5:, ..., 0::2, :, :] *= -1
    return crops


def _places(down: int, right: int) -> list[tuple[int, int]]:
    """(top, left) of the corners and the centre, where a crop can move by ``down`` and ``right`` px."""
    return [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]


def _normal(uniform: tuple[float, ...]) -> list[float]:
    """Three numbers of a standard normal distribution from six in [0, 1) (Box and Muller, 1958)."""
    return [
        math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)
        for first, second in zip(uniform[:3], uniform[3:], strict=True)
    ]
