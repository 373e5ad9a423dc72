"""flowprep show."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("show")
@click.argument("dataset", type=click.Path())
@click.argument("video")
@click.option(
    "-o", "--output", type=click.Path(), help="File to write, .png or .mp4 [default: VIDEO's name .png here]."
)
@click.option(
    "--field",
    "fields",
    type=int,
    multiple=True,
    help="Field to draw; several make a contact sheet. [default: the middle one]",
)
@click.option("--every", type=int, help="Draw every N-th field.")
@click.option("--direction", type=click.Choice(["forward", "backward"]), help="Which flow. [default: what is stored]")
def command(
    dataset: str, video: str, output: str | None, fields: tuple[int, ...], every: int | None, direction: str | None
) -> None:
    """Draw VIDEO (its id or row number) of DATASET: frame, colour-wheel flow with its legend, the two stored planes."""
    import flowprep
    from flowprep.errors import UsageError
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
    if every is not None:
        if every < 1:
            raise UsageError(f"--every {every}: give 1 or more.")
        fields = tuple(range(0, row.fields, every))
    stored = opened.settings.flow.direction
    target = Path(output) if output else Path(f"{Path(row.id).stem}.png")
    count = show_video(opened, name, target, fields, direction or ("backward" if stored == "backward" else "forward"))
    click.echo(f"{target}: {count} field{'s' if count > 1 else ''} of {row.id}")
