"""What a submission would have to do, without planning anything: for ``--dry-run``."""

from __future__ import annotations

from dataclasses import dataclass

from flowprep.run.driver import Extraction
from flowprep.store.commits import committed_shards
from flowprep.store.plans import read_plans


@dataclass(frozen=True)
class Outlook:
    """What is to be done of a dataset."""

    pending: int  # shards
    shards: int  # all of them, those that are done included
    unplanned: bool = False  # --retry-status or --extend has to plan them first: tasks would find nothing to do
    more: bool = False  # there may be more for --retry-status or --extend, when the pending ones are done


def outlook(extraction: Extraction) -> Outlook:
    """Where there is no plan the first task makes it; where shards are pending they have to be done before new ones."""
    expected = len(extraction.dry_run().plan.shards)
    plans = read_plans(extraction.store)
    if not plans:
        return Outlook(expected, expected)
    planned = sum(len(plan.shards) for plan in plans)
    if left := planned - len(committed_shards(extraction.store, plans)):
        return Outlook(left, planned, more=bool(extraction.config.run.retry_status or extraction.config.run.extend))
    return Outlook(expected, planned + expected, unplanned=bool(expected))
