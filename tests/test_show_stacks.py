"""``flowprep show`` on stacks: panels to the pixel, what is chosen of a dataset, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowprep.config import Stacking
from flowprep.errors import FlowprepError, RefusedError, UsageError
from flowprep.show import flow_to_rgb
from flowprep.show import stacks as shown
from flowprep.show.choice import Choice
from flowprep.show.stack_panel import StackView, stack_panel
from flowprep.show.trajectories import grid
from flowprep.show.video import show_video
from flowprep.stacks import mean_flow, of_planes, reach
from flowprep.stacks.assemble import stack_at
from flowprep.store.reader import Dataset
from tests.command import flowprep
from tests.in_process import CLIP, FINE, SETTINGS, make_dataset, stack, transcode, write_clips
from tests.test_show import place_of

SMALL = "more/left/left_00.avi"


def view(
    height: int = 120, width: int = 160, seed: int = 0, frame: tuple[int, int] | None = None, **stacking: Any
) -> StackView:
    """A stack of noise that drifts to the right; with RGB of the size ``frame`` (height, width), if given."""
    chosen = Stacking(**{"kind": "trajectory", "length": 3, **stacking})
    random = np.random.default_rng(seed)
    count = 2 * chosen.length * chosen.temporal_stride + 1
    flow = random.normal(1, 0.5, (count, 2, height, width)).astype(np.float32)
    at = count // 2 if chosen.bidirectional else 0
    back = -flow if chosen.bidirectional else None
    means, back_means = mean_flow(flow), mean_flow(-flow)
    rows = reach(chosen, count, at)
    forward = means[list(rows.forward)]
    backward = back_means[list(rows.backward)] if chosen.bidirectional else None
    return StackView(
        title="v_YoYo_g01_c01.avi",
        stacking=chosen,
        frame=at,
        steps=shown._steps(chosen, count, at),
        planes=stack_at(chosen, at, flow, back, means, back_means if chosen.bidirectional else None),
        means=of_planes(chosen, forward, backward),
        first_frame=random.integers(0, 256, (*frame, 3), dtype=np.uint8) if frame else None,
    )


def grey(plane: NDArray[np.float32], end: float) -> NDArray[np.uint8]:
    level = np.rint(127.5 + 127.5 * np.clip(plane / end, -1, 1)).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("kind", ["flow", "trajectory"])
def test_panel_shows_the_flow_of_each_field_and_all_planes_in_order(kind: str, subtract: bool) -> None:
    drawn = view(kind=kind, mean_subtract=subtract)
    panel = stack_panel(drawn, 3.0)
    planes = drawn.planes.reshape(3, 2, 120, 160)
    flow = planes + drawn.means.reshape(3, 2, 1, 1) * subtract
    assert 0.9 < flow.mean() < 1.1 and (abs(planes.mean()) < 0.1) == subtract, "the mean is in the flow again"
    end = np.quantile(np.abs(drawn.planes).max(axis=(1, 2)), 0.75)
    found = [
        [place_of(image, panel) for image in (flow_to_rgb(field, 3.0), grey(u, end), grey(v, end))]
        for field, (u, v) in zip(flow, planes, strict=True)
    ]
    assert all(None not in column for column in found)
    places = np.array(found)  # (field, image, (row, column))
    assert np.all(np.diff(places[:, :, 0], axis=1) > 0) and np.all(places[:, :, 0] == places[:1, :, 0])
    assert np.all(np.diff(places[:, :, 1], axis=0) > 0) and np.all(places[:, :, 1] == places[:, :1, 1])


def test_trajectories_lie_over_the_frame_and_stacks_of_flow_have_none() -> None:
    plain, drawn = view(kind="flow", frame=(480, 640)), view(frame=(480, 640))  # as large as the picture
    assert plain.first_frame is not None
    place = place_of(plain.first_frame, stack_panel(plain))
    assert place
    top, left = place
    picture = stack_panel(drawn)[top : top + 480, left : left + 640]
    assert 0.5 < np.mean(np.all(picture == drawn.first_frame, axis=2)) < 0.97, "lines cover some of it"
    x, y = grid(120, 160, 3)[0] * 4 + 2  # four px for one of the field; the first point has its centre there
    assert np.all(picture[y - 1 : y + 1, x - 1 : x + 1] == 255)


FLOW = {"length": 5, "kind": "flow"}
BOTH = {"length": 4, "bidirectional": True, "temporal_stride": 2}


@pytest.mark.parametrize(
    ("size", "stacking"),
    [
        ((240, 320), BOTH),
        ((600, 960), {"length": 1}),
        ((16, 16), FLOW),
        ((16, 16), BOTH),
        ((17, 301), BOTH),
        ((400, 40), FLOW),
        ((1, 1), {"length": 1}),
    ],
    ids=str,
)
def test_panels_of_a_video_have_one_even_size_whatever_they_show(size: tuple[int, int], stacking: Any) -> None:
    busy = view(*size, frame=size, **stacking)
    still = dataclasses.replace(busy, planes=0 * busy.planes, means=0 * busy.means, title="a title " * 100)
    far = dataclasses.replace(busy, planes=1e6 * busy.planes, steps=tuple((90_000, 90_001) for _ in busy.steps))
    panels = [stack_panel(one) for one in (busy, still, far)]
    assert len({panel.shape for panel in panels}) == 1
    height, width, _ = panels[0].shape
    assert height % 2 == width % 2 == 0 and 500 < height < 1300 and 600 < width < 1800
    assert panels[0].dtype == np.uint8 and panels[0].std() > 20


def test_long_stacks_take_several_rows_and_those_of_both_directions_begin_a_new_one() -> None:
    tall, wide = stack_panel(view(30, 40, length=32)), stack_panel(view(30, 40, length=10))
    both = stack_panel(view(30, 40, length=32, bidirectional=True))
    assert tall.shape == both.shape, "four rows of eight"
    assert tall.shape[1] < wide.shape[1] and tall.shape[0] > wide.shape[0] + 2 * 400
    assert stack_panel(view(30, 40, length=10, bidirectional=True)).shape == wide.shape, "ten fit into one"


# --- datasets ---


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flow of both directions and RGB frames of a clip of 6 frames, 64x48 px, and of one of 8, 40x32 px."""
    folder = tmp_path_factory.mktemp("show")
    videos = [video for video in write_clips(folder / "videos") if video.id in (CLIP, SMALL)]
    return make_dataset(folder / "flow.zarr", folder / "videos", videos)


