"""flowprep extract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from flowprep.cli.options import apply, extract_options
from flowprep.errors import ExitCode
from flowprep.wording import duration, plural, size


@click.command("extract")
@click.argument("source", required=False)
@click.argument("output", metavar="[OUT.zarr]", required=False)
@click.option("-c", "--config", "pipeline", type=click.Path(), help="Pipeline file (YAML); options override its keys.")
@click.option("-q", "--quiet", is_flag=True, help="No progress display.")
@extract_options
def command(source: str | None, output: str | None, pipeline: str | None, quiet: bool, **given: Any) -> None:
    """Compute flow for the videos of SOURCE and store it in OUT.zarr.

    SOURCE is a folder of videos (the first part of a path is the label) or a list file: lines of "path label", or
    csv/tsv with a header path,label,split. Run the same command again to continue after a stop of any kind.

    \b
    flowprep extract videos/ flow.zarr
    flowprep extract ucf101/videos ucf101.zarr --annotations ucf101/ucfTrainTestlist --workers 16
    flowprep extract -c pipelines/ucf101.yaml
    """
    from flowprep.config import build, read_pipeline
    from flowprep.run.driver import Extraction

    tree = read_pipeline(Path(pipeline)) if pipeline else {}
    merged = apply(tree, given)
    if source:
        merged["source"] = {**(merged.get("source") or {}), "path": source}
    if output:
        merged["output"] = output
    config = build(merged, pipeline or "command line")
    extraction = Extraction(config, lambda text: click.echo(text, err=True), quiet=quiet)
    if config.run.dry_run:
        _print_plan(extraction)
        return
    summary = extraction.run()
    _print_summary(summary, config.output)
    if summary.exit_code != ExitCode.OK:
        sys.exit(summary.exit_code)


def _print_plan(extraction: Any) -> None:
    from flowprep.run.planning import free_bytes

    expected = extraction.dry_run()
    settings = extraction.settings
    workers = min(extraction.workers, max(1, len(expected.plan.shards)))
    refused = sum(bool(video.refused) for shard in expected.plan.shards for video in shard.videos)
    missing = sum(video.size < 0 and not video.refused for shard in expected.plan.shards for video in shard.videos)
    click.echo(f"videos     {expected.videos:,}" + (f", {missing:,} of them missing" if missing else ""))
    if refused:
        click.echo(f"refused    {refused:,} paths")
    click.echo(f"frames     about {expected.frames:,} to decode")
    click.echo(f"fields     about {expected.fields:,}, {settings.flow.direction}")
    click.echo(f"method     {settings.flow.method} on {settings.flow.backend} ({settings.engine})")
    click.echo(f"bytes      about {size(expected.bytes)}; free there: {size(free_bytes(extraction.output))}")
    click.echo(f"time       about {duration(expected.seconds / workers)} on {plural(workers, 'worker')}")
    click.echo(f"shards     {len(expected.plan.shards):,} (units of work)")
    for name, end in expected.plan.ends.items():
        click.echo(f"array      {name}: up to {plural(end, 'file')} of 2048 rows")
    click.echo("Nothing was written.")


def _print_summary(summary: Any, output: str) -> None:
    from flowprep.errors import Verdict

    for verdict, count in summary.verdicts.items():
        click.echo(f"{count:8,}  {verdict}")
    for row in summary.failures[:20]:
        click.echo(f"          {row.verdict}: {row.id}: {row.reason}", err=True)
    if len(summary.failures) > 20:
        click.echo(f"          and {len(summary.failures) - 20:,} more: flowprep info {output} --failed", err=True)
    done = f"{plural(summary.fields, 'field')}, {size(summary.bytes)} in {output}"
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
