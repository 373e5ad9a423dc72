"""Are the videos still the ones that were extracted? Compares every source file with the sha256 in its ledger row."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flowprep.annotations.paths import Root
from flowprep.errors import UsageError, VideoError
from flowprep.store.plans import planned_videos
from flowprep.store.reader import Dataset, VideoRow
from flowprep.store.verify import unfinished

STEP = 500  # videos from one line of progress to the next


@dataclass
class SourceReport:
    """What was compared, and every fault found, each with what to do."""

    root: str
    planned: int  # videos of the dataset
    unfinished: str  # what is still to do, in a sentence: the videos of those shards are not looked at
    videos: int = 0  # with a sha256 to compare with
    bytes: int = 0  # read
    unread: int = 0  # videos without: there was no file to read when they were extracted
    faults: list[str] = field(default_factory=list)


def check_sources(
    dataset: Dataset, root: Path | None = None, *, step: Callable[[str], None] = lambda _: None
) -> SourceReport:
    """Read and compare every source file.

    Parameters
    ----------
    root: folder that the ids start from; by default where it was at the last planning. UsageError if it is no folder.
    step: called with a line of text from time to time.
    """
    if dataset.settings.derived:
        raise UsageError(
            f"{dataset.path} was made from the dataset {dataset.plans[-1].root}, not from videos: check that one."
        )
    folder = _root(dataset, root)
    report = SourceReport(str(folder.path), len(planned_videos(dataset.plans)), unfinished(dataset))
    for number, row in enumerate(dataset.videos, start=1):
        if row.row.sha256:
            report.videos += 1
            if fault := _fault(folder, row, report):
                report.faults.append(f"{row.id}: {fault}")
        else:
            report.unread += 1
        if number % STEP == 0:
            step(f"read {number:,} of {len(dataset.videos):,} videos, {report.bytes / 1e9:.1f} GB")
    return report


def _root(dataset: Dataset, root: Path | None) -> Root:
    if root is not None:
        return Root(root)
    planned = Path(dataset.plans[-1].root)
    if not planned.is_dir():
        raise UsageError(f"{planned} is not a folder (any more). Name the one that the videos are in now with --root.")
    return Root(planned)


def _fault(folder: Root, row: VideoRow, report: SourceReport) -> str:
    """What is wrong with the source of ``row``, and what to do; "" if it is as it was."""
    try:
        path = folder.path / folder.resolve(folder.below(row.id))
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "no regular file any more. Put the old file back."
        if status.st_size != row.video.size:
            return (
                f"changed: {status.st_size:,} bytes, {row.video.size:,} when it was planned. Put the old file back, "
                "or take in the new one: run the command that made the dataset with --extend."
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        report.bytes += status.st_size
    except VideoError as error:
        return f"not read: {error.reason}. Put the old file back."
    except FileNotFoundError:
        return f"missing below {folder.path}. Put it back, or name the folder that the videos are in with --root."
    except OSError as error:
        return f"cannot be read ({error.strerror}). Check its permissions and the disk."
    if digest != row.row.sha256:
        return (
            "changed, at the same size. Put the old file back; or, if the new one is right, give it another name and "
            "run the command that made the dataset with --extend."
        )
    return ""
