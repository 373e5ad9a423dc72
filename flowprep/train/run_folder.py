"""The folder of a run: who may write there, and whether what it holds can be continued."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from flowprep.config import StreamConfig
from flowprep.errors import RefusedError, StoreError, UsageError
from flowprep.store.blobs import store_error
from flowprep.store.locks import locked
from flowprep.train.checkpoint import NAME, Checkpoint, load
from flowprep.train.tasks import Lessons

CONFIG, LOCK = "config.yaml", ".lock"
# Keys that may change when a run is continued: they do not shape its numbers, or their content is compared instead. Of
# solver.micro_batch that holds but for dropout and batch normalisation; the memory of the device may ask for it.
FREE = {
    "dataset",
    "output",
    "data.also",
    "data.added",
    "data.on_damage",
    "data.workers",
    "net.weights",
    "solver.micro_batch",
    "solver.device",
    "solver.log_every",
    "solver.checkpoint_every",
    "solver.validate_every",
}


@contextmanager
def claimed(folder: Path) -> Iterator[Callable[[], None]]:
    """The folder is there, and nobody else trains in it. Where it was made and stays empty, it is removed again.

    Gives what to call before anything is put there: it raises StoreError once the folder has been moved or deleted.
    Raises RefusedError if somebody trains there, UsageError where something else than a folder is in the way.
    """

    def refuse() -> None:
        raise RefusedError(f"{folder}: another process is training there. Wait for it, or name another folder.")

    lock = folder / LOCK
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = locked(lock, refuse)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{folder}: not a folder, or below a file: name another RUN.") from None
    except OSError as error:
        raise store_error(folder, error) from error

    def check() -> None:
        if not _is_open(lock, handle):
            raise StoreError(
                f"{folder}: moved or deleted while this process trained there, which stops. A checkpoint is where the "
                "folder is; in its old place the same command goes on from it, or begins anew."
            )

    try:
        yield check
    finally:
        if _is_open(lock, handle):
            lock.unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def _is_open(path: Path, handle: int) -> bool:
    """Whether ``handle`` is of what is at ``path`` now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def write_config(folder: Path, config: StreamConfig) -> None:
    """config.yaml, a pipeline file that repeats the run in another folder."""
    tree = {key: value for key, value in config.to_json().items() if key != "output"}
    text = yaml.safe_dump({"train": tree}, sort_keys=False, allow_unicode=True, width=120)
    path = folder / CONFIG
    dataset = shlex.quote(config.dataset) if config.dataset.isprintable() else "DATASET"  # a comment is one line
    again = f"flowprep train -c {CONFIG} --stream {config.stream} {dataset} OTHER_FOLDER"
    try:
        path.write_text(f"# The configuration of this run. To repeat it: {again}\n{text}", encoding="utf-8")
    except OSError as error:
        raise store_error(path, error) from error


def found(folder: Path, config: StreamConfig, lessons: Lessons) -> Checkpoint | None:
    """The checkpoint in ``folder``, if there is one. Raises RefusedError, naming what differs, if it is of another."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        checkpoint = load(path)
    except RefusedError as error:
        raise RefusedError(f"{error} Delete it to begin anew.") from error
    if checkpoint.training is not None and not _complete(checkpoint.training, len(checkpoint.tasks)):
        raise RefusedError(f"{path}: without all that training goes on from. Delete it to begin anew.")
    changes = [*changed_keys(checkpoint.config, config), *_changed_tasks(checkpoint, lessons)]
    if changes:
        raise RefusedError(
            f"{path} is of another training; what differs:\n  " + "\n  ".join(changes) + "\n"
            "Give the same again to continue it, or name another folder."
        )
    return checkpoint


def changed_keys(then: StreamConfig, now: StreamConfig) -> list[str]:
    """``"solver.batch: 256 -> 128"`` of each key that must not change and did."""
    before, after = _flat(then.to_json()), _flat(now.to_json())
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if key not in FREE and before[key] != after[key]]


def _complete(training: dict[str, Any], tasks: int) -> bool:
    sources = training.get("sources")
    states = [training.get("optimizer"), training.get("meter"), *(sources if isinstance(sources, list) else [None])]
    if not all(isinstance(state, dict) for state in states):
        return False
    sums, count = (training["meter"].get(name) for name in ("sums", "count"))
    numbers = isinstance(sums, list) and [type(each) for each in sums] == [float] * (tasks + 1)
    return numbers and isinstance(count, int) and count >= 0


def _changed_tasks(checkpoint: Checkpoint, lessons: Lessons) -> list[str]:
    """The same of what datasets hold."""
    changes = []
    for old, new in zip_longest(checkpoint.tasks, lessons.tasks):
        if old is None or new is None:
            changes.append(f"number of tasks: {len(checkpoint.tasks)} -> {len(lessons.tasks)}")
            break
        if old.fingerprint != new.fingerprint:
            changes.append(f"settings of the dataset {new.dataset}: {old.fingerprint[:12]} -> {new.fingerprint[:12]}")
        if old.classes != new.classes:
            changes.append(f"classes of the dataset {old.dataset}: {len(old.classes)} -> {len(new.classes)}, or others")
    if checkpoint.channels != lessons.channels:
        changes.append(f"channels of the inputs: {checkpoint.channels} -> {lessons.channels}")
    states = (checkpoint.training or {}).get("sources", lessons.sources)
    if len(states) != len(lessons.sources):
        changes.append(f"number of datasets: {len(states)} -> {len(lessons.sources)}")
    then, now = checkpoint.learned, [source.videos for source in lessons.sources]
    if then is not None and then != now:
        before, after = (sum(map(len, videos)) for videos in (then, now))
        changes.append(f"videos to train on: {before:,} -> {after:,}, or others, or of other classes")
    return changes


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
