"""Plans and commit records as bytes: one line of JSON that carries its own sha256."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowprep.config import fingerprint


def seal(tree: dict[str, Any]) -> bytes:
    """``tree`` as JSON, and behind its keys the key ``sha256``: the hash (hex) of the text without it.

    The order of keys stays as it is: what is derived from a record must not depend on whether it was read or just made.
    """
    return seal_text(json.dumps(tree, separators=(",", ":")).encode())


def seal_text(text: bytes) -> bytes:
    """:func:`seal` for a tree that is JSON already, with line breaks wherever its author wants them."""
    return text[:-1] + _seal(hashlib.sha256(text).hexdigest())


def check_seal(tree: dict[str, Any], data: bytes) -> None:
    """Take the key ``sha256`` out of ``tree``, which was read from ``data``. Raises ValueError if it is wrong."""
    written = str(tree.pop("sha256"))
    text = data.removesuffix(_seal(written)) + b"}"
    # What seal() wrote is hashed as it stands. Otherwise (another layout) the keys in sorted order count.
    if hashlib.sha256(text).hexdigest() != written and fingerprint(tree) != written:
        raise ValueError("its checksum is wrong")


def _seal(sha256: str) -> bytes:
    return f',"sha256":"{sha256}"}}'.encode()


@contextmanager
def many_objects() -> Iterator[None]:
    """Without the cycle collector, which would go through hundreds of thousands of rows again and again for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
