"""OpenCV's flow methods on the CPU: Dual TV-L1, DeepFlow (variational part), DIS and Farneback.

A solver object serves one frame size: OpenCV's TV-L1 lowers its own scale count on a small pair and keeps it lowered.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import log2
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.errors import RefusedError, UsageError, Verdict, VideoError
from flowprep.flow import FlowAlgorithm, Parameters


class OpenCVFlow(FlowAlgorithm):
    """What the four have in common: a solver made for each frame size, called pair by pair."""

    backend: ClassVar[str] = "opencv"
    contrib: ClassVar[bool]  # whether it lives in opencv-contrib's optflow module

    @classmethod
    def unavailable(cls) -> str:
        try:
            cv2 = opencv.load()
        except RefusedError as error:
            return str(error)
        if cls.contrib and not hasattr(cv2, "optflow"):
            return "this OpenCV has no optflow module: install opencv-contrib-python in place of opencv-python."
        return ""

    @classmethod
    def engine(cls) -> str:
        return f"opencv {opencv.load().__version__}"

    @abstractmethod
    def _solver(self, height: int, width: int) -> Any:
        """A new cv2.DenseOpticalFlow with the parameters set, for frames of that size."""

    def _prepare(self, frames: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[Any]:
        """``frames`` in the type and range that the solver takes."""
        return frames

    def _flow(self, frames: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        ready = np.ascontiguousarray(self._prepare(frames))
        height, width = frames.shape[1:]
        solver = self._solver(height, width)
        field = np.empty((len(frames) - 1, 2, height, width), np.float32)
        for t in range(len(field)):
            field[t] = solver.calc(ready[t], ready[t + 1], None).transpose(2, 0, 1)
        return field


@dataclass(frozen=True)
class TVL1Parameters(Parameters):
    """Dual TV-L1 (Zach et al. 2007; Sanchez et al., IPOL 2013), with OpenCV's schedule."""

    tau: float = 0.25  # time step of the dual update
    lambda_: float = 0.15  # weight of the data term; smaller is smoother
    theta: float = 0.3  # coupling of u and v
    nscales: int = 5  # pyramid levels
    warps: int = 5  # warps at each level
    epsilon: float = 0.01  # px: stop when the mean change is smaller
    inner_iterations: int = 30  # between two median filters
    outer_iterations: int = 10  # blocks of inner iterations
    scale_step: float = 0.8  # size ratio of neighbouring levels
    gamma: float = 0.0  # weight of the illumination field; 0 = none
    median_filtering: int = 5  # px, 3 or 5; 1 = none

    def completed(self) -> TVL1Parameters:
        if not 0.1 <= self.scale_step < 1:
            raise UsageError(f"tvl1.scale_step={self.scale_step}: give a number from 0.1 to below 1.")
        if self.median_filtering not in (1, 3, 5):
            raise UsageError(f"tvl1.median_filtering={self.median_filtering}: give 1 (none), 3 or 5.")
        if min(self.nscales, self.warps, self.inner_iterations, self.outer_iterations) < 1:
            raise UsageError("tvl1: nscales, warps, inner_iterations and outer_iterations must be at least 1.")
        if min(self.tau, self.lambda_, self.theta) <= 0 or self.epsilon < 0 or self.gamma < 0:
            raise UsageError("tvl1: tau, lambda and theta must be positive, epsilon and gamma not negative.")
        return self


