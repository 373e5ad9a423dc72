"""flowprep train."""

from __future__ import annotations

from typing import Any

import click

from flowprep.config import STREAMS
from flowprep.schema import merged

KEYS = {  # options that have a name of their own
    "split": ("data", "split"),
    "workers": ("data", "workers"),
    "iterations": ("solver", "iterations"),
    "device": ("solver", "device"),
    "seed": ("solver", "seed"),
}


def with_options(over: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``over`` with the options of :data:`KEYS` in ``given``; None: not given."""
    for name, (section, key) in KEYS.items():
        if given.get(name) is not None and isinstance(over.get(section) or {}, dict):  # else it is refused as it is
            over = merged(over, {section: {key: given[name]}})
    return over


@click.command("train")
@click.argument("dataset", required=False, type=click.Path())
@click.argument("run", required=False, type=click.Path())
@click.option("-c", "--config", "pipeline", type=click.Path(), help="Pipeline file (YAML) with a section train.")
@click.option("--stream", required=True, type=click.Choice(STREAMS), help="Which of the two networks.")
@click.option("--split", type=int, metavar="N", help="Split to train on: 1, 2 or 3. [default: 1]")
@click.option("--iterations", type=int, metavar="N", help="Batches in all. [default: the paper's]")
@click.option("--workers", type=int, metavar="N", help="Threads that read ahead. [default: one a processor, up to 8]")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:1. [default: a GPU where there is one]")
@click.option("--seed", type=int, metavar="N", help="Of weights, draws and dropout. [default: 0]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key, as in solver.batch=64.")
@click.option("-q", "--quiet", is_flag=True, help="No lines of progress.")
def command(
    dataset: str | None,
    run: str | None,
    pipeline: str | None,
    stream: str,
    settings: tuple[str, ...],
    quiet: bool,
    **given: Any,
) -> None:
    """Train the spatial or the temporal network on DATASET, in a folder of its own below RUN.

    DATASET is one of flow, with RGB frames for the spatial network, or one of stacks. The same command goes on with a
    run that was stopped in any way, exactly. On several GPUs: torchrun --no-python --nproc-per-node 4 flowprep train
    with the rest as it was; their batches are those of one.

    \b
    flowprep train -c pipelines/ucf101.yaml --stream temporal
    flowprep train ucf101.zarr runs --stream spatial --set net.name=resnet50 --set solver.learning_rate=0.001
    """
    from flowprep.cli.running import told
    from flowprep.cli.training import assignments, require_torch, stream_of
    from flowprep.wording import plural, some

    over = with_options(assignments(settings), given)
    over |= {key: value for key, value in (("dataset", dataset), ("output", run)) if value}
    config = stream_of(pipeline, stream, over)
    require_torch()
    from flowprep.train.loop import train

    outcome = train(config, told(), quiet=quiet)
    if not outcome.leads:
        return
    if outcome.done_before:
        click.echo(f"{outcome.checkpoint}: all {outcome.iterations:,} iterations are done, nothing to do.")
        return
    click.echo(f"{plural(outcome.iterations, 'iteration')} done: {outcome.checkpoint}")
    if found := outcome.validation:
        click.echo(f"validation  accuracy {found.accuracy:.1%}, loss {found.loss:.4f}, {plural(found.videos, 'video')}")
        if found.damaged:
            click.echo(f"damaged     {plural(found.damaged, 'video')} of validation left out")
    if outcome.damaged:
        times = plural(sum(outcome.damaged.values()), "sample")
        click.echo(
            f"damaged     {times} of {plural(len(outcome.damaged), 'video')} replaced: {some(sorted(outcome.damaged))}"
        )
