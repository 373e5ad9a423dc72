"""The command line: one file a command, no logic. Commands are imported when called, so that help is instant."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from flowprep import __version__
from flowprep.errors import ExitCode, FlowprepError, UsageError

COMMANDS = {
    "extract": "Compute flow for a folder or list of videos, into one dataset.",
    "stack": "Stack the flow of a dataset: fields or trajectories, as a dataset.",
    "transcode": "Store a dataset in another way: smaller, faster to read, or for any Zarr reader.",
    "train": "Train the spatial or the temporal network of a two-stream recogniser on a dataset.",
    "evaluate": "Score the videos of a dataset by trained networks: 25 frames of each, ten crops of each.",
    "fuse": "Fuse the scores of streams: average, weighted, maximum, logistic regression or SVM.",
    "report": "Put scores on one page: accuracy, the paper's tables, classes, confusions, curves, filters.",
    "predict": "Say what is done in a video: the likeliest classes by trained networks.",
    "experiment": "Run the two-stream paper's tables row by row, ours beside the paper's numbers.",
    "submit": "Extract on a cluster: plan, write a job of SLURM or Kubernetes, and submit it.",
    "status": "Say how far an extraction is: done, rate, time left, what to do next.",
    "info": "Say what is in a dataset: counts, sizes, settings, error bound, fingerprints.",
    "show": "Draw a video of a dataset: frames, colour-wheel flow, stacks, trajectories, the stored planes.",
    "verify": "Check a dataset: every video accounted for, counts, checksums, readability; or remove litter.",
    "doctor": "Say what works on this machine, and why the rest does not.",
    "demo": "Render clips with known motion, extract them, check, train, report. Or take your own clips.",
}


SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2)  # that ask for the end


class _PipeError(Exception):
    """A BrokenPipeError on its way through click, which would end the process with code 1, whichever pipe it was."""

    def __init__(self, cause: BrokenPipeError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Commands(click.Group):
    """A group whose commands live in modules of the same name."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _PipeError(error) from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"flowprep.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from flowprep.errors import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="flowprep")
def flowprep() -> None:
    """Folders of videos to optical-flow training sets, and those to two-stream action recognisers.

    Exit codes: 0 done; 2 usage; 65 refused, damaged, or too many videos failed; 70 a bug of flowprep; 74 disk;
    75 stopped on the way, run the same command again.
    """


class _Lossy(io.FileIO):
    """A file for messages: what cannot be written there is lost, and stops nothing."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or len(data)  # None where it would have to wait
        except OSError:
            return len(data)


def complain(text: str) -> None:
    """One message, on standard error."""
    click.echo(f"flowprep: {text}", err=True)


def _nobody_reads() -> bool:
    """Whether the reader of standard output is gone, as in `flowprep info ... | head`: that is no failure."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in watch.poll(0))


def _prepare_streams() -> None:
    """Standard output and standard error are there, and messages on the latter stop nothing."""
    if (messages := sys.stderr) is not None:
        with suppress(io.UnsupportedOperation):  # a program that calls main() may have put something else there
            buffer = io.BufferedWriter(_Lossy(messages.fileno(), "wb", closefd=False))
            sys.stderr = io.TextIOWrapper(buffer, messages.encoding, messages.errors, line_buffering=True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as the process


def _stop(*_: object) -> None:
    """A signal asks for the end, outside of runs, which handle them in their own way; then only Ctrl-C is heeded."""
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(ExitCode.UNFINISHED)


def main() -> None:
    """Run the command line; every FlowprepError is one clear message and its exit code."""
    _prepare_streams()
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has SIGHUP
    for number in heeded:
        if number != signal.SIGINT:  # a KeyboardInterrupt
            signal.signal(number, _stop)
    try:
        _run()
    finally:  # nothing is left that would have to end in good order
        for number in heeded:
            signal.signal(number, lambda *_: os._exit(ExitCode.UNFINISHED))


def _check_folder() -> None:
    """Raises UsageError where the working directory was deleted: names of files mean nothing then."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the working directory is no longer there: change to one that is.") from None


def _run() -> None:
    try:
        _check_folder()
        flowprep(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(ExitCode.UNFINISHED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except FlowprepError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.UNFINISHED)
    except (OSError, _PipeError) as error:
        if isinstance(error, _PipeError):
            error = error.cause
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(ExitCode.OK)
        name = f"{error.filename}: " if error.filename else ""
        complain(f"{name}{error.strerror or error}.")
        sys.exit(ExitCode.STORE)
    except Exception:  # noqa: BLE001 - whatever is left is a bug, and says so
        import traceback

        traceback.print_exc()
        complain("this is a bug of flowprep; please report it with the lines above.")
        sys.exit(ExitCode.BUG)
