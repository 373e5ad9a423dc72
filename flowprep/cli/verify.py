"""flowprep verify."""

from __future__ import annotations

import sys

import click

from flowprep.errors import ExitCode

SHOWN = 50  # faults listed before "and more"


@click.command("verify")
@click.argument("dataset", type=click.Path())
@click.option(
    "--full", is_flag=True, help="Decode every stored row, not only the first, middle and last of each video."
)
def command(dataset: str, full: bool) -> None:
    """Check DATASET: conservation, counts, checksums, readability. Exit code 65 if anything is wrong."""
    import flowprep
    from flowprep.store.verify import verify

    report = verify(flowprep.open(dataset), full=full, step=lambda text: click.echo(text, err=True))
    for fault in report.faults[:SHOWN]:
        click.echo(f"FAULT  {fault}")
    if len(report.faults) > SHOWN:
        click.echo(f"and {len(report.faults) - SHOWN:,} more")
    checked = f"{report.videos:,} videos, {report.files:,} files, {report.bytes / 1e6:,.1f} MB"
    verdict = "clean" if report.clean else f"{len(report.faults):,} faults"
    click.echo(f"{checked}, {report.rows_read:,} rows decoded: {verdict}")
    if not report.clean:
        sys.exit(ExitCode.REFUSED)
