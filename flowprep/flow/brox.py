"""Brox et al.'s optical flow as this package computes it: what is minimised, the parameters, the presets, the pyramid.

T. Brox, A. Bruhn, N. Papenberg, J. Weickert: High Accuracy Optical Flow Estimation Based on a Theory for Warping,
ECCV 2004. With w = (u, v), Psi(s^2) = sqrt(s^2 + eps^2):

    E(w) = sum Psi(|I1(x + w) - I0(x)|^2 + gamma |grad I1(x + w) - grad I0(x)|^2) + alpha Psi(|grad u|^2 + |grad v|^2)

Coarse to fine; at each level ``warps`` times: the data term is linearised around the flow so far, and its
Euler-Lagrange equations are solved by ``inner`` fixed-point iterations (robust weights Psi' from the increment so
far, then fixed), each with at most ``solver`` sweeps of successive over-relaxation.

    opencv-cuda     cv2.cuda.BroxOpticalFlow as the flow tools of the field call it: alpha 0.197, gamma 50, scale 0.8,
                    10 inner, 77 outer and 10 solver iterations, on grey levels divided by 255. One Psi for both data
                    terms, one warp a level; "outer" only limits the number of levels. Bilinear samples, mirrored
                    borders.
    opencv-default  The same with that class's own defaults, 5 inner and 150 outer.
    ipol            J. Sanchez, N. Monzon, A. Salgado: Robust Optical Flow Estimation, IPOL 3 (2013): Psi apart for
                    brightness and gradient, frames stretched to [0, 255] together and smoothed, Gaussian pyramid,
                    bicubic samples (0 outside), 15 warps a level, sweeps until the change is at most ``tolerance``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import ceil, floor, log
from typing import Any

import numpy as np

from flowprep.config import MIN_SIDE
from flowprep.errors import UsageError
from flowprep.flow import Parameters

_CUDA = {
    "alpha": 0.197,
    "gamma": 50.0,
    "scale_factor": 0.8,
    "inner_iterations": 10,
    "outer_iterations": 77,
    "solver_iterations": 10,
    "warps": 1,
    "omega": 1.99,
    "tolerance": 0.0,
    "presmoothing": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "opencv-cuda": _CUDA,
    "opencv-default": {**_CUDA, "inner_iterations": 5, "outer_iterations": 150},
    "ipol": {
        "alpha": 18.0,
        "gamma": 7.0,
        "scale_factor": 0.75,
        "inner_iterations": 1,
        "outer_iterations": 100,
        "solver_iterations": 300,
        "warps": 15,
        "omega": 1.9,
        "tolerance": 1e-4,
        "presmoothing": 0.8,
    },
}


@dataclass(frozen=True)
class BroxParameters(Parameters):
    """Parameters of Brox flow, by OpenCV's names; -1 = as the preset has it."""

    preset: str = "opencv-cuda"  # opencv-cuda, opencv-default or ipol
    alpha: float = -1.0  # weight of smoothness
    gamma: float = -1.0  # weight of gradient constancy; 0 = brightness alone
    scale_factor: float = -1.0  # size ratio of neighbouring levels
    inner_iterations: int = -1  # fixed-point iterations of the robust weights in a warp
    outer_iterations: int = -1  # pyramid levels, at most
    solver_iterations: int = -1  # sweeps of over-relaxation in each inner iteration, at most
    warps: int = -1  # warps at each level
    omega: float = -1.0  # over-relaxation
    tolerance: float = -1.0  # px: a solver stops when the root of the mean squared change is at most this
    presmoothing: float = -1.0  # px: standard deviation of the Gaussian on the frames; 0 = none

    def completed(self) -> BroxParameters:
        if self.preset not in PRESETS:
            raise UsageError(f"brox.preset={self.preset}: give one of {', '.join(PRESETS)}.")
        missing = {name: value for name, value in PRESETS[self.preset].items() if getattr(self, name) == -1}
        full = replace(self, **missing)
        if not 0.25 <= full.scale_factor <= 0.95:  # no level under 4 px
            raise UsageError(f"brox.scale_factor={full.scale_factor}: give a number from 0.25 to 0.95.")
        for name in ("inner_iterations", "outer_iterations", "solver_iterations", "warps"):
            if not 1 <= getattr(full, name) <= 10_000:
                raise UsageError(f"brox.{name}={getattr(full, name)}: give 1 to 10000.")
        if not 1e-6 <= full.alpha <= 1e6:
            raise UsageError(f"brox.alpha={full.alpha}: give a number from 1e-6 to 1e6.")
        if not 0 <= full.gamma <= 1e6:
            raise UsageError(f"brox.gamma={full.gamma}: give 0 to 1e6.")
        if not 0 < full.omega < 2:
            raise UsageError(f"brox.omega={full.omega}: give a number between 0 and 2, else it does not converge.")
        if not 0 <= full.tolerance <= 1e6:
            raise UsageError(f"brox.tolerance={full.tolerance}: give 0 to 1e6 px.")
        if full.presmoothing != 0 and not 0.1 <= full.presmoothing <= 100:
            raise UsageError(f"brox.presmoothing={full.presmoothing}: give 0.1 to 100 px, or 0 for none.")
        return full

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) in px of each pyramid level for frames of that size, finest first."""
        sizes = [(height, width)]
        if self.preset == "ipol":
            count = floor(1 + log(min(height, width) / MIN_SIDE) / log(1 / self.scale_factor))
            while len(sizes) < min(count, self.outer_iterations):
                sizes.append(tuple(int(side * self.scale_factor + 0.5) for side in sizes[-1]))  # type: ignore[arg-type]
            return sizes
        step = scale = np.float32(self.scale_factor)  # in single precision, as OpenCV has it: ceil() can tell
        while min(sizes[-1]) > MIN_SIDE - 1 and len(sizes) < self.outer_iterations:
            sizes.append((ceil(np.float32(height) * scale), ceil(np.float32(width) * scale)))
            scale = scale * step
        return sizes


assert all(set(preset) == {field.name for field in fields(BroxParameters)} - {"preset"} for preset in PRESETS.values())
