"""Every setting of an extraction, in one place: name, default, unit, help text, and where it may come from.

A pipeline file (YAML) has the sections of :class:`ExtractConfig`; the command line has one option for each key, made
from the same fields. ``Settings`` (sections video, flow, storage) are what shapes the stored numbers: their fingerprint
names a dataset, and two datasets with different fingerprints never mix. The sections source, run and cluster may change
between two runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from flowprep.errors import UsageError, Verdict, did_you_mean
from flowprep.schema import checked, from_mapping, setting

FORMAT_VERSION = 1  # of the dataset on disk; a change that alters stored bytes raises it
MIN_SIDE = 16  # px: no flow method here has a meaning below this
MAX_WORKERS = 4096  # on one machine
MIN_MEMORY, MAX_MEMORY = 1024, 2**32  # MiB of one decoding process: its libraries alone take hundreds
MAX_GRACE = 3600  # s: no job manager waits longer
MAX_FRAMES = 10**9  # of one video: row numbers of a whole dataset must fit 64 bits
JPEG_SIDE = 65_500  # px: the largest image that libjpeg writes; a field is stored as one of twice its height

METHODS = ("tvl1", "brox", "deepflow", "dis", "farneback")
DIRECTIONS = ("forward", "backward", "both")
RANGES = ("field", "fixed")
ROUNDINGS = ("exact", "round", "trunc")
EXECUTORS = ("dask", "batch")
LAYOUTS = ("auto", "folder", "filelist", "ucf101", "hmdb51", "kinetics")

LIMITS = ("max_pixels", "max_frames")  # keys of the section video that shape no number


@dataclass(frozen=True)
class SourceConfig:
    """Where the videos are and who says what they show."""

    path: str = setting("", "Folder of videos (LABEL/…/NAME.avi) or list file (.txt, .csv, .tsv).", metavar="PATH")
    annotations: str = setting("", "Folder with the official UCF-101, HMDB-51 or Kinetics lists.", metavar="DIR")
    layout: str = setting("auto", "How to read the source.", choices=LAYOUTS)
    root: str = setting("", "Folder that the paths of a list file start from (default: the list's own).", metavar="DIR")


@dataclass(frozen=True)
class VideoConfig:
    """From a file to frames."""

    resize: str = setting("", "Size at which flow is computed; the aspect may change.", metavar="WxH")
    short_side: int = setting(0, "Shorter side in pixels at which flow is computed, up or down; the aspect is kept.")
    stride: int = setting(1, "Keep every S-th frame.", metavar="S")
    fps: float = setting(0.0, "Keep at most this many frames per second; a frame is never duplicated.", metavar="RATE")
    max_pixels: int = setting(36_000_000, "Refuse larger frames (width x height) before decoding them.")
    max_frames: int = setting(1_000_000, "Refuse longer videos.")

    def __post_init__(self) -> None:
        if self.resize and self.short_side:
            raise UsageError(
                "--resize and --short-side exclude each other: give one, or take the other back with --short-side 0."
            )
        if self.resize:
            self.target_size()
        if self.short_side and not MIN_SIDE <= self.short_side <= JPEG_SIDE // 2:
            raise UsageError(f"--short-side {self.short_side}: give {MIN_SIDE} to {JPEG_SIDE // 2} pixels.")
        if self.stride < 1:
            raise UsageError(f"--stride {self.stride}: give 1 (every frame) or more.")
        if self.fps < 0:
            raise UsageError(f"--fps {self.fps}: give a positive rate.")
        if self.fps and self.stride > 1:
            raise UsageError("--fps and --stride exclude each other: give one of them.")
        if self.max_pixels < MIN_SIDE**2:
            raise UsageError(f"--max-pixels {self.max_pixels}: flow needs at least {MIN_SIDE}x{MIN_SIDE} pixels.")
        if not 2 <= self.max_frames <= MAX_FRAMES:
            raise UsageError(f"--max-frames {self.max_frames}: give 2 to {MAX_FRAMES}.")

    def target_size(self) -> tuple[int, int] | None:
        """(width, height) of ``resize`` in px, or None."""
        if not self.resize:
            return None
        match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", self.resize)
        if not match:
            raise UsageError(f"--resize {self.resize!r}: give width x height in pixels, for example 340x256.")
        width, height = int(match[1]), int(match[2])
        if min(width, height) < MIN_SIDE or max(width, 2 * height) > JPEG_SIDE:
            raise UsageError(
                f"--resize {self.resize}: give {MIN_SIDE} to {JPEG_SIDE} pixels of width "
                f"and {MIN_SIDE} to {JPEG_SIDE // 2} of height."
            )
        return width, height

    def flow_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in px at which flow of a video of that size is computed."""
        chosen = self.target_size()
        return (chosen[1], chosen[0]) if chosen else _scaled(height, width, self.short_side)


