"""The whole way in a few minutes: clips with known motion, extraction, check, pictures, and a recogniser of them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowprep.config import ExtractConfig, FlowConfig, RunConfig, SourceConfig, StorageConfig
from flowprep.demo.recognition import Recognition, add_to_report, recognise
from flowprep.errors import RefusedError, UnfinishedError, UsageError
from flowprep.flow.metrics import mean_epe
from flowprep.run.driver import Extraction
from flowprep.show import contact_sheet, field_panel, save_png
from flowprep.store.reader import Dataset
from flowprep.store.summary import summarise
from flowprep.store.verify import verify
from flowprep.synthetic import HEIGHT, DemoVideo, write_training_videos

MARK = ".made-by-flowprep-demo"  # a folder with this file may be made anew
SHEET_VIDEOS = 12  # panels on the contact sheet at most
TRAIN, TEST = 24, 10  # rendered clips of each class


@dataclass(frozen=True)
class Outcome:
    """The numbers that the demo prints and writes to summary.json."""

    videos: int
    failed: int
    fields: int
    seconds: float  # extraction, wall time
    bytes: int  # of the flow
    ratio: float  # float32 to stored
    truth_epe: float | None  # px: stored flow against the true motion; None for the user's own clips
    added_epe: float  # px: stored flow against the computed one, on the sampled fields
    sheet: str  # path of the contact sheet
    recognition: Recognition | None  # of rendered clips, where training was asked for
    stages: dict[str, float]  # seconds on the clock


def run_demo(
    output: Path, videos: Path | None, method: str, say: Callable[[str], None], *, training: bool = True
) -> Outcome:
    """Extract rendered clips, or those in ``videos``, into ``output``, check the result, and train on rendered clips.

    Raises FlowprepError.
    """
    _prepare(output)
    stages: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        stages[stage] = round(stages.get(stage, 0.0) + time.monotonic() - started, 2)

    rendered: list[DemoVideo] = []
    if videos is None:
        with timed("render"):
            rendered = write_training_videos(output / "videos", train=TRAIN, test=TEST)
        say(f"Rendered {len(rendered)} clips of moving textures into {output / 'videos'}.")
        config = rendered_config(output, method)
    else:
        config = ExtractConfig(
            source=SourceConfig(path=str(videos)),
            output=str(output / "flow.zarr"),
            flow=FlowConfig(method=method),
            run=RunConfig(max_failed="100%"),
        )
    extraction = Extraction(config, say)
    chosen = extraction.settings.flow
    say(f"Extracting with {chosen.method} on {chosen.backend}, {extraction.workers} workers.")
    with _begun_anew(), timed("extract"):
        summary = extraction.run()
    dataset = Dataset(output / "flow.zarr")
    with timed("check"):
        report = verify(dataset, full=True)
        truth = _truth_epe(dataset, rendered) if rendered else None
    if not report.clean:
        raise RefusedError(f"The demo's dataset is not clean: {report.faults[0]}")
    info = summarise(dataset)
    if not info.fields:
        raise RefusedError(f"None of the {info.videos} videos could be used: {summary.failures[0].reason}")
    sheet = output / "contact-sheet.png"
    save_png(sheet, _sheet(dataset))
    with _begun_anew():
        recognition = recognise(output, timed, say) if rendered and training else None
    outcome = Outcome(
        videos=info.videos,
        failed=len(summary.failures),
        fields=info.fields,
        seconds=stages["extract"],
        bytes=info.flow_bytes,
        ratio=round(info.ratio, 1),
        truth_epe=truth,
        added_epe=round(info.added_epe, 4),
        sheet=str(sheet),
        recognition=recognition,
        stages=stages,
    )
    if recognition:
        add_to_report(output, asdict(recognition) | {"seconds": stages})
    (output / "summary.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return outcome


def rendered_config(output: Path, method: str = FlowConfig.method) -> ExtractConfig:
    """How the demonstration in ``output`` extracts the clips that it renders there."""
    return ExtractConfig(
        source=SourceConfig(path=str(output / "videos/videos.tsv")),
        output=str(output / "flow.zarr"),
        flow=FlowConfig(method=method),
        storage=StorageConfig(rgb_short_side=HEIGHT),
    )


@contextmanager
def _begun_anew() -> Iterator[None]:
    """Other runs that are stopped here could go on; not those of a demonstration."""
    try:
        yield
    except UnfinishedError:
        raise UnfinishedError(
            "Stopped. The demo starts anew each time; to keep what is done, use flowprep extract and train."
        ) from None


def _prepare(output: Path) -> None:
    """An empty folder; only what an earlier demo made is removed."""
    if output.exists():
        if not (output / MARK).is_file():
            raise UsageError(f"{output} exists and is not an earlier demo's: name another folder with --output.")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARK).touch()


def _truth_epe(dataset: Dataset, rendered: list[DemoVideo]) -> float:
    """Mean end-point error in px of the stored flow against the motion that was rendered."""
    errors = [mean_epe(dataset.flow(video.id), video.true_flow()) for video in rendered]
    return round(float(np.mean(errors)), 4)


def _sheet(dataset: Dataset) -> NDArray[np.uint8]:
    good = [row for row in dataset.videos if row.fields]
    chosen = good[:: -(-len(good) // SHEET_VIDEOS)]
    tiles = []
    for row in chosen:
        number = row.fields // 2
        frame = dataset.frames(row.id, number, number + 1)[0].transpose(1, 2, 0)
        flow = dataset.flow(row.id, number, number + 1)[0]
        planes = dataset.levels(row.id, number, number + 1)[0]
        tiles.append(("", field_panel(frame, flow, planes, title=row.id)))
    return contact_sheet(tiles, 2, title=f"{len(dataset.videos)} videos", tile_width=900)
