"""flowprep show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("show")
@click.argument("dataset", type=click.Path())
@click.argument("video")
@click.option(
    "-o", "--output", type=click.Path(), help="File to write, .png or .mp4 [default: VIDEO's name .png here]."
)
@click.option("--field", type=int, multiple=True, help="Field to draw; several make a contact sheet.")
@click.option("--stack", type=int, multiple=True, help="Stack to draw, of a dataset of stacks; several as above.")
@click.option(
    "--frame", type=int, multiple=True, help="Frame whose stack to draw: the nearest that is stored; several as above."
)
@click.option("--every", type=int, metavar="N", help="Draw every N-th field, stack or, with --trajectories, frame.")
@click.option("--direction", type=click.Choice(["forward", "backward"]), help="Which flow. [default: what is stored]")
@click.option(
    "--trajectories", is_flag=True, help="Of a dataset of flow: draw stacks of trajectories, made on the spot."
)
@click.option("--length", type=int, metavar="L", help="With --trajectories: fields in a stack. [default: 10]")
@click.option("--bidirectional", is_flag=True, help="With --trajectories: half of the fields back in time.")
def command(dataset: str, video: str, output: str | None, **given: Any) -> None:
    """Draw VIDEO (its id or row number) of DATASET, by default its middle field or stack.

    A field: the frame, its flow in the colours of a wheel, and its two planes. A stack: the frame with the trajectories
    of a grid of points, the flow of each field in colours, and all planes.

    \b
    flowprep show ucf101.zarr v_YoYo_g01_c01.avi -o flow.mp4
    flowprep show ucf101.zarr v_YoYo_g01_c01.avi --trajectories --frame 24
    flowprep show stacks.zarr 0 --every 5 -o sheet.png
    """
    import flowprep
    from flowprep.errors import UsageError
    from flowprep.show.choice import Choice
    from flowprep.show.video import show_video

    opened = flowprep.open(dataset)
    name: str | int = video
    if video.isascii() and video.isdecimal() and video not in {row.id for row in opened.videos}:
        name = int(video)
        if not opened.videos:
            raise UsageError(f"{dataset} has no videos yet: its extraction has only begun.")
        if name >= len(opened.videos):
            raise UsageError(f"{dataset} has videos 0 to {len(opened.videos) - 1}, not {name}.")
    row = opened.videos[name]
    target = Path(output) if output else Path(f"{Path(row.id).stem}.png")
    drawn = show_video(opened, name, target, Choice(**given))
    click.echo(f"{target}: {drawn} of {row.id}")
