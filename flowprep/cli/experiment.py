"""flowprep experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

TABLES = ["1a", "1b", "2", "3", "4"]


@click.command("experiment")
@click.option(
    "-c", "--config", "pipeline", required=True, type=click.Path(), help="File with sections train, experiment."
)
@click.option("--table", required=True, type=click.Choice(TABLES), help="Which table of the paper.")
@click.option(
    "--split", "splits", multiple=True, type=click.IntRange(1, 3), help="Split to use. [default: the paper's]"
)
@click.option("--rows", metavar="N,M", help="Rows of the table, by their numbers. [default: all]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A key of train, as in solver.batch=64.")
@click.option("--iterations", type=int, metavar="N", help="Batches of each run. [default: the paper's]")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:1. [default: a GPU where there is one]")
@click.option("--workers", type=int, metavar="N", help="Threads that read ahead. [default: one a processor, up to 8]")
@click.option(
    "--list", "listing", is_flag=True, help="Show the table with what has been made, and the runs. Run nothing."
)
@click.option("--json", "target", type=click.Path(), help="Write the numbers there, too.")
@click.option("-q", "--quiet", is_flag=True, help="No lines of progress; warnings are shown.")
def command(
    pipeline: str,
    table: str,
    splits: tuple[int, ...],
    rows: str | None,
    settings: tuple[str, ...],
    listing: bool,
    target: str | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Make a table of the two-stream paper again: train, evaluate and fuse what each row takes, beside its numbers.

    What has been made is not made again, rows share their runs, and the same command goes on after a stop. Rows may be
    made on several machines, or GPUs, at once: a run is made by one of them.

    \b
    flowprep experiment -c pipelines/ucf101.yaml --table 1b --list
    flowprep experiment -c pipelines/ucf101.yaml --table 4 --split 1 --json table4.json
    """
    import json
    import os

    from flowprep.cli.running import check_target, told
    from flowprep.cli.train import with_options
    from flowprep.cli.training import assignments, require_torch
    from flowprep.config import read_experiment
    from flowprep.errors import ExitCode, UnfinishedError, UsageError

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("experiments are one process each: without torchrun, give each GPU other --rows and --device.")
    if target:
        check_target("--json", target)
    over = with_options(assignments(settings), given)
    training, experiment = read_experiment(Path(pipeline))
    require_torch()
    from flowprep.store.replacing import replacing
    from flowprep.train.experiment import Laboratory, json_of, kept, lines_of, made, text_of

    laboratory = Laboratory(training, experiment, pipeline, over, told(), quiet=quiet)
    lines = lines_of(table, laboratory, sorted(set(splits)), _numbers(rows))
    try:
        lines = [(kept if listing else made)(line, laboratory) for line in lines]
    except (KeyboardInterrupt, SystemExit):  # SystemExit: the command line's answer to SIGTERM
        raise UnfinishedError("stopped; the same command goes on.") from None
    click.echo(text_of(table, lines, laboratory, states=listing))
    if target:
        with replacing(Path(target)) as file:
            file.write((json.dumps(json_of(table, lines, laboratory), indent=1) + "\n").encode())
    if not listing and (any(line.failed for line in lines) or all(line.accuracy is None for line in lines)):
        sys.exit(ExitCode.REFUSED)


def _numbers(text: str | None) -> list[int]:
    from flowprep.errors import UsageError

    try:
        return [int(number) for number in text.split(",")] if text is not None else []
    except ValueError:
        raise UsageError(f"--rows {text}: give numbers with commas between them, as in 1,2.") from None
