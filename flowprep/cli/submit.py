"""flowprep submit."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowprep.cli.options import apply, extract_options
from flowprep.errors import UsageError
from flowprep.wording import plural

if TYPE_CHECKING:
    from flowprep.run.driver import Extraction
    from flowprep.submit.job import Cluster

F = TypeVar("F", bound=Callable[..., Any])

ONLY = {
    "slurm": ("time", "partition", "account", "qos", "setup"),
    "k8s": ("image", "namespace", "claim", "host_path"),
}
OPTIONS = (
    click.option("-c", "--config", "pipeline", type=click.Path(), help="Pipeline file; options override its keys."),
    click.option("--to", required=True, type=click.Choice(tuple(ONLY)), help="The system that runs the job."),
    click.option("--dry-run", is_flag=True, help="Write the files and submit nothing, not even the plan."),
    click.option("--folder", type=click.Path(), help="Folder for the files of the job [default: beside OUT.zarr]."),
    click.option("--tasks", type=int, default=0, metavar="N", help="Tasks [default: one shard for each worker]."),
    click.option("--at-once", type=int, default=0, metavar="N", help="Tasks at the same time [default: all that fit]."),
    click.option(
        "--cpus", type=int, default=0, metavar="N", help="Processors and workers of a task [default: 4, or 8 a GPU]."
    ),
    click.option(
        "--memory", default="", metavar="SIZE", help="Memory of a task [default: 2G for each worker, 4G for each GPU]."
    ),
    click.option(
        "--gpus", type=int, default=0, metavar="N", help="GPUs of a task [default: 1 on backends for GPUs, else none]."
    ),
    click.option("--grace", type=int, default=90, show_default=True, help="Seconds of a stopped task for its shards."),
    click.option(
        "--time", metavar="H:MM:SS", help="SLURM: longest run of a task, then continued [default: the partition's]."
    ),
    click.option("--partition", metavar="NAME", help="SLURM: partition."),
    click.option("--account", metavar="NAME", help="SLURM: account."),
    click.option("--qos", metavar="NAME", help="SLURM: quality of service."),
    click.option("--setup", multiple=True, metavar="LINE", help="SLURM: line of the shell before the work; repeat."),
    click.option("--image", metavar="NAME", help="Kubernetes: image of flowprep; required."),
    click.option("--namespace", metavar="NAME", help="Kubernetes: namespace."),
    click.option("--claim", multiple=True, metavar="NAME=DIR", help="Kubernetes: claim and its folder here; repeat."),
    click.option("--host-path", multiple=True, metavar="DIR", help="Kubernetes: folder that all nodes have; repeat."),
)


def job_options(command: F) -> F:
    """Decorator: the options of the job."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command("submit")
@click.argument("source", required=False)
@click.argument("output", metavar="[OUT.zarr]", required=False)
@job_options
@extract_options
def command(
    source: str | None,
    output: str | None,
    pipeline: str | None,
    to: str,
    dry_run: bool,
    folder: str | None,
    **given: Any,
) -> None:
    """Plan OUT.zarr, write a job of SLURM or Kubernetes that extracts it, and submit it.

    Takes the pipeline file and the options of "flowprep extract" too. Run it again to continue, retry or extend.

    \b
    flowprep submit -c pipelines/ucf101.yaml --to slurm --partition cpu --time 2:00:00
    flowprep submit -c pipelines/ucf101.yaml --to k8s --image NAME --claim CLAIM=data
    """
    from flowprep.config import build, read_pipeline
    from flowprep.flow.choosing import AUTO, refuse_auto
    from flowprep.run.driver import Extraction
    from flowprep.submit.job import Request, dataset_name, make_job, write
    from flowprep.submit.outlook import Outlook, outlook

    cluster = _cluster(to, given)
    wanted = Request(**{name: given[name] for name in ("tasks", "at_once", "cpus", "memory", "gpus", "grace")})
    merged = apply(read_pipeline(Path(pipeline)) if pipeline else {}, given)
    if source:
        merged["source"] = {**(merged.get("source") or {}), "path": source}
    if output:
        merged["output"] = output
    merged.pop("cluster", None)  # the job is the cluster
    asked = build(merged, pipeline or "command line")
    if asked.flow.backend == AUTO:
        refuse_auto("the nodes of the job")
    extraction = Extraction(asked, lambda text: click.echo(text, err=True), elsewhere=True)
    # Every parameter by name, so that all tasks compute the same.
    config = replace(asked, flow=extraction.settings.flow)
    dry_run = dry_run or config.run.dry_run
    place = Path(folder) if folder else Path(config.output).parent / f"{dataset_name(config.output)}-{to}"

    # Everything that can be refused is, before the plan is written.
    most = cluster.most_tasks
    cluster.files(make_job(config, wanted, place, 1, most))
    if not dry_run:
        cluster.check()
    _warn_of_others(extraction)
    todo = outlook(extraction) if dry_run else Outlook(*extraction.prepare())
    status = f"flowprep status {shlex.quote(config.output)}"
    if not todo.pending:
        click.echo(f"Nothing to submit: all shards are committed. Next: {status}")
        return
    named = make_job(config, wanted, place, todo.pending, most)
    job, files = write(named, cluster, (lambda _: False) if dry_run else cluster.has)
    for path, new in files:
        click.echo(f"Wrote {path}." if new else f"{path} is there already, just like that.")
    work = f"{plural(job.tasks, 'task')} for {todo.pending:,} of {plural(todo.shards, 'shard')}"
    if not dry_run:
        name, by_hand = cluster.submit(job), cluster.by_hand(job)
        first = f"{by_hand} (for the pods, which are not root), then " if by_hand else ""
        click.echo(f"Submitted {name}: {work}. Next: {first}{status}")
    elif todo.unplanned:
        click.echo(f"Nothing was submitted: {work}, once they are planned. Next: the same command without --dry-run")
    else:
        then = "; when that is done, the same command without --dry-run" if todo.more else ""
        click.echo(f"Nothing was submitted: {work}. Next: {cluster.command(job)}{then}")


def _warn_of_others(extraction: Extraction) -> None:
    """Say so where somebody seems to be at work on the dataset: two jobs for the same shards are no faster than one."""
    from flowprep.store.plans import read_plans
    from flowprep.store.status import status

    if read_plans(extraction.store) and status(extraction.store).alive:
        output = extraction.config.output
        click.echo(
            f"Note: somebody has been at work on {output} within the last minutes. If that is a job which still runs, "
            f"this one is for the same shards, and makes nothing faster: see flowprep status {shlex.quote(output)}, "
            "and cancel one of the two.",
            err=True,
        )


# What the job itself decides, or decides anew for each task.
NOT_TAKEN = {"run_workers", "run_grace", "run_dry_run"}
command.params = [
    parameter
    for parameter in command.params
    if parameter.name not in NOT_TAKEN and not str(parameter.name).startswith("cluster_")
]


def _cluster(to: str, given: dict[str, Any]) -> Cluster:
    """The system that ``--to`` names, with its options. Raises UsageError for options of another one."""
    from flowprep.submit.kubernetes import Kubernetes
    from flowprep.submit.slurm import Slurm
    from flowprep.submit.volumes import volumes

    for system, names in ONLY.items():
        for name in names:
            if system != to and given[name]:
                raise UsageError(f"--{name.replace('_', '-')} is an option of --to {system}: leave it out.")
    options = {name: given[name] for name in ONLY[to] if given[name]}
    if to == "slurm":
        return Slurm(**options)
    shared = volumes(options.pop("claim", ()), options.pop("host_path", ()))
    return Kubernetes(image=options.pop("image", ""), shared=shared, **options)