class TVL1(OpenCVFlow):
    """cv2.optflow.DualTVL1OpticalFlow."""

    method = "tvl1"
    contrib = True
    parameters_type = TVL1Parameters
    parameters: TVL1Parameters

    def _solver(self, *_: int) -> Any:
        p = self.parameters
        return opencv.load().optflow.DualTVL1OpticalFlow_create(
            tau=p.tau,
            lambda_=p.lambda_,
            theta=p.theta,
            nscales=p.nscales,
            warps=p.warps,
            epsilon=p.epsilon,
            innnerIterations=p.inner_iterations,  # OpenCV's own spelling
            outerIterations=p.outer_iterations,
            scaleStep=p.scale_step,
            gamma=p.gamma,
            medianFiltering=p.median_filtering,
        )

    def _prepare(self, frames: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[Any]:
        return frames if frames.dtype == np.uint8 else frames / np.float32(255)  # it multiplies floats by 255

    def seconds_per_megapixel(self) -> float:
        return 12.0 * self.parameters.warps / 5


class DeepFlow(OpenCVFlow):
    """cv2.optflow.createOptFlow_DeepFlow: the variational part of DeepFlow (Weinzaepfel et al. 2013), no matching."""

    method = "deepflow"
    contrib = True
    parameters_type = Parameters

    def _solver(self, *_: int) -> Any:
        return opencv.load().optflow.createOptFlow_DeepFlow()

    def seconds_per_megapixel(self) -> float:
        return 1.7


# OpenCV's presets: finest scale, patch stride, gradient descent iterations, variational refinement iterations.
DIS_PRESETS = {"ultrafast": (2, 4, 12, 0), "fast": (2, 4, 16, 5), "medium": (1, 3, 25, 5)}


@dataclass(frozen=True)
class DISParameters(Parameters):
    """Dense inverse search (Kroeger et al. 2016); -1 = as the preset has it."""

    preset: str = "medium"  # ultrafast, fast or medium
    finest_scale: int = -1  # pyramid level that flow is computed at: 0 = full size
    patch_size: int = 8  # px
    patch_stride: int = -1  # px
    gradient_descent_iterations: int = -1
    variational_iterations: int = -1  # fixed-point iterations of the variational refinement
    variational_alpha: float = 20.0  # smoothness
    variational_delta: float = 5.0  # colour constancy
    variational_gamma: float = 10.0  # gradient constancy
    mean_normalization: bool = True
    spatial_propagation: bool = True

    def completed(self) -> DISParameters:
        if self.preset not in DIS_PRESETS:
            raise UsageError(f"dis.preset={self.preset}: give one of {', '.join(DIS_PRESETS)}.")
        names = ("finest_scale", "patch_stride", "gradient_descent_iterations", "variational_iterations")
        missing: dict[str, Any] = {
            name: value
            for name, value in zip(names, DIS_PRESETS[self.preset], strict=True)
            if getattr(self, name) == -1
        }
        filled = replace(self, **missing)
        if filled.patch_size < 4 or not 1 <= filled.patch_stride <= filled.patch_size or filled.finest_scale < 0:
            raise UsageError(
                "dis: patch_size must be at least 4, patch_stride 1 to patch_size, finest_scale at least 0."
            )
        if filled.gradient_descent_iterations < 1 or filled.variational_iterations < 0:
            raise UsageError("dis: gradient_descent_iterations must be at least 1, variational_iterations at least 0.")
        if min(filled.variational_alpha, filled.variational_delta, filled.variational_gamma) < 0:
            raise UsageError("dis: variational_alpha, variational_delta and variational_gamma must not be negative.")
        return filled


class DIS(OpenCVFlow):
    """cv2.DISOpticalFlow. It takes 8-bit frames: float frames are rounded to the nearest grey level."""

    method = "dis"
    contrib = False
    parameters_type = DISParameters
    parameters: DISParameters

    def _solver(self, height: int, width: int) -> Any:
        p = self.parameters
        cv2 = opencv.load()
        solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        solver.setFinestScale(self._finest_scale(height, width))
        solver.setPatchSize(p.patch_size)
        solver.setPatchStride(p.patch_stride)
        solver.setGradientDescentIterations(p.gradient_descent_iterations)
        solver.setVariationalRefinementIterations(p.variational_iterations)
        solver.setVariationalRefinementAlpha(p.variational_alpha)
        solver.setVariationalRefinementDelta(p.variational_delta)
        solver.setVariationalRefinementGamma(p.variational_gamma)
        solver.setUseMeanNormalization(p.mean_normalization)
        solver.setUseSpatialPropagation(p.spatial_propagation)
        return solver

    def _finest_scale(self, height: int, width: int) -> int:
        """``finest_scale``, or full size for frames so small that OpenCV's pyramid does not reach that scale.

        Left to itself, OpenCV goes to full size there too, but on wide and low frames reads beyond its memory.
        Raises VideoError where not one patch fits.
        """
        patch = self.parameters.patch_size
        long, short = max(height, width), min(height, width)
        if short < patch or 2 * long < 3 * patch:
            raise VideoError(Verdict.TOO_SMALL, f"{width}x{height} pixels: too small for dis.patch_size={patch}")
        coarsest = min(int(log2(long / (4 * patch)) + 0.5), int(log2(short // patch)))  # as OpenCV's calc() has it
        return self.parameters.finest_scale if self.parameters.finest_scale <= coarsest else 0

    def _prepare(self, frames: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[Any]:
        return frames if frames.dtype == np.uint8 else np.rint(frames).astype(np.uint8)

    def seconds_per_megapixel(self) -> float:
        return 0.013 if self.parameters.finest_scale >= 2 else 0.07


@dataclass(frozen=True)
class FarnebackParameters(Parameters):
    """Polynomial expansion (Farneback 2003), with the values of OpenCV's documentation."""

    pyr_scale: float = 0.5  # size ratio of neighbouring levels
    levels: int = 3
    winsize: int = 15  # px
    iterations: int = 3
    poly_n: int = 5  # px: neighbourhood of the expansion, 5 or 7
    poly_sigma: float = 1.2
    gaussian: bool = False  # Gaussian window in place of a box

    def completed(self) -> FarnebackParameters:
        if not 0 < self.pyr_scale < 1:
            raise UsageError(f"farneback.pyr_scale={self.pyr_scale}: give a number between 0 and 1.")
        if min(self.levels, self.winsize, self.iterations) < 1 or self.poly_n not in (5, 7) or self.poly_sigma <= 0:
            raise UsageError(
                "farneback: levels, winsize and iterations must be at least 1, poly_n 5 or 7, poly_sigma positive."
            )
        return self


class Farneback(OpenCVFlow):
    """cv2.FarnebackOpticalFlow."""

    method = "farneback"
    contrib = False
    parameters_type = FarnebackParameters
    parameters: FarnebackParameters

    def _solver(self, *_: int) -> Any:
        p = self.parameters
        cv2 = opencv.load()
        flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if p.gaussian else 0
        return cv2.FarnebackOpticalFlow_create(
            p.levels, p.pyr_scale, False, p.winsize, p.iterations, p.poly_n, p.poly_sigma, flags
        )

    def seconds_per_megapixel(self) -> float:
        return 0.14
