"""Names from elsewhere, of classes and videos, made fit to be shown. Escaping is the template's part."""

from __future__ import annotations

import unicodedata

LONGEST = 100  # characters that are shown: the middle gives way
# Characters that change the direction of text.
TURNING = set("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
CONTROLS = {"Cc", "Cs"}  # categories of Unicode: control characters; halves of characters, as odd file names have


def shown(name: str, longest: int = LONGEST) -> str:
    """``name`` on one line, of at most ``longest`` characters; U+FFFD for those that turn text or steer a terminal."""
    clean = " ".join("".join("\ufffd" if _steers(letter) else letter for letter in name).split())
    if len(clean) > longest:
        clean = f"{clean[: longest // 2]}…{clean[len(clean) - (longest - 1) // 2 :]}"
    return clean or "(no name)"


def _steers(letter: str) -> bool:
    return letter in TURNING or (unicodedata.category(letter) in CONTROLS and not letter.isspace())
