"""How kernels become machine code: compiled at first use, kept on disk, loaded in milliseconds from then on.

The code is kept in FLOWPREP_CACHE, or else in the user's cache folder, apart for each processor, each version of the
compiler and each version of the kernels: one folder for each combination, which may be deleted at any time. Loading
code from a folder means to trust it, so a folder that others could write to is not used.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from numba.core import config

from flowprep.errors import RefusedError
from flowprep.flow.cpu.llvm import LANES

MEGABYTES = 2  # of code at most, all kernels together


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` for the types of its first call, keep it on disk, and let go of the GIL while it runs."""
    folder = code_folder()
    if not isinstance(folder, Path):
        return numba.njit(nogil=True, error_model="numpy")(function)
    with kept_in(folder):
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """What is decorated meanwhile keeps its machine code in ``folder``.

    Numba asks where to keep code at that point only; the setting is for all of the process otherwise.
    """
    before = getattr(config, "CACHE_DIR")  # noqa: B009 - the module makes its names as it is loaded
    setattr(config, "CACHE_DIR", str(folder))  # noqa: B010
    try:
        yield
    finally:
        setattr(config, "CACHE_DIR", before)  # noqa: B010


def inline(function: Callable[..., Any]) -> Any:
    """A part of kernels: compiled into each that calls it."""
    return numba.njit(error_model="numpy", forceinline=True)(function)


def ensure_compiled(
    name: str,
    run: Callable[[], None],
    say: Callable[[str], None] | None = None,
    folder: Path | str | None = None,
    what: str = "",
) -> None:
    """Have the kernels that ``run`` calls loaded, or compiled and kept: of several processes one does it, others wait.
    Where they cannot be kept, they are compiled when they are called.

    ``say`` hears of it when it takes time, and when code cannot be kept (without it, the latter is logged). ``folder``:
    where code is kept that is not this processor's, or why it is not; ``what`` it is, in words.
    """
    folder = folder or code_folder()
    if not isinstance(folder, Path):
        _once(
            say or _warn,
            f"Compiled kernels cannot be kept ({folder}): every process compiles them, which takes about 10 seconds. "
            "FLOWPREP_CACHE names another folder for them.",
        )
        return
    if getattr(config, "DISABLE_JIT"):  # noqa: B009 - as above
        raise RefusedError("NUMBA_DISABLE_JIT is set, without compiling there are no kernels: unset it.")
    if int(getattr(config, "OPT")) < 2:  # noqa: B009 - as above
        raise RefusedError("NUMBA_OPT is below 2, but the kernels are right only as LLVM optimises them: unset it.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it may have been deleted meanwhile
    marker = folder / f"{name}.compiled"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if marker.exists() else fcntl.LOCK_EX)
        if marker.exists():
            try:
                run()
                return
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a damaged file makes of the loader
                fcntl.flock(lock, fcntl.LOCK_EX)
                (say or _warn)(f"Compiled kernels in {folder} are damaged ({type(error).__name__}) and made anew.")
                for path in [*folder.glob("*.compiled"), *folder.rglob("*.nb[ic]")]:
                    path.unlink(missing_ok=True)
        elif say:
            say(f"Compiling {what or f'the kernels of {name} for this processor'}, about 10 seconds, once.")
        run()
        marker.touch()


@cache
def _once(say: Callable[[str], None], text: str) -> None:
    """Of all the kernels alike."""
    say(text)


def _warn(text: str) -> None:
    """To stderr, unless the program has set up logging otherwise."""
    logging.getLogger("flowprep").warning(text)


@cache
def code_folder() -> Path | str:
    """The folder for this processor, compiler and version of the kernels; or why there can be none."""
    return trusted_folder(f"kernels-{_version()}")


def trusted_folder(name: str) -> Path | str:
    """The folder of that name for machine code, which nobody else can write to; or why there can be none."""
    try:
        given = os.environ.get("FLOWPREP_CACHE")
        root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowprep"
        folder = root.absolute() / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            return f"{folder} belongs to others or can be written by them"
        probe = folder / f"probe-{os.getpid()}"
        try:
            probe.write_bytes(bytes(MEGABYTES << 20))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    except RuntimeError:
        return "there is no home folder"
    return folder


def sources() -> list[Path]:
    """The files that kernels, and what is compiled into them, are written in."""
    here = Path(__file__).parent
    return [*sorted(here.glob("*.py")), *(here.parents[1] / room / "kernels.py" for room in ("quantise", "stacks"))]


def _version() -> str:
    """16 hex digits of everything that the machine code depends on, and of where the kernels' source lies."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    features = llvmlite.binding.get_host_cpu_features().flatten()
    facts = (
        sys.version,
        str(Path(__file__).parent),
        platform.machine(),
        numba.__version__,
        llvmlite.__version__,
        LANES,
        features,
    )
    digest.update(repr((*facts, llvmlite.binding.get_host_cpu_name())).encode())
    return digest.hexdigest()[:16]
