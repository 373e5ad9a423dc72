"""flowprep extract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowprep.cli.options import apply, extract_options
from flowprep.cli.running import run_and_report, told


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
    extraction = Extraction(config, told(), quiet=quiet)
    run_and_report(extraction)
