"""How many bytes does an error cost? Flow of real videos, stored flowprep's way and the paper's, at several qualities.

    python -m benchmarks.rate_distortion VIDEO... [--pairs 6] [--json rate_distortion.json]

The paper's way (Simonyan & Zisserman 2014, section 5): each component linearly rescaled from its own minimum and
maximum to [0, 255], one grey JPEG with ordinary tables for each of the two. End-point errors are in px against the
float32 TV-L1 flow; "mean" is over pixels, then over fields, p99 and worst likewise; times are medians on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowprep import flow
from flowprep.codecs import field_codec
from flowprep.config import StorageConfig, VideoConfig
from flowprep.opencv import load
from flowprep.quantise import dequantise, quantise
from flowprep.video import VideoReader

OURS = (70, 80, 85, 88, 90, 92, 94, 96, 98)
PAPERS = (80, 85, 88, 90, 92, 94, 95, 96, 97, 98)
LARGEST_SIDE = 340  # px: larger videos are reduced to this width before flow

Coder = Callable[[NDArray[np.float32]], tuple[int, NDArray[np.float32], float, float]]


def fields_of(path: Path, pairs: int, backend: str = "opencv") -> NDArray[np.float32]:
    """TV-L1 flow (n, 2, H, W) of ``pairs`` frame pairs spread evenly over the video."""
    reader = VideoReader(path, VideoConfig(short_side=0), StorageConfig(rgb=False))
    grey = np.concatenate([block.grey for block in reader.blocks()])
    if grey.shape[2] > LARGEST_SIDE:
        cv2 = load()
        size = (LARGEST_SIDE, round(grey.shape[1] * LARGEST_SIDE / grey.shape[2]))
        grey = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in grey])
    algorithm = flow.get("tvl1", backend)
    starts = np.linspace(0, len(grey) - 2, min(pairs, len(grey) - 1)).astype(int)
    return np.concatenate([algorithm.flow(grey[start : start + 2]) for start in starts])


def ours(storage: StorageConfig) -> Coder:
    """What flowprep stores with these settings."""
    codec = field_codec(storage)

    def code(field: NDArray[np.float32]) -> tuple[int, NDArray[np.float32], float, float]:
        start = time.perf_counter()
        quantised = quantise(field[None], storage)
        payload = codec.encode(quantised.levels[0], quantised.scale[0])
        middle = time.perf_counter()
        levels = codec.decode(payload, field.shape)
        back = dequantise(levels[None], quantised.scale, quantised.zero)[0]
        return len(payload), back, middle - start, time.perf_counter() - middle

    return code


def papers(quality: int) -> Coder:
    """The paper's way: two JPEG files, each component's minimum to 0 and maximum to 255, ordinary tables."""
    cv2 = load()

    def code(field: NDArray[np.float32]) -> tuple[int, NDArray[np.float32], float, float]:
        start = time.perf_counter()
        low, high = field.min(axis=(1, 2), keepdims=True), field.max(axis=(1, 2), keepdims=True)
        span = np.where(high > low, high - low, 1)
        levels = np.rint((field - low) * (255 / span)).astype(np.uint8)
        files = []
        for plane in levels:
            stream = io.BytesIO()
            Image.fromarray(plane).save(stream, "JPEG", quality=quality)
            files.append(stream.getvalue())
        middle = time.perf_counter()
        planes = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) for data in files]
        back = np.stack(planes).astype(np.float32) * (span / 255) + low
        return sum(map(len, files)), back.astype(np.float32), middle - start, time.perf_counter() - middle

    return code


def measure(fields: list[NDArray[np.float32]], coder: Coder) -> dict[str, float]:
    """Ratio, errors in px and times in ms of one way to store ``fields``."""
    stored, means, p99s, worst, encode, decode = 0, [], [], [], [], []
    for field in fields:
        size, back, seconds_in, seconds_out = coder(field)
        error = np.sqrt(np.square(back - field).sum(axis=0))
        stored += size
        means.append(float(error.mean()))
        p99s.append(float(np.quantile(error, 0.99)))
        worst.append(float(error.max()))
        encode.append(seconds_in * 1e3)
        decode.append(seconds_out * 1e3)
    return {
        "ratio": sum(field.nbytes for field in fields) / stored,
        "mean": statistics.fmean(means),
        "p99": statistics.fmean(p99s),
        "worst_mean": statistics.fmean(worst),
        "worst": max(worst),
        "encode_ms": statistics.median(encode),
        "decode_ms": statistics.median(decode),
    }


def ratio_at(error: float, rows: list[dict[str, float]]) -> float | None:
    """Ratio of a family of ``rows`` at a mean error, by interpolation in logarithms; None outside their span."""
    known = sorted((row["mean"], row["ratio"]) for row in rows)
    if not known[0][0] <= error <= known[-1][0]:
        return None
    means, ratios = np.log([item[0] for item in known]), np.log([item[1] for item in known])
    return float(np.exp(np.interp(np.log(error), means, ratios)))


def table(fields: list[NDArray[np.float32]]) -> list[dict[str, Any]]:
    coders = [("flowprep", quality, ours(StorageConfig(quality=quality))) for quality in OURS]
    coders += [("paper", quality, papers(quality)) for quality in PAPERS]
    return [{"way": name, "quality": quality, **measure(fields, coder)} for name, quality, coder in coders]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=6, help="frame pairs of each video")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    fields: list[NDArray[np.float32]] = []
    for path in options.videos:
        fields += list(fields_of(path, options.pairs))
    rows = table(fields)
    print(f"{len(fields)} fields of {len(options.videos)} videos")
    print("| way | quality | ratio | mean EPE | p99 | worst, mean | worst | encode ms | decode ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['way']} | {row['quality']} | {row['ratio']:.1f}x | {row['mean']:.4f} | {row['p99']:.3f} "
            f"| {row['worst_mean']:.2f} | {row['worst']:.2f} | {row['encode_ms']:.2f} | {row['decode_ms']:.2f} |"
        )
    mine = [row for row in rows if row["way"] == "flowprep"]
    theirs = [row for row in rows if row["way"] == "paper"]
    comparison = []
    for row in mine:
        other = ratio_at(row["mean"], theirs)
        if other is None:
            print(f"quality {row['quality']}: the paper's way has no quality above with that mean error")
            continue
        gain = row["ratio"] / other
        comparison.append({"quality": row["quality"], "mean": row["mean"], "smaller_by": gain})
        print(f"quality {row['quality']}: {gain:.2f}x smaller than the paper's way at equal mean error")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "comparison": comparison}, indent=2) + "\n")


if __name__ == "__main__":
    main()
