"""Where does the time go? One run of extract, stack or transcode, CPU seconds by stage and what is left over.

    python -m benchmarks.stages VIDEOS -- [options of flowprep extract]
    python -m benchmarks.stages --command stack DATASET -- [options of flowprep stack]

Stages are measured inside the decoding processes; "start-up" is what a run without any work costs (the imports of the
driver and of each process); "other" is the rest of all CPU time: files, checksums, handing out work.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

IMPORTS = (
    "import av, cv2, PIL.Image, numpy, distributed, flowprep.extract, flowprep.run.driver, flowprep.run.dask, zarr"
)
CHILD_IMPORTS = "import flowprep.sandbox, flowprep.extract, cv2, PIL.JpegImagePlugin"
COMMAND = [sys.executable, "-c", "from flowprep.cli import main; main()"]


def cpu_seconds(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a command and all it starts."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start


def measure(command: str, source: str, options: list[str], workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.zarr"
        cpu, wall = cpu_seconds([*COMMAND, command, source, str(out), "--quiet", "--workers", str(workers), *options])
        stages: dict[str, float] = {}
        fields, at_work = 0, 0.0
        for path in (out / ".flowprep/commits").iterdir():
            commit = json.loads(path.read_bytes())
            at_work += commit["seconds"]
            for row in commit["rows"]:
                fields += row["flow"]["length"] if row["flow"] else 0
                for stage, seconds in row["seconds"].items():
                    stages[stage] = stages.get(stage, 0.0) + seconds
    # The driver starts once; each worker starts one process to read headers and one to extract.
    startup = cpu_seconds([sys.executable, "-c", IMPORTS])[0]
    startup += 2 * workers * cpu_seconds([sys.executable, "-c", CHILD_IMPORTS])[0]
    work = cpu - startup
    return {
        "fields": fields,
        "wall_seconds": wall,
        "shard_seconds": at_work,
        "cpu_seconds": cpu,
        "startup_seconds": startup,
        "stages": stages,
        "other_seconds": work - sum(stages.values()),
        "share": sum(stages.values()) / work,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--command", choices=("extract", "stack", "transcode"), default="extract")
    parser.add_argument("source")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options, extra = parser.parse_known_args()
    result = measure(options.command, options.source, [item for item in extra if item != "--"], options.workers)
    work = result["cpu_seconds"] - result["startup_seconds"]
    unit = "stack" if options.command == "stack" else "field"
    print(f"| stage | CPU s | ms a {unit} | share |")
    print("|---|---|---|---|")
    for stage, seconds in [*result["stages"].items(), ("other", result["other_seconds"])]:
        print(f"| {stage} | {seconds:.1f} | {seconds / result['fields'] * 1e3:.2f} | {seconds / work:.1%} |")
    print(f"{result['fields']} {unit}s, {options.workers} workers, {result['wall_seconds']:.1f} s wall time")
    per_core = result["fields"] / result["shard_seconds"], result["fields"] / work
    print(f"after start-up {per_core[0]:.1f} {unit}s a second of a worker, {per_core[1]:.1f} a second of CPU time")
    share = f"the stages are {result['share']:.1%} of CPU time"
    print(f"start-up {result['startup_seconds']:.1f} s; after it {share}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
