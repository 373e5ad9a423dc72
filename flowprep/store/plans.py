"""The plans of a dataset, one file a generation."""

from __future__ import annotations

from flowprep.errors import RefusedError
from flowprep.plan import Plan
from flowprep.records import many_objects
from flowprep.store import layout
from flowprep.store.blobs import BlobStore
from flowprep.types import Video


def read_plans(store: BlobStore) -> list[Plan]:
    """All generations, oldest first; empty where there is no dataset. Raises RefusedError naming a damaged one."""
    plans: list[Plan] = []
    with many_objects():
        while store.exists(key := layout.plan_key(len(plans))):
            plan = Plan.from_bytes(store.get(key), store.address(key))
            if plan.generation != len(plans):
                raise RefusedError(f"{store.address(key)}: this is the plan of another generation, copied or renamed.")
            plans.append(plan)
    return plans


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
