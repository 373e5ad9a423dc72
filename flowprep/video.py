"""Video files to frames, and frames to video files: the only module that talks to PyAV (FFmpeg).

Frames are counted by decoding to the end, flush included; what a header says is compared with that, never believed.
Only files are opened: no network, no playlists, no second file that a container points to.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.config import MIN_SIDE, StorageConfig, VideoConfig
from flowprep.errors import Verdict, VideoError
from flowprep.types import DecodeReport, FrameBlock, Probe

BLOCK_BYTES = 32 * 2**20  # of float32 flow that one block of frames gives: bounds memory whatever the video
MAX_BLOCK = 16  # frames: a slow method must still show signs of life every few seconds

# Containers that hold their streams themselves. Left out on purpose: hls, dash, concat, image sequences and other
# lists, with which a file could make the decoder open other files or addresses.
CONTAINERS = (
    "3dostr,aiff,amr,apng,asf,asf_o,av1,avi,avs,bink,cavsvideo,cdxl,dirac,dnxhd,dv,ea,film_cpk,flic,flv,gif,gxf,h261,h263,"
    "h264,hevc,idcin,ivf,m4v,matroska,webm,mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,mxf,nsv,nut,obu,ogg,"
    "rawvideo,rm,roq,smk,swf,thp,vc1,vc1test,vivo,wav,wc3movie,wtv,yuv4mpegpipe"
)

MISSING_END_WITH_AUDIO = 0.5  # s: sound may outlast the picture by so much before the picture counts as cut short


def probe(path: Path) -> Probe:
    """Read the header. Raises VideoError where there is no video stream to speak of."""
    with _opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        frames = stream.frames
        seconds = _declared_seconds(container, stream)
        if not frames and rate and seconds:
            frames = round(float(rate) * seconds)
        width, height = stream.codec_context.width, stream.codec_context.height
        return Probe(width, height, max(1, frames), float(rate) if rate else 0.0)


class VideoReader:
    """Decodes one file to its end, block by block.

    Parameters
    ----------
    path: the file.
    video: size, stride and limits.
    storage: whether RGB frames are handed on, and their size.

    After :meth:`blocks` is exhausted, :attr:`report` says what was found, and :meth:`check` raises if it is not good.
    """

    def __init__(self, path: Path, video: VideoConfig, storage: StorageConfig) -> None:
        self.path = path
        self.video = video
        self.storage = storage
        self.report = DecodeReport(0, 0, 0.0, -1, 0, 0, 0)
        self._decode_error = ""
        self._missing_seconds = 0.0

    def blocks(self) -> Iterator[FrameBlock]:
        """Yield the kept frames in display order, in blocks of bounded memory.

        Raises VideoError (undecodable, no_video, too_small, too_large).
        """
        with _opened(self.path, self.video.max_pixels) as (container, stream):
            rate = stream.average_rate or stream.guessed_rate or Fraction(0)
            keep = _Selection(self.video, rate)
            blocks = _BlockBuilder(self.video, self.storage)
            decoded = corrupt = discarded = 0
            times: list[Fraction] = []  # of the first and the latest frame, s
            for packet in container.demux(stream):
                discarded += bool(packet.size and packet.is_discard)  # cut by an edit list, yet counted in the header
                for frame in self._frames(packet):
                    decoded += 1
                    corrupt += frame.is_corrupt
                    if decoded > self.video.max_frames:
                        raise VideoError(Verdict.TOO_LARGE, f"more than {self.video.max_frames} frames (--max-frames)")
                    time = frame.pts * frame.time_base if frame.pts is not None and frame.time_base else None
                    if time is not None:
                        times = [times[0] if times else time, time]
                    if keep(decoded - 1, time):
                        blocks.add(_upright(frame))
                    if blocks.full:
                        yield blocks.take()
            if blocks.pending:
                yield blocks.take()
            declared = stream.frames - discarded if stream.frames else -1
            if declared < 0 and times and rate:
                self._missing_seconds = _missing_seconds(container, stream, times[1] - times[0] + 1 / rate, rate)
            height, width = blocks.source_size
            self.report = DecodeReport(width, height, keep.fps, declared, decoded, blocks.count, corrupt)

    def _frames(self, packet: Any) -> Iterator[Any]:
        """The frames that come out of ``packet``; damage is noted and decoding goes on, for an honest count."""
        try:
            yield from packet.decode()
        except (av.FFmpegError, ValueError) as error:
            if getattr(error, "errno", None) == errno.ENOMEM:
                raise MemoryError("the decoder ran out of memory") from None
            self._decode_error = self._decode_error or _sentence(error)

    def check(self) -> None:
        """Raise VideoError unless every declared frame was decoded, undamaged, and there are two to make a field of."""
        found = self.report
        if not found.frames_decoded:
            why = self._decode_error or "the stream is empty"
            raise VideoError(Verdict.UNDECODABLE, f"not one frame decodes ({why})")
        if found.frames_corrupt or self._decode_error:
            detail = self._decode_error or f"{found.frames_corrupt} frames flagged by the decoder"
            raise VideoError(Verdict.CORRUPT_FRAMES, f"damaged: {detail}; {found.frames_decoded} frames decode")
        if found.frames_declared - found.frames_decoded > 1:
            raise VideoError(
                Verdict.SHORT, f"the header declares {found.frames_declared} frames, {found.frames_decoded} decode"
            )
        if self._missing_seconds:
            raise VideoError(
                Verdict.SHORT,
                f"the header declares {self._missing_seconds:.2f} s more than {found.frames_decoded} frames last",
            )
        if found.frames_kept < 2:
            raise VideoError(Verdict.TOO_SHORT, f"{found.frames_kept} frame: flow needs two")


class _Selection:
    """Which frames are kept under ``stride`` or ``fps``: called once for every decoded frame, in order."""

    def __init__(self, config: VideoConfig, rate: Fraction) -> None:
        self._stride = config.stride
        self._target = Fraction(config.fps).limit_denominator(1001) if config.fps else None
        self._rate = rate
        self._start: Fraction | None = None
        self._tick = -1
        if self._target:
            self.fps = float(min(self._target, rate) if rate else self._target)
        else:
            self.fps = float(rate / self._stride)

    def __call__(self, index: int, time: Fraction | None) -> bool:
        if self._target is None:
            return index % self._stride == 0
        if time is None:  # no time stamps: assume the constant rate of the header
            time = index / self._rate if self._rate else Fraction(index)
        if self._start is None:
            self._start = time
        tick = (time - self._start) * self._target // 1  # the interval of the target rate that this frame falls in
        if tick <= self._tick:
            return False
        self._tick = int(tick)
        return True


class _BlockBuilder:
    """Gathers upright RGB frames, at the sizes that are wanted, until a block is full."""

    def __init__(self, video: VideoConfig, storage: StorageConfig) -> None:
        self._video = video
        self._storage = storage
        self._flow_size = (0, 0)
        self._rgb_size: tuple[int, int] | None = None
        self._frames_per_block = MAX_BLOCK
        self._grey: list[NDArray[np.uint8]] = []
        self._rgb: list[NDArray[np.uint8]] = []
        self.source_size = (0, 0)  # (height, width) px of the first frame
        self.count = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        if not self.count:
            self._fix_sizes(image.shape[0], image.shape[1])
        self.count += 1
        self._grey.append(_luma(_resized(image, self._flow_size)))
        if self._rgb_size:
            self._rgb.append(_resized(image, self._rgb_size))

    def _fix_sizes(self, height: int, width: int) -> None:
        """The first frame decides: a stream that changes its size on the way is scaled to that."""
        self.source_size = (height, width)
        self._flow_size = self._video.flow_size(height, width)
        if min(self._flow_size) < MIN_SIDE:
            size = f"{self._flow_size[1]}x{self._flow_size[0]}"
            raise VideoError(Verdict.TOO_SMALL, f"{size} pixels: flow needs at least {MIN_SIDE} a side")
        self._rgb_size = self._storage.frames_size(height, width)
        self._frames_per_block = max(1, min(MAX_BLOCK, BLOCK_BYTES // (8 * self._flow_size[0] * self._flow_size[1])))

    @property
    def pending(self) -> bool:
        return bool(self._grey)

    @property
    def full(self) -> bool:
        return len(self._grey) >= self._frames_per_block

    def take(self) -> FrameBlock:
        block = FrameBlock(np.stack(self._grey), np.stack(self._rgb) if self._rgb else None)
        self._grey, self._rgb = [], []
        return block


@contextmanager
def _opened(path: Path, max_pixels: int = 0) -> Iterator[tuple[Any, Any]]:
    """The container and its main video stream; every way in which FFmpeg refuses a file becomes a VideoError."""
    if not path.is_file():
        raise VideoError(Verdict.MISSING, "no such file")
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        # "file:" keeps names such as "http:x.avi" or "-x.avi" from being taken for anything but a file.
        container = av.open(f"file:{os.fspath(path)}", options=options, metadata_errors="replace")
    except PermissionError:
        raise VideoError(Verdict.UNDECODABLE, "no permission to read the file") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(Verdict.UNDECODABLE, f"not a readable video file ({_sentence(error)})") from None
    with container:
        streams = [item for item in container.streams.video if not item.disposition & item.disposition.attached_pic]
        if not streams:
            raise VideoError(Verdict.NO_VIDEO, "the file has no video stream")
        stream = next((item for item in streams if item.disposition & item.disposition.default), streams[0])
        if stream.codec_context is None:
            raise VideoError(Verdict.UNDECODABLE, "no decoder for its video codec")
        stream.codec_context.thread_count = 1  # parallelism is one process per video
        if max_pixels:
            pixels = stream.codec_context.width * stream.codec_context.height
            if pixels > max_pixels:
                raise VideoError(
                    Verdict.TOO_LARGE, f"{pixels} pixels a frame, the limit is {max_pixels} (--max-pixels)"
                )
            stream.codec_context.options = {"max_pixels": str(max_pixels)}
        yield container, stream


def _declared_seconds(container: Any, stream: Any) -> float:
    """Duration in s that the header gives the stream, or the whole file; 0 = none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return float(container.duration / av.time_base) if container.duration else 0.0


