"""Videos that must not pass as whole ones, and files that are none."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from flowprep.config import VideoConfig
from flowprep.errors import Verdict, VideoError
from flowprep.video import probe
from tests.clips import Reading, numbered, textured, write_clip

COUNT = 30  # frames of a clip that is going to be damaged
VP9 = {"deadline": "realtime", "cpu-used": "8", "b": "400k"}
FINE = {"qmin": "1", "qmax": "3"}

DAMAGED = {
    "plain.mp4": {},
    "faststart.mp4": {"muxer": {"movflags": "faststart"}},
    "sound.mp4": {"muxer": {"movflags": "faststart"}, "sound": 1.2},
    "mpeg4.avi": {"codec": "mpeg4", "options": FINE},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "sound.avi": {"codec": "mpeg4", "options": FINE, "sound": 1.0},
    "plain.mkv": {},
    "sound.mkv": {"sound": 1.2},
    "ffv1.mkv": {"codec": "ffv1", "pixel_format": "bgr0"},
    "plain.webm": {"codec": "libvpx-vp9", "options": VP9},
    "sound.webm": {"codec": "libvpx-vp9", "options": VP9, "sound": 1.2},
}


def whole(path: Path) -> bytes:
    recipe = {"codec": "libx264", **DAMAGED.get(path.name, {"sound": 1.2} if "sound" in path.name else {})}
    write_clip(path, textured(COUNT), **recipe)
    found = Reading(path)
    assert found.verdict is Verdict.OK and found.report.frames_decoded == COUNT, found
    return path.read_bytes()


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_cut_off_never_passes_with_frames_lost(tmp_path, name):
    path = tmp_path / name
    film = whole(path)
    verdicts = []
    for length in np.linspace(1, len(film) - 1, 25).astype(int):
        path.write_bytes(film[:length])
        found = Reading(path)
        verdicts.append(found.verdict)
        # One frame less is within what a header may say too much; a cut behind the last frame takes an index only.
        assert found.verdict is not Verdict.OK or found.report.frames_decoded >= COUNT - 1, (length, found)
        assert found.verdict is Verdict.OK or found.reason
    assert verdicts.count(Verdict.OK) <= 5
    assert set(verdicts) <= {
        Verdict.OK,
        Verdict.SHORT,
        Verdict.CORRUPT_FRAMES,
        Verdict.UNDECODABLE,
        Verdict.NO_VIDEO,
        Verdict.TOO_SHORT,
    }


@pytest.mark.parametrize("name", ["faststart.mp4", "mpeg4.avi", "plain.mkv", "plain.flv", "sound.flv"])
def test_a_cut_between_two_frames_is_noticed_too(tmp_path, name):
    """Here every frame that is left decodes without a complaint."""
    path = tmp_path / name
    film = whole(path)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(film[: places[20] - (8 if name == "mpeg4.avi" else 0)])  # a chunk of an AVI begins with 8 bytes
    found = Reading(path)
    assert found.verdict is Verdict.SHORT, found
    assert str(found.report.frames_decoded) in found.reason


@pytest.mark.parametrize("box", [b"tfhd", b"trun"])
def test_a_container_that_breaks_off_on_the_way(tmp_path, box):
    """The demultiplexer itself gives up, at a place or a size that cannot be: what it said must not be lost."""
    options, fragments = {"g": "8", "sc_threshold": "0"}, {"movflags": "frag_keyframe+empty_moov"}
    path = write_clip(tmp_path / "a.mp4", textured(80, 96, 128), options=options, muxer=fragments)
    assert Reading(path).verdict is Verdict.OK
    film = bytearray(path.read_bytes())
    at = film.rindex(box) + {b"tfhd": 12, b"trun": 20}[box]  # where the last fragment begins; size of its first frame
    film[at : at + 4] = b"\xff" * 4
    path.write_bytes(film)
    found = Reading(path)
    assert found.verdict is Verdict.CORRUPT_FRAMES and 60 <= found.report.frames_decoded <= 72, found


@pytest.mark.parametrize(
    ("extra", "verdict"), [(0, Verdict.OK), (1, Verdict.OK), (2, Verdict.SHORT), (9, Verdict.SHORT)]
)
def test_header_that_declares_more_frames_than_there_are(tmp_path, extra, verdict):
    path = write_clip(tmp_path / "a.avi", numbered(10), "mpeg4")
    film = bytearray(path.read_bytes())
    at = film.index(b"strh") + 8 + 32  # dwLength
    assert struct.unpack_from("<I", film, at) == (10,)
    struct.pack_into("<I", film, at, 10 + extra)
    path.write_bytes(film)
    found = Reading(path)
    assert found.verdict is verdict and found.report.frames_decoded == 10, found
    if verdict is Verdict.SHORT:
        assert str(10 + extra) in found.reason and "10 decode" in found.reason


def plainly_decoded(path: Path) -> tuple[list[bytes], bool]:
    """All frames, and whether the decoder raised an error or marked a frame."""
    images, told = [], False
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                told = True
                continue
            images += [frame.to_ndarray(format="rgb24").tobytes() for frame in frames]
            told |= any(frame.is_corrupt for frame in frames)
    return images, told


@pytest.mark.parametrize(("name", "seen"), [("plain.mp4", 0.4), ("mpeg4.avi", 0.3), ("plain.mkv", 0.4)])
def test_damage_that_the_decoder_tells_of_is_never_passed_over(tmp_path, name, seen):
    """One flipped bit in the compressed pictures. What no decoder can tell goes through: see the share."""
    path = tmp_path / name
    film = whole(path)
    before = plainly_decoded(path)[0]
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size > 20]
    payload = np.concatenate([np.arange(packet.pos + 12, packet.pos + packet.size) for packet in packets])
    random = np.random.default_rng(0)
    harmed = refused = 0
    for place in random.choice(payload, 40):
        damaged = bytearray(film)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        images, told = plainly_decoded(path)
        found = Reading(path)
        if told:
            assert found.verdict is Verdict.CORRUPT_FRAMES, (place, found)
        changed = images != before
        harmed += changed
        refused += changed and found.verdict is not Verdict.OK
    assert harmed > 20
    assert refused / harmed >= seen, f"{refused} of {harmed}"


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_anywhere_gives_a_verdict_and_nothing_worse(tmp_path, name):
    scrambled(tmp_path / name, 10)


@pytest.mark.system
@pytest.mark.parametrize("name", DAMAGED)
def test_a_thousand_damaged_files_give_a_verdict_and_nothing_worse(tmp_path, name):
    scrambled(tmp_path / name, 1000)


def scrambled(path: Path, mutants: int) -> None:
    """Overwrite bytes, half of the time in the header; any exception but VideoError fails."""
    film = whole(path)
    random = np.random.default_rng(1)
    verdicts = set()
    for mutant in range(mutants):
        damaged = bytearray(film)
        for place in random.integers(0, len(film) if mutant % 2 else min(len(film), 900), 4):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        found = Reading(path, VideoConfig(max_pixels=1_000_000))
        verdicts.add(found.verdict)
        assert found.verdict is Verdict.OK or found.reason
        try:
            assert probe(path).frames >= 1
        except VideoError:
            assert found.verdict is not Verdict.OK
    assert len(verdicts) > 1


@pytest.mark.parametrize(
    "content", [b"", b"not a video at all\n" * 99, bytes(5000), b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0AVI "]
)
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "h264"])
def test_what_is_no_video_is_undecodable(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    found = Reading(path)
    assert found.verdict is Verdict.UNDECODABLE
    assert "not a video file" in found.reason or "not one frame" in found.reason


def test_a_codec_that_nobody_knows(tmp_path):
    path = write_clip(tmp_path / "a.avi", numbered(5), "mjpeg", "yuvj420p")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZZZ"))
    found = Reading(path)
    assert found.verdict is Verdict.UNDECODABLE and "no decoder" in found.reason


def test_a_pixel_format_that_nothing_converts(tmp_path):
    path = tmp_path / "a.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb4"
        container.mux(stream.encode(av.VideoFrame(64, 48, "rgb4")))
        container.mux(stream.encode(None))
    found = Reading(path)
    assert found.verdict is Verdict.UNDECODABLE and "rgb4" in found.reason


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert Reading(path).verdict is Verdict.NO_VIDEO


def test_too_short(tmp_path):
    found = Reading(write_clip(tmp_path / "a.mp4", numbered(1)))
    assert found.verdict is Verdict.TOO_SHORT and "two" in found.reason and found.report.frames_decoded == 1


@pytest.mark.parametrize(
    ("height", "width", "video", "too_small"),
    [(8, 64, {}, True), (16, 14, {}, True), (16, 16, {}, False), (8, 64, {"short_side": 16}, False)],
)
def test_too_small(tmp_path, height, width, video, too_small):
    found = Reading(write_clip(tmp_path / "a.mp4", numbered(3, height, width)), VideoConfig(**video))
    assert found.verdict is (Verdict.TOO_SMALL if too_small else Verdict.OK)
    assert not too_small or (f"{width}x{height}" in found.reason and "16" in found.reason)


def test_missing_and_irregular_files(tmp_path):
    assert Reading(tmp_path / "no.mp4").verdict is Verdict.MISSING
    assert Reading(tmp_path / "no" / "such" / "folder.mp4").verdict is Verdict.MISSING
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    for name in ("folder.mp4", "pipe.mp4", "loop.mp4", "x" * 300 + ".mp4"):
        found = Reading(tmp_path / name)
        assert found.verdict is Verdict.UNDECODABLE and found.reason, name
        assert ("not a regular file" in found.reason) == (name in ("folder.mp4", "pipe.mp4"))
