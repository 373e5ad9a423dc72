"""What a dataset records of the programs and machines that made it."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from flowprep import nvidia, shard
from flowprep.nvidia import GPU, Driver
from flowprep.versions import versions


def test_what_compiles_kernels_for_gpus_is_named() -> None:
    for name in ("cuda-bindings", "cuda-core", "numba-cuda"):
        assert versions()[name] == version(name)


def test_gpus_and_their_driver_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    models = ("NVIDIA L4", "NVIDIA H100", "NVIDIA L4")
    found = Driver([GPU(str(number), name, driver="580.65") for number, name in enumerate(models)])
    monkeypatch.setattr(nvidia, "describe", lambda: found)
    shard._gpus.cache_clear()
    assert shard._gpus() == {"gpu": "NVIDIA H100, NVIDIA L4", "nvidia-driver": "580.65"}
    monkeypatch.setattr(nvidia, "describe", lambda: Driver([GPU("0", "")]))
    shard._gpus.cache_clear()
    assert shard._gpus() == {}  # nothing is known
    shard._gpus.cache_clear()
