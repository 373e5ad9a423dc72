"""How fast are our TV-L1 and Brox on one core, beside OpenCV's TV-L1, beside the processor's peak, and how accurate?

    python -m benchmarks.flow_cpu VIDEO... [--pairs 12] [--rounds 3] [--middlebury FOLDER] [--json flow_cpu.json]

The pairs of consecutive frames lie evenly over the videos (files or folders of them), at the videos' own sizes. A time
of ours is what one more field costs in the middle of a clip: the field before it is computed first and not counted;
preparing the next frame and solving are counted. Workspace and machine code are there already. OpenCV keeps nothing
from pair to pair, so its time is that of the pair. All take turns on each pair, OpenCV first in one round and last in
the next, and of the rounds the quickest counts; ratios are taken pair by pair. Times are wall times; where processor
time gives a median ratio that differs by more than 3%, that is said.

The arithmetic floor is the time that the iterations alone would take at the peak rate of multiply-adds, by operations
counted in the formulae: no pyramid, no warps, no medians, no memory. Sweeps of Brox that stop by themselves are not
counted, so that preset ipol has no floor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import processor
from flowprep import flow
from flowprep.annotations.scan import is_video
from flowprep.config import StorageConfig, VideoConfig
from flowprep.errors import UsageError
from flowprep.flow.cpu.brox import BroxSolver
from flowprep.flow.cpu.tvl1 import TVL1Solver
from flowprep.flow.files import read_flo
from flowprep.flow.metrics import mean_aae, mean_epe
from flowprep.opencv import load
from flowprep.video import VideoReader

SOLVERS: dict[str, type[TVL1Solver] | type[BroxSolver]] = {"tvl1": TVL1Solver, "brox": BroxSolver}
OURS = {
    f"{method} {preset}": (method, preset)
    for method, presets in (
        ("tvl1", ("opencv", "opencv-cuda", "ipol")),
        ("brox", ("opencv-cuda", "opencv-default", "ipol")),
    )
    for preset in presets
}
OPENCV = "cv2 tvl1"
SAME = "tvl1 opencv"  # ours that does what OpenCV does

TVL1_ITERATION = 50  # operations a pixel
BROX_SWEEP, BROX_WEIGHTS = 28, 120  # of over-relaxation; of one inner iteration's set-up
WORTH_SAYING = 0.03  # between ratios of wall and of processor time

Clip = NDArray[np.uint8]  # (3, H, W): the frame before the pair, and the pair


class Timed(NamedTuple):
    wall: float  # s
    cpu: float  # s
    field: NDArray[np.float32]


def timed(work: Callable[[], NDArray[np.float32]]) -> Timed:
    wall, cpu = time.perf_counter(), time.thread_time()
    field = work()
    return Timed(time.perf_counter() - wall, time.thread_time() - cpu, field)


class OpenCVField:
    def __init__(self, clip: Clip) -> None:
        self.pair = clip[1:]
        self.algorithm = flow.get("tvl1", "opencv")

    def __call__(self) -> Timed:
        return timed(lambda: self.algorithm.flow(self.pair)[0])


class OurField:
    def __init__(self, clip: Clip, method: str, preset: str) -> None:
        self.clip = clip
        algorithm: Any = flow.get(method, "cpu", preset=preset)
        algorithm.warm()
        self.solver: Any = SOLVERS[method](algorithm.parameters, *clip.shape[1:])
        self.frames = [self.solver.frame(), self.solver.frame()]

    def __call__(self) -> Timed:
        solver, (first, second) = self.solver, self.frames
        solver.prepare(self.clip[0], first)
        solver.prepare(self.clip[1], second)
        solver.solve(first, second, np.empty((2, *self.clip.shape[1:]), np.float32))

        def one_more() -> NDArray[np.float32]:
            field = np.empty((2, *self.clip.shape[1:]), np.float32)
            solver.prepare(self.clip[2], first)
            solver.solve(second, first, field)
            return field

        return timed(one_more)

    def operations(self) -> float | None:
        """What the iterations of the last field took, or None where they were not counted."""
        solver = self.solver
        if isinstance(solver, TVL1Solver):
            return TVL1_ITERATION * solver.iterations
        p = solver.parameters
        if p.tolerance > 0:
            return None
        weighed = p.warps * p.inner_iterations * sum(level.pixels for level in solver.pyramid.levels)
        return float(weighed * (BROX_WEIGHTS + p.solver_iterations * BROX_SWEEP))


def clips(videos: list[Path], pairs: int) -> list[tuple[str, int, Clip]]:
    """(file, first frame of the pair, the clip) of each of ``pairs`` pairs spread evenly over the videos."""
    files = [path for item in videos for path in (sorted(item.rglob("*")) if item.is_dir() else [item])]
    files = [path for path in files if path in videos or (path.is_file() and is_video(path.name))]
    if not files:
        raise UsageError(f"no videos below {', '.join(map(str, videos))}")
    found = []
    for i in range(pairs):
        file, place = divmod((i + 0.5) / pairs * len(files), 1)
        reader = VideoReader(files[int(file)], VideoConfig(), StorageConfig(rgb=False))
        grey = np.concatenate([block.grey for block in reader.blocks()])
        if len(grey) < 3:
            raise UsageError(f"{reader.path}: {len(grey)} frames; a pair and a frame before it take 3")
        t = int(place * (len(grey) - 2))
        found.append((reader.path.name, t + 1, np.ascontiguousarray(grey[t : t + 3])))
    return found


def measure_pair(clip: Clip, rounds: int) -> dict[str, Any]:
    """Times in ms by way, the quickest of the rounds; operations by way; differences in px; peak in FLOP/s.

    The differences: of ours to OpenCV, and of OpenCV to itself when the frames are disturbed.
    """
    ours = {way: OurField(clip, *names) for way, names in OURS.items()}
    takes: list[tuple[str, Callable[[], Timed]]] = [(OPENCV, OpenCVField(clip)), *ours.items()]
    results: dict[str, list[Timed]] = {way: [] for way, _ in takes}
    peaks = []
    for _ in range(rounds):
        for way, take in takes:
            results[way].append(take())
        peaks.append(processor.peak_flops())
        takes.reverse()
    return {
        "wall_ms": {way: 1e3 * min(item.wall for item in items) for way, items in results.items()},
        "cpu_ms": {way: 1e3 * min(item.cpu for item in items) for way, items in results.items()},
        "operations": {way: count for way, item in ours.items() if (count := item.operations()) is not None},
        "difference": mean_epe(results[SAME][-1].field, results[OPENCV][-1].field),
        "itself": mean_epe(flow.get("tvl1", "opencv").flow(disturbed(clip[1:]))[0], results[OPENCV][-1].field),
        "peak": max(peaks),
    }


def disturbed(pair: Clip) -> NDArray[np.float32]:
    """The same frames, every pixel changed by at most a thousandth of a grey level: roundings, as it were."""
    noise = np.random.default_rng(0).uniform(-1e-3, 1e-3, pair.shape)
    return (pair + noise).clip(0, 255).astype(np.float32)


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {"median": float(middle), "p10": float(low), "p90": float(high)}


def speed(pairs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By way: ms a field, and how many times quicker than OpenCV, by wall and by processor time."""
    return {
        way: {
            "ms": spread([pair["wall_ms"][way] for pair in pairs]),
            "ratio": spread([pair["wall_ms"][OPENCV] / pair["wall_ms"][way] for pair in pairs]),
            "cpu_ratio": spread([pair["cpu_ms"][OPENCV] / pair["cpu_ms"][way] for pair in pairs]),
        }
        for way in (OPENCV, *OURS)
    }


