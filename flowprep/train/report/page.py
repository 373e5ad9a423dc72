"""From the numbers of a report to its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flowprep.train.report.curves import plot
from flowprep.train.report.matrix import matrix
from flowprep.train.report.names import shown
from flowprep.wording import plural


def render(tree: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """The page of a report as HTML: ``tree`` has its numbers, ``pictures`` data URIs by section.

    Everything in it is escaped: names of classes and videos come from whoever made the dataset.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "grouped": grouped, "plural": plural, "shown": shown}
    environment.globals |= {"plot": plot, "matrix": matrix}
    return environment.get_template("page.html").render(**tree, pictures=pictures)


def percent(share: float) -> str:
    """``"81.2"``."""
    return f"{100 * share:.1f}"


def grouped(number: int) -> str:
    """``"3,783"``."""
    return f"{number:,}"
