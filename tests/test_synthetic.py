"""The synthetic clips: do their frames really move as their truth says?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowprep.config import StorageConfig, VideoConfig
from flowprep.synthetic import DEMO_MOTIONS, Clip, Motion, render, write_demo_videos
from flowprep.video import VideoReader

HEIGHT, WIDTH = 48, 64

motions = st.builds(
    Motion,
    name=st.just("any"),
    velocity=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    rotation=st.floats(-3, 3),
    zoom=st.tuples(st.floats(0.97, 1.03), st.floats(0.97, 1.03)),
)


def clip(motion: Motion, frames: int = 3, seed: int = 7) -> Clip:
    return render(motion, seed=seed, frames=frames, height=HEIGHT, width=WIDTH)


def sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``image`` (H, W, 3) at sub-pixel positions by windowed-sinc (Lanczos 4) interpolation, far from the border."""
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    taps = range(-3, 5)

    def weights(fraction: np.ndarray) -> np.ndarray:
        distance = np.stack([fraction - tap for tap in taps])
        kernel = np.sinc(distance) * np.sinc(distance / 4)
        return kernel / kernel.sum(axis=0)

    wx, wy = weights(x - left), weights(y - top)
    total = np.zeros((*x.shape, 3))
    for i, row in enumerate(taps):
        for j, column in enumerate(taps):
            total += (wy[i] * wx[j])[..., None] * image[top + row, left + column]
    return total


def misfit(earlier: np.ndarray, later: np.ndarray, flow: np.ndarray, margin: int = 12) -> float:
    """Mean |later(x + flow) - earlier(x)| in grey levels, ``margin`` px inside the frame."""
    inside = np.s_[margin:-margin, margin:-margin]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    fetched = sample(later.astype(float), (x + flow[0])[inside], (y + flow[1])[inside])
    return float(np.abs(fetched - earlier[inside]).mean())


@settings(max_examples=25, deadline=None)
@given(motion=motions, seed=st.integers(0, 2**32))
def test_frames_move_as_the_truth_says_forward_and_backward(motion: Motion, seed: int) -> None:
    made = clip(motion, seed=seed)
    for t in range(2):
        assert misfit(made.frames[t], made.frames[t + 1], made.flow[t]) < 1
        assert misfit(made.frames[t + 1], made.frames[t], made.backward[t]) < 1


def test_the_check_above_notices_a_tenth_of_a_pixel() -> None:
    made = clip(Motion("right", velocity=(1.3, 0.4)))
    assert misfit(made.frames[0], made.frames[1], made.flow[0]) < 0.5
    assert misfit(made.frames[0], made.frames[1], made.flow[0] + 0.1) > 1


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (-2, 0), (0, 1), (0, -4), (5, -3)])
def test_whole_pixel_translation_is_exact(dx: int, dy: int) -> None:
    made = clip(Motion("shift", velocity=(dx, dy)), frames=4)
    y, x = np.mgrid[6 : HEIGHT - 6, 6 : WIDTH - 6]
    for t in range(3):
        np.testing.assert_array_equal(made.frames[t + 1][y + dy, x + dx], made.frames[t][y, x])
        assert np.all(made.flow[t, 0] == dx) and np.all(made.flow[t, 1] == dy)
        assert np.all(made.backward[t, 0] == -dx) and np.all(made.backward[t, 1] == -dy)


