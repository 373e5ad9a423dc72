"""Array metadata and the ``videos`` table, made from the commit records: what plain Zarr readers see.

Everything here is derived, so it may be made again at any time, by anyone, and comes out the same.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, TransposeCodec
from zarr.storage import LocalStore as ZarrStore

from flowprep.config import Settings
from flowprep.plan import BLOCK, Plan
from flowprep.store import layout
from flowprep.store.blobs import LocalStore, store_error
from flowprep.store.commits import Commit, rows_in_force, state_of
from flowprep.store.layout import ArrayName
from flowprep.store.plans import planned_videos
from flowprep.store.zarr_codec import Jpeg, encoding
from flowprep.types import SPLITS

DIMENSIONS = {
    "flow": ("field", "component", "y", "x"),
    "flow_backward": ("field", "component", "y", "x"),
    "frames": ("frame", "colour", "y", "x"),
    "stack": ("stack", "channel", "y", "x"),
}
FRAMES: dict[str, Any] = {
    "dtype": "uint8",
    "filters": [TransposeCodec(order=(0, 2, 3, 1))],
    "serializer": Jpeg(),
    "compressors": [Crc32cCodec()],
    "fill_value": 0,
}
SIDE_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "scale": {"unit": "px per level"},
    "zero": {"unit": "level that stands for 0 px"},
    "stats": {"unit": "px", "statistic": ["mean", "minimum", "maximum"], "of": "the original float32 values"},
    "mean": {"unit": "px", "of": "the original float32 field that each channel was taken from, at the stored size"},
    "frame": {"unit": "number of a frame of the video, from 0", "of": "the stack"},
}


def finalise(store: LocalStore, plans: list[Plan], commits: list[Commit]) -> None:
    """Write all ``zarr.json`` files and the videos table; readers see the old state or the new one, file by file."""
    with store.scratch() as folder:
        try:
            _write_metadata(folder, plans, commits)
        except OSError as error:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Zarr's other tasks failed alike: once is enough
            raise store_error(folder, error) from error
        made = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        for key in sorted(made, key=lambda key: (key == "zarr.json", key)):  # the root last: it names the others
            store.replace(key, folder / key)


def _write_metadata(folder: Path, plans: list[Plan], commits: list[Commit]) -> None:
    """A group without chunks, but for the videos table, in an empty ``folder``."""
    target = ZarrStore(folder)
    root = zarr.create_group(target, attributes=_root_attributes(plans, commits), overwrite=True)
    for name, rows in array_lengths(commits).items():
        _create_array(root, ArrayName.parse(name), rows, plans[-1].settings)
    _create_videos(root, video_columns(plans, commits))
    with warnings.catch_warnings():
        # Consolidated metadata is a convention of zarr-python, xarray and GDAL, not yet in the text of Zarr v3.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(target)


def metadata_faults(store: LocalStore, plans: list[Plan], commits: list[Commit]) -> Iterator[str]:
    """What plain Zarr readers would see that is not what the commit records say, a sentence each."""
    again = f"delete {store.path('zarr.json')} and run the command that made the dataset again: it is made anew."
    try:
        for consolidated in (True, False):
            root: Any = zarr.open_group(ZarrStore(store.root), mode="r", use_consolidated=consolidated)
            wanted = array_lengths(commits)
            wanted |= {f"{name}_{side}": n for name, n in wanted.items() for side in ArrayName.parse(name).sides}
            for name, length in wanted.items():
                if root[name].shape[0] != length:
                    yield f"{name} has {root[name].shape[0]} rows in the metadata, not {length}; {again}"
            for name, values in video_columns(plans, commits).items():
                if np.asarray(root["videos"][name][:]).tolist() != values.tolist():
                    yield f"videos/{name} is not what the commit records say; {again}"
    except Exception as error:  # noqa: BLE001 - Zarr has no base class for what it says to damage
        yield f"the Zarr metadata is damaged ({type(error).__name__}: {error}); {again}"


def array_lengths(commits: Iterable[Commit]) -> dict[str, int]:
    """Rows of every data array: up to the end of the last committed block."""
    lengths: dict[str, int] = {}
    for commit in commits:
        for item in commit.files:
            array, side, block = layout.parse_block_key(item.key)
            if not side:
                lengths[str(array)] = max(lengths.get(str(array), 0), (block + 1) * BLOCK)
    return dict(sorted(lengths.items()))


def _root_attributes(plans: list[Plan], commits: list[Commit]) -> dict[str, Any]:
    settings = plans[-1].settings
    versions = commits[-1].versions if commits else {}
    return {
        "flowprep": {
            "state": state_of(len(plans), len(commits)),
            "settings": settings.to_json(),
            "settings_fingerprint": settings.fingerprint(),
            "versions": versions,
            "conventions": {
                "flow": "channel 0 = u, +x right; channel 1 = v, +y down; pixels per frame step at the stored size",
                "flow_backward": "row i leads from frame i+1 to frame i",
                "pixels": "v = (level - zero) * scale, with scale and zero of the same row and channel",
                "grey": "full-range BT.601 luma",
                "resize": "frames before flow: area average where they shrink, bicubic where they grow",
                "stack": "channels u1, v1, u2, v2, ...; scale, zero and stats are of all u and of all v of a stack",
                "empty rows": "rows that no video owns are not stored and read as the fill value",
            },
        }
    }


def _create_array(root: zarr.Group, name: ArrayName, rows: int, settings: Settings) -> None:
    """The metadata of one data array and of its side arrays; their chunks are already there."""
    shape = (rows, *name.row_shape())
    # The JPEG codec takes frames with the channels last.
    coding = FRAMES if name.is_rgb else encoding(settings.storage)
    root.create_array(
        str(name),
        shape=shape,
        chunks=(1, *shape[1:]),
        shards=(BLOCK, *shape[1:]),
        dimension_names=DIMENSIONS[name.kind],
        attributes={"colour": "RGB"} if name.is_rgb else _flow_attributes(name, settings),
        **coding,
    )
    for side, (side_shape, dtype) in name.sides.items():
        root.create_array(
            f"{name}_{side}",
            shape=(rows, *side_shape),
            chunks=(BLOCK, *side_shape),
            dtype=dtype,
            serializer=BytesCodec(endian="little"),
            fill_value=0,
            dimension_names=_side_dimensions(name, side),
            attributes=SIDE_ATTRIBUTES[side],
            compressors=[Crc32cCodec()],
        )


def _side_dimensions(name: ArrayName, side: str) -> tuple[str, ...]:
    row, channels = DIMENSIONS[name.kind][:2]
    return {"frame": (row,), "mean": (row, channels), "stats": (row, "component", "statistic")}.get(
        side, (row, "component")
    )


def _flow_attributes(name: ArrayName, settings: Settings) -> dict[str, Any]:
    made = {
        "pixels": f"(level - {name}_zero) * {name}_scale",
        "method": settings.flow.method,
        "backend": settings.flow.backend,
    }
    if name.kind == "stack":
        return {"channel": "u1, v1, u2, v2, ...: even ones are u, odd ones v, in scale and zero", **made}
    return {
        "component": ["u", "v"],
        "direction": "backward" if name.kind == "flow_backward" else "forward",
        **made,
    }


def video_columns(plans: list[Plan], commits: list[Commit]) -> dict[str, np.ndarray[Any, Any]]:
    """The ``videos`` table: a column an array, a row for each planned video with an outcome, sorted by id."""
    planned = planned_videos(plans)
    table = [(planned[id], row) for id, row in rows_in_force(commits).items() if id in planned]
    return {
        "id": _text(video.id for video, _ in table),
        "label": _text(video.label for video, _ in table),
        **{f"split{k + 1}": _text(video.splits[k] for video, _ in table) for k in range(SPLITS)},
        "status": _text(str(row.verdict) for _, row in table),
        "reason": _text(row.reason for _, row in table),
        "array": _text(row.flow.array if row.flow else "" for _, row in table),
        "start": _integers(row.flow.start if row.flow else -1 for _, row in table),
        "length": _integers(row.flow.length if row.flow else 0 for _, row in table),
        "frames_array": _text(row.frames.array if row.frames else "" for _, row in table),
        "frames_start": _integers(row.frames.start if row.frames else -1 for _, row in table),
        "frames_length": _integers(row.frames.length if row.frames else 0 for _, row in table),
        "width": _integers(row.width for _, row in table),
        "height": _integers(row.height for _, row in table),
        "fps": np.array([row.fps for _, row in table], np.float64),
        "sha256": _text(row.sha256 for _, row in table),
    }


def _create_videos(root: zarr.Group, columns: dict[str, np.ndarray[Any, Any]]) -> None:
    videos = root.create_group("videos", attributes={"rows": "one for each planned video, sorted by id"})
    for name, values in columns.items():
        text = values.dtype == object
        array = videos.create_array(
            name,
            shape=values.shape,
            chunks=(max(1, len(values)),),
            dtype=str if text else values.dtype,
            dimension_names=("video",),
            compressors=None if not text else "auto",
            config={"write_empty_chunks": True},  # in place of what an earlier generation had to say
        )
        if len(values):
            array[:] = values


def _text(values: Iterable[str]) -> np.ndarray[Any, Any]:
    return np.array(list(values), dtype=object)


def _integers(values: Iterable[int]) -> np.ndarray[Any, Any]:
    return np.array(list(values), np.int64)
