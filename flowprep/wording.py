"""Numbers and lists in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LISTED = 10  # names in a sentence before "and 90 more"


def plural(count: int, noun: str) -> str:
    """``"1 video"``, ``"1,200 videos"``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def printable(text: str) -> str:
    """``text`` for a terminal: "?" for what would steer it, or cannot be encoded."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def some(names: Sequence[str]) -> str:
    """The first of ``names``, :func:`printable`, and how many more there are."""
    shown = ", ".join(map(printable, names[:LISTED]))
    return f"{shown} and {len(names) - LISTED:,} more" if len(names) > LISTED else shown


def size(count: float) -> str:
    """Bytes as ``"812 bytes"``, ``"1.3 MB"``, ``"27.0 GB"``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return plural(int(count), "byte")


def duration(seconds: float) -> str:
    """``"4.2 s"``, ``"7 min"``, ``"3 h 5 min"``."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def describe_stack(stack: Mapping[str, Any]) -> str:
    """``"L=10 trajectory, means subtracted, every 8 frames"``: the section ``stack`` of settings, in short."""
    parts = [f"L={stack['length']} {stack['kind']}"]
    if stack["bidirectional"]:
        source = {"frames": "computed from the RGB frames"}.get(stack["backward"], "as stored")
        parts.append(f"bidirectional (backward {source})")
    if stack["temporal_stride"] > 1:
        parts.append(f"every {stack['temporal_stride']} fields")
    if stack["anchor"] != "start":
        parts.append("frame in the centre")
    parts.append("means subtracted" if stack["mean_subtract"] else "means not subtracted")
    if stack["per_video"]:
        parts.append(f"{stack['per_video']} a video")
    else:
        parts.append(f"one every {stack['every'] or stack['length']} frames")
    if stack["size"]:
        parts.append(f"resized to {stack['size']}")
    if stack["short"] != "refuse":
        parts.append("short videos repeat their last field")
    return ", ".join(parts)