@pytest.fixture(scope="module")
def stacks(source: Path) -> Path:
    """Trajectories of them, three fields each: of every second frame."""
    out = source.with_name("stacks.zarr")
    assert stack(source, out, kind="trajectory", length=3, every=2).exit_code == 0
    return out


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> list[StackView]:
    """What panels are drawn of, as they are."""
    seen: list[StackView] = []

    def note(one: StackView, full: float | None = None) -> NDArray[np.uint8]:
        seen.append(one)
        return stack_panel(one, full)

    monkeypatch.setattr(shown, "stack_panel", note)
    return seen


def test_the_middle_stack_a_chosen_one_and_the_one_nearest_to_a_frame(
    stacks: Path, tmp_path: Path, views: list[StackView]
) -> None:
    dataset = Dataset(stacks)
    assert dataset.stack_frames(SMALL).tolist() == [0, 2, 4]
    target = tmp_path / "a.png"
    choices = [Choice(), Choice(stack=(2,)), Choice(frame=(0,)), Choice(frame=(7,)), Choice(frame=(3,))]
    assert [show_video(dataset, SMALL, target, choice) for choice in choices] == ["1 stack"] * 5
    assert [one.frame for one in views] == [2, 4, 0, 4, 2]
    assert views[1].steps == ((4, 5), (5, 6), (6, 7)) and "stack 2 (0 to 2), frame 4" in views[1].title
    np.testing.assert_array_equal(views[1].planes, dataset.stacks(SMALL)[2])
    np.testing.assert_array_equal(views[1].means, dataset.stack_means(SMALL)[2])
    with Image.open(target) as saved:
        np.testing.assert_array_equal(np.asarray(saved), stack_panel(views[-1]))


def test_several_make_a_sheet_or_a_clip(stacks: Path, tmp_path: Path, views: list[StackView]) -> None:
    dataset = Dataset(stacks)
    assert show_video(dataset, SMALL, tmp_path / "a.png", Choice(every=2)) == "2 stacks"
    assert [one.frame for one in views] == [0, 4]
    assert show_video(dataset, SMALL, tmp_path / "a.png", Choice(stack=(2, 0, 2))) == "2 stacks"
    assert [one.frame for one in views[2:]] == [4, 0], "in the order in which they are named, each once"
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width > 2 * 900
    assert show_video(dataset, SMALL, tmp_path / "a.mp4", Choice()) == "3 stacks"
    with av.open(tmp_path / "a.mp4") as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert [frame.shape for frame in frames] == [stack_panel(views[-1]).shape] * 3