@pytest.mark.parametrize(
    ("motion", "at_right", "at_bottom"),
    [
        (Motion("clockwise", rotation=90), (-10, 10), (-10, -10)),  # right edge to the bottom, bottom to the left
        (Motion("grow", zoom=(1.5, 1.5)), (5, 0), (0, 5)),
        (Motion("widen", zoom=(1.5, 1.0)), (5, 0), (0, 0)),
        (Motion("left", velocity=(-2, 0)), (-2, 0), (-2, 0)),
    ],
)
def test_motion_is_about_the_centre_in_the_directions_named(
    motion: Motion, at_right: tuple[float, float], at_bottom: tuple[float, float]
) -> None:
    flow = render(motion, seed=0, frames=2, height=21, width=21).flow[0]
    np.testing.assert_allclose(flow[:, 10, 20], at_right, atol=1e-5)
    np.testing.assert_allclose(flow[:, 20, 10], at_bottom, atol=1e-5)
    np.testing.assert_allclose(flow[:, 10, 10], motion.velocity, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(motions)
def test_forward_then_backward_leads_home(motion: Motion) -> None:
    made = clip(motion, frames=2)
    forward, backward = made.flow[0].astype(float), made.backward[0].astype(float)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    # Both fields are affine in (x, y), so three values of one give it at any point.
    across, down = backward[:, 0, -1] - backward[:, 0, 0], backward[:, -1, 0] - backward[:, 0, 0]
    there_x, there_y = x + forward[0], y + forward[1]
    home = (
        backward[:, 0, 0, None, None]
        + across[:, None, None] * there_x / (WIDTH - 1)
        + down[:, None, None] * there_y / (HEIGHT - 1)
    )
    np.testing.assert_allclose(forward + home, 0, atol=1e-4)


def test_a_seed_always_gives_the_same_clip_and_another_seed_another() -> None:
    motion = Motion("turn", rotation=2)
    np.testing.assert_array_equal(clip(motion).frames, clip(motion).frames)
    np.testing.assert_array_equal(clip(motion, frames=5).frames[:3], clip(motion).frames)
    assert np.abs(clip(motion, seed=8).frames.astype(int) - clip(motion, seed=9).frames).mean() > 30


def test_shapes_and_contrast() -> None:
    made = render(DEMO_MOTIONS[0], seed=1, frames=4, height=120, width=160)
    assert made.frames.shape == (4, 120, 160, 3) and made.frames.dtype == np.uint8
    assert made.flow.shape == made.backward.shape == (3, 2, 120, 160)
    assert made.flow.dtype == made.backward.dtype == np.float32
    assert made.frames.std() > 35 and 100 < made.frames.mean() < 155
    assert np.mean((made.frames == 0) | (made.frames == 255)) < 0.05


def test_demo_classes_differ_even_when_mirrored_and_without_their_mean() -> None:
    fields = [clip(motion, frames=2).flow[0] for motion in DEMO_MOTIONS]
    mirrored = [field[:, :, ::-1] * np.array([-1, 1])[:, None, None] for field in fields]
    centred = [field - field.mean(axis=(1, 2), keepdims=True) for field in fields]
    centred_mirrored = [field - field.mean(axis=(1, 2), keepdims=True) for field in mirrored]
    for i in range(len(fields)):
        for j in range(i):
            for other in (centred[j], centred_mirrored[j]):
                assert np.hypot(*(centred[i] - other)).mean() > 0.15


def test_demo_videos_show_what_they_say(tmp_path: Path) -> None:
    videos = write_demo_videos(tmp_path, clips_per_class=1, frames=6, height=64, width=80)
    assert [video.label for video in videos] == [motion.name for motion in DEMO_MOTIONS]
    assert sorted(video.id for video in videos) == sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    )
    assert {Path(video.id).suffix for video in videos} == {".avi", ".mp4", ".webm", ".mkv"}
    for video in videos:
        reader = VideoReader(tmp_path / video.id, VideoConfig(), StorageConfig())
        decoded = np.concatenate([block.grey for block in reader.blocks()])
        reader.check()
        shown = video.clip().frames @ np.array([0.299, 0.587, 0.114])  # BT.601 luma
        assert decoded.shape == shown.shape
        assert np.abs(decoded - shown).mean() < 3, video.id


def test_demo_appearance_and_codec_do_not_give_the_class_away(tmp_path: Path) -> None:
    videos = write_demo_videos(tmp_path, clips_per_class=2, frames=2, height=32, width=32)
    first = {video.id: video.clip().frames[0].tobytes() for video in videos}
    assert len(first) == len(set(first.values())) == 12
    for label in {video.label for video in videos}:
        assert len({(tmp_path / video.id).read_bytes()[:4] for video in videos if video.label == label}) == 2
    with pytest.raises(ValueError, match="33x32"):
        write_demo_videos(tmp_path, width=33, height=32)
