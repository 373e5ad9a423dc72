"""What works on this machine, and why the rest does not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from flowprep import flow, nvidia, opencv, quantise
from flowprep.config import METHODS
from flowprep.devices import gpus, objection
from flowprep.errors import FlowprepError, RefusedError
from flowprep.flow.choosing import choose
from flowprep.flow.opencv_build import cuda_devices, cuda_of
from flowprep.versions import versions
from flowprep.wording import LISTED, plural, printable

# What, what was found, and whether that is good; None = it is not here, and need not be.
Finding = tuple[str, str, bool | None]

FAR = 0.5  # px: flow that is so far off is not that of the clip


def diagnose(folder: Path, say: Callable[[str], None]) -> Iterator[Finding]:
    """All findings in the order to print. ``folder``: where datasets would go; ``say`` hears what takes time."""
    yield "python", f"{sys.version.split()[0]} ({sys.executable})", sys.version_info >= (3, 11)
    for name, version in versions().items():
        if name not in ("python", "machine"):
            yield name, version, True
    yield from _opencv()
    yield from _gpus()
    yield from _video()
    yield from _methods(say)
    yield from _machine(folder)


def warm(say: Callable[[str], None]) -> Iterator[Finding]:
    """Have the kernels of every method, and of storing, compiled and kept, so that no process has to."""
    for name in [*(method for method in METHODS if "cpu" in flow.BACKENDS[method]), "quantise"]:
        start = time.monotonic()
        try:
            (quantise if name == "quantise" else flow.get(name, "cpu")).warm(say)
            from flowprep.flow.cpu.compiling import code_folder  # loads Numba, which may fail
        except RefusedError as error:
            yield f"kernels {name}", str(error), False
        else:
            yield f"kernels {name}", *_kept(code_folder(), start)
    if gpus():
        yield from _warm_gpu(say)


def _warm_gpu(say: Callable[[str], None]) -> Iterator[Finding]:
    for method in (method for method in METHODS if "cuda" in flow.BACKENDS[method]):
        what = f"kernels {method} cuda"
        if reason := flow.find(method, "cuda", elsewhere=True).unavailable():
            yield what, reason, None
            continue
        from flowprep.flow.cuda.device import code_folder  # loads Numba's part for GPUs, which is there

        start = time.monotonic()
        try:
            if isinstance(code_folder(), Path):  # else all that compiling would be for nothing
                flow.get(method, "cuda").warm(say)
        except FlowprepError as error:
            yield what, str(error), False
        else:
            yield what, *_kept(code_folder(), start)


def _kept(folder: Path | str, start: float) -> tuple[str, bool]:
    """Where kernels are kept that were called for at ``start``, or why they are not."""
    if isinstance(folder, str):
        return f"cannot be kept: {folder}", False
    return f"ready in {time.monotonic() - start:.1f} s, kept in {folder}", True


def _opencv() -> Iterator[Finding]:
    try:
        cv2 = opencv.load()
    except RefusedError as error:
        yield "opencv", str(error), False
        return
    contrib = "with contrib" if hasattr(cv2, "optflow") else "without contrib (no TV-L1, no DeepFlow)"
    version = cuda_of(cv2)
    cuda = f"CUDA {version} with {plural(cuda_devices(cv2), 'device')}" if version else "no CUDA"
    yield "opencv build", f"{cv2.__version__}, {contrib}, {cuda}", hasattr(cv2, "optflow")


def _gpus() -> Iterator[Finding]:
    found, trouble = nvidia.describe()
    for gpu in found[:LISTED]:
        yield f"gpu {gpu.number}", str(gpu), True
    if len(found) > LISTED:
        yield "gpus", f"and {len(found) - LISTED:,} more", True
    if trouble:
        yield "nvidia-smi", trouble, False if found else None
    usable, wrong, visible = gpus(), objection(), os.environ.get("CUDA_VISIBLE_DEVICES")
    in_use = ", ".join(f"number {gpu}" if gpu.isdecimal() else gpu for gpu in usable) or "none"
    if wrong:
        yield "gpus in use", f"{in_use}: {wrong}", False
    elif found and visible is not None:
        yield "gpus in use", f"{in_use} (CUDA_VISIBLE_DEVICES={printable(visible)})", bool(usable) or None
    elif found and len(usable) < len(found):
        yield "gpus in use", f"{in_use}: CUDA shows no others to this process", bool(usable) or None
    elif usable and not found:
        yield "gpus in use", f"{in_use}; nvidia-smi does not say what they are", True
    elif not found:
        yield "gpu", "none, or no NVIDIA driver for it", None
    if len(usable) > 1:
        others = f"CUDA_VISIBLE_DEVICES={usable[1]} flowprep doctor"
        yield "gpus tried", f"{usable[0]} alone, by what follows; to try another: {others}", True


def _video() -> Iterator[Finding]:
    import tempfile

    from flowprep.config import StorageConfig, VideoConfig
    from flowprep.synthetic import Motion, render
    from flowprep.video import VideoReader, write_video

    clip = render(Motion("right", velocity=(2.0, 0.0)), seed=0, frames=4, height=64, width=96)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "test.mp4"
        write_video(path, clip.frames)
        reader = VideoReader(path, VideoConfig(), StorageConfig())
        decoded = sum(len(block.grey) for block in reader.blocks())
    yield "video", f"{decoded} of 4 frames come back from an H.264 file", decoded == 4


def _methods(say: Callable[[str], None]) -> Iterator[Finding]:
    for method in METHODS:
        broken = []
        for backend, reason in flow.backends(method).items():
            what = f"flow {method}"
            if reason:
                needed = not flow.find(method, backend, elsewhere=True).gpu
                yield what, f"{backend}: {reason}", False if needed else None
                continue
            try:
                yield what, f"{backend}: {_trial(method, backend, say)}", True
                continue
            except FlowprepError as error:
                yield what, f"{backend}: {error}", False
            except Exception as error:  # noqa: BLE001 - that of a broken GPU has no common base class
                yield what, f"{backend}: fails: {type(error).__name__}: {error}", False
            broken.append(backend)
        if len(flow.BACKENDS[method]) > 1:
            yield f"auto {method}", *_choice(method, broken)


def _choice(method: str, broken: Sequence[str]) -> tuple[str, bool]:
    """What ``--backend auto`` takes, which does not try what it takes; ``broken``: backends whose trial failed."""
    try:
        algorithm, why = choose(method, {})
    except RefusedError as error:
        return str(error), False
    if algorithm.backend in broken:
        return f"takes {why}; but that fails: name another one, with --backend", False
    return why, True


def _trial(method: str, backend: str, say: Callable[[str], None]) -> str:
    """Flow of a clip that moves by (2, 0): what it measures there. Raises RefusedError where that is another motion."""
    import numpy as np

    from flowprep.synthetic import Motion, render

    clip = render(Motion("right", velocity=(2.0, 0.0)), seed=0, frames=2, height=96, width=128)
    grey = clip.frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    algorithm = flow.get(method, backend)
    algorithm.warm(say)
    field = algorithm.flow(np.rint(grey).astype(np.uint8))[0]
    u, v = (float(np.median(field[c])) for c in (0, 1))
    measured = f"a shift of 2.00, 0.00 px is measured as {u:.2f}, {v:z.2f}"
    if not max(abs(u - 2), abs(v)) < FAR:
        raise RefusedError(f"computes what is not there: {measured}.")
    return f"works ({measured})"


def _machine(folder: Path) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()
    yield "workers", f"{cores} processors, so {cores} workers by default, one thread each", True
    enough = memory.available > cores * 2**30
    yield "memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available", enough
    disk = psutil.disk_usage(str(folder))
    yield "disk", f"{disk.free / 1e9:.1f} GB free in {folder.resolve()}", disk.free > 1e9
    yield "hard links", *_links(folder)


def _links(folder: Path) -> tuple[str, bool]:
    """Commits need hard links; say whether this folder's file system has them."""
    import tempfile

    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch) / "a"
            source.touch()
            os.link(source, Path(scratch) / "b")
        return f"work in {folder.resolve()}", True
    except OSError as error:
        return f"do not work in {folder.resolve()} ({error.strerror}): datasets cannot be written there", False
