"""The plans of a dataset, one file a generation."""

from __future__ import annotations

import os

from flowprep.config import Settings
from flowprep.errors import RefusedError, UsageError
from flowprep.plan import LOST_PLAN, Plan
from flowprep.records import many_objects
from flowprep.store import layout
from flowprep.store.blobs import BlobStore, LocalStore
from flowprep.store.commits import committed_shards
from flowprep.types import Video


def read_plans(store: BlobStore) -> list[Plan]:
    """All generations, oldest first; empty where there is no dataset. Raises RefusedError for a damaged or lost one."""
    plans: list[Plan] = []
    with many_objects():
        while store.exists(key := layout.plan_key(len(plans))):
            plans.append(_read(store, len(plans)))
    if not plans and committed_shards(store):
        raise RefusedError(f"{store.address(key)}: damaged: missing, though there are commit records. {LOST_PLAN}")
    return plans


def existing_plans(store: LocalStore) -> list[Plan]:
    """:func:`read_plans` where there must be a dataset. Raises UsageError if there is none."""
    plans = [] if os.path.isfile(store.root) else read_plans(store)  # noqa: PTH113 - where Path raises, read_plans does
    if not plans:
        what = "is not a flowprep dataset" if store.root.exists() else "does not exist"
        raise UsageError(f"{store.root} {what}. Make one with: flowprep extract SOURCE OUT.zarr")
    return plans


def first_settings(store: BlobStore) -> Settings | None:
    """What a dataset was begun with; None where there is none. Raises RefusedError for a damaged plan."""
    return _read(store, 0, only=0).settings if store.exists(layout.plan_key(0)) else None


def _read(store: BlobStore, generation: int, only: int | None = None) -> Plan:
    key = layout.plan_key(generation)
    plan = Plan.from_bytes(store.get(key), store.address(key), only)
    if plan.generation != generation:
        raise RefusedError(f"{store.address(key)}: the plan of another generation, copied or renamed. {LOST_PLAN}")
    return plan


def write_plan(store: BlobStore, plan: Plan) -> bool:
    """Publish ``plan``; False if its generation is already planned."""
    return store.put_new_bytes(layout.plan_key(plan.generation), plan.to_bytes())


def planned_videos(plans: list[Plan]) -> dict[str, Video]:
    """Video id -> its description in the newest plan that names it."""
    return {
        video.id: video
        for plan in plans
        for videos in (plan.described, *(shard.videos for shard in plan.shards))
        for video in videos
    }
