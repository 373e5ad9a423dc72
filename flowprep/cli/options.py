"""The options of a run, made from the fields of its configuration: one registry for command line and YAML."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click

from flowprep.config import ExtractConfig, FlowConfig, StackingConfig, TranscodeConfig
from flowprep.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
POSITIONAL = {("source", "path")}  # keys of a pipeline file that the command line takes as arguments
FRAMES = {("storage", "rgb"), ("storage", "rgb_short_side"), ("storage", "rgb_quality")}
# Keys without a meaning for what is made: stacks have no frames, and frames are not encoded again.
NOT_TAKEN: dict[type, set[tuple[str, str]]] = {
    StackingConfig: FRAMES,
    TranscodeConfig: FRAMES - {("storage", "rgb")},
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One key of a pipeline file and the option that sets it."""

    section: str
    key: str
    flag: str  # "--short-side"
    kind: Any  # int, float, str, bool or dict
    default: Any
    help: str
    choices: tuple[str, ...]
    metavar: str

    @property
    def name(self) -> str:
        """The parameter's name in Python, as click makes it."""
        return f"{self.section}_{self.key}"


def registry(config: type[Any] = ExtractConfig) -> list[Option]:
    """All options of the command whose configuration is ``config``, section by section."""
    options = []
    for section in dataclasses.fields(config):
        kind = typing.get_type_hints(config)[section.name]
        if not dataclasses.is_dataclass(kind):
            continue
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            if (section.name, item.name) in POSITIONAL | NOT_TAKEN.get(config, set()):
                continue
            data = item.metadata
            flag = "--" + (data["option"] or item.name).replace("_", "-")
            base = typing.get_origin(hints[item.name]) or hints[item.name]
            default = None if item.default is dataclasses.MISSING else item.default
            options.append(
                Option(section.name, item.name, flag, base, default, data["help"], data["choices"], data["metavar"])
            )
    return options


def options_of(config: type[Any]) -> Callable[[F], F]:
    """Decorator: add the whole registry to a click command."""

    def decorate(command: F) -> F:
        for option in reversed(registry(config)):
            command = click.option(*_declaration(option), **_attributes(option))(command)
        return command

    return decorate


extract_options = options_of(ExtractConfig)


def _declaration(option: Option) -> tuple[str, ...]:
    if option.kind is bool and option.default:
        return (f"{option.flag}/--no-{option.flag[2:]}", option.name)
    return (option.flag, option.name)


def _attributes(option: Option) -> dict[str, Any]:
    if option.kind is dict:
        return {"multiple": True, "metavar": option.metavar, "help": option.help}
    # An option that is not given is None, so that a pipeline file's value stays; so click cannot show the default.
    attributes: dict[str, Any] = {"default": None, "help": option.help + _shown_default(option)}
    if option.kind is bool:
        return {**attributes, "is_flag": True}
    choices = [choice for choice in option.choices if choice]  # "" is for leaving it out
    attributes["type"] = click.Choice(choices) if choices else option.kind
    if option.metavar:
        attributes["metavar"] = option.metavar
    return attributes


def _shown_default(option: Option) -> str:
    """`` [default: 4,096]``; nothing for what is off or unset, of which the help text speaks."""
    if not option.default:
        return ""
    if option.kind is bool:
        return " [default: on]"
    return f" [default: {option.default:,}]" if option.kind is int else f" [default: {option.default}]"


def apply(tree: dict[str, Any], given: dict[str, Any], config: type[Any] = ExtractConfig) -> dict[str, Any]:
    """``tree`` (from :func:`flowprep.config.read_pipeline`) with the options that were given put over it.

    Raises UsageError for a ``--set`` that is malformed or meant for another method.
    """
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for option in registry(config):
        value = given.get(option.name)
        if value is None or value == ():
            continue
        section = merged.setdefault(option.section, {})
        if option.kind is dict:
            method = section.get("method") or FlowConfig.method  # of the command line, if it names one: it came before
            section[option.key] = {**(section.get(option.key) or {}), **_parameters(value, method)}
        else:
            section[option.key] = value
    return merged


def _parameters(texts: tuple[str, ...], method: str) -> dict[str, str]:
    """``("tvl1.warps=5",)`` to ``{"warps": "5"}``; the prefix must be the method that runs."""
    parameters = {}
    for text in texts:
        name, equals, value = text.partition("=")
        prefix, _, key = name.partition(".")
        if not equals or not key or not value:
            raise UsageError(f"--set {text}: write METHOD.NAME=VALUE, for example --set tvl1.warps=5.")
        if prefix != method:
            raise UsageError(f"--set {text}: the method is {method}; add --method {prefix}.")
        parameters[key] = value
    return parameters
