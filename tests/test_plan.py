"""Plans: every video in one shard, every row in one shard's blocks, whatever headers say and videos turn out to be."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowprep.config import FlowConfig, Settings, StorageConfig, VideoConfig
from flowprep.errors import RefusedError
from flowprep.plan import BLOCK, SHARD_SECONDS, SHARDS_AIMED, Allocator, Blocks, Estimate, Plan, estimate, make_plan
from flowprep.shard import BlockFiles
from flowprep.types import Placement, Probe, Video

MAX_FRAMES = 5000
SETTINGS = Settings(
    VideoConfig(max_frames=MAX_FRAMES),
    FlowConfig("dis", "opencv", "both", {"preset": "medium"}),
    StorageConfig(rgb_short_side=16),
    "opencv 5.0.0",
)
SIZES = [(16, 16), (240, 320), (256, 340)]  # (height, width) px

heights_and_widths = st.sampled_from(SIZES)
frames = st.integers(1, 100) | st.integers(BLOCK - 3, BLOCK + 3) | st.integers(1, MAX_FRAMES)
probes = st.none() | st.builds(
    lambda size, frames, fps: Probe(size[1], size[0], frames, fps),
    heights_and_widths,
    frames,
    st.sampled_from([0.0, 25.0, 29.97]),
)
collections = st.lists(st.tuples(st.integers(-1, 2_000_000), probes), max_size=25).map(
    lambda found: [(Video(f"class/v{i:03d}.avi", "class", size=size), probe) for i, (size, probe) in enumerate(found)]
)
pace = st.sampled_from([0.001, 0.02, 1.0])  # seconds for a field


def guessed(videos: list[tuple[Video, Probe | None]]) -> list[tuple[Video, Estimate]]:
    return [(video, estimate(video, probe, SETTINGS)) for video, probe in videos]


def planned(
    videos: list[tuple[Video, Probe | None]],
    rate: float = 0.02,
    generation: int = 0,
    used: dict[str, int] | None = None,
) -> Plan:
    return make_plan(
        guessed(videos),
        SETTINGS,
        "/videos",
        seconds=lambda guess: rate * guess.fields,
        generation=generation,
        used=used,
    )


def rows_written(
    plan: Plan, outcome: dict[str, tuple[int, int, int] | None], folder: Path
) -> list[tuple[int, str, Placement]]:
    """(shard, video, place) of everything that the shards write where videos turn out as ``outcome`` says:
    (height, width, frames), or None for a failure."""
    written = []
    for number, shard in enumerate(plan.shards):
        blocks = BlockFiles(folder, plan, number)
        for video in shard.videos:
            found = outcome[video.id]
            if found and found[2] > 1:
                *size, count = found
                stored = SETTINGS.storage.frames_size(*size)
                assert stored
                for kind, (height, width), length in (("flow", size, count - 1), ("frames", stored, count)):
                    place = blocks._placed(Placement(f"{kind}_{height}x{width}", 0, length))
                    written.append((number, video.id, place))
    return written


def blocks_of(place: Placement) -> range:
    return range(place.start // BLOCK, (place.start + place.length - 1) // BLOCK + 1)


# --- what goes into a shard ---


@given(collections, pace)
@settings(deadline=None, max_examples=50)
def test_shards_partition_the_videos(videos: list[tuple[Video, Probe | None]], rate: float) -> None:
    plan = planned(videos, rate)
    names = [video for shard in plan.shards for video in shard.videos]
    assert sorted(names, key=lambda video: video.id) == [video for video, _ in videos]
    assert all(shard.videos for shard in plan.shards)


@given(collections, pace, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_the_order_of_the_videos_does_not_matter(
    videos: list[tuple[Video, Probe | None]], rate: float, shuffler: random.Random
) -> None:
    mixed = videos.copy()
    shuffler.shuffle(mixed)
    assert planned(mixed, rate).to_bytes() == planned(videos, rate).to_bytes()


@given(st.lists(st.floats(0.01, 5000), min_size=1, max_size=300))
@settings(deadline=None, max_examples=50)
def test_shards_are_some_minutes_of_work(costs: list[float]) -> None:
    """A shard goes past the aim by less than its last video, and falls short of it by less than the next."""
    videos = [(Video(f"{i:03d}"), None) for i in range(len(costs))]
    remaining = iter(costs)
    plan = make_plan(guessed(videos), SETTINGS, "/", seconds=lambda _: next(remaining))
    aim = min(max(sum(costs) / SHARDS_AIMED, SHARD_SECONDS[0]), SHARD_SECONDS[1])
    cost = {f"{i:03d}": seconds for i, seconds in enumerate(costs)}
    shards = [[cost[video.id] for video in shard.videos] for shard in plan.shards]
    assert [seconds for shard in shards for seconds in shard] == costs, "ids in order"
    for shard in shards:
        assert len(shard) == 1 or sum(shard) <= aim + shard[-1] / 2 + 1e-6
        assert len(shard) == 1 or sum(shard) < 2 * SHARD_SECONDS[1]
    for shard, following in pairwise(shards):
        assert sum(shard) + following[0] / 2 > aim


def test_a_small_dataset_keeps_many_workers_busy_and_a_large_one_has_few_shards() -> None:
    clips = [(Video(f"{i:05d}.avi", size=1), Probe(320, 240, 186, 25.0)) for i in range(20_000)]
    few, many = planned(clips[:500]), planned(clips)
    assert 25 <= len(few.shards) <= 40
    seconds = [0.02 * shard.fields for shard in many.shards]
    assert 200 < sum(seconds) / len(seconds) < 250 and max(seconds) < 260


def test_no_videos_are_no_shards() -> None:
    plan = planned([])
    assert plan.shards == () and plan.ends == {}
    assert Plan.from_bytes(plan.to_bytes(), "plan") == plan


# --- whose rows are whose ---


@given(collections, collections, pace)
@settings(deadline=None, max_examples=50)
def test_planned_blocks_never_overlap(
    first: list[tuple[Video, Probe | None]], second: list[tuple[Video, Probe | None]], rate: float
) -> None:
    one = planned(first, rate)
    two = planned(second, rate, generation=1, used=one.ends)
    taken: dict[str, set[int]] = defaultdict(set)
    for plan in (one, two):
        for shard in plan.shards:
            for name, run in shard.blocks.items():
                numbers = set(range(run.first, run.first + run.count))
                assert numbers and not taken[name] & numbers
                taken[name] |= numbers
    assert {name: set(range(end)) for name, end in two.ends.items()} == taken, "no block is left out"


outcomes = st.none() | st.tuples(heights_and_widths, frames).map(lambda found: (*found[0], found[1]))


@given(collections, pace, st.data())
@settings(deadline=None, max_examples=50)
def test_headers_may_lie_and_no_row_is_written_twice(
    tmp_path_factory: pytest.TempPathFactory, videos: list[tuple[Video, Probe | None]], rate: float, data: st.DataObject
) -> None:
    """Any length up to --max-frames and any size, in two generations: no block has two shards, no row two videos."""
    folder = tmp_path_factory.getbasetemp()
    owner: dict[tuple[str, int], tuple[int, int]] = {}
    row_of: dict[tuple[str, int], str] = {}
    used: dict[str, int] = {}
    for generation in (0, 1):
        plan = planned(videos, rate, generation, dict(used))
        outcome = {video.id: data.draw(outcomes) for video, _ in videos}
        for number, video, place in rows_written(plan, outcome, folder):
            for block in blocks_of(place):
                assert owner.setdefault((place.array, block), (generation, number)) == (generation, number)
                used[place.array] = max(used.get(place.array, 0), block + 1)
            for row in (place.start, place.start + place.length - 1):
                assert row_of.setdefault((place.array, row), f"{generation} {video}") == f"{generation} {video}"
            if place.length <= BLOCK:
                assert len(blocks_of(place)) == 1, "a video that fits one file lies in one file"


@given(collections, pace, st.data())
@settings(deadline=None, max_examples=50)
def test_videos_that_are_no_longer_than_planned_stay_where_planned(
    tmp_path_factory: pytest.TempPathFactory, videos: list[tuple[Video, Probe | None]], rate: float, data: st.DataObject
) -> None:
    plan = planned(videos, rate)
    outcome = {}
    for video, probe in videos:
        frames = [rows for name, rows in estimate(video, probe, SETTINGS).rows.items() if name.startswith("frames")]
        shorter = data.draw(st.none() | st.integers(0, frames[0])) if frames else None
        outcome[video.id] = (probe.height, probe.width, shorter) if probe and shorter is not None else None
    for number, _, place in rows_written(plan, outcome, tmp_path_factory.getbasetemp()):
        run = plan.shards[number].blocks[place.array]
        assert run.first <= blocks_of(place)[0] and blocks_of(place)[-1] < run.first + run.count


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3 * BLOCK), st.integers(0, 3 * BLOCK)), min_size=1, max_size=40))
def test_next_fit_is_monotone(pairs: list[tuple[int, int]]) -> None:
    """Shorter videos, or none, never end behind where longer ones would have."""
    longer, shorter = Allocator(0), Allocator(0)
    for most, less in pairs:
        longer.place(most)
        if less:
            shorter.place(min(less, most))
        assert shorter.next <= longer.next


def test_what_is_too_long_goes_behind_everything_planned() -> None:
    videos = [(Video(f"{i}.avi", size=1), Probe(320, 240, 3000, 25.0)) for i in range(4)]
    plan = make_plan(guessed(videos), SETTINGS, "/", seconds=lambda _: SHARD_SECONDS[0])
    assert [shard.blocks["flow_240x320"] for shard in plan.shards] == [Blocks(2 * k, 2) for k in range(4)]
    assert plan.ends == {"flow_240x320": 8, "frames_16x21": 8}
    room = -(-MAX_FRAMES // BLOCK)
    assert [plan.overflow(k, "flow_240x320") for k in range(4)] == [8 + room * k for k in range(4)]
    assert [plan.overflow(k, "flow_99x99") for k in range(4)] == [room * k for k in range(4)], "a size nobody foresaw"
    later = make_plan(
        guessed(videos), SETTINGS, "/", seconds=lambda _: 1, generation=1, used={"flow_240x320": 20, "x": 99}
    )
    assert later.overflow(0, "flow_99x99") == 99, "behind all arrays that there are"
    assert later.shards[0].blocks["flow_240x320"].first == 20


# --- estimates ---


@pytest.mark.parametrize(
    ("config", "probe", "fields", "rows"),
    [
        ({}, Probe(320, 240, 100, 25.0), 99, 100),
        ({"stride": 3}, Probe(320, 240, 100, 25.0), 33, 34),
        ({"fps": 5.0}, Probe(320, 240, 100, 25.0), 20, 100),  # rows for all: the rate may be a lie
        ({"fps": 50.0}, Probe(320, 240, 100, 25.0), 99, 100),
        ({"fps": 5.0}, Probe(320, 240, 100, 0.0), 99, 100),
        ({}, Probe(320, 240, 1, 25.0), 0, 1),
        ({}, Probe(320, 240, 10**9, 25.0), 10**9 - 1, 1_000_000),
        ({}, None, 200, 5002),  # by the file's size: a megabyte
        ({}, Probe(320, 240, 1, 0.0), 200, 5002),  # the header knows nothing of the length
    ],
)
def test_estimates(config: dict[str, float], probe: Probe | None, fields: int, rows: int) -> None:
    chosen = replace(SETTINGS, video=VideoConfig(**config))
    guess = estimate(Video("x", size=1_000_000), probe, chosen)
    assert guess.fields == fields
    if probe:
        assert guess.pixels == 240 * 320
        assert guess.rows == {name: n for name, n in (("flow_240x320", rows - 1), ("frames_16x21", rows)) if n}
    else:
        assert (guess.pixels, guess.rows) == (0, {})


def test_a_missing_file_needs_nothing() -> None:
    assert estimate(Video("x"), None, SETTINGS) == Estimate({}, 0, 1)


# --- on the disk ---


@given(collections, pace)
@settings(deadline=None, max_examples=50)
def test_plans_come_back_from_json(videos: list[tuple[Video, Probe | None]], rate: float) -> None:
    plan = planned(videos, rate, used={"flow_240x320": 7})
    again = Plan.from_bytes(plan.to_bytes(), "plan.0.json")
    assert again == plan
    assert again.to_bytes() == plan.to_bytes()


def test_names_of_every_kind_come_back() -> None:
    videos = [Video(f"{i}/\u4e16\u754c \"'\\.avi", "Gr\u00fc\u00dfe", ("train", "", "test"), 5, "no") for i in range(2)]
    plan = planned([(video, None) for video in videos])
    assert Plan.from_bytes(plan.to_bytes(), "plan").shards[0].videos == tuple(videos)


@pytest.mark.parametrize("format", [0, 1, "2", None])
def test_another_format_is_refused(format: object) -> None:  # noqa: A002 - its name in the file
    tree = {**json.loads(planned([]).to_bytes()), "format": format}
    with pytest.raises(RefusedError, match=rf"x/plan.0.json: dataset format {format}, this flowprep reads format 2\."):
        Plan.from_bytes(json.dumps(tree).encode(), "x/plan.0.json")


@pytest.mark.system
def test_three_hundred_thousand_videos() -> None:
    """Kinetics-600 with its headers: planned, written and read within a minute and a gigabyte."""
    code = """if True:
        import random, resource, time
        from flowprep.plan import Plan, estimate, make_plan
        from flowprep.types import Probe, Video
        from tests.test_plan import SETTINGS
        draw = random.Random(0).choice
        sizes, lengths = [(340, 256), (320, 240), (454, 256), (256, 454)], [250, 300, 299, 180]
        videos = [
            (
                Video(f"some class of motion {i % 600}/{i:011d}_000010_000020.mp4", f"some class of motion {i % 600}",
                      ("train", "", ""), 1_000_000),
                Probe(*draw(sizes), draw(lengths), 29.97),
            )
            for i in range(300_000)
        ]
        start = time.process_time()
        guesses = [(video, estimate(video, probe, SETTINGS)) for video, probe in videos]
        plan = make_plan(guesses, SETTINGS, "/videos", seconds=lambda guess: guess.fields * 0.05)
        planned = time.process_time() - start
        data = plan.to_bytes()
        assert Plan.from_bytes(data, "plan") == plan
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(len(plan.shards), len(data) / 1e6, planned, seconds, peak)
    """
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    shards, megabytes, plan_seconds, seconds, peak = map(float, run.stdout.split())
    sys.stdout.write(
        f"{shards:,.0f} shards, {megabytes:.0f} MB of JSON; {plan_seconds:.1f} s to plan, {seconds:.1f} s with writing "
        f"and reading; {peak:.0f} MiB\n"
    )
    assert seconds < 60
    assert peak < 1024


@given(collections, pace)
@settings(deadline=None, max_examples=50)
def test_one_shard_is_read_without_the_others(videos: list[tuple[Video, Probe | None]], rate: float) -> None:
    plan = planned(videos, rate, used={"flow_240x320": 7})
    data = plan.to_bytes()
    assert len(json.loads(data)["shards"]) == len(plan.shards)  # JSON, to anybody
    for number, item in enumerate(plan.shards):
        task = Plan.from_bytes(data, "plan.json", only=number)
        assert task.shards[number] == item
        assert len(task.shards) == len(plan.shards)
        assert task.overflow(number, "flow_99x99") == plan.overflow(number, "flow_99x99")
        assert (task.settings, task.root, task.generation) == (plan.settings, plan.root, plan.generation)
    with pytest.raises(RefusedError, match=r"^plan.json: damaged plan"):
        Plan.from_bytes(data, "plan.json", only=len(plan.shards))


PLAN = planned([(Video(f"{k}.avi", size=1), Probe(320, 240, 100, 25.0)) for k in range(40)], rate=1.0).to_bytes()


@given(st.integers(0, 2**20), st.integers(1, 255))
@settings(max_examples=200)
def test_damage_in_the_line_of_another_shard_is_found(place: int, flip: int) -> None:
    data = bytearray(PLAN)
    data[place % len(data)] ^= flip
    with pytest.raises(RefusedError, match=r"^plan.json: "):
        Plan.from_bytes(bytes(data), "plan.json", only=0)
