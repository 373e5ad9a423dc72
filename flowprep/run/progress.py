"""What a user sees of a run: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import TextIO

from flowprep.errors import Verdict
from flowprep.shard import Listener
from flowprep.types import LedgerRow, ShardResult

LIVE_SECONDS = 0.25  # between two states of the live line
PLAIN_SECONDS = 15.0  # between two plain lines


class Progress(Listener):
    """Counts what the workers of this process report, and shows it from a thread of its own."""

    def __init__(
        self, videos: int, fields: int, stream: TextIO | None = None, *, unit: str = "field", quiet: bool = False
    ) -> None:
        self._videos_expected = videos
        self._fields_expected = max(1, fields)
        self._unit = unit
        self._stream = stream or sys.stderr
        self._live = not quiet and self._stream.isatty()
        self._quiet = quiet
        self._lock = threading.Lock()
        self._fields = 0
        self._verdicts: Counter[str] = Counter()
        self._failures: list[LedgerRow] = []
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._live:
            self._write("\r\x1b[K")

    def fields(self, count: int) -> None:
        with self._lock:
            self._fields += count

    def video(self, row: LedgerRow) -> None:
        with self._lock:
            self._verdicts[str(row.verdict)] += 1
            if row.verdict is not Verdict.OK:
                self._failures.append(row)

    def shard(self, result: ShardResult) -> None:
        """A whole shard is committed, of which nothing was heard before: it ran in another process."""
        with self._lock:
            self._fields += result.fields
            self._verdicts.update(result.verdicts)
            self._failures += result.failures

    def note(self, text: str) -> None:
        """Say something besides."""
        if not self._quiet:
            self._write(("\r\x1b[K" if self._live else "") + text + "\n")

    def line(self) -> str:
        """``"12/87 videos  1,204 of ~17,200 fields  210/s  0:06 passed  ETA 1:16  2 failed"``"""
        with self._lock:
            done, fields = sum(self._verdicts.values()), self._fields
            failed = done - self._verdicts[str(Verdict.OK)]
        elapsed = time.monotonic() - self._started
        rate = fields / elapsed
        left = max(0, self._fields_expected - fields)
        eta = _clock(left / rate) if fields > 0 else "-:--"
        speed = f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        text = f"{done}/{self._videos_expected} videos  {fields:,} of ~{self._fields_expected:,} {self._unit}s"
        return f"{text}  {speed}  {_clock(elapsed)} passed  ETA {eta}" + (f"  {failed} failed" if failed else "")

    def _show(self) -> None:
        while not self._ended.wait(LIVE_SECONDS if self._live else PLAIN_SECONDS):
            self._report_failures()
            if self._live:
                self._write(f"\r\x1b[K{self.line()}")
            elif not self._quiet:
                self._write(self.line() + "\n")
        self._report_failures()

    def _report_failures(self) -> None:
        with self._lock:
            failures, self._failures = self._failures, []
        for row in failures:
            self.note(f"{row.verdict}: {row.id}: {row.reason}")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