def floors(pairs: list[dict[str, Any]], peak: float) -> dict[str, dict[str, float]]:
    """By way: billion operations, ms that they take at the peak, and that as a share of the measured time; medians."""
    rows = {}
    for way in pairs[0]["operations"]:
        counts = [pair["operations"][way] for pair in pairs]
        shares = [1e3 * count / peak / pair["wall_ms"][way] for count, pair in zip(counts, pairs, strict=True)]
        middle = statistics.median(counts)
        rows[way] = {"gflop": middle / 1e9, "floor_ms": 1e3 * middle / peak, "share": statistics.median(shares)}
    return rows


def accuracy(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """By way and sequence: mean end-point error in px and angular error in degrees, over pixels of known truth."""
    algorithms = {OPENCV: flow.get("tvl1", "opencv")}
    algorithms |= {way: flow.get(method, "cpu", preset=preset) for way, (method, preset) in OURS.items()}
    rows: dict[str, dict[str, dict[str, float]]] = {way: {} for way in algorithms}
    truths = sorted(folder.rglob("flow10.flo"))
    if not truths:
        raise UsageError(f"{folder}: no sequences with frame10.png, frame11.png and flow10.flo below it")
    for path in truths:
        truth = read_flo(path)
        frames = np.stack([grey(path.with_name(f"frame{number}.png")) for number in (10, 11)])
        for way, algorithm in algorithms.items():
            field = algorithm.flow(frames)[0]
            rows[way][path.parent.name] = {"epe": mean_epe(field, truth), "aae": mean_aae(field, truth)}
    return rows


def grey(path: Path) -> NDArray[np.uint8]:
    cv2 = load()
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UsageError(f"{path}: not an image that OpenCV reads")
    levels: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return levels


def measure(options: argparse.Namespace) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    chosen = clips(options.videos, options.pairs)
    pairs = []
    for name, frame, clip in chosen:
        size = {"height": clip.shape[1], "width": clip.shape[2]}
        pairs.append({"video": name, "frame": frame, **size, **measure_pair(clip, options.rounds)})
    peak = max(pair["peak"] for pair in pairs)
    differences = [pair["difference"] for pair in pairs]
    load_between = os.getloadavg()[0]
    return {
        "processor": {**processor.facts(), "load": load_before, "peak_gflops": peak / 1e9},
        "speed": speed(pairs),
        "difference": {"mean": statistics.fmean(differences), "max": max(differences)},
        "itself": statistics.fmean(pair["itself"] for pair in pairs),
        "floor": floors(pairs, peak),
        "accuracy": accuracy(options.middlebury) if options.middlebury else {},
        "scaling": {
            "load": load_between,
            **processor.scaling(chosen[len(chosen) // 2][2], options.seconds, options.rounds),
        },
        "pairs": pairs,
    }


def show(result: dict[str, Any]) -> None:
    facts, pairs = result["processor"], result["pairs"]
    sizes = sorted({f"{pair['width']}x{pair['height']}" for pair in pairs})
    print(f"{facts['cpu']}, {facts['lanes']} lanes, {facts['cores']} cores, load {facts['load']:.1f} before")
    print(f"{facts['flowprep']}, {facts['opencv']}, numba {facts['numba']}")
    print(f"{len(pairs)} pairs of {', '.join(sizes)}; {facts['peak_gflops']:.0f} GFLOP/s at most on one core\n")
    print("| way | ms a field, median (p10-p90) | times as quick as cv2, median (p10-p90) | floor, ms | share of it |")
    print("|---|---|---|---|---|")
    for way, row in result["speed"].items():
        floor = result["floor"].get(way)
        last = f"{floor['floor_ms']:.2f} | {floor['share']:.0%}" if floor else "|"
        print(f"| {way} | {ranged(row['ms'], '.1f')} | {ranged(row['ratio'], '.1f')} | {last} |")
    print()
    for way, row in result["speed"].items():
        wall, cpu = row["ratio"]["median"], row["cpu_ratio"]["median"]
        if abs(cpu / wall - 1) > WORTH_SAYING:
            print(f"by processor time {way} is {ranged(row['cpu_ratio'], '.1f')} times as quick")
    difference = result["difference"]
    print(f"{SAME} differs from {OPENCV} by {difference['mean']:.4f} px on average, {difference['max']:.4f} at most;")
    print(f"{OPENCV} from itself by {result['itself']:.4f} px where grey levels change by a thousandth\n")
    if result["accuracy"]:
        names = list(result["accuracy"][OPENCV])
        print(f"| EPE px / AAE degrees | {' | '.join(names)} | mean |")
        print("|---" * (len(names) + 2) + "|")
        for way, row in result["accuracy"].items():
            means = {error: statistics.fmean(item[error] for item in row.values()) for error in ("epe", "aae")}
            cells = [f"{item['epe']:.4f} / {item['aae']:.2f}" for item in (*row.values(), means)]
            print(f"| {way} | {' | '.join(cells)} |")
        print()
    two = result["scaling"]
    print(f"{two['one']:.1f} fields/s in one process, {two['two']:.1f} in two: {two['ratio']:.2f}x", end="")
    print(f" (load {two['load']:.1f} before, this process included)")


def ranged(row: dict[str, float], form: str) -> str:
    return f"{row['median']:{form}} ({row['p10']:{form}}-{row['p90']:{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("videos", nargs="+", type=Path, help="files, or folders of them")
    parser.add_argument("--pairs", type=int, default=12, help="frame pairs in all")
    parser.add_argument("--rounds", type=int, default=3, help="of which the quickest counts")
    parser.add_argument("--middlebury", type=Path, help="folder of sequences with ground truth")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement with one and with two processes")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    result = measure(options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
