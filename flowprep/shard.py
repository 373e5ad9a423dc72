"""One shard, from its line in the plan to its commit record: the only task there is.

Idempotent: run it twice, on two machines, after any number of kills; the first to commit wins, the others notice.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import __version__, flow, nvidia
from flowprep.config import Settings
from flowprep.derive import planned_source, source_rows
from flowprep.devices import next_gpu
from flowprep.encode import read_row_file
from flowprep.errors import RefusedError, StoreError, UnfinishedError, Verdict
from flowprep.gpu.owner import gpu_process
from flowprep.plan import BLOCK, Allocator, Plan
from flowprep.sandbox import STOP, Limits, Sandbox
from flowprep.store import layout
from flowprep.store.blobs import LocalStore, store_error
from flowprep.store.checksums import with_checksum
from flowprep.store.commits import Commit, committed_shards, tally
from flowprep.store.layout import ArrayName
from flowprep.store.shardfile import ShardWriter
from flowprep.types import LedgerRow, Placement, ShardResult, StoredFile, Video
from flowprep.versions import versions


class Listener:
    """Hears of every step in this process; a driver that shows progress puts its own in :data:`listener`."""

    def fields(self, count: int) -> None:
        """``count`` more fields are computed."""

    def video(self, row: LedgerRow) -> None:
        """A video has its row."""


@dataclass(frozen=True)
class Work:
    """What all tasks of a run have in common."""

    dataset: str  # absolute path
    generation: int
    limits: Limits
    root: str = ""  # absolute folder that video ids start from, now; "" = where it was when the plan was made
    version: str = __version__  # of the flowprep that hands the tasks out
    host: str = field(default_factory=socket.gethostname)  # of it


listener = Listener()
_thread = threading.local()  # each worker thread keeps its sandbox from shard to shard


def extract_shard(work: Work, shard: int) -> ShardResult:
    """Extract all videos of a shard and commit them.

    Raises StoreError (disk), RefusedError (damaged plan, another flowprep, method not available here), UnfinishedError
    (told to stop).
    """
    host = socket.gethostname()
    if work.version != __version__:
        raise RefusedError(
            f"{host} has flowprep {__version__}, the run was started with {work.version}: "
            "install the same version everywhere."
        )
    try:
        return _extract_shard(work, shard)
    except StoreError as error:
        raise error if host == work.host else StoreError(f"On {host}: {error}") from None


def _extract_shard(work: Work, shard: int) -> ShardResult:
    store = LocalStore(Path(work.dataset))
    plan = _plan(store, work.generation, shard)
    started = time.monotonic()
    key = layout.commit_key(work.generation, shard)
    if store.exists(key):
        return _result(Commit.from_bytes(store.get(key), key), "already done")

    root = Path(work.root or plan.root)
    _check_root(root)
    with store.scratch() as scratch:
        rows = []
        blocks = BlockFiles(scratch, plan, shard)
        sources = source_rows(root) if plan.settings.derived else {}
        for video in plan.shards[shard].videos:
            with _folder(scratch / "video") as folder:
                row = _extract_video(video, root, plan, work.limits, folder, sources)
                if row.verdict is Verdict.OK:
                    row = blocks.add(row, folder)
            if row.verdict is Verdict.MISSING and video.size >= 0:
                _check_root(root)  # it was there: it alone is gone, or all are
            rows.append(row)
            listener.video(row)
        files = blocks.finish()
        commit = Commit(
            generation=work.generation,
            shard=shard,
            settings_fingerprint=plan.settings.fingerprint(),
            files=tuple(item for item, _ in files),
            rows=tuple(rows),
            attempt=uuid.uuid4().hex,
            host=socket.gethostname(),
            seconds=round(time.monotonic() - started, 3),
            versions=versions() | (_gpus() if _gpu_needed(plan.settings) else {}),
            finished=round(time.time(), 3),
        )
        return publish(store, commit, files)


def publish(store: LocalStore, commit: Commit, files: list[tuple[StoredFile, Path]]) -> ShardResult:
    """Put the finished ``files`` at their final keys, then the commit record that makes them true."""
    key = layout.commit_key(commit.generation, commit.shard)
    # One try at a time: none may replace a file that another is about to commit.
    with store.exclusive(layout.shard_name(commit.generation, commit.shard), give_up):
        if store.exists(key):
            return _result(Commit.from_bytes(store.get(key), key), "lost race")
        for item, path in files:
            # What lies there already was left by a try that never committed.
            if not store.put_new(item.key, path) and file_sha256(store.path(item.key)) != item.sha256:
                store.replace(item.key, path)
        if not store.put_new_bytes(key, commit.to_bytes()):
            return _result(Commit.from_bytes(store.get(key), key), "lost race")
    return _result(commit, "committed")


def give_up() -> None:
    """While waiting for a lock: raises UnfinishedError once this process was told to stop."""
    if STOP.is_set():
        raise UnfinishedError("stopped")


def pending(store: LocalStore, plan: Plan) -> list[int]:
    """Shards of ``plan`` without a commit record."""
    done = committed_shards(store, [plan])
    return [k for k in range(len(plan.shards)) if (plan.generation, k) not in done]


def _plan(store: LocalStore, generation: int, shard: int) -> Plan:
    """The plan of a generation, with ``shard`` alone: of 300,000 videos the whole would take a worker 200 MB."""
    path = store.path(layout.plan_key(generation))
    try:
        return Plan.from_bytes(path.read_bytes(), str(path), only=shard)
    except FileNotFoundError:
        raise StoreError(f"{path}: not there. Every machine must see the dataset under the same path.") from None
    except OSError as error:
        raise store_error(path, error) from error


def _check_root(root: Path) -> None:
    """Raise StoreError where the videos' folder is not: a disk that is not mounted is not a thousand missing files."""
    try:
        if next(root.iterdir(), None) is None:
            raise StoreError(f"{root}: empty, where the videos were when they were planned. Is its disk mounted?")
    except OSError as error:
        raise store_error(root, error) from error


