"""flowprep doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flowprep.errors import ExitCode
from flowprep.wording import plural

MARKS = {True: "ok ", False: "BAD", None: "-  "}


@click.command("doctor")
@click.argument("folder", type=click.Path(exists=True, file_okay=False), default=".")
def command(folder: str) -> None:
    """Say what works on this machine, and why the rest does not. FOLDER is where datasets would be written."""
    from flowprep.doctor import diagnose

    troubles = 0
    for what, finding, good in diagnose(Path(folder)):
        troubles += good is False
        click.echo(f"{MARKS[good]}  {what:<22}{finding}")
    if troubles:
        click.echo(f"{plural(troubles, 'thing')} to mend.")
        sys.exit(ExitCode.REFUSED)
    click.echo("Everything works.")
