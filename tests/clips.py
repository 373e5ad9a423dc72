"""Small video files for tests, made to order: any codec, container, time stamps, sound, rotation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from flowprep.config import StorageConfig, VideoConfig
from flowprep.errors import Verdict, VideoError
from flowprep.synthetic import Motion, render
from flowprep.types import DecodeReport
from flowprep.video import VideoReader

Frames = Sequence[NDArray[np.uint8]]

QUICK = {"preset": "ultrafast", "crf": "10"}
B_FRAMES = {"preset": "veryfast", "crf": "10", "bf": "3", "b_strategy": "0", "g": "12"}

STEP = 5  # grey levels between one numbered frame and the next
SAMPLE_RATE = 48_000  # Hz


def numbered(count: int, height: int = 48, width: int = 64) -> list[NDArray[np.uint8]]:
    """Flat frames that tell their number: see :func:`numbers`."""
    assert count * STEP <= 250
    return [np.full((height, width, 3), 2 + STEP * i, np.uint8) for i in range(count)]


def numbers(grey: NDArray[np.uint8]) -> list[int]:
    """Which of the :func:`numbered` frames these are, lossy coding or not."""
    return np.rint((grey.mean(axis=(1, 2)) - 2) / STEP).astype(int).tolist()


def textured(count: int, height: int = 48, width: int = 64) -> list[NDArray[np.uint8]]:
    """Frames with something to encode in every block, moving."""
    return list(render(Motion("right", velocity=(1.5, -0.5)), seed=3, frames=count, height=height, width=width).frames)


def write_clip(
    path: Path,
    frames: Frames,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    *,
    rate: int = 30,
    times: Sequence[Fraction | float] | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
    muxer: dict[str, str] | None = None,
    sound: float = 0.0,
    sound_first: bool = False,
    rotation: tuple[float, bool, bool] | None = None,
) -> Path:
    """Write ``frames``, (H, W, 3) uint8 RGB each.

    ``times`` in s, one a frame, else a constant ``rate``; ``sound`` so many s of a tone beside them; ``rotation`` as
    degrees counterclockwise, then a horizontal, then a vertical mirror. Options go to the encoder and the ``muxer``.
    """
    with av.open(str(path), "w", format=container, options=muxer or {}) as output:
        audio = _audio_stream(output, path) if sound and sound_first else None
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 90_000)
        if rotation:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        if sound and audio is None:
            audio = _audio_stream(output, path)
        packets = _video_packets(stream, frames, times)
        if audio is not None:
            packets = iter(
                sorted([*packets, *_audio_packets(audio, sound)], key=lambda item: item.dts * item.time_base)
            )
        for packet in packets:
            output.mux(packet)
    return path


def _video_packets(stream: Any, frames: Frames, times: Sequence[Fraction | float] | None) -> Iterator[Any]:
    for i, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        if times is not None:
            frame.pts, frame.time_base = round(times[i] * 90_000), Fraction(1, 90_000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _audio_stream(output: Any, path: Path) -> Any:
    codec = {".webm": "libopus", ".avi": "pcm_s16le", ".flv": "aac"}.get(path.suffix, "aac")
    stream = output.add_stream(codec, rate=SAMPLE_RATE)
    stream.layout = "mono"
    return stream


def _audio_packets(stream: Any, seconds: float) -> Iterator[Any]:
    block = 960
    tone = (8000 * np.sin(np.arange(block) * 2 * np.pi / 96)).astype(np.int16)[None]
    for start in range(0, round(seconds * SAMPLE_RATE), block):
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        yield from stream.encode(frame)
    yield from stream.encode(None)


class Reading:
    """What came out of one file: the verdict, the reason, the report, and all frames in one piece."""

    def __init__(self, path: Path, video: VideoConfig | None = None, storage: StorageConfig | None = None) -> None:
        reader = VideoReader(path, video or VideoConfig(), storage or StorageConfig(rgb_short_side=16))
        grey, rgb = [], []
        self.verdict, self.reason = Verdict.OK, ""
        try:
            for block in reader.blocks():
                grey.append(block.grey)
                if block.rgb is not None:
                    rgb.append(block.rgb)
            reader.check()
        except VideoError as error:
            self.verdict, self.reason = error.verdict, error.reason
        self.report: DecodeReport = reader.report
        self.grey = np.concatenate(grey) if grey else np.empty((0, 0, 0), np.uint8)  # (T, H, W)
        self.rgb = np.concatenate(rgb) if rgb else None  # (T, h, w, 3)

    def __repr__(self) -> str:
        return f"{self.verdict}: {self.reason} {self.report}"

    @property
    def numbers(self) -> list[int]:
        return numbers(self.grey)
