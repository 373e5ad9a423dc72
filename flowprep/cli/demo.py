"""flowprep demo."""

from __future__ import annotations

from pathlib import Path

import click

from flowprep.config import METHODS


@click.command("demo")
@click.option("--videos", type=click.Path(), help="Your own clips in place of rendered ones (no truth then).")
@click.option("-o", "--output", type=click.Path(), default="demo-output", show_default=True, help="Folder, made anew.")
@click.option("--method", type=click.Choice(METHODS), default="tvl1", show_default=True, help="Flow method.")
def command(videos: str | None, output: str, method: str) -> None:
    """Render clips with exactly known motion, extract them, check the result, and print what came out."""
    from flowprep.demo import run_demo

    outcome = run_demo(Path(output), Path(videos) if videos else None, method, lambda text: click.echo(text, err=True))
    truth = "" if outcome.truth_epe is None else f"{outcome.truth_epe:.3f} px"
    rows = [
        ("videos", f"{outcome.videos}" + (f" ({outcome.failed} failed)" if outcome.failed else "")),
        ("fields", f"{outcome.fields:,}"),
        ("seconds", f"{outcome.seconds:.1f}"),
        ("flow bytes", f"{outcome.bytes:,}"),
        ("ratio to float32", f"{outcome.ratio:.1f}x"),
        ("stored flow against the true motion", truth),
        ("stored flow against the computed flow", f"{outcome.added_epe:.4f} px"),
        ("contact sheet", outcome.sheet),
    ]
    for name, value in rows:
        if value:
            click.echo(f"{name:<40}{value}")
    click.echo(f"Next: flowprep info {Path(output) / 'flow.zarr'}, or flowprep extract with videos of your own.")
