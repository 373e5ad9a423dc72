"""flowprep demo."""

from __future__ import annotations

from pathlib import Path

import click

from flowprep.cli.running import told
from flowprep.cli.training import require_torch
from flowprep.config import METHODS
from flowprep.errors import UsageError


@click.command("demo")
@click.option("--videos", type=click.Path(), help="Your own clips in place of rendered ones (no truth then).")
@click.option("-o", "--output", type=click.Path(), default="demo-output", show_default=True, help="Folder, made anew.")
@click.option("--method", type=click.Choice(METHODS), default="tvl1", show_default=True, help="Flow method.")
@click.option("--train/--no-train", default=None, help="Train on rendered clips. [default: if PyTorch is there]")
def command(videos: str | None, output: str, method: str, train: bool | None) -> None:
    """Render clips with exactly known motion, extract them, check the result, train both streams on them, and print
    what came out.
    """
    from importlib.util import find_spec

    from flowprep.demo import run_demo

    say = told()
    if train and videos:
        raise UsageError("--train is for rendered clips, whose classes are known: leave it out, or --videos.")
    if train:
        require_torch()
    elif train is None and not videos and not find_spec("torch"):
        say("PyTorch is not there, so nothing is trained: in flowprep's folder, pip install '.[train]'.")
        train = False
    outcome = run_demo(Path(output), Path(videos) if videos else None, method, say, training=train is not False)
    truth = "" if outcome.truth_epe is None else f"{outcome.truth_epe:.3f} px"
    rows = [
        ("videos", f"{outcome.videos}" + (f" ({outcome.failed} failed)" if outcome.failed else "")),
        ("fields", f"{outcome.fields:,}"),
        ("flow bytes", f"{outcome.bytes:,}"),
        ("ratio to float32", f"{outcome.ratio:.1f}x"),
        ("stored flow against the true motion", truth),
        ("stored flow against the computed flow", f"{outcome.added_epe:.4f} px"),
        ("contact sheet", outcome.sheet),
    ]
    if found := outcome.recognition:
        rows += [
            ("spatial stream, test videos recognised", f"{found.spatial_accuracy:.1%} (chance {found.chance:.1%})"),
            (
                "  of its training videos",
                f"{found.spatial_training_accuracy:.1%}, loss {found.spatial_training_loss:.2f}",
            ),
            ("temporal stream", f"{found.temporal_accuracy:.1%}"),
            ("fused by averaging, by an SVM", f"{found.fused_accuracy:.1%}, {found.svm_accuracy:.1%}"),
            ("seeds", ", ".join(f"{name} {seed}" for name, seed in found.seeds.items())),
            ("report", found.page),
        ]
    rows.append(("seconds by stage", ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in outcome.stages.items())))
    for name, value in rows:
        if value:
            click.echo(f"{name:<40}{value}")
    click.echo(f"Next: flowprep info {Path(output) / 'flow.zarr'}, or flowprep extract with videos of your own.")