def test_the_frame_is_that_of_the_dataset_the_stacks_were_made_from(
    source: Path, tmp_path: Path, views: list[StackView]
) -> None:
    def first_frame(dataset: Path, number: int) -> NDArray[np.uint8] | None:
        show_video(Dataset(dataset), CLIP, tmp_path / "a.png", Choice(stack=(number,)))
        return views[-1].first_frame

    def same(found: NDArray[np.uint8] | None, frame: int) -> bool:
        return found is not None and np.array_equal(found, Dataset(source).frames(CLIP)[frame].transpose(1, 2, 0))

    flow, made, again = tmp_path / "flow.zarr", tmp_path / "made.zarr", tmp_path / "again.zarr"
    shutil.copytree(source, flow)
    stack(flow, made, kind="trajectory", length=4, anchor="centre", every=1)
    assert same(first_frame(made, 1), 1) and (views[-1].frame, views[-1].steps[0]) == (3, (1, 2)), "where lines begin"
    transcode(made, again, FINE)
    assert same(first_frame(again, 1), 1), "also after one more step"

    flow.rename(tmp_path / "elsewhere.zarr")
    assert first_frame(again, 1) is None, "the source is gone"
    videos = write_clips(tmp_path / "videos")
    make_dataset(flow, tmp_path / "videos", [video for video in videos if video.id != CLIP][:1])
    assert first_frame(made, 1) is None, "another dataset is there, without that video"
    shutil.rmtree(flow)
    shutil.copyfile(tmp_path / "videos" / SMALL, tmp_path / "videos" / CLIP)
    make_dataset(flow, tmp_path / "videos", [video for video in videos if video.id == CLIP])
    assert first_frame(made, 1) is None, "another video of that name"


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=str)
def test_trajectories_on_the_spot_are_what_would_be_stored(
    source: Path, tmp_path: Path, views: list[StackView], options: dict[str, bool]
) -> None:
    stack(source, tmp_path / "s.zarr", kind="trajectory", length=4, every=1, **options)
    choice = Choice(trajectories=True, length=4, frame=(3,), **options)
    made = show_video(Dataset(source), SMALL, tmp_path / "a.png", choice)
    stored = show_video(Dataset(tmp_path / "s.zarr"), SMALL, tmp_path / "b.png", Choice(frame=(3,)))
    assert made == stored == "1 stack"
    spot, kept = views
    assert spot.frame == kept.frame == 3 and spot.steps == kept.steps
    assert np.abs(spot.planes).max() > 0.1
    np.testing.assert_allclose(spot.planes, kept.planes, atol=FINE.step)
    np.testing.assert_allclose(spot.means, kept.means, atol=1e-6)
    assert spot.first_frame is not None and kept.first_frame is not None
    assert np.array_equal(spot.first_frame, kept.first_frame)


def test_without_frames_lines_are_drawn_over_the_colours(source: Path, tmp_path: Path, views: list[StackView]) -> None:
    transcode(source, tmp_path / "t.zarr", dataclasses.replace(FINE, rgb=False))
    assert show_video(Dataset(tmp_path / "t.zarr"), SMALL, tmp_path / "a.png", Choice(trajectories=True, length=4))
    assert views[0].first_frame is None
    with Image.open(tmp_path / "a.png") as page:
        picture = np.asarray(page)[84:564, 20:620]
    size = views[0].planes.shape[2], views[0].planes.shape[1]
    colours = flow_to_rgb(views[0].flow[0], views[0].colour_end())
    expected = np.asarray(Image.fromarray(colours).resize((600, 480), Image.Resampling.NEAREST))
    assert size == (40, 32) and 0.5 < np.mean(np.all(picture == expected, axis=2)) < 0.97


def test_videos_that_are_too_short_repeat_their_last_field(
    source: Path, tmp_path: Path, views: list[StackView]
) -> None:
    stack(source, tmp_path / "s.zarr", kind="trajectory", length=6, short="repeat-last")
    assert show_video(Dataset(tmp_path / "s.zarr"), CLIP, tmp_path / "a.png", Choice()) == "1 stack"
    assert views[0].steps == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (4, 5))


