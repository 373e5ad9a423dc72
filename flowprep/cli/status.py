"""flowprep status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from flowprep.errors import ExitCode
from flowprep.wording import duration, plural, size, some


@click.command("status")
@click.argument("dataset", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
def command(dataset: str, as_json: bool) -> None:
    """Say how far the extraction of DATASET is, and what to do next. Exit code 0 when it is complete, 75 when not.

    It reads only what is committed: the answer is the same while the extraction runs, after a crash, and from another
    machine.
    """
    from flowprep.store.blobs import LocalStore
    from flowprep.store.status import status

    found = status(LocalStore(Path(dataset)))
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        for line in _lines(found):
            click.echo(line)
    if not found.complete:
        sys.exit(ExitCode.UNFINISHED)


def _lines(found: Any) -> list[str]:
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in found.verdicts.items())
    lines = [
        f"dataset      {found.path}",
        f"shards       {found.shards_done:,} of {found.shards:,} committed",
        f"videos       {found.videos_done:,} of {found.videos:,} done" + (f": {verdicts}" if verdicts else ""),
        f"stored       {plural(found.fields, found.unit)}, {size(found.bytes)}",
    ]
    if found.last_commit is not None:
        hosts = some([f"{host} ({plural(shards, 'shard')})" for host, shards in found.hosts.items()])
        lines.append(
            f"rate         {found.rate:,.1f} {found.unit}s a second, over {duration(found.recent)} of recent commits"
        )
        lines.append(f"last commit  {duration(found.last_commit)} ago; lately by {hosts}")
    if found.fields_left:
        about = f"about {duration(found.eta)} at that pace" if found.eta is not None else "no pace known yet"
        lines.append(f"left         about {plural(found.fields_left, found.unit)}, {about}")
    if found.scratches:
        lines.append(
            f"tries        {found.scratches:,} not committed (at work, or given up); the last sign of life of any was "
            f"{duration(found.scratches_quiet)} ago, of the quietest {duration(found.scratches_oldest)} ago"
        )
    return [*lines, f"next         {_next(found)}"]


def _next(found: Any) -> str:
    if found.complete and found.failed:
        return f"complete; flowprep info {found.path} --failed says why {plural(found.failed, 'video')} failed"
    if found.complete:
        return f"complete, nothing to do; flowprep verify {found.path} checks every file"
    if found.alive:
        return (
            "nothing: it seems to be at work; if not, and no job is waiting, "
            "run the command that made the dataset (or submit) again"
        )
    return (
        "if no job is waiting in a queue, which cannot be seen here, run the command that made the dataset (or submit) "
        "again: "
        "nobody seems to be at work; it continues"
    )
