"""How fast are our TV-L1 and Brox on a GPU, beside OpenCV CUDA's and our own on a core, and how far from each other?

    python -m benchmarks.flow_gpu VIDEO... [--batches 1,8,32,128] [--middlebury FOLDER] [--extract] [--json FILE]

One run, side by side, on the same frames: the first ones of each video, at its own size. A time on the GPU is that of a
batch, from frames in the host's memory to fields on the device, divided by its pairs; all ways take turns, and of the
rounds the quickest counts. OpenCV CUDA (where this OpenCV has it) takes pair after pair, uploads included; ours on the
processor takes the middle pair of the batch.

Ceilings are measured in the same run: a copy within the GPU's memory, and chains of multiply-adds. What TV-L1 needs at
least is counted from the iterations that the CPU engine takes for the same pair: 50 operations a pixel and iteration,
and for each launch of them reading ten planes and writing six.

--extract adds whole runs of ``flowprep extract`` over the videos, with fields a second and CPU seconds by stage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import stages
from benchmarks.arguments import positive, positives, source, target, told
from benchmarks.flow_cpu import TVL1_ITERATION, grey
from flowprep import flow
from flowprep.annotations.scan import is_video
from flowprep.config import StorageConfig, VideoConfig
from flowprep.errors import RefusedError, UsageError, VideoError
from flowprep.flow.cpu.tvl1 import TVL1Solver
from flowprep.flow.cuda import driver
from flowprep.flow.files import read_flo
from flowprep.flow.metrics import mean_epe
from flowprep.video import VideoReader

# What OpenCV CUDA computes, so that all three ways do the same; and what flowprep computes unless told otherwise.
SAME = {"tvl1": "opencv-cuda", "brox": "opencv-cuda"}
PRESETS = {"tvl1": ("opencv", "opencv-cuda"), "brox": ("opencv-cuda",)}
PLANES = 10 + 6  # of float32 that one launch of TV-L1's iterations reads and writes


def first_frames(videos: list[Path], count: int) -> dict[str, NDArray[np.uint8]]:
    """The first ``count`` grey frames (T, H, W) of each video that has so many."""
    files = [path for item in videos for path in (sorted(item.rglob("*")) if item.is_dir() else [item])]
    found: dict[str, NDArray[np.uint8]] = {}
    for path in files:
        if path not in videos and not (path.is_file() and is_video(path.name)):
            continue
        try:
            blocks = VideoReader(path, VideoConfig(), StorageConfig(rgb=False)).blocks()
            frames = np.concatenate([block.grey for block in blocks])
        except VideoError as error:
            raise UsageError(f"{path}: {error}") from None
        if len(frames) >= count:
            found[path.name] = np.ascontiguousarray(frames[:count])
    if not found:
        raise UsageError(f"no video of {count} frames or more below {', '.join(map(str, videos))}")
    return found


def algorithms(method: str, preset: str) -> dict[str, Any]:
    """Ways to compute it: on the GPU by our kernels, by OpenCV where it can, and on one core."""
    ways = {"cuda": flow.get(method, "cuda", preset=preset)}
    if preset == SAME[method]:
        try:
            ways["opencv-cuda"] = flow.get(method, "opencv-cuda")
        except RefusedError as error:
            print(f"without OpenCV CUDA: {error}", file=sys.stderr)
    ways["cpu"] = flow.get(method, "cpu", preset=preset)
    return ways


def pairs(count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    first = np.arange(count, dtype=np.int32)
    return first, first + np.int32(1)


def speed(method: str, preset: str, frames: NDArray[np.uint8], batches: list[int], rounds: int) -> dict[str, Any]:
    """ms a pair: of ours by size of batch, of the others; how far their fields are apart; TV-L1's least."""
    from benchmarks import gpu

    ways = algorithms(method, preset)
    ours, largest = ways["cuda"], max(batches)
    middle = frames[largest // 2 :][:2]
    times: dict[str, list[float]] = {way: [] for way in (*map(str, batches), *ways)}
    fields: dict[str, NDArray[np.float32]] = {}
    for _ in range(rounds + 1):  # the first one compiles, and warms up
        for batch in batches:
            part = frames[: batch + 1]
            times[str(batch)].append(gpu.seconds(lambda part=part, n=batch: ours.fields(part, *pairs(n))) / batch)
        for way, algorithm in ways.items():
            if way == "cuda":
                fields[way] = ours.flow(middle)[0]
                continue
            start = time.perf_counter()
            if way == "cpu":
                fields[way] = algorithm.flow(middle)[0]
                times[way].append(time.perf_counter() - start)
            else:
                fields[way] = algorithm.flow(frames[: largest + 1])[largest // 2]
                times[way].append((time.perf_counter() - start) / largest)
    quickest = {way: 1e3 * min(items[1:]) for way, items in times.items() if items}
    return {
        "ms": quickest,
        "differences": {way: mean_epe(field, fields["cuda"]) for way, field in fields.items() if way != "cuda"},
        "least": least(ways["cpu"], middle) if method == "tvl1" else {},
    }


def least(algorithm: Any, pair: NDArray[np.uint8]) -> dict[str, float]:
    """Operations, and bytes to and from memory, that the iterations of one pair of frames take."""
    from flowprep.flow.cuda.tile import HALO

    solver = TVL1Solver(algorithm.parameters, *pair.shape[1:])
    first, second = solver.frame(), solver.frame()
    solver.prepare(pair[0], first)
    solver.prepare(pair[1], second)
    solver.solve(first, second, np.empty((2, *pair.shape[1:]), np.float32))
    return {"flop": TVL1_ITERATION * solver.iterations, "bytes": 4 * PLANES * solver.iterations / HALO}


def accuracy(folder: Path) -> dict[str, dict[str, float]]:
    """Mean end-point error in px against the ground truth, by method and way: mean over the sequences."""
    rows: dict[str, dict[str, list[float]]] = {}
    for path in sorted(folder.rglob("flow10.flo")):
        frames = np.stack([grey(path.with_name(f"frame{number}.png")) for number in (10, 11)])
        for method, preset in SAME.items():
            for way, algorithm in algorithms(method, preset).items():
                error = mean_epe(algorithm.flow(frames)[0], read_flo(path))
                rows.setdefault(f"{method} {preset}", {}).setdefault(way, []).append(error)
    return {name: {way: statistics.fmean(errors) for way, errors in row.items()} for name, row in rows.items()}


def extraction(videos: list[Path], backend: str) -> dict[str, Any]:
    """One run of ``flowprep extract`` over the first of ``videos``, a folder: fields a second, CPU seconds by stage."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.zarr"
        command = [*stages.COMMAND, "extract", str(videos[0]), str(out), "--backend", backend, "--quiet"]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        wall = time.perf_counter() - start
        found: dict[str, float] = {}
        fields = 0
        for path in (out / ".flowprep/commits").iterdir():
            for row in json.loads(path.read_bytes())["rows"]:
                fields += row["flow"]["length"] if row["flow"] else 0
                for stage, seconds in row["seconds"].items():
                    found[stage] = found.get(stage, 0.0) + seconds
    return {"fields": fields, "fields_a_second": fields / wall, "stages": found}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Raises RefusedError where the kernels cannot run, UsageError where there is nothing to measure with."""
    if reason := driver.unavailable():
        raise RefusedError(reason)
    if options.middlebury and not any(options.middlebury.rglob("flow10.flo")):
        raise UsageError(f"--middlebury {options.middlebury}: no sequence with flow10.flo in that folder.")
    if options.extract and not options.videos[0].is_dir():
        raise UsageError(f"--extract takes a folder of videos, which is named first; {options.videos[0]} is none.")
    from benchmarks import gpu

    clips = first_frames(options.videos, max(options.batches) + 1)
    bandwidth, flops = gpu.bandwidth(), gpu.peak_flops()
    rows = {
        f"{method} {preset}": {
            name: speed(method, preset, frames, options.batches, options.rounds) for name, frames in clips.items()
        }
        for method, presets in PRESETS.items()
        for preset in presets
    }
    return {
        "gpu": {**gpu.facts(), "bytes_a_second": bandwidth, "flops": flops},
        "sizes": {name: f"{frames.shape[2]}x{frames.shape[1]}" for name, frames in clips.items()},
        "speed": rows,
        "accuracy": accuracy(options.middlebury) if options.middlebury else {},
        "extract": {way: extraction(options.videos, way) for way in ("cuda", "cpu")} if options.extract else {},
    }


def show(result: dict[str, Any]) -> None:
    from benchmarks import gpu

    facts = result["gpu"]
    gpu.show(facts)
    print(f"\n{len(result['sizes'])} videos of {', '.join(sorted(set(result['sizes'].values())))}; medians over them\n")
    for name, clips in result["speed"].items():
        ways = list(next(iter(clips.values()))["ms"])
        middle = {way: statistics.median(clip["ms"][way] for clip in clips.values()) for way in ways}
        batches = [way for way in ways if way.isdecimal()]
        best = min(middle[batch] for batch in batches)
        print(f"**{name}**\n\n| pairs a batch | {' | '.join(batches)} |\n|---{'|---' * len(batches)}|")
        print(f"| ms a pair | {' | '.join(f'{middle[batch]:.3f}' for batch in batches)} |\n")
        for way in (way for way in ways if way not in batches):
            apart = statistics.median(clip["differences"][way] for clip in clips.values())
            print(f"{way}: {middle[way]:.2f} ms a pair, {middle[way] / best:.1f} times ours; {apart:.4f} px apart")
        counts = [clip["least"] for clip in clips.values() if clip["least"]]
        if counts:
            compute = statistics.median(1e3 * count["flop"] / facts["flops"] for count in counts)
            memory = statistics.median(1e3 * count["bytes"] / facts["bytes_a_second"] for count in counts)
            print(
                f"iterations alone take {compute:.3f} ms at the peak of arithmetic, {memory:.3f} ms at that of memory:"
            )
            print(f"{compute / best:.0%} and {memory / best:.0%} of the time")
        print()
    for name, row in result["accuracy"].items():
        print(f"{name}, EPE against the truth: {', '.join(f'{way} {error:.4f} px' for way, error in row.items())}")
    for way, row in result["extract"].items():
        spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row["stages"].items())
        print(f"flowprep extract --backend {way}: {row['fields_a_second']:.0f} fields/s; CPU seconds: {spent}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("videos", nargs="+", type=source, help="files, or folders of them")
    parser.add_argument("--batches", type=positives, default=[1, 2, 4, 8, 16, 32, 64, 128], help="pairs in a batch")
    parser.add_argument("--rounds", type=positive, default=3, help="of which the quickest counts")
    parser.add_argument("--middlebury", type=source, help="folder of sequences with ground truth")
    parser.add_argument("--extract", action="store_true", help="whole runs over the first of the videos, a folder")
    parser.add_argument("--json", type=target, help="write the figures there too")
    options = parser.parse_args()
    result = measure(options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    told(main)
