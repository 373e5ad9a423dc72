"""Flow as colour: hue is the direction, saturation the magnitude.

The colour wheel of S. Baker, D. Scharstein, J. P. Lewis, S. Roth, M. J. Black and R. Szeliski, "A Database and
Evaluation Methodology for Optical Flow", IJCV 92 (2011), as their program colorcode draws it: 55 hues, unevenly spaced
so that steps look equal; white where nothing moves; darker beyond the largest magnitude; black where flow is unknown.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowprep.flow.metrics import known
from flowprep.show.drawing import FAINT, PAPER, font, line_height

# From one corner of the RGB cube to the next: number of hues, channel that changes, and whether it rises or falls.
_ARCS = (
    (15, 1, +1),  # red to yellow
    (6, 0, -1),  # yellow to green
    (4, 2, +1),  # green to cyan
    (11, 1, -1),  # cyan to blue
    (13, 0, +1),  # blue to magenta
    (6, 2, -1),  # magenta to red
)
_BEYOND = 0.75  # brightness beyond the largest magnitude


def colour_wheel() -> NDArray[np.float64]:
    """The 55 hues as (55, 3) RGB, whole numbers 0..255. Hue 0, red, is motion to the right; they go on clockwise."""
    hues = []
    corner = np.array([255, 0, 0])
    for count, channel, direction in _ARCS:
        for step in range(count):
            hue = corner.copy()
            hue[channel] += direction * (255 * step // count)
            hues.append(hue)
        corner[channel] += direction * 255
    return np.array(hues, np.float64)


def flow_to_rgb(flow: NDArray[np.float32], max_magnitude: float | None = None) -> NDArray[np.uint8]:
    """``(2, H, W)`` flow in px as an (H, W, 3) uint8 RGB image.

    ``max_magnitude`` in px is drawn in full colour, more than that darker; by default the largest of this field.
    Give the same value to all fields of a clip, or their colours cannot be compared.
    """
    flow = np.asarray(flow, np.float32)
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"expected flow of shape (2, H, W), not {flow.shape}")
    seen = known(flow)
    u, v = np.where(seen, flow, 0)
    magnitude = np.hypot(u, v)
    full = float(magnitude.max(initial=0)) if max_magnitude is None else max_magnitude
    magnitude /= full or 1.0

    # v + 0 turns -0 into +0, so that motion to the right always lands on hue 0, at one end of the wheel.
    hue = (np.arctan2(-(v + 0), -u) / np.pi + 1) / 2 * (len(_WHEEL) - 1)
    image = np.empty((*u.shape, 3), np.uint8)
    for channel in range(3):
        pure = np.interp(hue, np.arange(len(_WHEEL)), _WHEEL[:, channel])
        level = np.where(magnitude <= 1, 255 - magnitude * (255 - pure), _BEYOND * pure)
        image[..., channel] = np.where(seen, level, 0)
    return image


def legend(size: int, max_magnitude: float) -> NDArray[np.uint8]:
    """The wheel on paper, (size, size, 3) uint8: each point in the colour of motion from the centre to it.

    Its rim is ``max_magnitude`` px, written below it. ``size`` of 60 px or more is legible.
    """
    type_size = max(10, size // 9)
    diameter = size - line_height(type_size) - 2
    radius = diameter / 2
    y, x = np.mgrid[:diameter, :diameter] - (diameter - 1) / 2
    distance = np.hypot(x, y)
    inside = np.array([x, y]) / np.maximum(distance, radius)
    cover = np.clip(radius - distance + 0.5, 0, 1)[..., None]  # a smooth rim
    disc = cover * flow_to_rgb(inside.astype(np.float32), 1.0) + (1 - cover) * np.array(PAPER)

    page = Image.new("RGB", (size, size), PAPER)
    page.paste(Image.fromarray(np.rint(disc).astype(np.uint8)), ((size - diameter) // 2, 0))
    ink = ImageDraw.Draw(page)
    ink.text((size // 2, diameter + 4), f"rim {max_magnitude:.3g} px", font=font(type_size), fill=FAINT, anchor="ma")
    return np.array(page)


_WHEEL = colour_wheel()
