"""What is to be drawn of a video, and which of that a dataset can answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from flowprep.errors import UsageError


@dataclass(frozen=True)
class Choice:
    """The options of ``flowprep show``; what is empty, None or False was not given."""

    field: tuple[int, ...] = ()  # numbers of fields
    stack: tuple[int, ...] = ()  # numbers of stacks
    frame: tuple[int, ...] = ()  # frames whose stacks are asked for
    every: int | None = None  # every so many fields, stacks or frames
    direction: str | None = None  # of the fields
    trajectories: bool = False  # draw stacks of trajectories, made of stored fields
    length: int | None = None  # of these stacks
    bidirectional: bool = False  # these stacks

    def allow(self, subject: str, *names: str) -> None:
        """Raise UsageError for what was given and ``subject`` does not take: it takes ``names``, and one of a kind."""
        for item in dataclasses.fields(self):
            if item.name not in names and self._given(item.name):
                options = ", ".join(f"--{name}" for name in names)
                raise UsageError(f"--{item.name} is not for {subject}; those take {options}.")
        kinds = [f"--{name}" for name in ("field", "stack", "frame", "every") if self._given(name)]
        if len(kinds) > 1:
            raise UsageError(f"{' and '.join(kinds)} exclude each other: give one of them.")

    def chosen(self, possible: Sequence[int], given: Sequence[int], subject: str) -> list[int]:
        """The numbers that were asked for, ``given`` or every so many; none = it is left to us.

        Raises UsageError, beginning with ``subject``, for a number that is not among the ``possible`` ones.
        """
        for number in given:
            if number not in possible:
                raise UsageError(f"{subject} {possible[0]} to {possible[-1]}, not {number}.")
        if self.every is None:
            return list(dict.fromkeys(given))
        if self.every < 1:
            raise UsageError(f"--every {self.every}: give 1 or more.")
        return list(possible[:: self.every])

    def _given(self, name: str) -> bool:
        value = getattr(self, name)
        return not (value is None or value is False or value == ())