ON_STACKS: list[tuple[dict[str, Any], str]] = [
    ({"stack": (3,)}, f"{SMALL} has stacks 0 to 2, not 3"),
    ({"stack": (-1,)}, "0 to 2, not -1"),
    ({"frame": (8,)}, f"{SMALL} has frames 0 to 7, not 8"),
    ({"frame": (-1,)}, "0 to 7, not -1"),
    ({"every": 0}, "--every 0: give 1 or more"),
    ({"stack": (0,), "frame": (1,)}, "--stack and --frame exclude each other"),
    ({"stack": (0,), "every": 1}, "--stack and --every exclude each other"),
    ({"field": (0,)}, "--field is not for datasets of stacks; those take --stack, --frame, --every"),
    ({"direction": "forward"}, "--direction is not for datasets of stacks"),
    ({"trajectories": True}, "--trajectories is not for datasets of stacks"),
    ({"length": 0}, "--length is not for datasets of stacks"),
    ({"bidirectional": True}, "--bidirectional is not for datasets of stacks"),
]
ON_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"field": (7,)}, f"{SMALL} has fields 0 to 6, not 7"),
    ({"field": (1,), "every": 2}, "--field and --every exclude each other"),
    ({"stack": (0,)}, "--stack is not for pictures of fields"),
    ({"frame": (0,)}, "--frame is not for pictures of fields.*--trajectories"),
    ({"length": 0}, "--length is not for pictures of fields.*--trajectories"),
    ({"bidirectional": True}, "--bidirectional is not for pictures of fields"),
    ({"every": -1}, "--every -1"),
]
ON_TRAJECTORIES: list[tuple[dict[str, Any], str]] = [
    ({"length": 4, "frame": (4,)}, f"{SMALL} has stacks of 4 fields at the frames 0 to 3, not 4"),
    ({"length": 4, "bidirectional": True, "frame": (1,)}, "at the frames 2 to 5, not 1"),
    ({}, f"{SMALL} has 7 fields, too few for a stack of 10: give a smaller --length"),
    ({"length": 0}, "stack.length 0"),
    ({"length": 33}, "stack.length 33"),
    ({"length": 3, "bidirectional": True}, "even number"),
    ({"field": (0,)}, "--field is not for pictures of trajectories"),
    ({"stack": (0,)}, "--stack is not for pictures of trajectories"),
    ({"direction": "forward"}, "--direction is not for pictures of trajectories"),
    ({"length": 4, "every": 0}, "--every 0"),
    ({"length": 4, "every": 2, "frame": (0,)}, "--frame and --every exclude each other"),
]


@pytest.mark.parametrize(
    ("on", "given", "message"),
    [("stacks", *case) for case in ON_STACKS]
    + [("fields", *case) for case in ON_FIELDS]
    + [("trajectories", {"trajectories": True, **given}, message) for given, message in ON_TRAJECTORIES],
    ids=str,
)
def test_what_has_no_meaning_or_lies_out_of_range_is_refused(
    source: Path, stacks: Path, tmp_path: Path, on: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        show_video(Dataset(stacks if on == "stacks" else source), SMALL, tmp_path / "a.png", Choice(**given))
    assert not any(tmp_path.iterdir())


def refused(make: Callable[[], object], kind: type[FlowprepError]) -> str:
    with pytest.raises(kind) as error:
        make()
    return str(error.value)


def test_a_video_without_stacks_and_a_file_of_another_kind(source: Path, tmp_path: Path) -> None:
    stack(source, tmp_path / "s.zarr", length=6)
    dataset = Dataset(tmp_path / "s.zarr")
    text = refused(lambda: show_video(dataset, CLIP, tmp_path / "a.png", Choice()), RefusedError)
    assert text.startswith(f"{CLIP}: nothing is stored") and "too_short" in text and "repeat-last" in text
    assert refused(lambda: show_video(dataset, SMALL, tmp_path / "a.gif", Choice()), UsageError).endswith(".mp4 file.")


def test_both_directions_need_flow_of_both(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, flow=dataclasses.replace(SETTINGS.flow, direction="forward"))
    videos = [video for video in write_clips(tmp_path / "videos") if video.id == SMALL]
    dataset = Dataset(make_dataset(tmp_path / "f.zarr", tmp_path / "videos", videos, settings=settings))
    choice = Choice(trajectories=True, length=4, bidirectional=True)
    text = refused(lambda: show_video(dataset, SMALL, tmp_path / "a.png", choice), UsageError)
    assert "holds forward flow" in text and "--direction both" in text


def test_a_sheet_of_too_many(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowprep.show.video.MAX_TILES", 6)
    text = refused(lambda: show_video(Dataset(source), SMALL, tmp_path / "a.png", Choice(every=1)), UsageError)
    assert "7 fields on one sheet, 6 is the most" in text and ".mp4" in text


def test_the_command(stacks: Path, source: Path, tmp_path: Path) -> None:
    done = flowprep("show", stacks, SMALL, "--frame", "4", "--frame", "0", "-o", tmp_path / "a.png")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'a.png'}: 2 stacks of {SMALL}\n")
    done = flowprep("show", source, SMALL, "--trajectories", "--length", "4", "--bidirectional", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"left_00.png: 1 stack of {SMALL}\n")
    done = flowprep("show", source, SMALL, "--length", "4")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--length is not for" in done.stderr