@dataclass(frozen=True)
class FlowConfig:
    """From frames to flow."""

    method: str = setting("tvl1", "Flow method.", choices=METHODS)
    backend: str = setting(
        "", "What computes it: cpu or opencv; default: the method's first that works here.", metavar="NAME"
    )
    direction: str = setting("forward", "Frame i to i+1, i+1 to i, or both.", choices=DIRECTIONS)
    parameters: dict[str, Any] = setting(
        {},
        "A parameter of the method, for example tvl1.warps=5; may be repeated.",
        metavar="M.NAME=VALUE",
        option="set",
    )

    def __post_init__(self) -> None:
        for name, value in self.parameters.items():
            if not isinstance(name, str) or not isinstance(value, str | int | float):
                raise UsageError(f"--set {self.method}.{name}: give a number, a word or true or false.")


@dataclass(frozen=True)
class StorageConfig:
    """From flow to bytes."""

    range: str = setting("field", "Range that [0,255] stands for: each field's own, or a fixed one.", choices=RANGES)
    bound: float = setting(20.0, "Pixels per frame at which a fixed range clips.", metavar="PX")
    rounding: str = setting(
        "exact",
        "Fixed range: exact zero at 128, or the conventions of other tools (round: zero at 127.5; trunc: zero at 127).",
        choices=ROUNDINGS,
    )
    quality: int = setting(92, "JPEG quality of the flow, 1 to 100; docs/storage.md says what each costs.", metavar="Q")
    rgb: bool = setting(True, "Store the RGB frames too, for the spatial stream.")
    rgb_short_side: int = setting(256, "Shorter side in pixels of the stored RGB frames.")
    rgb_quality: int = setting(90, "JPEG quality of the RGB frames, 1 to 100.", metavar="Q")

    def __post_init__(self) -> None:
        if not 0.01 <= self.bound <= 100_000:
            raise UsageError(f"--bound {self.bound}: give 0.01 to 100000 pixels.")
        if self.rounding != "exact" and self.range != "fixed":
            raise UsageError(f"--rounding {self.rounding} is a convention of fixed ranges: add --range fixed.")
        if self.bound != 20 and self.range != "fixed":
            raise UsageError(f"--bound {self.bound} is the bound of a fixed range: add --range fixed.")
        if not self.rgb and (self.rgb_short_side, self.rgb_quality) != (256, 90):
            raise UsageError("--rgb-short-side and --rgb-quality are for stored RGB frames: leave --no-rgb out.")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: give 1 to 100.")
        if not 1 <= self.rgb_quality <= 100:
            raise UsageError(f"--rgb-quality {self.rgb_quality}: give 1 to 100.")
        if not MIN_SIDE <= self.rgb_short_side <= JPEG_SIDE:
            raise UsageError(f"--rgb-short-side {self.rgb_short_side}: give {MIN_SIDE} to {JPEG_SIDE} pixels.")

    def frames_size(self, height: int, width: int) -> tuple[int, int] | None:
        """(height, width) in px of the stored RGB frames of a video of that size; None where none are stored."""
        return _scaled(height, width, self.rgb_short_side) if self.rgb else None


