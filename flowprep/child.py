"""The child of a sandbox (sandbox.py): ``python -P -m flowprep.child MEMORY [SOCKET]``.

MEMORY is its limit in MiB; SOCKET, where flow is computed on a GPU, is its end of a connection to the process that owns
one. It answers one job after another until its stdin ends:

    {"probe": path}                        {"probe": what the header says, or null}
    {"extract": id, "path": ...,           {"progress": 12} ... {"row": {...}}
     "folder": ..., "settings": ...}
    {"trial": settings}                    {"works": true}     once the GPU has computed something
    any                                    {"waits": true} ... {"waits": false}     for the process of the GPU
                                           {"failed": kind, "text": ...}
"""

from __future__ import annotations

import json
import os
import queue
import resource
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowprep.config import Settings
from flowprep.errors import RefusedError, StoreError, VideoError
from flowprep.gpu.wire import ServerLostError
from flowprep.processes import TAIL
from flowprep.types import LedgerRow

if TYPE_CHECKING:
    from flowprep.gpu.client import RemoteFlow

OVER_MEMORY = "over the memory limit of its process (--memory-limit)"


def main() -> None:
    """Answer one job after another until stdin ends."""
    limit = int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Answers get a descriptor of their own; whatever a library prints goes to stderr.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    from flowprep import opencv

    gpu = socket.socket(fileno=int(sys.argv[2])) if len(sys.argv) > 2 else None
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    workers: dict[str, Callable[..., LedgerRow]] = {}

    def say(**answer: Any) -> None:
        channel.write(json.dumps(answer) + "\n")

    def waits(whether: bool) -> None:
        say(waits=whether)

    say(ready=True)
    while True:
        job = json.loads(jobs.get())
        try:
            if "probe" in job:
                say(probe=_probe(Path(job["probe"])))
                continue
            if gpu and "trial" in job:
                _remote_flow(gpu, Settings.from_json(job["trial"]), waits).try_out()
                say(works=True)
                continue
            key = json.dumps(job["settings"], sort_keys=True)
            if key not in workers:
                settings = Settings.from_json(job["settings"])
                workers[key] = _worker(settings, _remote_flow(gpu, settings, waits) if gpu else None)
            what = LedgerRow.from_json(job["source"]) if "source" in job else job["extract"]
            row = workers[key](Path(job["path"]), what, Path(job["folder"]), lambda count: say(progress=count))
            say(row=row.to_json())
        except MemoryError:
            say(failed="memory", text=OVER_MEMORY)
        except StoreError as error:
            say(failed="store", text=str(error))
        except RefusedError as error:
            say(failed="refused", text=str(error))
        except ServerLostError:
            say(failed="gpu", text="")
        except Exception as error:  # noqa: BLE001 - one video must not end the run
            if isinstance(error, opencv.load().error) and error.code == opencv.load().Error.StsNoMem:
                say(failed="memory", text=OVER_MEMORY)
            else:
                traceback.print_exc()
                say(failed="crash", text=f"internal error, please report it: {type(error).__name__}: {error}"[:TAIL])


def _remote_flow(gpu: socket.socket, settings: Settings, waits: Callable[[bool], None]) -> RemoteFlow:
    """What computes the flow where ``gpu`` leads to."""
    from flowprep.gpu.client import RemoteFlow

    return RemoteFlow(gpu, settings, waits)


def _worker(settings: Settings, remote: RemoteFlow | None) -> Callable[..., LedgerRow]:
    """What makes the rows of a video under ``settings``, its libraries loaded; ``remote``: what computes the flow."""
    if settings.computes_flow and not remote:
        _check_engine(settings)
    if settings.derived:
        from flowprep.derive import Deriver

        return Deriver(settings, remote).derive
    from flowprep.extract import Extractor

    return Extractor(settings, remote).extract


def _check_engine(settings: Settings) -> None:
    """Raise RefusedError unless the engine that they name is what this machine has: one dataset, one engine."""
    from flowprep import flow

    here = flow.find(settings.flow.method, settings.flow.backend).engine()
    if here != settings.engine:
        raise RefusedError(
            f"{socket.gethostname()} computes {settings.flow.method} with {here}, the run was started with "
            f"{settings.engine}: install the same versions everywhere."
        )


def _probe(path: Path) -> dict[str, Any] | None:
    from flowprep.video import probe

    try:
        return vars(probe(path))
    except VideoError:
        return None


def _listen(jobs: queue.SimpleQueue[str]) -> None:
    """Pass on jobs; when the parent is gone, so are we, whatever is being computed."""
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
