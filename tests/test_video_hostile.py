"""Files that are made to do harm: bombs, playlists, names that look like something else."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flowprep.config import StorageConfig, VideoConfig
from flowprep.errors import Verdict
from tests.clips import Reading, numbered, write_clip

CODECS = [
    ("a.mp4", "libx264", "yuv420p"),
    ("a.mp4", "mpeg4", "yuv420p"),
    ("a.avi", "mpeg4", "yuv420p"),
    ("a.avi", "mjpeg", "yuvj420p"),
    ("a.webm", "libvpx-vp9", "yuv420p"),
]


@pytest.mark.parametrize(("name", "codec", "pixel_format"), CODECS)
def test_frames_over_the_limit_are_not_decoded(tmp_path, name, codec, pixel_format):
    path = write_clip(tmp_path / name, numbered(3), codec, pixel_format)
    assert Reading(path, VideoConfig(max_pixels=64 * 48)).verdict is Verdict.OK
    found = Reading(path, VideoConfig(max_pixels=64 * 48 - 1))
    assert found.verdict is Verdict.TOO_LARGE and "--max-pixels" in found.reason
    assert len(found.grey) == 0


@pytest.mark.parametrize(
    ("video", "storage", "size"),
    [
        ({"short_side": 160, "max_pixels": 100_000}, {"rgb": False}, "10240x160"),
        ({"max_pixels": 100_000}, {"rgb_short_side": 160}, "10240x160"),
        ({"short_side": 600}, {"rgb": False}, "38400x600"),  # no JPEG is so wide
    ],
)
def test_frames_that_resizing_makes_too_large(tmp_path, video, storage, size):
    """Few pixels, but 64 times as wide as high."""
    path = write_clip(tmp_path / "a.mp4", numbered(3, 16, 1024))
    assert Reading(path).verdict is Verdict.OK
    found = Reading(path, VideoConfig(**video), StorageConfig(**storage))
    assert found.verdict is Verdict.TOO_LARGE and size in found.reason


def test_too_many_frames(tmp_path):
    path = write_clip(tmp_path / "a.mp4", numbered(20))
    assert Reading(path, VideoConfig(max_frames=20)).verdict is Verdict.OK
    found = Reading(path, VideoConfig(max_frames=19))
    assert found.verdict is Verdict.TOO_LARGE and "--max-frames" in found.reason


def png(width: int, height: int) -> bytes:
    """A black RGB picture, in next to no bytes."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def png_video(path: Path, width: int, height: int, honest: bool) -> Path:
    """Three such pictures as an AVI whose header names their size, or 64x48."""
    picture = png(width, height)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        stream.codec_context.thread_count = 1
        for i in range(3):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, i, i, True
            packet.time_base = Fraction(1, 25)
            container.mux(packet)
    if honest:
        path.write_bytes(path.read_bytes().replace(struct.pack("<II", 64, 48), struct.pack("<II", width, height)))
    return path


MEASURE = """
import resource, sys, time
from pathlib import Path
from flowprep.config import VideoConfig
from tests.clips import Reading
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
found = Reading(Path(sys.argv[1]), VideoConfig(max_pixels=int(sys.argv[2])))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.verdict, time.process_time() - start, (peak - before) / 1024)
"""


