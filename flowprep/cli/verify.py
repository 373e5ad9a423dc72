"""flowprep verify."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import click

from flowprep.errors import ExitCode, UsageError
from flowprep.wording import plural, size

SHOWN = 50  # faults listed before "and more"


@click.command("verify")
@click.argument("dataset", type=click.Path())
@click.option(
    "--full", is_flag=True, help="Decode every stored row, not only the first, middle and last of each video."
)
@click.option("--sources", is_flag=True, help="Instead: hash every source video again and compare with its ledger row.")
@click.option("--root", type=click.Path(), help="With --sources: the folder that the videos are in now.")
@click.option("--gc", is_flag=True, help="Instead: remove what tries that never committed have left behind.")
@click.option(
    "--older-than",
    type=float,
    metavar="HOURS",
    help="With --gc: only what has not changed for so long. [default: 24]",
)
def command(dataset: str, full: bool, sources: bool, root: str | None, gc: bool, older_than: float | None) -> None:
    """Check DATASET: conservation, counts, checksums, readability.

    Exit code 65 if anything is wrong, 75 if it is only unfinished.
    """
    if full and (sources or gc):
        raise UsageError("--full is for the check of the dataset itself, without --sources and --gc: leave it out.")
    if root is not None and not sources:
        raise UsageError("--root is for --sources: add it.")
    if older_than is not None and not gc:
        raise UsageError("--older-than is for --gc: add it.")
    if older_than is not None and not 0 <= older_than < math.inf:
        raise UsageError(f"--older-than {older_than:g}: give a number of hours, 0 or more.")
    if gc:
        _collect(dataset, 24.0 if older_than is None else older_than)
    if sources:
        _check_sources(dataset, Path(root) if root is not None else None)
    if not (gc or sources):
        _verify(dataset, full)


def _verify(dataset: str, full: bool) -> None:
    from flowprep.store.reader import Dataset
    from flowprep.store.verify import verify

    report = verify(Dataset(dataset, lenient=True), full=full, step=_step)
    _print_faults(report.faults)
    if report.unfinished:
        click.echo(f"UNFINISHED  {report.unfinished}")
    for key in sorted(report.damaged_commits):  # every one, however many: the next run stumbles over the one left out
        click.echo(f"DAMAGED  {key}")
    if report.damaged_commits:
        these = plural(len(report.damaged_commits), "commit record")
        click.echo(
            f"Next: in {dataset}, delete {these} and run the command that made the dataset again: "
            "those shards are made anew."
        )
    checked = f"{plural(report.videos, 'video')}, {plural(report.files, 'file')}, {size(report.bytes)}"
    verdict = plural(len(report.faults), "fault") if report.faults else "unfinished" if report.unfinished else "clean"
    click.echo(f"{checked}, {plural(report.rows_read, 'row')} decoded: {verdict}")
    if not report.clean:
        sys.exit(ExitCode.REFUSED if report.faults else ExitCode.UNFINISHED)


def _check_sources(dataset: str, root: Path | None) -> None:
    import flowprep
    from flowprep.store.sources import check_sources

    report = check_sources(flowprep.open(dataset), root, step=_step)
    _print_faults(report.faults)
    verdict = plural(len(report.faults), "fault") if report.faults else "as they were extracted"
    click.echo(f"{plural(report.videos, 'source')} below {report.root}, {size(report.bytes)} read: {verdict}")
    if report.unread:
        click.echo(f"{plural(report.unread, 'video')} without a file to compare with: it could not be read then")
    if report.unfinished:
        looked = f"looked at {report.videos + report.unread:,} of {plural(report.planned, 'planned video')}"
        click.echo(f"UNFINISHED  {looked}: {report.unfinished}")
    if report.faults or report.unfinished:
        sys.exit(ExitCode.REFUSED if report.faults else ExitCode.UNFINISHED)


def _collect(dataset: str, hours: float) -> None:
    import flowprep
    from flowprep.store.litter import collect

    found = collect(flowprep.open(dataset).store, older_than=hours * 3600)
    for kind, heap in found.removed.items():
        kept = found.kept[kind]
        stays = f"; {plural(kept.count, kind)} kept, {size(kept.bytes)}: in use, or younger" if kept.count else ""
        click.echo(f"{plural(heap.count, kind)} removed, {size(heap.bytes)}{stays}")
    for key in found.foreign[:SHOWN]:
        click.echo(f"FOREIGN  {key}: not flowprep's, it stays")
    if len(found.foreign) > SHOWN:
        click.echo(f"and {len(found.foreign) - SHOWN:,} more")


def _step(text: str) -> None:
    click.echo(text, err=True)


def _print_faults(faults: list[str]) -> None:
    for fault in faults[:SHOWN]:
        click.echo(f"FAULT  {fault}")
    if len(faults) > SHOWN:
        click.echo(f"and {len(faults) - SHOWN:,} more")