def _missing_seconds(container: Any, stream: Any, covered: Fraction, rate: Fraction) -> float:
    """Seconds that the header declares beyond ``covered``; 0 within the tolerance. For files that declare no count."""
    missing = _declared_seconds(container, stream) - float(covered)
    tolerance = MISSING_END_WITH_AUDIO if container.streams.audio else 1.5 / float(rate)
    return missing if missing > tolerance else 0.0


def _upright(frame: Any) -> NDArray[np.uint8]:
    """``frame`` as (H, W, 3) uint8 RGB, turned as its display matrix says."""
    image = frame.reformat(format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
    quarter_turns = round(frame.rotation / 90) % 4 if frame.rotation else 0
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """``image`` at ``size`` (height, width): area average where it shrinks, bicubic where it grows."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    cv2 = opencv.load()
    method = cv2.INTER_AREA if size[0] * size[1] < height * width else cv2.INTER_CUBIC
    result: NDArray[np.uint8] = cv2.resize(image, (size[1], size[0]), interpolation=method)
    return result


def _luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range BT.601 luma of an (H, W, 3) RGB image, as OpenCV's BGR2GRAY computes it."""
    cv2 = opencv.load()
    grey: NDArray[np.uint8] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return grey


def _sentence(error: Exception) -> str:
    """FFmpeg's message without its number and file name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def write_video(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    *,
    fps: int = 25,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """Write (H, W, 3) uint8 RGB frames; the container follows the suffix of ``path``."""
    with av.open(os.fspath(path), "w") as container:
        stream: Any = None
        for image in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=fps, options=options or {})
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.thread_count = 1  # the same bytes on every machine
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if stream is None:
            raise ValueError("write_video: no frames")
        container.mux(stream.encode(None))
