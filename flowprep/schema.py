"""From mappings to dataclasses, key by key: what a YAML file or a record may say, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import re
import reprlib
import sys
import typing
from dataclasses import field
from typing import Any, TypeVar

from flowprep.errors import UsageError, did_you_mean

TYPES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}

POWER_OF_TEN = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")  # as 1e-3, which YAML reads as text

SHORT = reprlib.Repr()  # for values in messages, however large
SHORT.maxlevel = 2

T = TypeVar("T")


def setting(default: Any, text: str, *, choices: tuple[str, ...] = (), metavar: str = "", option: str = "") -> Any:
    """A field with what the command line and the documentation need to know of it."""
    metadata = {"help": text, "choices": choices, "metavar": metavar, "option": option}
    if isinstance(default, dict | list):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def from_mapping(cls: type[T], tree: Any, where: str, prefix: str = "") -> T:
    """The dataclass ``cls`` with the values of ``tree``; sections are dataclasses in dataclasses.

    Raises UsageError for what is not a mapping, an unknown key (with the nearest known one) and a value of another
    type, naming ``where`` and the key behind ``prefix``.
    """
    if not isinstance(tree, dict):
        raise UsageError(f"{where}: {prefix.rstrip('.')} must be a mapping, not {SHORT.repr(tree)}.")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in fields:
            raise UsageError(f"{where}: unknown key {prefix}{key}.{did_you_mean(str(key), list(fields))}")
        name = f"{prefix}{key}"
        if dataclasses.is_dataclass(hints[key]):
            values[key] = from_mapping(hints[key], value if value is not None else {}, where, f"{name}.")
        elif value is not None:  # an empty YAML value means the default
            values[key] = checked(value, hints[key], fields[key].metadata.get("choices", ()), f"{where}: {name}")
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``below`` with the values of ``above`` put over it, section by section."""
    tree = dict(below)
    for key, value in above.items():
        under = tree.get(key)
        tree[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return tree


def check_choices(config: Any) -> None:
    """Raises UsageError, naming the key, where a field of the dataclass ``config`` is none of its choices."""
    for item in dataclasses.fields(config):
        if choices := item.metadata.get("choices"):
            checked(getattr(config, item.name), str, choices, item.name)


def checked(value: Any, hint: Any, choices: tuple[str, ...], where: str) -> Any:
    """``value`` as the type of its field; raises UsageError naming ``where``."""
    kind = typing.get_origin(hint) or hint
    if kind is float and isinstance(value, str) and POWER_OF_TEN.fullmatch(value):
        value = float(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and kind is str:
        value = str(value)  # YAML reads `max_failed: 3` as a number
    elif number and kind is float and abs(value) <= sys.float_info.max:
        value = float(value)
    elif not isinstance(value, kind) or isinstance(value, bool) != (kind is bool) or kind is float:
        raise UsageError(f"{where}: {SHORT.repr(value)} is not {TYPES[kind]}.")
    if kind is list:
        (item,) = typing.get_args(hint)
        return [checked(entry, item, choices, f"{where}, entry {number}") for number, entry in enumerate(value, 1)]
    if kind is str and "\0" in value:
        raise UsageError(f"{where}: {reprlib.repr(value)} holds a null byte, which no name can.")
    if choices and value not in choices:
        raise UsageError(f"{where}: no such value {SHORT.repr(value)}.{did_you_mean(value, list(choices))}")
    return value
