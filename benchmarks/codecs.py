"""Which codec takes how many bytes at what error? Flow of real videos in every codec, and stored the paper's way.

    python -m benchmarks.codecs VIDEO... [--pairs 6] [--json codecs.json]

Columns as in benchmarks.rate_distortion, whose paper's way this is; kB are of a field of 320x240. Then, for each video:
how many times fewer bytes HTJ2K takes at the mean error of a JPEG, between two of its levels by interpolation in
logarithms, and the geometric mean of that over the videos.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rate_distortion import Coder, fields_of, measure, ours, papers, ratio_at
from flowprep.config import StorageConfig

FLOAT_KB = 320 * 240 * 2 * 4 / 1000  # of one field as float32
REFERENCES = ("paper 92", "jpeg 92")  # what HTJ2K is compared with: the paper's way, and flowprep's default

Fields = list[NDArray[np.float32]]


def coders() -> dict[str, Coder]:
    """Every way to store a field, by its name in the table."""
    ways = {f"paper {quality}": papers(quality) for quality in (85, 92, 96)}
    ways |= {f"jpeg {quality}": ours(StorageConfig(quality=quality)) for quality in (80, 88, 92, 96)}
    for level in (0.0001, 0.0003, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01):
        ways[f"htj2k {level:g}"] = ours(StorageConfig(codec="htj2k", level=level))
    for step in (0.015625, 0.0625):
        ways[f"blosc 16 bits, step {step:g}"] = ours(StorageConfig(codec="blosc", step=step))
    ways["blosc 8 bits, bound 20"] = ours(StorageConfig(codec="blosc", bits=8))
    return ways


def table(fields: Fields) -> dict[str, dict[str, float]]:
    """Ratio, errors and times of every way."""
    return {name: measure(fields, coder) for name, coder in coders().items()}


def gains(rows: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """Times fewer bytes that HTJ2K takes at the mean error of each reference; None where no level comes to that."""
    family = [row for name, row in rows.items() if name.startswith("htj2k")]
    found: dict[str, float | None] = {}
    for name in REFERENCES:
        ratio = ratio_at(rows[name]["mean"], family)
        found[name] = ratio / rows[name]["ratio"] if ratio else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=6, help="frame pairs of each video")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    clips = {str(path): list(fields_of(path, options.pairs, "cpu")) for path in options.videos}
    everything = [field for fields in clips.values() for field in fields]

    rows = table(everything)
    print(f"{len(everything)} fields of {len(clips)} videos")
    print("| way | ratio | kB | mean EPE | p99 | worst, mean | worst | encode ms | decode ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {row['ratio']:.1f}x | {FLOAT_KB / row['ratio']:.2f} | {row['mean']:.4f} | {row['p99']:.3f} "
            f"| {row['worst_mean']:.2f} | {row['worst']:.2f} | {row['encode_ms']:.2f} | {row['decode_ms']:.2f} |"
        )

    by_clip = {path: gains(table(fields)) for path, fields in clips.items()}
    means: dict[str, Any] = {}
    for name in REFERENCES:
        known = [gain for found in by_clip.values() if (gain := found[name])]
        if not known:
            print(f"HTJ2K has no level with the mean error of {name}")
            continue
        means[name] = statistics.geometric_mean(known)
        spread = f"{min(known):.2f} to {max(known):.2f} in {len(known)} videos"
        print(f"HTJ2K at the mean error of {name}: {means[name]:.2f} times fewer bytes ({spread})")
    if options.json:
        figures = {"rows": rows, "gain_by_video": by_clip, "gain": means}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
