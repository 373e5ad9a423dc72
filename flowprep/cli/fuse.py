"""flowprep fuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

METHODS = ["average", "weighted", "max", "logistic", "svm"]


@click.command("fuse")
@click.argument("scores", metavar="SCORES...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="average",
    show_default=True,
    help="Mean, weighted mean or maximum of the scores; or, learned, logistic regression or a linear SVM on them.",
)
@click.option("--weights", metavar="W,W", help="Of weighted, one a stream. [default: spatial 1, temporal 1.5]")
@click.option(
    "--train", multiple=True, type=click.Path(), help="Scores of the training videos, of what is learned; one a stream."
)
@click.option("--svm-c", "c", type=float, metavar="C", help="Of what is learned. [default: by cross-validation]")
@click.option("--common", is_flag=True, help="Fuse the videos that all streams have, whatever others they have.")
@click.option("-o", "--output", type=click.Path(), help="File to write. [default: fused-METHOD-split1-test.npz here]")
def command(
    scores: tuple[str, ...], weights: str | None, train: tuple[str, ...], common: bool, output: str | None, **given: Any
) -> None:
    """Fuse SCORES of streams, files of flowprep evaluate, into one score for each video and class.

    Files of several splits are fused within each; then the mean over the splits is shown, too. Methods that learn need
    scores of the training videos: flowprep evaluate --part train.

    \b
    flowprep fuse spatial-split1-test.npz temporal-split1-test.npz --method weighted --weights 1,1.5
    flowprep fuse *-split1-test.npz --method svm --train spatial-split1-train.npz --train temporal-split1-train.npz
    """
    from flowprep.cli.running import check_target
    from flowprep.cli.training import weights_of
    from flowprep.errors import UsageError
    from flowprep.train.fusion import fuse, in_common
    from flowprep.wording import plural, printable

    streams, training = _by_split(scores), _by_split(train)
    _check_streams(streams)
    if unused := sorted(training.keys() - streams.keys()):
        raise UsageError(f"--train has scores of split {unused[0]}, of which there is nothing to fuse: leave them out.")
    if output is not None:
        check_target("-o", output)
    several = len(streams) > 1
    targets = {
        split: _target(output, first, given["method"], several=several) for split, (first, *_) in streams.items()
    }
    for target in targets.values():
        check_target("-o", target)
        if target.resolve() in {Path(path).resolve() for path in (*scores, *train)}:
            raise UsageError(f"{target} is one of the files to read: name another with -o.")
    shown: dict[str, list[float]] = {}  # name -> accuracy in each split
    for split, of_split in streams.items():
        lessons = training.get(split, [])
        if common:
            before = max(map(len, of_split))
            of_split, lessons = in_common(of_split), in_common(lessons)
            click.echo(f"split {split}: {plural(len(of_split[0]), 'video')} in common, of up to {before:,}")
        fused = fuse(of_split, weights=weights_of(weights), training=lessons, say=click.echo, **given)
        for one in (*of_split, fused):
            shown.setdefault(one.name, []).append(one.accuracy)
            click.echo(one)
        fused.save(targets[split])
        click.echo(f"saved: {targets[split]}")
    for name, accuracies in shown.items() if several else ():
        mean = sum(accuracies) / len(accuracies)
        click.echo(f"{printable(name)}, mean over {plural(len(accuracies), 'split')}: accuracy {100 * mean:.2f} %")


def _by_split(paths: tuple[str, ...]) -> dict[int, list[Any]]:
    """The scores of each split, streams in the order in which ``paths`` first have them, in every split the same."""
    from flowprep.errors import UsageError
    from flowprep.train.scores import Scores

    found: dict[int, list[Any]] = {}
    order: dict[str, int] = {}
    for path in paths:
        scores = Scores.load(Path(path))
        others = found.setdefault(scores.split, [])
        if scores.name in {other.name for other in others}:
            raise UsageError(
                f"{path}: another file has {scores.shown} scores of split {scores.split}, too. Give each once; streams "
                "of the same kind need names of their own (flowprep evaluate --name)."
            )
        order.setdefault(scores.name, len(order))
        others.append(scores)
    return {split: sorted(found[split], key=lambda scores: order[scores.name]) for split in sorted(found)}


def _check_streams(streams: dict[int, list[Any]]) -> None:
    """Raises UsageError unless all splits have the same streams: what they give is called by one name."""
    from flowprep.errors import UsageError
    from flowprep.wording import some

    (first, names), *others = ((split, {one.name for one in of_split}) for split, of_split in streams.items())
    for split, there in others:
        if differing := sorted(names ^ there):
            raise UsageError(
                f"splits {first} and {split} have not the same streams; only one has: {some(differing)}. "
                "Give all of them in every split, or fuse the splits one by one."
            )


def _target(output: str | None, stream: Any, method: str, *, several: bool) -> Path:
    """The file to write for the split of ``stream``; of several splits each has its own."""
    if output is None:
        return Path(f"fused-{method}-split{stream.split}-{stream.part or 'all'}.npz")
    path = Path(output)
    return path.with_stem(f"{path.stem}-split{stream.split}") if several else path
