"""flowprep verify."""

from __future__ import annotations

import sys

import click

from flowprep.errors import ExitCode
from flowprep.wording import plural, size

SHOWN = 50  # faults listed before "and more"


@click.command("verify")
@click.argument("dataset", type=click.Path())
@click.option(
    "--full", is_flag=True, help="Decode every stored row, not only the first, middle and last of each video."
)
def command(dataset: str, full: bool) -> None:
    """Check DATASET: conservation, counts, checksums, readability. Exit code 65 if anything is wrong."""
    import flowprep
    from flowprep.store.commits import repair_advice
    from flowprep.store.verify import verify

    report = verify(flowprep.open(dataset), full=full, step=lambda text: click.echo(text, err=True))
    for fault in report.faults[:SHOWN]:
        click.echo(f"FAULT  {fault}")
    if len(report.faults) > SHOWN:
        click.echo(f"and {len(report.faults) - SHOWN:,} more")
    if report.damaged_commits:
        click.echo(f"Next: in {dataset}: {repair_advice(report.damaged_commits)}")
    checked = f"{plural(report.videos, 'video')}, {plural(report.files, 'file')}, {size(report.bytes)}"
    verdict = "clean" if report.clean else plural(len(report.faults), "fault")
    click.echo(f"{checked}, {plural(report.rows_read, 'row')} decoded: {verdict}")
    if not report.clean:
        sys.exit(ExitCode.REFUSED)
