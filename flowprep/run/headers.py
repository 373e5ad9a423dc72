"""What the headers of many files say, read in sandboxed processes: a file may crash the demuxer too."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from flowprep.errors import UnfinishedError
from flowprep.sandbox import STOP, Limits, Sandbox
from flowprep.types import Probe, Video


def probe_all(root: Path, videos: Sequence[Video], limits: Limits, workers: int) -> list[Probe | None]:
    """Read the header of every video; None where it says nothing usable."""
    results: list[Probe | None] = [None] * len(videos)
    jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index, video in enumerate(videos):
        if not video.refused and video.size > 0:
            jobs.put(index)
    errors: list[BaseException] = []

    def work() -> None:
        box = Sandbox(limits)
        try:
            while not (errors or STOP.is_set()):
                index = jobs.get_nowait()
                results[index] = box.probe(root / videos[index].id)
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)
        finally:
            box.close()

    threads = [threading.Thread(target=work) for _ in range(min(workers, jobs.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    if STOP.is_set():
        raise UnfinishedError("stopped")
    return results