def _extract_video(
    video: Video, root: Path, plan: Plan, limits: Limits, folder: Path, sources: dict[str, LedgerRow]
) -> LedgerRow:
    """The row of one video. ``sources``: of those in the dataset ``root``, where that is what they are made of."""
    settings = plan.settings
    if video.refused:
        return LedgerRow(video.id, Verdict.BAD_PATH, reason=video.refused)
    box = _sandbox(limits, settings)
    if not settings.derived:
        return box.extract(settings, root / video.id, video.id, folder, _count_fields)
    source = planned_source(video, root, sources)
    return box.extract(settings, root, video.id, folder, _count_fields, source)


def _sandbox(limits: Limits, settings: Settings) -> Sandbox:
    """The sandbox of this thread, a new one where the old one was for something else."""
    if getattr(_thread, "needed", None) != (limits, settings):
        if hasattr(_thread, "sandbox"):
            _thread.sandbox.close()  # of another run, on a worker that serves several
        _thread.sandbox = Sandbox(limits, gpu_process(next_gpu()) if _gpu_needed(settings) else None)
        _thread.needed = (limits, settings)
    box: Sandbox = _thread.sandbox
    return box


def _gpu_needed(settings: Settings) -> bool:
    return settings.computes_flow and flow.find(settings.flow.method, settings.flow.backend, elsewhere=True).gpu


@cache
def _gpus() -> dict[str, str]:
    """What this machine's driver and GPUs are called, which have a hand in the bytes, too."""
    found = nvidia.describe().gpus
    known = {"nvidia-driver": {gpu.driver for gpu in found}, "gpu": {gpu.name for gpu in found}}
    return {name: ", ".join(sorted(values)) for name, values in known.items() if any(values)}


def _count_fields(count: int) -> None:
    listener.fields(count)  # looked up at each call: the driver may have put in another


