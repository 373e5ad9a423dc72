"""flowprep transcode."""

from __future__ import annotations

from typing import Any

import click

from flowprep.cli.options import options_of
from flowprep.cli.running import configuration, run_and_report, told
from flowprep.config import TranscodeConfig


@click.command("transcode")
@click.argument("dataset", required=False, type=click.Path())
@click.argument("output", metavar="[OUT.zarr]", required=False)
@click.option("-c", "--config", "pipeline", type=click.Path(), help="Pipeline file (YAML); options override its keys.")
@click.option("-q", "--quiet", is_flag=True, help="No progress display.")
@options_of(TranscodeConfig)
def command(dataset: str | None, output: str | None, pipeline: str | None, quiet: bool, **given: Any) -> None:
    """Store the flow (or the stacks) of DATASET in another way, in OUT.zarr; RGB frames are taken over as they are.

    \b
    flowprep transcode ucf101.zarr fast.zarr --codec blosc --bits 8 --no-rgb
    flowprep transcode master.zarr cache.zarr --codec jpeg --quality 90
    """
    from flowprep.run.driver import Transcoding

    config = configuration(TranscodeConfig, {"dataset": dataset, "output": output}, pipeline, given)
    run_and_report(Transcoding(config, told(), quiet=quiet))
