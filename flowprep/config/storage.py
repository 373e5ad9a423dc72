"""From flow to bytes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from flowprep.config.sizes import JPEG_SIDE, MIN_SIDE, scaled
from flowprep.errors import UsageError
from flowprep.schema import check_choices, setting

CODECS = ("jpeg", "htj2k", "blosc")
RANGES = ("field", "fixed")
ROUNDINGS = ("exact", "round", "trunc")
BITS = (8, 16)


@dataclass(frozen=True)
class StorageConfig:
    """From flow to bytes. Which of the keys count depends on ``codec``; :meth:`to_json` has those alone."""

    codec: str = setting(
        "jpeg",
        "jpeg: 8 bits, the paper's way; htj2k: 16 bits, a third of the bytes; blosc: what every Zarr reader knows.",
        choices=CODECS,
    )
    range: str = setting("field", "Range that [0,255] stands for: each field's own, or a fixed one.", choices=RANGES)
    bound: float = setting(
        20.0, "Pixels per frame at which a fixed range of 8 bits clips (jpeg and blosc).", metavar="PX"
    )
    rounding: str = setting(
        "exact",
        "Fixed range: exact zero at 128, or the conventions of other tools (round: zero at 127.5; trunc: zero at 127).",
        choices=ROUNDINGS,
    )
    quality: int = setting(92, "JPEG quality of the flow, 1 to 100; docs/storage.md says what each costs.", metavar="Q")
    level: float = setting(
        0.001, "HTJ2K: step of the wavelet coefficients, as a share of the 16-bit range.", metavar="SHARE"
    )
    bits: int = setting(16, "Blosc: bits of a level, 8 (within --bound) or 16 (in steps of --step).")
    step: float = setting(0.0625, "Blosc with 16 bits: pixels per frame from one level to the next.", metavar="PX")
    rgb: bool = setting(True, "Store the RGB frames too, for the spatial stream.")
    rgb_short_side: int = setting(256, "Shorter side in pixels of the stored RGB frames.")
    rgb_quality: int = setting(90, "JPEG quality of the RGB frames, 1 to 100.", metavar="Q")

    def __post_init__(self) -> None:
        check_choices(self)
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        for name, what in self._idle().items():
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} {what}")
        if not 0.01 <= self.bound <= 100_000:
            raise UsageError(f"--bound {self.bound}: give 0.01 to 100000 pixels.")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: give 1 to 100.")
        if not 1e-5 <= self.level <= 0.1:
            raise UsageError(f"--level {self.level}: give 0.00001 (large files) to 0.1 (small ones).")
        if self.bits not in BITS:
            raise UsageError(f"--bits {self.bits}: give 8 or 16.")
        if not 0.001 <= self.step <= 10:
            raise UsageError(f"--step {self.step}: give 0.001 to 10 pixels.")
        if not 1 <= self.rgb_quality <= 100:
            raise UsageError(f"--rgb-quality {self.rgb_quality}: give 1 to 100.")
        if not MIN_SIDE <= self.rgb_short_side <= JPEG_SIDE:
            raise UsageError(f"--rgb-short-side {self.rgb_short_side}: give {MIN_SIDE} to {JPEG_SIDE} pixels.")

    def _idle(self) -> dict[str, str]:
        """The keys that do not count beside the others, and what to do where one is given all the same."""
        idle: dict[str, str] = {}
        jpeg, fixed = self.codec == "jpeg", self.range == "fixed"
        eight = self.codec == "blosc" and self.bits == 8
        if not jpeg:
            for name in ("range", "rounding", "quality"):
                idle[name] = f"is for --codec jpeg: leave it out with {self.codec}."
        elif not fixed:
            idle["rounding"] = "is a convention of fixed ranges: add --range fixed."
        if not (eight or (jpeg and fixed)):
            idle["bound"] = "is the bound of a fixed range of 8 bits: add --range fixed, or --codec blosc --bits 8."
        if self.codec != "htj2k":
            idle["level"] = "is for --codec htj2k: add that."
        if self.codec != "blosc":
            idle["bits"] = "is for --codec blosc: add that."
        if self.codec != "blosc" or eight:
            idle["step"] = "is for --codec blosc with 16 bits: add that."
        if not self.rgb:
            for name in ("rgb_short_side", "rgb_quality"):
                idle[name] = "is for stored RGB frames: leave --no-rgb out."
        return idle

    def to_json(self) -> dict[str, Any]:
        """The keys that count. Those of ``jpeg`` are all there, as in the first datasets, which knew no other."""
        tree = dataclasses.asdict(self)
        if self.codec == "jpeg":
            return {key: value for key, value in tree.items() if key not in ("codec", "level", "bits", "step")}
        return {key: value for key, value in tree.items() if key not in self._idle()}

    def frames_size(self, height: int, width: int) -> tuple[int, int] | None:
        """(height, width) in px of the stored RGB frames of a video of that size; None where none are stored."""
        return scaled(height, width, self.rgb_short_side) if self.rgb else None