@dataclass(frozen=True)
class RunConfig:
    """How the work is done; none of it changes a stored byte."""

    workers: int = setting(0, "Videos worked on at once; 0 = one for each processor.", metavar="N")
    max_failed: str = setting(
        "0", "Failures that still count as success: a number, or a share like 1%.", metavar="N|P%"
    )
    retry_status: str = setting(
        "", "Try videos with these verdicts again, for example crashed,timeout.", metavar="LIST"
    )
    extend: bool = setting(False, "Take in videos that are new in the source, or changed.")
    stall_seconds: float = setting(120.0, "Give a video up when it makes no frame for so long.", metavar="SEC")
    memory_limit: int = setting(4096, "Address space of one decoding process, in MiB.", metavar="MIB")
    grace: float = setting(10.0, "Seconds that SIGTERM and SIGUSR2 leave to the shards in flight.", metavar="SEC")
    dry_run: bool = setting(False, "Print the plan (videos, frames, bytes, time expected) and stop.")

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= MAX_WORKERS:
            raise UsageError(f"--workers {self.workers}: give 1 to {MAX_WORKERS}, or 0 for one per processor.")
        if self.stall_seconds <= 0:
            raise UsageError(f"--stall-seconds {self.stall_seconds}: give a positive number of seconds.")
        if not 0 <= self.grace <= MAX_GRACE:
            raise UsageError(f"--grace {self.grace}: give 0 to {MAX_GRACE} seconds.")
        if not MIN_MEMORY <= self.memory_limit <= MAX_MEMORY:
            raise UsageError(f"--memory-limit {self.memory_limit}: give {MIN_MEMORY} to {MAX_MEMORY} MiB.")
        self.failures_allowed(100)
        self.retry_verdicts()

    def failures_allowed(self, videos: int) -> int:
        """How many of ``videos`` may fail before the exit code says so."""
        number = re.fullmatch(r"[0-9]{1,12}", self.max_failed)
        share = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,12})?)%", self.max_failed)
        if number:
            return int(number[0])
        if share and Fraction(share[1]) <= 100:
            return int(Fraction(share[1]) * videos / 100)
        raise UsageError(f"--max-failed {self.max_failed!r}: give a number like 3 or a share like 1%.")

    def retry_verdicts(self) -> frozenset[Verdict]:
        """The verdicts named by ``retry_status``."""
        names = [name.strip() for name in self.retry_status.split(",") if name.strip()]
        known = [str(verdict) for verdict in Verdict if verdict is not Verdict.OK]
        for name in names:
            if name not in known:
                raise UsageError(f"--retry-status {name}: no such verdict.{did_you_mean(name, known)}")
        return frozenset(Verdict(name) for name in names)


@dataclass(frozen=True)
class ClusterConfig:
    """Where the tasks run, if not on this machine alone; none of it changes a stored byte."""

    executor: str = setting(
        "dask", "dask: this machine, or the cluster of a scheduler; batch: one task of a job array.", choices=EXECUTORS
    )
    scheduler: str = setting("", "Address of a Dask scheduler, for example tls://node1:8786.", metavar="ADDRESS")
    scheduler_file: str = setting("", "File in which a Dask scheduler has written its address.", metavar="PATH")
    tls_ca_file: str = setting("", "Certificate of the authority that signed the cluster's, as PEM.", metavar="PATH")
    tls_cert: str = setting("", "Own certificate for the cluster, as PEM.", metavar="PATH")
    tls_key: str = setting("", "Private key of that certificate, as PEM.", metavar="PATH")
    insecure: bool = setting(False, "Use a scheduler on another machine without TLS: only in a network you trust.")
    task: str = setting("", "Batch: which task of how many, from 0, as 3/100; default: the array's.", metavar="I/N")

    def __post_init__(self) -> None:
        tls = [self.tls_ca_file, self.tls_cert, self.tls_key]
        if self.scheduler and self.scheduler_file:
            raise UsageError("--scheduler and --scheduler-file exclude each other: give one of them.")
        if self.executor == "batch" and self.remote:
            raise UsageError("--executor batch knows no scheduler: leave --scheduler and --scheduler-file out.")
        if (any(tls) or self.insecure) and not self.remote:
            raise UsageError("--tls-... and --insecure are for a cluster: add --scheduler or --scheduler-file.")
        if any(tls) and not all(tls):
            raise UsageError("TLS needs --tls-ca-file, --tls-cert and --tls-key together.")
        if self.task and self.executor != "batch":
            raise UsageError(f"--task {self.task} is for a job array: add --executor batch.")

    @property
    def remote(self) -> bool:
        """Whether the tasks run on a cluster that somebody started."""
        return bool(self.scheduler or self.scheduler_file)


