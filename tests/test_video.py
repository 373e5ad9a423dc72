"""Decoding: every frame, once, in order, upright and in the right grey, whatever the container."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flowprep import opencv
from flowprep.config import StorageConfig, VideoConfig
from flowprep.errors import Verdict, VideoError
from flowprep.video import VideoReader, probe, write_video
from tests.clips import B_FRAMES, QUICK, Reading, numbered, textured, write_clip

VP9 = {"deadline": "realtime", "cpu-used": "8", "b": "2M"}

# File name, codec, pixel format, options of the encoder.
ENCODINGS = [
    ("h264.mp4", "libx264", "yuv420p", B_FRAMES),
    ("h264.mov", "libx264", "yuv420p", B_FRAMES),
    ("h264.mkv", "libx264", "yuv420p", B_FRAMES),
    ("h264.flv", "libx264", "yuv420p", B_FRAMES),
    ("h264.ts", "libx264", "yuv420p", B_FRAMES),
    ("h264.h264", "libx264", "yuv420p", B_FRAMES),
    ("h265.mp4", "libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3"}),
    ("mpeg4.avi", "mpeg4", "yuv420p", {"qmin": "1", "qmax": "2", "bf": "2"}),
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {"qmin": "1", "qmax": "2", "bf": "2"}),
    ("mjpeg.avi", "mjpeg", "yuvj420p", {"qmin": "1", "qmax": "2"}),
    ("wmv2.wmv", "wmv2", "yuv420p", {"qmin": "1", "qmax": "2"}),
    ("vp8.webm", "libvpx", "yuv420p", VP9),
    ("vp9.webm", "libvpx-vp9", "yuv420p", VP9),
    ("av1.mkv", "libsvtav1", "yuv420p", {"preset": "12", "svtav1-params": "tile-columns=0"}),
    ("ffv1.mkv", "ffv1", "bgr0", {}),
    ("huffyuv.avi", "huffyuv", "yuv422p", {}),
]


@pytest.mark.parametrize(("name", "codec", "pixel_format", "options"), ENCODINGS, ids=[row[0] for row in ENCODINGS])
def test_every_frame_comes_out_once_and_in_display_order(tmp_path, name, codec, pixel_format, options):
    found = Reading(write_clip(tmp_path / name, numbered(23), codec, pixel_format, options=options))
    assert found.verdict is Verdict.OK, found
    assert found.numbers == list(range(23))
    assert found.report.frames_decoded == found.report.frames_kept == 23
    assert (found.report.height, found.report.width) == (48, 64) and found.report.frames_corrupt == 0


def test_animated_gif(tmp_path):
    found = Reading(write_clip(tmp_path / "a.gif", textured(9), "gif", "rgb8"))
    assert found.verdict is Verdict.OK and found.report.frames_decoded == 9


def test_b_frames_really_delay_the_last_frames(tmp_path):
    """Without a flush the tail is lost: the clip of the test above is one with which that would show."""
    path = write_clip(tmp_path / "a.mp4", numbered(23), options=B_FRAMES)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        unflushed = sum(len(packet.decode()) for packet in container.demux(stream) if packet.size)
    assert unflushed < 23


@pytest.mark.parametrize(
    ("codec", "pixel_format", "name"), [("libx264", "yuv444p", "a.mp4"), ("ffv1", "bgr0", "a.mkv")]
)
def test_odd_sizes(tmp_path, codec, pixel_format, name):
    frames = textured(4, height=33, width=47)
    found = Reading(write_clip(tmp_path / name, frames, codec, pixel_format), storage=StorageConfig(rgb_short_side=33))
    assert found.verdict is Verdict.OK
    assert found.grey.shape == (4, 33, 47) and found.rgb.shape == (4, 33, 47, 3)
    assert (found.report.height, found.report.width) == (33, 47)
    if codec == "ffv1":
        assert np.array_equal(found.rgb, np.stack(frames))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.flv", "a.ts"])
def test_sound_beside_the_picture(tmp_path, name, first):
    """Also where the picture is the second stream; the sound may outlast it."""
    codec, options = ("libvpx", VP9) if name == "a.webm" else ("libx264", B_FRAMES)
    path = write_clip(tmp_path / name, numbered(20), codec, options=options, sound=2.5, sound_first=first)
    found = Reading(path)
    assert found.verdict is Verdict.OK, found
    assert found.numbers == list(range(20))


def add_video(container, frames, codec="libx264", **options):
    stream = container.add_stream(codec, rate=30, options=options)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return stream, frames


def mux(container, *streams):
    for stream, frames in streams:
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("default", [0, 1])
def test_of_two_video_streams_the_default_one_is_taken(tmp_path, default):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w", options={"default_mode": "passthrough"}) as container:
        streams = [add_video(container, numbered(5 + i, width=64 + 16 * i)) for i in range(2)]
        streams[default][0].disposition = av.stream.Disposition.default
        mux(container, *streams)
    found = Reading(path)
    assert found.verdict is Verdict.OK
    assert (found.report.frames_decoded, found.report.width) == ((5, 64), (6, 80))[default]


def test_without_a_default_the_first_video_stream_is_taken(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w", options={"default_mode": "passthrough"}) as container:
        mux(container, add_video(container, numbered(5)), add_video(container, numbered(9, width=80)))
    assert Reading(path).report.frames_decoded == 5


def with_cover(path: Path, video: bool) -> Path:
    """An audio file (or, with ``video``, a film) that carries a picture of its cover."""
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as container:
        audio = container.add_stream("libmp3lame" if path.suffix == ".mp3" else "aac", rate=44100)
        audio.layout = "mono"
        cover, image = add_video(container, numbered(3, 120, 120)[2:], "mjpeg")
        cover.disposition = av.stream.Disposition.attached_pic
        film = add_video(container, numbered(7)) if video else None
        mux(container, (cover, image))
        for start in range(0, 44100, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
        if film:
            mux(container, film)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1 + video, "the cover did not get into the file"
    return path


@pytest.mark.parametrize("name", ["song.mp3", "song.m4a"])
def test_cover_art_is_no_video(tmp_path, name):
    found = Reading(with_cover(tmp_path / name, video=False))
    assert found.verdict is Verdict.NO_VIDEO and "no video stream" in found.reason


def test_cover_art_beside_a_film(tmp_path):
    found = Reading(with_cover(tmp_path / "film.mp4", video=True))
    assert found.verdict is Verdict.OK and found.report.frames_decoded == 7 and found.report.width == 64


# Where the corners of the coded picture are seen after ``rotation``: counterclockwise degrees, then mirrors.
WHITE, RED, GREEN, BLUE = 255, 76, 150, 29  # BT.601 luma
CODED = [[WHITE, RED], [GREEN, BLUE]]
UPRIGHT = {
    (0, False, False): [[WHITE, RED], [GREEN, BLUE]],
    (90, False, False): [[RED, BLUE], [WHITE, GREEN]],
    (180, False, False): [[BLUE, GREEN], [RED, WHITE]],
    (270, False, False): [[GREEN, WHITE], [BLUE, RED]],
    (0, True, False): [[RED, WHITE], [BLUE, GREEN]],
    (0, False, True): [[GREEN, BLUE], [WHITE, RED]],
    (90, True, False): [[BLUE, RED], [GREEN, WHITE]],
    (90, False, True): [[WHITE, GREEN], [RED, BLUE]],
}


@pytest.mark.parametrize("rotation", UPRIGHT)
def test_frames_are_turned_as_the_display_matrix_says(tmp_path, rotation):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32], image[:24, 32:], image[24:, :32], image[24:, 32:] = 255, (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = write_clip(tmp_path / "a.mp4", [image] * 2, pixel_format="yuv444p", options=QUICK, rotation=rotation)
    found = Reading(path, storage=StorageConfig(rgb_short_side=48))
    height, width = (48, 64) if rotation[0] in (0, 180) else (64, 48)
    assert found.grey.shape == (2, height, width) and found.rgb.shape == (2, height, width, 3)
    assert (found.report.height, found.report.width) == (height, width)
    assert (probe(path).height, probe(path).width) == (height, width)
    corners = found.grey[0][height // 4 :: height // 2, width // 4 :: width // 2]
    assert np.abs(corners.astype(int) - UPRIGHT[rotation]).max() <= 3, corners
    if not (rotation[1] or rotation[2]):  # OpenCV knows no mirrors
        assert np.abs(found.grey.astype(int) - opencv_grey(path)).max() <= 2


def opencv_grey(path: Path) -> np.ndarray:
    """What OpenCV makes of a video, (T, H, W) uint8: another reader, against which this one is checked."""
    cv2 = opencv.load()
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (answer := capture.read())[0]:
        frames.append(cv2.cvtColor(answer[1], cv2.COLOR_BGR2GRAY))
    assert frames, "OpenCV cannot read it"
    return np.stack(frames)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_real_rotated_videos_stand_as_in_opencv(data, turn):
    path = data / f"odd-videos/decord/video_{turn}.mov"
    assert np.array_equal(Reading(path).grey, opencv_grey(path))


@pytest.mark.parametrize(
    "name",
    ["ucf10/videos/YoYo", "ucf10/videos/Biking", "hmdb51/videos", "kinetics-like"],
)
def test_grey_of_real_videos_is_opencvs(data, name):
    path = sorted((data / name).iterdir())[0]
    found = Reading(path)
    assert found.verdict is Verdict.OK and len(found.grey) > 40
    assert np.array_equal(found.grey, opencv_grey(path))


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("full.avi", "mjpeg", "yuvj420p"), ("full.mp4", "libx264", "yuvj420p"), ("limited.mp4", "libx264", "yuv420p")],
)
def test_white_is_255_and_black_is_0_in_either_range(tmp_path, name, codec, pixel_format):
    levels = [0, 1, 64, 128, 200, 254, 255]
    frames = [np.full((48, 64, 3), level, np.uint8) for level in levels]
    options = QUICK if codec == "libx264" else {"qmin": "1", "qmax": "1"}
    found = Reading(write_clip(tmp_path / name, frames, codec, pixel_format, options=options))
    means = found.grey.mean(axis=(1, 2))
    assert np.abs(means - levels).max() <= 2
    assert means[0] <= 1 and means[-1] >= 254


def test_rgb_has_red_first(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:] = (200, 100, 50)
    found = Reading(write_clip(tmp_path / "a.mkv", [image] * 2, "ffv1", "bgr0"))
    assert (found.rgb == (200, 100, 50)).all()
    assert np.abs(found.grey.astype(int) - round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).max() <= 1


def test_without_rgb_none_is_made(tmp_path):
    path = write_clip(tmp_path / "a.mp4", numbered(4), options=QUICK)
    assert Reading(path, storage=StorageConfig(rgb=False)).rgb is None


@pytest.mark.parametrize(
    ("video", "flow_size"),
    [
        (VideoConfig(), (48, 64)),
        (VideoConfig(resize="32x40"), (40, 32)),
        (VideoConfig(resize="128x96"), (96, 128)),
        (VideoConfig(short_side=24), (24, 32)),
        (VideoConfig(short_side=96), (96, 128)),
        (VideoConfig(short_side=17), (17, 23)),
    ],
    ids=str,
)
@pytest.mark.parametrize(("rgb_short_side", "rgb_size"), [(16, (16, 21)), (60, (60, 80))])
def test_sizes(tmp_path, video, flow_size, rgb_short_side, rgb_size):
    frames = textured(3)
    path = write_clip(tmp_path / "a.mkv", frames, "ffv1", "bgr0")
    found = Reading(path, video, StorageConfig(rgb_short_side=rgb_short_side))
    assert found.grey.shape == (3, *flow_size) and found.rgb.shape == (3, *rgb_size, 3)
    assert (found.report.height, found.report.width) == (48, 64)  # of the source
    truth = np.stack(frames).mean()
    assert abs(found.grey.mean() - truth) < 3 and abs(found.rgb.mean() - truth) < 3


def test_shrinking_averages(tmp_path):
    """A chessboard of single pixels becomes grey, not a pattern."""
    board = np.zeros((48, 64, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    found = Reading(write_clip(tmp_path / "a.mkv", [board] * 2, "ffv1", "bgr0"), VideoConfig(short_side=24))
    assert found.grey.shape == (2, 24, 32) and np.abs(found.grey.astype(int) - 127).max() <= 1


@pytest.mark.parametrize("suffix", ["h264", "ts"])
def test_a_stream_that_changes_its_size_goes_on_at_the_first(tmp_path, suffix):
    small = write_clip(tmp_path / f"1.{suffix}", numbered(10), options=QUICK)
    large = write_clip(tmp_path / f"2.{suffix}", numbered(20, 96, 112)[10:], options=QUICK)
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    found = Reading(path)
    assert found.verdict is Verdict.OK, found
    assert found.grey.shape == (20, 48, 64) and found.rgb.shape == (20, 16, 21, 3)
    assert found.numbers == list(range(20))
    limited = Reading(path, VideoConfig(max_pixels=5000))  # 64x48 are below, 112x96 above
    assert limited.verdict is Verdict.TOO_LARGE and "112x96" in limited.reason


@pytest.mark.parametrize("formats", [("yuv420p", "yuv444p"), ("yuv444p", "yuv422p"), ("yuv422p", "yuv420p10le")])
def test_a_stream_that_changes_its_pixel_format_keeps_its_colours(tmp_path, formats):
    parts = [
        write_clip(tmp_path / f"{i}.h264", textured(6), pixel_format=pixel_format, options=QUICK)
        for i, pixel_format in enumerate(formats)
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = Reading(path)
    assert found.verdict is Verdict.OK, found
    assert np.array_equal(found.grey, np.concatenate([Reading(part).grey for part in parts]))


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv"])
def test_metadata_that_is_not_utf8(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "placeholder"
        mux(container, add_video(container, numbered(5), "mpeg4"))
    film = path.read_bytes()
    path.write_bytes(film.replace(b"placeholder", b"\xff\xfe\xe9\x80cartwhe"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    assert Reading(path).verdict is Verdict.OK
    assert probe(path).frames == 5


def test_probe(tmp_path):
    found = probe(write_clip(tmp_path / "a.mp4", numbered(20), options=QUICK))
    assert (found.width, found.height, found.frames, found.fps) == (64, 48, 20, 30.0)
    assert probe(write_clip(tmp_path / "a.mkv", numbered(20), options=QUICK)).frames == 20  # from the duration
    with pytest.raises(VideoError):
        probe(tmp_path / "missing.mp4")


def test_blocks_are_handed_on_before_the_end_and_bounded(tmp_path):
    path = write_clip(tmp_path / "a.mp4", numbered(50), options=QUICK)
    sizes = [len(block.grey) for block in VideoReader(path, VideoConfig(), StorageConfig()).blocks()]
    assert sizes == [16, 16, 16, 2]
    wide = [len(block.grey) for block in VideoReader(path, VideoConfig(short_side=1200), StorageConfig()).blocks()]
    assert sum(wide) == 50 and max(wide) <= 2  # 1600x1200: 15 MB of flow a frame


MEASURE = """
import resource, sys
from pathlib import Path
from flowprep.config import StorageConfig, VideoConfig
from flowprep.video import VideoReader
reader = VideoReader(Path(sys.argv[1]), VideoConfig(), StorageConfig())
frames = sum(len(block.grey) for block in reader.blocks())
reader.check()
print(frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_depend_on_the_length(tmp_path):
    """Four minutes against one, at 320x240 and 10 frames/s; nearly still pictures, so that they are quick to write."""
    peaks = []
    for minutes in (1, 4):
        path = tmp_path / f"{minutes}.avi"
        frames = (np.full((240, 320, 3), i % 250, np.uint8) for i in range(600 * minutes))
        write_video(path, frames, fps=10, codec="mpeg4")
        output = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
        count, peak = map(int, output.stdout.split())
        assert count == 600 * minutes
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0], [f"{peak / 1024:.0f} MiB" for peak in peaks]


def test_written_videos_come_back(tmp_path):
    write_video(tmp_path / "a.mp4", numbered(12), fps=12, options=QUICK)
    found = Reading(tmp_path / "a.mp4")
    assert found.numbers == list(range(12)) and found.report.fps == 12
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "b.mp4", [])