@dataclass
class _Block:
    """One block of one array on its way: the shard file, and its rows of the side arrays."""

    writer: ShardWriter
    sides: dict[str, NDArray[Any]]


@dataclass
class BlockFiles:
    """Gathers the rows of a shard's videos into whole block files, in a scratch folder."""

    folder: Path
    plan: Plan
    shard: int
    _allocators: dict[str, Allocator] = field(default_factory=dict)
    _blocks: dict[tuple[str, int], _Block] = field(default_factory=dict)

    def add(self, row: LedgerRow, folder: Path) -> LedgerRow:
        """Take in the row files of one video from ``folder``; its row with the final placements."""
        assert row.flow
        flow = self._placed(row.flow)
        frames = self._placed(row.frames) if row.frames else None
        name = ArrayName.parse(flow.array)
        for array in name.directions(self.plan.settings.flow.direction):
            self._copy(array, flow.start, folder)
        if frames:
            self._copy(ArrayName.parse(frames.array), frames.start, folder)
        return replace(row, flow=flow, frames=frames)

    def _placed(self, wanted: Placement) -> Placement:
        rows_of = ArrayName.parse(wanted.array).rows_of
        if rows_of not in self._allocators:
            run = self.plan.shards[self.shard].blocks.get(rows_of)
            overflow = self.plan.overflow(self.shard, rows_of) * BLOCK
            first = run.first * BLOCK if run else overflow
            limit = first + run.count * BLOCK if run else None
            self._allocators[rows_of] = Allocator(first, limit, overflow)
        return replace(wanted, start=self._allocators[rows_of].place(wanted.length))

    def _copy(self, array: ArrayName, start: int, folder: Path) -> None:
        try:
            lengths, sides, payload = read_row_file(folder, array)
            with payload.open("rb") as file:
                for i, length in enumerate(lengths):
                    number, slot = divmod(start + i, BLOCK)
                    block = self._block(array, number)
                    block.writer.append(slot, file.read(length))
                    for side, values in sides.items():
                        block.sides[side][slot] = values[i]
            for number in range(start // BLOCK, (start + len(lengths) - 1) // BLOCK + 1):
                self._block(array, number).writer.pause()
        except OSError as error:
            raise store_error(self.folder, error) from error

    def _block(self, array: ArrayName, number: int) -> _Block:
        key = (str(array), number)
        if key not in self._blocks:
            sides = {name: np.zeros((BLOCK, *side.shape), side.dtype) for name, side in array.sides.items()}
            self._blocks[key] = _Block(ShardWriter(self.folder / f"{array}.{number}"), sides)
        return self._blocks[key]

    def finish(self) -> list[tuple[StoredFile, Path]]:
        """Complete all files: what each is called in the dataset, and where it lies now."""
        files = []
        try:
            for (array, number), block in sorted(self._blocks.items()):
                digest = block.writer.finish()
                size = block.writer.path.stat().st_size
                files.append((StoredFile(layout.shard_key(array, number), size, digest), block.writer.path))
                for side, values in block.sides.items():
                    path = self.folder / f"{array}.{number}.{side}"
                    data = with_checksum(values.tobytes())
                    path.write_bytes(data)
                    name = layout.side_key(ArrayName.parse(array), side, number)
                    files.append((StoredFile(name, len(data), hashlib.sha256(data).hexdigest()), path))
        except OSError as error:
            raise store_error(self.folder, error) from error
        return files


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    try:
        path.mkdir()
    except OSError as error:
        raise store_error(path, error) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a stored file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise store_error(path, error) from error


def _result(commit: Commit, outcome: str) -> ShardResult:
    return ShardResult(
        generation=commit.generation,
        shard=commit.shard,
        verdicts=tally({row.id: row for row in commit.rows}),
        fields=sum(row.flow.length for row in commit.rows if row.flow),
        bytes=sum(item.bytes for item in commit.files),
        seconds=commit.seconds,
        failures=tuple(row for row in commit.rows if row.verdict is not Verdict.OK),
        outcome=outcome,
    )
