"""The page of a report in a real browser: headless Chromium, where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flowprep.train.report import write_report
from tests import loader_data
from tests.report_data import ENTRIES, HOSTILE, Page, log, made, numbers_of, run_folder

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTH = 390  # px, of a phone
PAGES = ("full", "large", "hostile")
# Pages side by side in frames as wide as a phone. Writes down how wide each frame is, and what its contents take.
FRAMES = """<!doctype html><link rel=icon href='data:,'><body>
{frames}
<script>onload = () => {{
  const width = frame => [frame.contentWindow.innerWidth, frame.contentDocument.documentElement.scrollWidth];
  document.body.dataset.widths = JSON.stringify(Array.from(document.querySelectorAll('iframe'), width));
}}</script>"""
BAD = "<!doctype html><img src='missing.png'><p style='width: 500px'>wide</p><script>console.error('wrong')</script>"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")


class Site:
    """A folder behind HTTP, the paths that a browser has asked it for, and what it wrote to its console."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.console: list[str] = []
        site = self

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, code: Any = "-", size: Any = "-") -> None:  # noqa: ARG002 - the signature is its own
                site.asked.append(self.path)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def open(self, name: str, tmp_path: Path) -> str:
        """A page as the browser understood it."""
        assert BROWSER
        self.asked.clear()
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", "--hide-scrollbars", "--dump-dom", f"--user-data-dir={tmp_path / 'profile'}"),
        ]
        address = f"http://127.0.0.1:{self.server.server_port}/{name}"
        done = subprocess.run([BROWSER, *options, address], capture_output=True, text=True, timeout=100, check=True)
        self.console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three reports: of six classes with all that a page can have, of 101 classes, and of hostile names."""
    folder = tmp_path_factory.mktemp("site")
    checkpoint = run_folder(folder / "run")
    log(checkpoint.parent, ENTRIES)
    full = made("temporal", checkpoint=str(checkpoint), dataset=str(loader_data.flow_folder()))
    streams = [full, made("spatial", seed=1), made("fused, average", seed=2), made("fused, svm", seed=3)]
    write_report(streams, folder / "full.html", say=lambda _: None)
    classes, labels = [f"Class{number}OfMany" for number in range(101)], [number % 101 for number in range(3783)]
    large = [made("temporal", classes=classes, labels=labels, split=split, seed=split) for split in (1, 2, 3)]
    write_report(large, folder / "large.html", say=lambda _: None)
    ids = tuple(f"{HOSTILE[number % 7] * 5}{number}.avi" for number in range(40))
    hostile = made("".join(HOSTILE), classes=HOSTILE, ids=ids, dataset="".join(HOSTILE), net="".join(HOSTILE))
    write_report([hostile], folder / "hostile.html", say=lambda _: None)
    (folder / "bad.html").write_text(BAD)
    served = Site(folder)
    yield served
    served.server.shutdown()
    served.server.server_close()


def phones(site: Site, tmp_path: Path, *names: str) -> list[tuple[int, int]]:
    """Width in px of a phone's window and of the contents of each page in it."""
    frames = "".join(f"<iframe src='{name}.html' width='{WIDTH}' style='border: 0'></iframe>" for name in names)
    (site.folder / "phones.html").write_text(FRAMES.format(frames=frames))
    (body,) = Page(site.open("phones.html", tmp_path)).of("body")
    return [tuple(pair) for pair in json.loads(body["data-widths"] or "")]


def test_it_loads_alone_and_shows_its_numbers(site: Site, tmp_path: Path) -> None:
    page = Page(site.open("full.html", tmp_path))
    assert site.console == []
    assert site.asked == ["/full.html"]
    assert page.numbers == numbers_of(json.loads((site.folder / "full.json").read_text()))
    assert page.of("img")
    assert not page.of("script")


def test_it_fits_a_phone_and_faults_would_be_seen(site: Site, tmp_path: Path) -> None:
    *good, (window, contents) = phones(site, tmp_path, *PAGES, "bad")
    assert good == [(WIDTH, WIDTH)] * len(PAGES)
    assert window == WIDTH < contents
    assert "/missing.png" in site.asked
    assert any("wrong" in line for line in site.console)
