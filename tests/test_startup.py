"""Typing ``flowprep --help`` answers at once: what is slow to import is imported where it is needed."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = {"cv2", "av", "torch", "dask", "distributed", "zarr", "imagecodecs", "numba"}
HELP_SECONDS = 0.3  # CPU


def started(code: str, *arguments: str) -> tuple[set[str], float]:
    """Modules that ``code`` leaves imported in a new interpreter, and its CPU seconds."""
    report = "import atexit, sys\natexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr))\n"
    command = [sys.executable, "-c", report + code, *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0, process.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    loaded = process.stderr.rpartition("LOADED ")[2].split()
    return set(loaded), seconds


def test_importing_flowprep_is_light() -> None:
    loaded, _ = started("import flowprep")
    assert "flowprep" in loaded
    assert not loaded & HEAVY, "import it inside the function that needs it"


def test_help_is_light_and_quick() -> None:
    runs = [started("from flowprep.cli import main; main()", "--help") for _ in range(3)]
    loaded = runs[0][0]
    assert "click" in loaded
    assert not loaded & HEAVY, "import it inside the body of the command that needs it"
    seconds = statistics.median(seconds for _, seconds in runs)
    assert seconds < HELP_SECONDS, (
        f"{seconds:.2f} s of CPU: .venv/bin/python -X importtime .venv/bin/flowprep --help shows the cause"
    )


def test_only_the_codec_that_is_used_is_loaded() -> None:
    imports = "import flowprep.extract, flowprep.store.reader; from flowprep.config import StorageConfig; "
    use = "from flowprep.store.zarr_codec import encoding; encoding(StorageConfig({}))"
    assert "flowprep.codecs.htj2k" not in started(imports + use.format(""))[0]
    assert "flowprep.codecs.htj2k" in started(imports + use.format("codec='htj2k'"))[0]
