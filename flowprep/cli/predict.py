"""flowprep predict."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import click

from flowprep.cli.training import crops_option, frames_option
from flowprep.errors import ExitCode

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@click.command("predict")
@click.argument("arguments", metavar="CHECKPOINT... VIDEO...", nargs=-1, required=True, type=click.Path())
@frames_option
@crops_option
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, metavar="N", help="Classes to show.")
@click.option("--weights", metavar="W,W", help="Of the streams in the mean of their scores. [default: all alike]")
@click.option("--device", default="", metavar="NAME", help="cpu, cuda or cuda:1. [default: a GPU where there is one]")
@click.option("--batch", default=250, show_default=True, metavar="N", help="Inputs at once on the device.")
@click.option("--json", "json_file", type=click.Path(), metavar="FILE", help="All scores as JSON; - is the output.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep the datasets made of the videos.")
@click.option("-q", "--quiet", is_flag=True, help="No progress display; warnings are shown.")
def command(
    arguments: tuple[str, ...],
    top: int,
    weights: str | None,
    json_file: str | None,
    keep: Path | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Say what VIDEOs show, by the streams of CHECKPOINTs (a .pt file, or the folder of a run).

    Each video is decoded, its flow computed and stored just as in the dataset that the stream was trained on, and
    scored as flowprep evaluate does; of several streams the scores are averaged. For many videos it is quicker to
    extract a dataset, on all processors, and to evaluate that.

    \b
    flowprep predict runs/temporal-split1 video.mp4
    flowprep predict runs/spatial-split1 runs/temporal-split1 *.avi --weights 1,1.5 --json scores.json
    """
    from flowprep.cli import complain
    from flowprep.cli.running import check_target, told
    from flowprep.cli.training import require_torch, weights_of
    from flowprep.errors import UnfinishedError, VideoError

    if json_file and json_file != "-":
        check_target("--json", json_file)
    require_torch()
    from flowprep.train.predict import Predictor

    checkpoints, videos = _sorted(arguments)
    crops = int(given.pop("crops"))
    predictor = Predictor(checkpoints, weights=weights_of(weights), crops=crops, say=told(), quiet=quiet, **given)
    found: list[dict[str, Any]] = []
    failed = 0
    try:
        for video in videos:
            try:
                ranked = predictor.predict(video, keep).ranked()
            except VideoError as error:
                failed += 1
                complain(f"{video}: {error.verdict}: {error}")
                found.append({"video": str(video), "verdict": error.verdict, "reason": str(error)})
                continue
            found.append({"video": str(video), "classes": ranked})
            if json_file != "-":
                _show(video, ranked[:top], predictor.names)
    except (KeyboardInterrupt, SystemExit, UnfinishedError):  # SystemExit: the command line's answer to SIGTERM
        raise UnfinishedError("stopped; predictions begin anew each time, with --keep in a new folder.") from None
    finally:  # what has been done is kept, whatever has ended it
        if json_file and found:
            about = {"checkpoints": list(map(str, checkpoints)), "frames": given["frames"], "crops": crops}
            _write(json_file, {**about, "weights": predictor.weights, "videos": found})
    if failed:
        sys.exit(ExitCode.REFUSED)


def _sorted(arguments: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """Checkpoints and videos."""
    from flowprep.errors import UsageError
    from flowprep.train.checkpoint import NAME

    if address := next((text for text in arguments if ADDRESS.match(text) and not Path(text).exists()), None):
        raise UsageError(f"{address}: addresses are not read. Download it, and give the file.")
    checkpoints: list[Path] = []
    videos: list[Path] = []
    for path in map(Path, arguments):
        if path.is_dir() and not (path / NAME).is_file():
            raise UsageError(f"{path}: a folder without {NAME}. Give the folder of a run, and videos one by one.")
        (checkpoints if path.is_dir() or _of_torch(path) else videos).append(path)
    if not checkpoints or not videos:
        missing = "video" if checkpoints else f"checkpoint (a .pt file, or a folder with {NAME})"
        raise UsageError(f"no {missing} among the arguments: give checkpoints, then videos.")
    return checkpoints, videos


def _of_torch(path: Path) -> bool:
    """Whether a file is one of torch.save, by its name or by what is in it."""
    if path.suffix in (".pt", ".pth"):
        return True
    try:
        if not path.is_file():  # what else is opened may never end
            return False
        with zipfile.ZipFile(path) as file:
            return any(name.endswith("/data.pkl") for name in file.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def _show(video: Path, ranked: list[dict[str, Any]], streams: list[str]) -> None:
    shown = streams if len(streams) > 1 else []
    click.echo(str(video))
    click.echo("".join(["      score", *(f"  {name:>10}" for name in shown), "  class"]))
    for rank, entry in enumerate(ranked, 1):
        each = "".join(f"  {entry['streams'][name]:>10.4f}" for name in shown)
        click.echo(f"{rank:>3}  {entry['score']:.4f}{each}  {entry['class']}")


def _write(file: str, tree: dict[str, Any]) -> None:
    from flowprep.store.replacing import replacing

    text = json.dumps(tree, indent=2)
    if file == "-":
        click.echo(text)
    else:
        with replacing(Path(file)) as target:
            target.write(f"{text}\n".encode())
