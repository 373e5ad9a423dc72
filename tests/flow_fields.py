"""Fields for the tests of stacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Fields = NDArray[np.float32]


def smooth(count: int, height: int, width: int, seed: int = 0, amplitude: float = 2.0) -> Fields:
    """Fields (n, 2, H, W) of waves longer than 60 px: gradients stay below 0.1 for each 1 px of amplitude."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    angle = random.uniform(-0.1, 0.1, (2, count, 2, 1, 1))
    phase = random.uniform(0, 2 * np.pi, (count, 2, 1, 1))
    return (amplitude * np.sin(angle[0] * x + angle[1] * y + phase)).astype(np.float32)


def wild(count: int, height: int, width: int, seed: int = 0) -> Fields:
    """Fields of all magnitudes: still, within a pixel, to exactly the next pixel, out of the frame, 1e6 px."""
    random = np.random.default_rng(seed)
    size = (count, 2, height, width)
    magnitude = random.choice([0, 1e-30, 0.3, 1, 5, 300, 1e6], size)
    signs = random.choice([-1, 1, random.normal()], size)
    return (magnitude * signs).astype(np.float32)


def constant(count: int, height: int, width: int, vector: tuple[float, float]) -> Fields:
    return np.broadcast_to(np.float32(vector)[None, :, None, None], (count, 2, height, width)).copy()


def mirrored(flow: Fields) -> Fields:
    """Fields or a stack (..., 2L, H, W) of the mirrored video: columns turned round, u negated."""
    result = flow[..., ::-1].copy()
    result[..., ::2, :, :] *= -1
    return result
