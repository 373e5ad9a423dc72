"""What can go wrong, who has to act, and the exit code that says so.

    FlowprepError                 every error that is raised on purpose
    +-- UsageError           2    the command line or a file it names is malformed
    +-- RefusedError        65    understood, but refused: settings differ, damage found, too many failures
    |   +-- VideoError            one video failed: carries its verdict and ends up in the ledger, not on the screen
    |   +-- GPUError              a GPU fails, whatever the video
    +-- StoreError          74    the disk or the store did not do what was asked
    +-- UnfinishedError     75    stopped on the way: the same command continues

Anything else that escapes is a bug of flowprep and exits with 70.
"""

from __future__ import annotations

from enum import StrEnum


class ExitCode:
    """Exit codes of every command (the numbers of sysexits.h)."""

    OK = 0
    USAGE = 2
    REFUSED = 65
    BUG = 70
    STORE = 74
    UNFINISHED = 75


class Verdict(StrEnum):
    """What became of one video. Only ``OK`` stores fields."""

    OK = "ok"
    SHORT = "short"  # fewer frames decoded than the file declares
    CORRUPT_FRAMES = "corrupt_frames"  # the decoder reported damage
    UNDECODABLE = "undecodable"  # not a video file, or no decoder for it, or not one frame
    NO_VIDEO = "no_video"  # a media file without a video stream
    TOO_SHORT = "too_short"  # one frame: no pair, no flow
    TOO_SMALL = "too_small"  # a side under 16 pixels
    TOO_LARGE = "too_large"  # over the limit of pixels or frames
    MISSING = "missing"  # the list names it, the disk has no such file
    CRASHED = "crashed"  # killed the decoding process, twice
    TIMEOUT = "timeout"  # no frame within the time limit, twice
    MEMORY = "memory"  # over the memory limit, twice
    BAD_PATH = "bad_path"  # leaves the source folder, or a name no file can have


class FlowprepError(Exception):
    """Base of all errors that flowprep raises on purpose. Its text is written for the user."""

    exit_code = ExitCode.BUG


class UsageError(FlowprepError):
    """The command line, a list or a configuration file cannot be understood."""

    exit_code = ExitCode.USAGE


class RefusedError(FlowprepError):
    """The request is clear and was refused; the text says what to do instead."""

    exit_code = ExitCode.REFUSED


class StoreError(FlowprepError):
    """The disk is full, not writable, or returned an error."""

    exit_code = ExitCode.STORE


class UnfinishedError(FlowprepError):
    """Work was stopped before its end; running the same command again continues it."""

    exit_code = ExitCode.UNFINISHED


class VideoError(RefusedError):
    """One video cannot be used. ``verdict`` says why in a word, the text in a sentence."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


class GPUError(RefusedError):
    """A GPU fails, or cannot be used. What to do without it is for the command to say."""


def did_you_mean(word: str, known: list[str]) -> str:
    """``" Did you mean 'x'?"`` or, where nothing is close, the list of what is known."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""
