"""flowprep info."""

from __future__ import annotations

import json
from typing import Any

import click

from flowprep.wording import describe_stack, plural, size


@click.command("info")
@click.argument("dataset", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
@click.option("--failed", is_flag=True, help="List the videos that failed, with their reasons.")
@click.option("--videos", "list_videos", is_flag=True, help="List all videos: status, fields, size, label, id.")
def command(dataset: str, as_json: bool, failed: bool, list_videos: bool) -> None:
    """Say what is in DATASET."""
    import flowprep
    from flowprep.errors import UsageError
    from flowprep.store.summary import summarise

    if as_json + failed + list_videos > 1:
        raise UsageError("--json, --failed and --videos exclude each other: give one of them.")
    opened = flowprep.open(dataset)
    if failed or list_videos:
        for row in opened.videos:
            if failed and row.status != "ok":
                click.echo(f"{row.status}\t{row.id}\t{row.row.reason}")
            elif list_videos:
                size = f"{row.row.width}x{row.row.height}"
                click.echo(f"{row.status}\t{row.fields}\t{size}\t{row.label}\t{row.id}")
        return
    info = summarise(opened)
    if as_json:
        click.echo(json.dumps(info.to_json(), indent=2))
        return
    for line in _lines(info):
        click.echo(line)


def _lines(info: Any) -> list[str]:
    from flowprep.store.commits import CONTINUE

    settings = info.settings
    flow, video, stack = settings["flow"], settings["video"], settings.get("stack")
    parameters = " ".join(f"{name}={value}" for name, value in flow["parameters"].items())
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in info.verdicts.items())
    classes = f" in {info.labels:,} class" + ("es" if info.labels > 1 else "") if info.labels else ""
    frames = f"{info.frames:,} RGB, {size(info.frames_bytes)}" if info.frames else "none stored"
    limit = f", at most {video['fps']} per second" if video["fps"] else ""
    ratio = f"{info.ratio:.1f}x smaller than float32 ({size(info.float32_bytes)})" if info.fields else "-"
    unit = "stack" if stack else "field"
    made = "the stacks" if stack else "the flow it was made from" if settings.get("origins") else "the computed flow"
    lines = [
        f"dataset      {info.path}",
        f"videos       {info.videos:,}{classes}: {verdicts}",
        f"{unit + 's' if stack else 'flow':<13}{plural(info.fields, unit)}, {size(info.flow_bytes)}",
        f"ratio        {ratio}",
        f"frames       {frames}",
        f"on disk      {size(info.bytes)}",
        *_added_error(info, made),
        f"method       {flow['method']} on {flow['backend']} ({settings['engine']}), {flow['direction']}",
        *([f"auto         {settings['auto']}"] if "auto" in settings else []),
        f"parameters   {parameters or 'none'}",
        f"coding       {_coding(settings['storage'], unit)}",
        *(f"before       {_coding(storage, 'field')}" for storage in reversed(settings.get("origins", []))),
        *([f"stacks       {describe_stack(stack)}"] if stack else []),
        f"frames used  stride {video['stride']}{limit}",
    ]
    if info.unfinished_shards:
        lines.insert(1, f"unfinished   {plural(info.unfinished_shards, 'shard')}: {CONTINUE}")
    lines += [f"array        {name}: {rows:,} rows" for name, rows in info.arrays.items()]
    lines += [
        f"settings     {info.settings_fingerprint}",
        f"content      {info.content_fingerprint}",
    ]
    if info.versions:
        lines.append("written with " + ", ".join(f"{name} {version}" for name, version in info.versions.items()))
    return lines


def _coding(storage: dict[str, Any], unit: str) -> str:
    """How flow is stored, in short."""
    codec = storage.get("codec", "jpeg")
    if codec == "htj2k":
        return f"HTJ2K, 1/512 px a level, step {storage['level']:g} of the range"
    if codec == "blosc" and storage["bits"] == 16:
        return f"Blosc, 16 bits, {storage['step']:g} px a level"
    if codec == "blosc":
        return f"Blosc, 8 bits, fixed +-{storage['bound']:g} px"
    if storage["range"] == "field":
        return f"JPEG, each {unit}'s own range"
    return f"JPEG, fixed +-{storage['bound']} px, {storage['rounding']}"


def _added_error(info: Any, made: str) -> list[str]:
    if not info.sampled_fields:
        return ["added error  -"]
    return [
        f"added error  {info.added_epe:.4f} px on average, {info.added_epe_max:.2f} px at worst: the end-point error",
        f"             that storing adds to {made}, measured on {info.sampled_fields:,} rows",
    ]
