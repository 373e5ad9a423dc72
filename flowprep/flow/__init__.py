"""Optical flow behind one seam: ``get(method, backend, **parameters).flow(frames)``.

Flow from frame t to t+1 is d_t(x, y) = (u, v) in pixels per frame step, u to the right, v downwards:
I_t(x, y) is found again at I_{t+1}(x + u, y + v).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowprep.config import METHODS, MIN_SIDE, FlowConfig
from flowprep.errors import RefusedError, UsageError, Verdict, VideoError, did_you_mean
from flowprep.flow.batch import DeviceFields, chains

# Backends of each method, the preferred one first: name -> "module:class". Those on GPUs are taken only when asked for:
# what a dataset is made with must not depend on where its first run happened to be.
BACKENDS: dict[str, dict[str, str]] = {
    "tvl1": {
        "cpu": "flowprep.flow.cpu:TVL1",
        "opencv": "flowprep.flow.opencv:TVL1",
        "cuda": "flowprep.flow.cuda:TVL1",
        "opencv-cuda": "flowprep.flow.opencv_cuda:TVL1",
    },
    "brox": {
        "cpu": "flowprep.flow.cpu:Brox",
        "cuda": "flowprep.flow.cuda:Brox",
        "opencv-cuda": "flowprep.flow.opencv_cuda:Brox",
    },
    "deepflow": {"opencv": "flowprep.flow.opencv:DeepFlow"},
    "dis": {"opencv": "flowprep.flow.opencv:DIS"},
    "farneback": {"opencv": "flowprep.flow.opencv:Farneback"},
}

Greys = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Parameters:
    """Base of each method's parameters: frozen, complete, every field a number, text or truth value.

    A trailing underscore (``lambda_``) is not part of the name that users type (``lambda``).
    """

    @classmethod
    def of(cls, method: str, values: dict[str, Any], backend: str = "") -> Parameters:
        """The parameters with ``values`` set, text converted to each field's type. Raises UsageError.

        ``lambda_`` is taken for ``lambda``, which is no name in Python. ``backend`` is for the message.
        """
        fields = {item.name.rstrip("_"): item for item in dataclasses.fields(cls)}
        chosen = {}
        for given, value in values.items():
            name = given if given in fields else given.removesuffix("_")
            if name not in fields:
                where = f" on the backend {backend}" if backend else ""
                what = f"{method} has no parameter {name!r}{where}" if fields else f"{method} has no parameters to set"
                raise UsageError(f"{what}.{did_you_mean(name, list(fields))}")
            chosen[fields[name].name] = _converted(value, fields[name].default, f"{method}.{name}")
        return cls(**chosen).completed()

    def completed(self) -> Parameters:
        """Presets filled in and ranges checked; raises UsageError."""
        return self

    def to_json(self) -> dict[str, Any]:
        return {name.rstrip("_"): value for name, value in dataclasses.asdict(self).items()}


def _converted(value: Any, default: Any, where: str) -> Any:
    kind = type(default)
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[value.lower()]
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        converted = kind(value)
        if kind in (int, float) and not abs(converted) < 2**31:  # NaN neither
            raise ValueError
        return converted
    except (ValueError, TypeError, KeyError, OverflowError):
        raise UsageError(f"{where}={value}: this parameter takes a value of type {kind.__name__}.") from None


class FlowAlgorithm(ABC):
    """A flow method on one backend. Not thread-safe: one object a thread."""

    method: ClassVar[str]
    backend: ClassVar[str]
    gpu: ClassVar[bool] = False  # computes on a GPU: one process for each GPU computes for many others (gpu/)
    at_once: ClassVar[int] = 1  # objects of one process that may compute at once: with 2 a GPU need not wait for copies
    parameters_type: ClassVar[type[Parameters]]

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str:
        """Why this cannot run on this machine; "" where it can."""

    @classmethod
    @abstractmethod
    def engine(cls) -> str:
        """The library that computes it, with its version."""

    def warm(self, say: Callable[[str], None] | None = None) -> None:  # noqa: B027 - most have nothing to compile
        """Do what is done once a machine; ``say`` hears of it when it takes time."""

    def announce(self, say: Callable[[str], None]) -> None:  # noqa: B027 - as above
        """Tell ``say`` of what :meth:`warm` will take time for, where another process does it."""

    @abstractmethod
    def seconds_per_megapixel(self) -> float:
        """Roughly what one field costs on one core, for estimates of work."""

    def pairs_in_a_call(self, height: int, width: int) -> int:
        """Frame pairs of that size to ask for at once, to hear of it now and then: about a second's work; 1 or more."""
        return max(1, int(1e6 / (self.seconds_per_megapixel() * height * width)))

    @abstractmethod
    def _flow(self, frames: Greys) -> NDArray[np.float32]:
        """Flow of checked frames (T, H, W), T >= 2, to (T-1, 2, H, W)."""

    def flow(self, frames: Greys) -> NDArray[np.float32]:
        """Forward flow of consecutive frames.

        Parameters
        ----------
        frames: (T, H, W) uint8, or float32 in 0..255; T >= 1. Never written to.

        Returns
        -------
        (T-1, 2, H, W) float32, pixels per frame step; row i leads from frame i to frame i+1.

        Raises VideoError (too_small) under 16 pixels a side, ValueError for anything else that is not such an array.
        """
        check_frames(frames)
        if len(frames) == 1:
            return np.empty((0, 2, *frames.shape[1:]), np.float32)
        return self._flow(frames)

    def backward(self, frames: Greys) -> NDArray[np.float32]:
        """Backward flow, shaped as :meth:`flow` gives it; row i leads from frame i+1 to frame i."""
        check_frames(frames)
        return self.flow(frames[::-1])[::-1]

    def both(self, frames: Greys) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What :meth:`flow` and :meth:`backward` give, with the work that they share done once."""
        check_frames(frames)
        if len(frames) == 1:
            return self.flow(frames), self.flow(frames)
        return self._both(frames)

    def _both(self, frames: Greys) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._flow(frames), self._flow(frames[::-1])[::-1]

    def fields(
        self, frames: Greys, first: NDArray[np.int32], second: NDArray[np.int32]
    ) -> NDArray[np.float32] | DeviceFields:
        """Flow of any pairs of frames: a batch, which may hold several videos.

        Parameters
        ----------
        frames: (F, H, W), checked, of one video after the other; F <= 2 P.
        first, second: (P,) numbers of frames, at most :meth:`pairs_in_a_batch`; field i leads from the frame first[i]
            to the frame second[i]. Backward flow has them swapped, flow in both directions is twice as many pairs.

        Returns
        -------
        (P, 2, H, W) float32, pixels per frame step; or, of a backend that can hand out levels in its place,
        :class:`DeviceFields`, which hold until the next call of this object. A field does not depend on the others of
        its batch.
        """
        found = np.empty((len(first), 2, *frames.shape[1:]), np.float32)
        for chain in chains(first, second):
            computed = self._flow(frames[chain.frames])
            found[chain.pairs] = computed[::-1] if chain.backward else computed
        return found

    def pairs_in_a_batch(self, height: int, width: int) -> int:
        """The most pairs of frames of that size that :meth:`fields` takes.

        Raises VideoError (too_large), with what one needs and what is there, where not one fits into the GPU's memory.
        """
        return self.pairs_in_a_call(height, width)

    def give_back(self) -> None:  # noqa: B027 - most have nothing to give
        """Give back memory of the GPU; what is computed next takes it anew. Called by the thread that computes."""


def check_frames(frames: Any) -> None:
    """Raise what :meth:`FlowAlgorithm.flow` promises to raise."""
    if isinstance(frames, list | tuple) and frames and all(isinstance(frame, np.ndarray) for frame in frames):
        for t, frame in enumerate(frames):
            if frame.shape != frames[0].shape:
                raise ValueError(
                    f"frame {t} is {frame.shape}, those before it are {frames[0].shape}: flow needs one size"
                )
        raise ValueError("frames must be one array (T, H, W), not a list of frames: np.stack() makes it")
    if not isinstance(frames, np.ndarray) or frames.ndim != 3 or not len(frames):
        raise ValueError(f"frames must be an array (T, H, W) with T >= 1, not {getattr(frames, 'shape', type(frames))}")
    if frames.dtype not in (np.uint8, np.float32):
        raise ValueError(f"frames must be uint8, or float32 in 0..255, not {frames.dtype}")
    if min(frames.shape[1:]) < MIN_SIDE:
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        raise VideoError(Verdict.TOO_SMALL, f"{size} pixels: flow needs at least {MIN_SIDE} a side")
    if frames.dtype == np.float32:
        for t, frame in enumerate(frames):
            low, high = frame.min(), frame.max()
            if not (low >= 0 and high <= 255):  # a NaN fails both comparisons
                raise ValueError(f"frame {t}: floats must lie in 0..255 without NaN, these span {low} to {high}")


def backends(method: str) -> dict[str, str]:
    """Backend names of ``method``, each with why it cannot run here ("" where it can)."""
    return {name: _load(path).unavailable() for name, path in BACKENDS[method].items()}


def known_backends(method: str) -> dict[str, str]:
    """Backend name -> "module:class". Raises UsageError for an unknown method."""
    if method not in BACKENDS:
        raise UsageError(f"{method}: no such flow method.{did_you_mean(method, list(METHODS))}")
    return BACKENDS[method]


def find(method: str, backend: str | None = None, *, elsewhere: bool = False) -> type[FlowAlgorithm]:
    """The class of a method on a backend; without a backend the first on processors that works here.

    ``elsewhere``: a named backend need not work here, for other machines will run it.

    Raises UsageError for an unknown name, RefusedError saying why where it cannot run on this machine.
    """
    known = known_backends(method)
    if backend:
        if backend not in known:
            guess = did_you_mean(backend, list(known))
            raise UsageError(f"{method} has no backend {backend!r}, only {', '.join(known)}.{guess}")
        known = {backend: known[backend]}
    reasons = []
    for name, path in known.items():
        algorithm = _load(path)
        if algorithm.gpu and not backend:
            continue
        reason = algorithm.unavailable()
        if not reason or (backend and elsewhere):
            return algorithm
        reasons.append(f"{name}: {reason}")
    raise RefusedError(f"{method} cannot run here. " + " ".join(reasons))


def get(method: str, backend: str | None = None, **parameters: Any) -> FlowAlgorithm:
    """A flow algorithm, ready to run: ``get("dis", preset="medium").flow(frames)``."""
    algorithm = find(method, backend)
    return algorithm(algorithm.parameters_type.of(method, parameters, algorithm.backend))


def configured(config: FlowConfig, *, elsewhere: bool = False) -> FlowAlgorithm:
    """The flow algorithm that settings name. ``elsewhere``: it is only asked, other machines or processes compute."""
    algorithm = find(config.method, config.backend, elsewhere=elsewhere)
    return algorithm(algorithm.parameters_type.of(config.method, config.parameters, algorithm.backend))


def _load(path: str) -> type[FlowAlgorithm]:
    module, name = path.split(":")
    algorithm: type[FlowAlgorithm] = getattr(import_module(module), name)
    return algorithm
