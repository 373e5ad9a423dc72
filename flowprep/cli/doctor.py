"""flowprep doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flowprep.errors import ExitCode, UsageError
from flowprep.wording import plural

MARKS = {True: "ok ", False: "BAD", None: "-- "}


@click.command("doctor")
@click.argument("folder", type=click.Path(exists=True, file_okay=False), required=False)
@click.option("--warm", is_flag=True, help="Only compile the kernels, once a machine, and keep them.")
def command(folder: str | None, warm: bool) -> None:
    """Say what works on this machine, and why the rest does not. FOLDER is where datasets would go, else here.

    "ok" works, "BAD" does not, "--" is not here and need not be.
    """
    from flowprep import doctor

    if warm and folder:
        raise UsageError("--warm compiles kernels and looks at nothing else: leave FOLDER out.")
    troubles = 0

    def say(text: str) -> None:
        click.echo(text, err=True)

    findings = doctor.warm(say) if warm else doctor.diagnose(Path(folder or "."), say)
    for what, finding, good in findings:
        troubles += good is False
        click.echo(f"{MARKS[good]}  {what:<22}{finding}")
    if troubles:
        click.echo(f"{plural(troubles, 'thing')} to mend.")
        sys.exit(ExitCode.REFUSED)
    if not warm:
        click.echo("Everything works.")
