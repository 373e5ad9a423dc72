"""What benchmarks are told on the command line, and how they end where they cannot measure: with a sentence."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from flowprep.errors import FlowprepError


def told(main: Callable[[], None]) -> None:
    """Run ``main``. What it shall not do, or cannot, ends it with one sentence and the exit code of flowprep for it."""
    try:
        main()
    except FlowprepError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def positive(text: str) -> int:
    """A number from 1 on."""
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def positives(text: str) -> list[int]:
    """Such numbers, with commas between."""
    return [positive(number) for number in text.split(",")]


def source(text: str) -> Path:
    """A file or folder that is there."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not there")
    return Path(text)


def target(text: str) -> Path:
    """A file that can be written, which is to be known before anything is measured."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path