def check_bomb(path: Path, limit: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", MEASURE, path, str(limit)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    verdict, seconds, mebibytes = output.split()
    assert verdict == Verdict.TOO_LARGE
    assert float(seconds) < 1 and float(mebibytes) < 40, output


@pytest.mark.parametrize("honest", [True, False])
def test_a_decompression_bomb_is_refused_at_once(tmp_path, honest):
    fair = png_video(tmp_path / "fair.avi", 640, 480, honest)
    assert Reading(fair).verdict is Verdict.OK  # the format is sound
    assert Reading(fair, VideoConfig(max_pixels=200_000, short_side=48)).verdict is Verdict.TOO_LARGE
    bomb = png_video(tmp_path / "bomb.avi", 9000, 9000, honest)
    assert bomb.stat().st_size < 4_000_000  # against 243 MB a frame
    check_bomb(bomb, VideoConfig().max_pixels)


def test_opening_alone_does_not_decode_a_large_frame(tmp_path):
    """FFmpeg likes to look at some frames before it says what is in a file: of this one at 100 MB."""
    large = [np.zeros((5000, 5000, 3), np.uint8)]
    path = write_clip(tmp_path / "a.mkv", large, options={"preset": "ultrafast", "threads": "1"})
    check_bomb(path, 1_000_000)


NAMES = [
    "with spaces.avi",
    'it\'s "quoted".avi',
    "-y.avi",
    "día 日本.avi",
    "http:x.avi",
    "http:",
    "concat:a.avi|b.avi",
    "pipe:0",
    "%03d.avi",
    "?*[a]#&.avi",
    "back\\slash.avi",
    "line\nbreak.avi",
    os.fsdecode(b"\xff\xfe.avi"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("absolute", [True, False])
def test_any_file_name(tmp_path, monkeypatch, name, absolute):
    path = write_clip(tmp_path / "plain.avi", numbered(3), "mpeg4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    found = Reading(path if absolute else Path(name))
    assert found.verdict is Verdict.OK and found.numbers == [0, 1, 2]


class Trap:
    """Notices when a file is opened, by anybody (inotify)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK)
        in_open = 0x20
        assert libc.inotify_add_watch(self._handle, os.fsencode(path), in_open) > 0

    def sprung(self) -> bool:
        try:
            return bool(os.read(self._handle, 4096))
        except BlockingIOError:
            return False


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{neighbour}\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "map.m3u8": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-MAP:URI="{neighbour}"\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n',
    "list.ffconcat": "ffconcat version 1.0\nfile {neighbour}\nfile '{url}'\n",
    "list.mpd": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
    "<Representation id='0' bandwidth='1' mimeType='video/mp4'><BaseURL>{neighbour}</BaseURL></Representation>"
    "</AdaptationSet></Period></MPD>",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "list.asx": "<asx version='3.0'><entry><ref href='{url}'/></entry></asx>",
    "list.pls": "[playlist]\nFile1={url}\nNumberOfEntries=1\n",
    "list.txt": "file {neighbour}\n",
}


@pytest.mark.parametrize("renamed", ["", "film.mp4", "film.avi", "film.ts"])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_no_second_file_and_no_address(tmp_path, monkeypatch, name, renamed):
    neighbour = write_clip(tmp_path / "neighbour.ts", numbered(5))
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        text = PLAYLISTS[name].format(neighbour=neighbour.name, url=f"http://127.0.0.1:{port}/film.ts", port=port)
        path = tmp_path / (renamed or name)
        path.write_text(text)
        trap = Trap(neighbour)
        found = Reading(path)
        assert found.verdict is Verdict.UNDECODABLE
        assert not trap.sprung()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_traps_work(tmp_path):
    """What the test above would see without any precautions."""
    neighbour = write_clip(tmp_path / "neighbour.ts", numbered(5))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(PLAYLISTS["list.m3u8"].format(neighbour=neighbour, url=neighbour))
    trap = Trap(neighbour)
    assert not trap.sprung()
    with av.open(str(playlist)) as container:
        assert next(container.decode(video=0))
    assert trap.sprung()
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(av.FFmpegError):
            av.open(f"http://127.0.0.1:{server.getsockname()[1]}/film.ts", timeout=0.2)
        assert server.accept()


@pytest.mark.parametrize("name", ["%03d.png", "%03d.jpg", "img%d.mp4", "*.png"])
def test_a_pattern_is_no_image_sequence(tmp_path, name):
    image = tmp_path / name.replace("%03d", "001").replace("%d", "1").replace("*", "a")
    image.write_bytes(png(64, 48))
    trap = Trap(image)
    assert Reading(tmp_path / name).verdict is Verdict.MISSING
    shutil.copy(image, tmp_path / name)
    trap.sprung()
    found = Reading(tmp_path / name)
    assert found.verdict is Verdict.UNDECODABLE and not trap.sprung()
