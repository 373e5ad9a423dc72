"""What the commands that make a dataset have in common: run it, say what came of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from flowprep.errors import ExitCode, UsageError
from flowprep.wording import describe_stack, duration, plural, size


def configuration(kind: type[Any], names: dict[str, str | None], pipeline: str | None, given: dict[str, Any]) -> Any:
    """A configuration of ``kind`` from a pipeline file, the options that were given, and arguments by their keys."""
    from flowprep.cli.options import apply
    from flowprep.config import build, read_pipeline

    merged = apply(read_pipeline(Path(pipeline), kind) if pipeline else {}, given, kind)
    merged |= {key: value for key, value in names.items() if value}
    return build(merged, pipeline or "command line", kind)


def told(*, quiet: bool = False) -> Callable[[str], None]:
    """What prints lines on standard error; where they cannot be written, work goes on without."""

    def say(text: str) -> None:
        if not quiet:
            with suppress(OSError):
                click.echo(text, err=True)

    return say


def check_target(option: str, given: str | Path, *, new_folder: bool = False) -> None:
    """Before any work: raises UsageError where the file ``given``, or what a link of that name leads to, cannot be
    written. Its folder has to be there, unless it is for a ``new_folder`` that the user has named.
    """
    try:
        path = Path(os.path.realpath(given))
        folder = next(parent for parent in path.parents if parent.exists())
        (folder / f".{path.name}.part").exists()  # the name that it has at first
        if path.is_dir() or str(given).endswith("/"):
            raise UsageError(f"{option} {given}: a folder; name a file.")
        if Path(given).exists() and not Path(given).is_file():
            raise UsageError(f"{option} {given}: not a file, so that nothing is put in its place: give another name.")
        if _goes_to(Path(given)):
            raise UsageError(f"{option} {given}: what is printed goes there: give another name.")
        if not new_folder and folder != path.parent:
            raise UsageError(f"{option} {given}: there is no such folder.")
        if not folder.is_dir():
            raise UsageError(f"{option} {given}: {folder} is no folder.")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{option} {given}: {folder} may not be written to.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{option} {given}: no file can have that name ({reason}).") from None


def _goes_to(path: Path) -> bool:
    """Whether standard output, or standard error, is written to the file ``path``."""
    for stream in (1, 2):
        with suppress(OSError):  # there is no such file, or stream
            if os.path.samestat(path.stat(), os.fstat(stream)):
                return True
    return False


def run_and_report(run: Any) -> None:
    """Do what the configuration of a run asks for; ends the process with its exit code unless that is 0."""
    if run.config.run.dry_run:
        _print_plan(run)
        return
    summary = run.run()
    _print_summary(summary, run.config.output, run.settings.unit)
    if summary.exit_code != ExitCode.OK:
        sys.exit(summary.exit_code)


def _print_plan(run: Any) -> None:
    from flowprep.run.planning import free_bytes

    expected = run.dry_run()
    settings = run.settings
    workers = min(run.workers, max(1, len(expected.plan.shards)))
    refused = sum(bool(video.refused) for shard in expected.plan.shards for video in shard.videos)
    missing = sum(video.size < 0 and not video.refused for shard in expected.plan.shards for video in shard.videos)
    click.echo(f"videos     {expected.videos:,}" + (f", {missing:,} of them missing" if missing else ""))
    if refused:
        click.echo(f"refused    {refused:,} paths")
    if settings.derived:
        click.echo(f"fields     {expected.frames:,} to decode")
    else:
        click.echo(f"frames     about {expected.frames:,} to decode")
        click.echo(f"fields     about {expected.fields:,}, {settings.flow.direction}")
        click.echo(f"method     {settings.flow.method} on {settings.flow.backend} ({settings.engine})")
    if settings.stack:
        click.echo(f"stacks     {expected.fields:,}, {describe_stack(settings.to_json()['stack'])}")
    click.echo(f"bytes      about {size(expected.bytes)}; free there: {size(free_bytes(run.output))}")
    click.echo(f"time       about {duration(expected.seconds / workers)} on {plural(workers, 'worker')}")
    click.echo(f"shards     {len(expected.plan.shards):,} (units of work)")
    for name in sorted({name for shard in expected.plan.shards for name in shard.blocks}):
        click.echo(f"array      {name}: up to {plural(expected.plan.ends[name], 'file')} of 2048 rows")
    click.echo("Nothing was written.")


def _print_summary(summary: Any, output: str, unit: str) -> None:
    from flowprep.errors import Verdict

    for verdict, count in summary.verdicts.items():
        click.echo(f"{count:8,}  {verdict}")
    for row in summary.failures[:20]:
        click.echo(f"          {row.verdict}: {row.id}: {row.reason}", err=True)
    if len(summary.failures) > 20:
        click.echo(f"          and {len(summary.failures) - 20:,} more: flowprep info {output} --failed", err=True)
    done = f"{plural(summary.fields, unit)}, {size(summary.bytes)} in {output}"
    if summary.shards_left:
        left = plural(summary.shards_left, "shard")
        click.echo(f"{done}, {duration(summary.seconds)}; this task is done, the others have {left} left.")
    elif summary.shards_run:
        click.echo(f"{done}, {duration(summary.seconds)}.")
    else:
        click.echo(f"{done}: complete, nothing to do.")
    if summary.exit_code != ExitCode.OK:
        failed = sum(count for verdict, count in summary.verdicts.items() if verdict != Verdict.OK)
        click.echo(
            f"flowprep: {plural(failed, 'video')} failed, more than --max-failed allows; the others are stored. "
            "Repair them and use --retry-status, or raise --max-failed.",
            err=True,
        )
