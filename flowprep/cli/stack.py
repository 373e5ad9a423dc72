"""flowprep stack."""

from __future__ import annotations

from typing import Any

import click

from flowprep.cli.options import options_of
from flowprep.cli.running import configuration, run_and_report, told
from flowprep.config import StackingConfig


@click.command("stack")
@click.argument("dataset", required=False, type=click.Path())
@click.argument("output", metavar="[OUT.zarr]", required=False)
@click.option("-c", "--config", "pipeline", type=click.Path(), help="Pipeline file (YAML); options override its keys.")
@click.option("-q", "--quiet", is_flag=True, help="No progress display.")
@options_of(StackingConfig)
def command(dataset: str | None, output: str | None, pipeline: str | None, quiet: bool, **given: Any) -> None:
    """Stack the fields of DATASET, and store the stacks in OUT.zarr.

    A stack has 2L channels, u1 v1 u2 v2 ..., all of L fields: as they lie, or along the trajectories of the pixels. Run
    the same command again to continue after a stop of any kind.

    \b
    flowprep stack ucf101.zarr stacks.zarr --every 8
    flowprep stack ucf101.zarr trajectories.zarr --kind trajectory --per-video 25 --size 224x224
    """
    from flowprep.run.driver import Stacking

    config = configuration(StackingConfig, {"dataset": dataset, "output": output}, pipeline, given)
    run_and_report(Stacking(config, told(), quiet=quiet))
