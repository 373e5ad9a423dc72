"""Plans and commit records of as many videos as one likes, without a single frame: what the bookkeeping costs.

``python -m tests.scale STEP OUT VIDEOS`` does one step in a process of its own and prints its cost as JSON. The videos
lie beside OUT, sparse files of a length and without content.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from flowprep.config import ExtractConfig, FlowConfig, Settings, SourceConfig, StorageConfig, VideoConfig
from flowprep.errors import Verdict
from flowprep.plan import Shard, estimate, make_plan
from flowprep.run import driver, product
from flowprep.shard import pending
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import Commit, state_of
from flowprep.store.digest import make_digest, write_digest
from flowprep.store.plans import planned_videos, read_plans, write_plan
from flowprep.store.status import status
from flowprep.types import LedgerRow, Placement, Probe, StoredFile, Video

CLASSES = 400
PER_SHARD = 64  # videos
PROBE = Probe(width=340, height=256, frames=120, fps=25.0)
SETTINGS = Settings(
    VideoConfig(),
    FlowConfig("dis", "opencv", "forward", {"preset": "medium"}),
    StorageConfig(),
    "opencv, whichever",
)


def source_of(out: Path) -> Path:
    return out.with_suffix(".videos")


def video_of(number: int) -> Video:
    label = f"class {number % CLASSES:03d}"
    return Video(f"{label}/the_name_of_a_video_{number:06d}.mp4", label, size=10**6 + number)


def films(out: Path, videos: int) -> None:
    """The source: files that have a size and take no room."""
    folder = source_of(out)
    for number in range(videos):
        video = video_of(number)
        if number < CLASSES:
            (folder / video.label).mkdir(parents=True)
        handle = os.open(folder / video.id, os.O_CREAT | os.O_WRONLY)
        os.ftruncate(handle, video.size)
        os.close(handle)


def make(out: Path, videos: int) -> None:
    """Plan, write, read."""
    found = [(video, estimate(video, PROBE, SETTINGS)) for video in map(video_of, range(videos))]
    # A shard gets 240 s of work where there is a lot of it, less where there is little.
    plan = make_plan(found, SETTINGS, str(source_of(out)), seconds=lambda _: 240 / PER_SHARD)
    assert write_plan(LocalStore(out), plan)
    assert len(planned_videos(read_plans(LocalStore(out)))) == videos


def finish(out: Path, _videos: int) -> None:
    """Commit every shard, with files of one byte, and write what the last one's run ends with."""
    store = LocalStore(out)
    (plan,) = read_plans(store)
    (out / layout.COMMITS).mkdir()
    commits = []
    for number, shard in enumerate(plan.shards):
        commit = Commit(
            generation=0,
            shard=number,
            settings_fingerprint=SETTINGS.fingerprint(),
            files=tuple(write_file(out, key) for key in keys_of(shard)),
            rows=tuple(row_of(video, shard, i) for i, video in enumerate(shard.videos)),
            attempt="d" * 32,
            host=f"node-{number % 20}",
            seconds=240.0,
            versions={"flowprep": "0"},
            finished=time.time() - 12.0 * (len(plan.shards) - number),
        )
        commits.append(commit)
        (out / layout.commit_key(0, number)).write_bytes(commit.to_bytes())
    state = {"attributes": {"flowprep": {"state": state_of(1, len(plan.shards))}}}
    (out / "zarr.json").write_text(json.dumps(state))
    write_digest(store, make_digest(store, 1, commits))


def keys_of(shard: Shard) -> list[str]:
    """All block files that the plan foresees for ``shard``."""
    keys = []
    for array, run in shard.blocks.items():
        for block in range(run.first, run.first + run.count):
            keys.append(layout.shard_key(array, block))
            if array.startswith("flow"):
                name = layout.ArrayName.parse(array)
                keys += [layout.side_key(name, side, block) for side in name.sides]
    return keys


def write_file(out: Path, key: str) -> StoredFile:
    path = out / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return StoredFile(key, 1, "a" * 64)


def row_of(video: Video, shard: Shard, i: int) -> LedgerRow:
    (flow, frames) = sorted(shard.blocks)
    return LedgerRow(
        id=video.id,
        verdict=Verdict.OK,
        sha256="b" * 64,
        width=PROBE.width,
        height=PROBE.height,
        fps=PROBE.fps,
        frames_declared=PROBE.frames,
        frames_decoded=PROBE.frames,
        flow=Placement(flow, shard.blocks[flow].first * 2048 + i * 119, 119),
        frames=Placement(frames, shard.blocks[frames].first * 2048 + i * 120, 120),
        flow_bytes=1_234_567,
        frames_bytes=2_345_678,
        added_epe=0.0123456789,
        added_epe_max=1.23456789,
        sampled_fields=8,
        content_sha256="c" * 64,
        seconds={"decode": 1.2345, "flow": 23.4567, "encode": 0.9876},
    )


def resume(out: Path, videos: int) -> None:
    """The same ``flowprep extract`` again, from the list of the source to the summary."""
    config = ExtractConfig(SourceConfig(str(source_of(out))), str(out), flow=SETTINGS.flow)
    with patch.object(product, "_resolve", lambda _, **__: (SETTINGS, "")):  # an engine of any version
        summary = driver.Extraction(config, quiet=True).run()
    assert (summary.verdicts, summary.shards_run, summary.exit_code) == ({"ok": videos}, 0, 0)


def say_status(out: Path, videos: int) -> None:
    """What ``flowprep status`` does."""
    found = status(LocalStore(out))
    assert found.complete and found.videos_done == videos


def decide(out: Path, _videos: int) -> float:
    """Seconds from a plan in memory to the list of its pending shards."""
    (plan,) = read_plans(LocalStore(out))
    return cost(lambda: pending(LocalStore(out), plan))


def cost(work: Callable[[], object]) -> float:
    """CPU seconds, which a busy machine does not stretch as it does wall time."""
    started = time.process_time()
    work()
    return time.process_time() - started


STEPS = {"films": films, "make": make, "finish": finish, "resume": resume, "status": say_status}


def main() -> None:
    step, out, videos = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    started = time.monotonic()
    spent = decide(out, videos) if step == "decide" else cost(lambda: STEPS[step](out, videos))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump({"cpu": spent, "wall": time.monotonic() - started, "rss": peak}, sys.stdout)


if __name__ == "__main__":
    main()