@dataclass(frozen=True)
class ExtractConfig:
    """One extraction, as a pipeline file or the command line describes it."""

    source: SourceConfig = field(default_factory=SourceConfig)
    output: str = field(default="", metadata={"help": "Dataset to write, a folder named like ucf101.zarr."})
    video: VideoConfig = field(default_factory=VideoConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    run: RunConfig = field(default_factory=RunConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(frozen=True)
class Settings:
    """What shapes the stored numbers, complete: every parameter of the method, the backend and its version named."""

    video: VideoConfig
    flow: FlowConfig
    storage: StorageConfig
    engine: str  # the library that computes the flow, with its version: "opencv 5.0.0"

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Settings:
        """What :meth:`to_json` gave; UsageError or KeyError for anything else."""
        return cls(
            from_mapping(VideoConfig, data["video"], "settings", "video."),
            from_mapping(FlowConfig, data["flow"], "settings", "flow."),
            from_mapping(StorageConfig, data["storage"], "settings", "storage."),
            checked(data["engine"], str, (), "settings: engine"),
        )

    def fingerprint(self) -> str:
        """sha256 (hex) of all that shapes the numbers: of everything but the limits, which only turn videos away."""
        tree = self.to_json()
        return fingerprint({**tree, "video": {key: value for key, value in tree["video"].items() if key not in LIMITS}})

    def differences(self, other: Settings) -> list[str]:
        """``"flow.parameters.warps: 5 -> 10"`` for every value of ``self`` that ``other`` has changed."""
        mine, theirs = _flatten(self.to_json()), _flatten(other.to_json())
        keys = sorted((mine.keys() | theirs.keys()) - {f"video.{key}" for key in LIMITS})
        if self.flow.method != other.flow.method:  # then all parameters differ, which says nothing
            keys = [key for key in keys if not key.startswith("flow.parameters.")]
        return [
            f"{key}: {mine.get(key, 'unset')} -> {theirs.get(key, 'unset')}"
            for key in keys
            if mine.get(key) != theirs.get(key)
        ]


def fingerprint(tree: dict[str, Any]) -> str:
    """sha256 (hex) of a JSON tree, whatever the order of its keys."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _scaled(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side at ``short_side`` px, aspect kept; unchanged for 0."""
    if not short_side:
        return height, width
    scale = Fraction(short_side, min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read_pipeline(path: Path) -> dict[str, Any]:
    """The mapping in a pipeline file, checked as :func:`build` does, without its empty sections.

    Raises UsageError naming the file, and the line where YAML knows it.
    """
    import yaml

    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: not a file.")
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a day like 2000-13-01
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UsageError(
            f"{path}: a pipeline file is a mapping with the keys source, output, video, flow, storage, run, cluster."
        )
    build(tree, str(path))
    return {key: value for key, value in tree.items() if value is not None}


def build(tree: dict[str, Any], where: str) -> ExtractConfig:
    """Check a mapping key by key and make the configuration of it; ``where`` names its origin in errors."""
    return from_mapping(ExtractConfig, tree, where)
