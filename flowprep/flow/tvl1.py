"""TV-L1 optical flow as this package computes it: what is minimised, the parameters, the presets, the pyramid.

C. Zach, T. Pock, H. Bischof: A Duality Based Approach for Realtime TV-L1 Optical Flow, DAGM 2007; discretised as in
J. Sanchez Perez, E. Meinhardt-Llopis, G. Facciolo: TV-L1 Optical Flow Estimation, IPOL 3 (2013).

    E(u) = sum |grad u1| + |grad u2| + lambda |rho(u)|,   rho(u) = I1(x + u0) + grad I1(x + u0) . (u - u0) - I0(x)

is minimised at each level of a pyramid, coarse to fine, around the flow u0 so far (a *warp*), through v close to u:

    v      = u - clamp(rho / |grad I1|, +-lambda theta |grad I1|) grad I1 / |grad I1|      (data, pixel by pixel)
    u_d    = v_d + theta div p_d                                                          (d = 1, 2)
    p_d    = (p_d + tau/theta grad u_d) / (1 + tau/theta |grad u_d|)

until the mean of |u_new - u_old|^2 is at most epsilon^2. Grey levels are 0 to 255.

What a preset fixes besides the numbers below:

    opencv       cv2.optflow.DualTVL1OpticalFlow. Levels shrink by bilinear sampling. Samples between pixels are cubic
                 (a = -3/4), with zeros outside of the frame.
    opencv-cuda  cv2.cuda.OpticalFlowDual_TVL1: one long block of iterations, no median filter, sampling for another
                 size without the half-pixel shift, cubic samples with a = -1/2 and the border pixel repeated outside.
    ipol         The authors' program: both frames stretched to [0, 255] together and smoothed; levels by Gaussian and
                 bicubic sampling (a = -1/2); a sample with any of its 16 pixels outside is 0, and so is its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import floor, hypot, log
from typing import Any

from flowprep.config import MIN_SIDE
from flowprep.errors import UsageError
from flowprep.flow import Parameters

IPOL_MIN_SIDE = 8  # px: the authors count levels by the diagonal, which leaves nothing of a long and low frame

_OPENCV = {
    "tau": 0.25,
    "lambda_": 0.15,
    "theta": 0.3,
    "nscales": 5,
    "warps": 5,
    "epsilon": 0.01,
    "inner_iterations": 30,
    "outer_iterations": 10,
    "scale_step": 0.8,
    "median_filtering": 5,
    "presmoothing": 0.0,
}
_ONE_BLOCK = {"inner_iterations": 300, "outer_iterations": 1, "median_filtering": 1}
PRESETS: dict[str, dict[str, Any]] = {
    "opencv": _OPENCV,
    "opencv-cuda": {**_OPENCV, **_ONE_BLOCK},
    "ipol": {**_OPENCV, **_ONE_BLOCK, "nscales": 100, "scale_step": 0.5, "presmoothing": 0.8},
}


@dataclass(frozen=True)
class TVL1Parameters(Parameters):
    """Parameters of TV-L1; -1 = as the preset has it."""

    preset: str = "opencv"  # opencv, opencv-cuda or ipol
    tau: float = -1.0  # time step of the dual update
    lambda_: float = -1.0  # weight of the data term; smaller is smoother
    theta: float = -1.0  # coupling of u and v
    nscales: int = -1  # pyramid levels, at most
    warps: int = -1  # warps at each level
    epsilon: float = -1.0  # px: stop when the root of the mean squared change is at most this
    inner_iterations: int = -1  # between two median filters
    outer_iterations: int = -1  # blocks of inner iterations in a warp, at most
    scale_step: float = -1.0  # size ratio of neighbouring levels
    median_filtering: int = -1  # px, 3 or 5; 1 = none
    presmoothing: float = -1.0  # px: standard deviation of the Gaussian on the frames; 0 = none

    def completed(self) -> TVL1Parameters:
        if self.preset not in PRESETS:
            raise UsageError(f"tvl1.preset={self.preset}: give one of {', '.join(PRESETS)}.")
        missing = {name: value for name, value in PRESETS[self.preset].items() if getattr(self, name) == -1}
        full = replace(self, **missing)
        if not 0.1 <= full.scale_step < 1:
            raise UsageError(f"tvl1.scale_step={full.scale_step}: give a number from 0.1 to below 1.")
        if full.median_filtering not in (1, 3, 5):
            raise UsageError(f"tvl1.median_filtering={full.median_filtering}: give 1 (none), 3 or 5.")
        for name in ("nscales", "warps", "inner_iterations", "outer_iterations"):
            if not 1 <= getattr(full, name) <= 10_000:
                raise UsageError(f"tvl1.{name}={getattr(full, name)}: give 1 to 10000.")
        for name in ("tau", "lambda_", "theta"):
            if not 1e-3 <= getattr(full, name) <= 1e3:
                raise UsageError(f"tvl1.{name.rstrip('_')}={getattr(full, name)}: give a number from 0.001 to 1000.")
        if not 0 <= full.epsilon <= 1000:
            raise UsageError(f"tvl1.epsilon={full.epsilon}: give 0 to 1000 px.")
        if full.presmoothing != 0 and not 0.1 <= full.presmoothing <= 100:
            raise UsageError(f"tvl1.presmoothing={full.presmoothing}: give 0.1 to 100 px, or 0 for none.")
        return full

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) in px of each pyramid level for frames of that size, finest first."""
        if self.preset == "ipol":
            levels = 1 + log(hypot(width, height) / MIN_SIDE) / log(1 / self.scale_step)
            count = min(self.nscales, floor(levels))
            smallest = IPOL_MIN_SIDE
        else:
            count, smallest = self.nscales, MIN_SIDE
        sizes = [(height, width)]
        while len(sizes) < count:
            smaller = self._smaller(sizes[-1][0]), self._smaller(sizes[-1][1])
            if min(smaller) < smallest or smaller == sizes[-1]:
                break
            sizes.append(smaller)
        return sizes

    def _smaller(self, side: int) -> int:
        """A side of the next level: halves are rounded up by the authors, to even by OpenCV."""
        exact = side * self.scale_step
        return floor(exact + 0.5) if self.preset == "ipol" else round(exact)


assert all(set(preset) == {field.name for field in fields(TVL1Parameters)} - {"preset"} for preset in PRESETS.values())
