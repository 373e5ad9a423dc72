"""flowprep report."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("scores", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    default="report.html",
    show_default=True,
    help="Page to write; its .json beside it.",
)
def command(scores: tuple[str, ...], output: str) -> None:
    """Show SCORES, the files of flowprep evaluate and fuse, as a page.

    One file of HTML without any other: accuracies by stream, fusion and split, beside the two-stream paper's where the
    dataset is the same; recall of each class; confusions, with frames of videos; learning curves and first-layer
    filters from the checkpoints. The numbers are in a JSON file beside it. Both replace what has their names.

    \b
    flowprep report runs/spatial-split1/*.npz runs/temporal-split1/*.npz fused.npz -o ucf101.html
    """
    from flowprep.cli.running import check_target
    from flowprep.errors import UsageError
    from flowprep.train.report import write_report
    from flowprep.train.scores import Scores

    paths = [Path(path) for path in scores]
    if twice := {str(path) for path in paths if paths.count(path) > 1}:
        raise UsageError(f"{', '.join(sorted(twice))}: named twice.")
    check_target("-o", output)
    page = Path(output)
    check_target("-o", page.with_suffix(".json"))
    write_report([Scores.load(path) for path in paths], page, say=click.echo)
