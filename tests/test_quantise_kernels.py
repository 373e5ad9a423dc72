"""The machine code of quantising gives what NumPy gives, for arrays of any kind, and whether it was kept or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowprep.config import StorageConfig
from flowprep.quantise import Quantised, quantise, warm
from flowprep.quantise.kernels import to_levels

ENDS = {  # lowest and highest level
    "field": (StorageConfig(), 0, 255),
    "exact": (StorageConfig(range="fixed"), 1, 255),
    "round": (StorageConfig(range="fixed", rounding="round"), 0, 255),
    "trunc": (StorageConfig(range="fixed", rounding="trunc"), 0, 255),
    "htj2k": (StorageConfig("htj2k"), 512, 65024),
    "blosc16": (StorageConfig("blosc"), -32767, 32767),
    "blosc8": (StorageConfig("blosc", bits=8), -127, 127),
}


def levels_by_numpy(flow: NDArray[np.float32], name: str, stored: Quantised) -> NDArray[np.float32]:
    """The formula of each convention, an operation at a time, each rounded to float32."""
    _, lowest, highest = ENDS[name]
    with np.errstate(over="ignore", divide="ignore"):
        inverse = np.where(stored.scale > 0, np.float32(1) / stored.scale, np.float32(0))
        pairs = flow.reshape(len(flow), -1, 2, *flow.shape[2:])
        values = pairs * inverse[:, None, :, None, None]
    if name == "round":
        levels = np.rint(values + np.float32(127.5))
    elif name == "trunc":
        levels = np.floor(values + np.float32(127.5))
    else:
        levels = np.rint(values) + stored.zero[:, None, :, None, None]
    assert levels.dtype == np.float32
    return np.clip(levels, lowest, highest).reshape(flow.shape)


@pytest.mark.parametrize("name", ENDS)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(-8, 37),
    shape=st.tuples(st.integers(1, 2), st.sampled_from([2, 6]), st.integers(1, 7), st.integers(1, 45)),
)
@settings(deadline=None, max_examples=60)
def test_levels_are_those_of_the_formula_to_the_last_bit(
    name: str, seed: int, size: float, shape: tuple[int, int, int, int]
) -> None:
    config = ENDS[name][0]
    random = np.random.default_rng(seed)
    flow = random.normal(0, 10**size, shape).clip(-3e38, 3e38).astype(np.float32)
    scale = quantise(flow, config).scale.max()
    halves = (random.integers(-130, 130, shape) + 0.5) * np.float64(scale)  # where rounding decides
    flow = np.where(random.random(shape) < 0.5, flow, halves.clip(-3e38, 3e38)).astype(np.float32)
    stored = quantise(flow, config)
    expected = levels_by_numpy(flow, name, stored)
    assert (stored.levels == expected).all() and (expected == expected.astype(stored.levels.dtype)).all()


@pytest.mark.parametrize("name", ENDS)
def test_what_overflows_float32_is_clipped(name: str) -> None:
    flow = np.array([[-3.4e38, -1e38, 0, 1, 1e38, 3.4e38]] * 2, np.float32).reshape(1, 2, 2, 3)
    stored = quantise(flow, ENDS[name][0])
    assert (stored.levels == levels_by_numpy(flow, name, stored)).all()


def test_arrays_of_any_kind_need_no_other_code() -> None:
    warm()
    before = len(to_levels.signatures)
    assert before == 4, "one for each type of levels"
    flow = np.random.default_rng(0).normal(0, 3, (3, 4, 8, 10)).astype(np.float32)
    frozen = flow.copy()
    frozen.flags.writeable = False
    for config, _, _ in ENDS.values():
        expected = quantise(flow, config).levels
        for same in (frozen, np.asfortranarray(flow), np.repeat(flow, 2, axis=3)[..., ::2]):
            assert (quantise(same, config).levels == expected).all()
    assert len(to_levels.signatures) == before


@pytest.mark.timeout(120)  # compiles, which takes seconds
@pytest.mark.parametrize("cache", ["", "/proc/flowprep"], ids=["empty", "none"])
def test_a_process_that_was_not_warmed_compiles_what_it_needs(cache: str, tmp_path: Path) -> None:
    """Also where code cannot be kept. Reading alone does without."""
    program = (
        "import sys, numpy as np; from flowprep.quantise import dequantise, quantise\n"
        "from flowprep.config import StorageConfig; ones = np.ones((1, 2), np.float32)\n"
        "dequantise(np.ones((1, 2, 3, 4), np.uint8), ones, ones); assert 'numba' not in sys.modules\n"
        "print(*quantise(np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), StorageConfig()).levels.ravel())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "FLOWPREP_CACHE": cache or str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    expected = quantise(np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), StorageConfig()).levels
    assert done.stdout.split() == [str(level) for level in expected.ravel()]
    assert bool(list(tmp_path.rglob("*.nbc"))) == (not cache)
