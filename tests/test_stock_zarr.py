"""A dataset needs no flowprep: stock Zarr with imagecodecs-zarr reads every codec's arrays, level by level the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from flowprep.store.checksums import with_checksum
from flowprep.store.shardfile import SLOTS, ShardWriter
from flowprep.store.zarr_codec import encoding
from tests.test_codecs_contract import STORAGES, stored

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

STOCK = ["zarr==3.4.2", "imagecodecs==2026.10.10", "imagecodecs-zarr==2026.10.10"]  # for Python 3.12 and later
SLOT = 5
SHAPES = {"field": (2, 48, 64), "stack": (20, 24, 40)}

READ = f"""
import importlib.util, sys, warnings, zarr
assert not importlib.util.find_spec("flowprep")
warnings.simplefilter("error")
for name in sys.argv[2:]:
    array = zarr.open(sys.argv[1], mode="r")[name]
    assert (array[{SLOT} - 1] == array.fill_value).all()
    sys.stdout.buffer.write(array[{SLOT}].tobytes())
"""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with Zarr and imagecodecs-zarr, but without flowprep."""
    for name in ("python3.13", "python3.12"):
        found = shutil.which(name)
        if found and not subprocess.run([found, "--version"], capture_output=True, check=False).returncode:
            break
    else:
        pytest.skip("no Python 3.12 or 3.13 is installed here, and imagecodecs-zarr needs one")
    environment = tmp_path_factory.mktemp("stock") / "environment"
    subprocess.run([found, "-m", "venv", environment], check=True)
    subprocess.run([environment / "bin/pip", "install", "-qq", *STOCK], check=True)
    return environment / "bin/python"


def test_stock_zarr_reads_every_codec(stock: Path, tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "out.zarr")
    expected = {}
    for codec, storage in STORAGES.items():
        for row, shape in SHAPES.items():
            name = f"{codec}-{row}"
            path = tmp_path / "out.zarr" / name
            whole = {"shape": (SLOTS, *shape), "chunks": (1, *shape), "shards": (SLOTS, *shape)}
            zarr.create_array(path, **whole, **encoding(storage))
            (path / "c/0/0/0").mkdir(parents=True)
            writer = ShardWriter(path / "c/0/0/0/0")
            _, payload, expected[name] = stored(codec, shape)
            writer.append(SLOT, with_checksum(payload))
            writer.finish()
    read = subprocess.run([stock, "-I", "-c", READ, tmp_path / "out.zarr", *expected], capture_output=True, check=False)
    assert read.returncode == 0, read.stderr.decode(errors="replace")
    position = 0
    for name, levels in expected.items():
        found = np.frombuffer(read.stdout, levels.dtype, levels.size, position).reshape(levels.shape)
        assert (found == levels).all(), name
        position += levels.nbytes
    assert position == len(read.stdout) and sys.byteorder == "little"
