"""Video files to frames, and frames to video files: the only module that talks to PyAV (FFmpeg).

Frames are counted by decoding to the end, flush included; what a header says is compared with that, never believed.
Only files are opened: no network, no playlists, no second file that a container points to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.config import MIN_SIDE, StorageConfig, VideoConfig
from flowprep.errors import StoreError, Verdict, VideoError
from flowprep.matroska import missing_bytes
from flowprep.types import DecodeReport, FrameBlock, Probe

BLOCK_BYTES = 32 * 2**20  # of flow and RGB that come of one block of frames: bounds memory whatever the video
MAX_BLOCK = 16  # frames: a slow method must still show signs of life every few seconds

# Containers that hold their streams themselves. Left out on purpose: hls, dash, concat, image sequences and other
# lists, with which a file could make the decoder open other files or addresses.
CONTAINERS = (
    "3dostr,aiff,amr,apng,asf,asf_o,av1,avi,avs,bink,cavsvideo,cdxl,dirac,dnxhd,dv,ea,film_cpk,flic,flv,gif,gxf,h261,h263,"
    "h264,hevc,idcin,ivf,m4v,matroska,webm,mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,mxf,nsv,nut,obu,ogg,"
    "rawvideo,rm,roq,smk,swf,thp,vc1,vc1test,vivo,wav,wc3movie,wtv,yuv4mpegpipe"
)

TOLERANCE = Fraction(1, 1000)  # s: Matroska and FLV round their time stamps to milliseconds
MAX_SIDE = 65_500 // 2  # px: a JPEG has 65,500, and a stored field is u above v


def probe(path: Path) -> Probe:
    """What the header and the first frame say. Raises VideoError where there is no video stream to speak of."""
    with _opened(path, VideoConfig().max_pixels) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        frames = _declared_frames(container, stream)
        if frames < 0 and rate and container.duration:
            frames = round(float(rate) * container.duration / av.time_base)
        width, height = stream.codec_context.width, stream.codec_context.height
        try:
            first = next(container.decode(stream), None)
        except (av.FFmpegError, ValueError):
            first = None
        if first is not None:
            turned = _orientation(first)[0]
            width, height = (first.height, first.width) if turned else (first.width, first.height)
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
        self._damage = ""  # the first error of the decoder
        self._cut_off = ""  # what is missing at the end of a file that declares no number of frames

    def blocks(self) -> Iterator[FrameBlock]:
        """Yield the kept frames in display order, in blocks of bounded memory.

        Raises VideoError (missing, undecodable, no_video, too_small, too_large).
        """
        with _opened(self.path, self.video.max_pixels) as (container, stream):
            rate = stream.average_rate or stream.guessed_rate or Fraction(0)
            keep = _Selection(self.video, rate)
            blocks = _BlockBuilder(self.video, self.storage)
            converter = VideoReformatter()  # one for all frames: it remembers its tables
            decoded = corrupt = 0
            end = 0.0  # s: of the packet, of any stream, that ends last
            for packet in self._packets(container):
                end = max(end, _end(packet))
                if packet.stream is not stream:
                    continue
                for frame in self._frames(packet):
                    decoded += 1
                    corrupt += frame.is_corrupt
                    if decoded > self.video.max_frames:
                        raise VideoError(Verdict.TOO_LARGE, f"more than {self.video.max_frames} frames (--max-frames)")
                    _check_pixels(frame, self.video.max_pixels)
                    if keep(decoded - 1, _time(frame)):
                        blocks.add(_upright(frame, converter))
                    if blocks.full:
                        yield blocks.take()
            if blocks.pending:
                yield blocks.take()
            declared = _declared_frames(container, stream)
            if declared < 0:
                self._cut_off = missing_bytes(self.path) or _missing_seconds(container, end, rate)
            height, width = blocks.source_size
            self.report = DecodeReport(width, height, keep.fps, declared, decoded, blocks.count, corrupt)

    def _packets(self, container: Any) -> Iterator[Any]:
        """The packets of all streams, up to the end or to where the container is damaged beyond reading on."""
        try:
            yield from container.demux()
        except (av.FFmpegError, ValueError) as error:
            self._damage = self._damage or _sentence(error)

    def _frames(self, packet: Any) -> Iterator[Any]:
        """The frames that come out of ``packet``; damage is noted and decoding goes on, for an honest count."""
        try:
            yield from packet.decode()
        except (av.FFmpegError, ValueError) as error:
            code = getattr(error, "errno", None)
            if code == errno.ENOMEM:
                raise MemoryError("the decoder ran out of memory") from None
            if code == errno.EINVAL:  # how decoders refuse a size
                limit = f"{self.video.max_pixels} pixels in all (--max-pixels)"
                raise VideoError(Verdict.TOO_LARGE, f"its frames are larger than the limit, {limit}") from None
            self._damage = self._damage or _sentence(error)

    def check(self) -> None:
        """Raise VideoError unless every declared frame was decoded, undamaged, and there are two to make a field of.

        One frame less than declared is let pass: the last frame of many AVI files is an empty one.
        """
        found = self.report
        if not found.frames_decoded:
            why = self._damage or "its video stream is empty"
            raise VideoError(Verdict.UNDECODABLE, f"not one frame decodes: {why}")
        if found.frames_corrupt or self._damage:
            detail = self._damage or f"the decoder reports damage in {found.frames_corrupt} frames"
            raise VideoError(Verdict.CORRUPT_FRAMES, f"damaged: {detail}; {found.frames_decoded} frames decode")
        if found.frames_declared - found.frames_decoded > 1:
            reason = f"its header declares {found.frames_declared} frames, {found.frames_decoded} decode"
            raise VideoError(Verdict.SHORT, reason)
        if self._cut_off:
            raise VideoError(Verdict.SHORT, f"cut off: {self._cut_off}; {found.frames_decoded} frames decode")
        if found.frames_kept < 2:
            raise VideoError(Verdict.TOO_SHORT, f"frames: {found.frames_kept}, and flow needs two")


class _Selection:
    """Which frames are kept under ``stride`` or ``fps``: called once for every decoded frame, in display order."""

    def __init__(self, config: VideoConfig, rate: Fraction) -> None:
        self._stride = config.stride
        self._rate = rate
        self._target = target = Fraction(config.fps).limit_denominator(1001)
        self._clock = Fraction(0)  # s since the first frame
        self._latest: Fraction | None = None
        self._tick = -1
        self.fps = float((min(target, rate) if rate else target) if target else rate / self._stride)

    def __call__(self, index: int, time: Fraction | None) -> bool:
        if not self._target:
            return index % self._stride == 0
        if index:
            self._clock += self._step(time)
        self._latest = time
        # The interval of the target rate that this frame falls in; its first frame is the one to keep.
        tick = int((self._clock + TOLERANCE) * self._target)
        if tick <= self._tick:
            return False
        self._tick = tick
        return True

    def _step(self, time: Fraction | None) -> Fraction:
        """Seconds since the frame before; where the time stamps are missing or turn back, that of a constant rate."""
        if time is not None and self._latest is not None and time > self._latest:
            return time - self._latest
        return 1 / self._rate if self._rate else Fraction(1)


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
        cv2 = opencv.load()
        self._grey.append(cv2.cvtColor(_resized(image, self._flow_size), cv2.COLOR_RGB2GRAY))  # full-range BT.601
        if self._rgb_size:
            self._rgb.append(_resized(image, self._rgb_size))

    def _fix_sizes(self, height: int, width: int) -> None:
        """The first frame decides: a stream that changes its size on the way is scaled to that."""
        self.source_size = (height, width)
        self._flow_size = self._video.flow_size(height, width)
        self._rgb_size = self._storage.frames_size(height, width)
        frame_bytes = 0
        sizes = [(self._flow_size, 8), (self._rgb_size, 3)] if self._rgb_size else [(self._flow_size, 8)]
        for (high, wide), bytes_per_pixel in sizes:
            if min(high, wide) < MIN_SIDE:
                raise VideoError(Verdict.TOO_SMALL, f"{wide}x{high} pixels: flow needs at least {MIN_SIDE} a side")
            if max(high, wide) > MAX_SIDE or high * wide > self._video.max_pixels:
                limits = f"{MAX_SIDE} a side and {self._video.max_pixels} in all (--max-pixels)"
                raise VideoError(Verdict.TOO_LARGE, f"{wide}x{high} pixels after resizing, the limit is {limits}")
            frame_bytes += bytes_per_pixel * high * wide
        self._frames_per_block = max(1, min(MAX_BLOCK, BLOCK_BYTES // frame_bytes))

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
def _opened(path: Path, max_pixels: int) -> Iterator[tuple[Any, Any]]:
    """The container and its main video stream; every way in which FFmpeg refuses a file becomes a VideoError."""
    _check_file(path)
    limit = {"max_pixels": str(2 * max_pixels + 65536)}  # of what decoders allocate: it counts their padding too
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS, **limit}
    try:
        # "file:" keeps names such as "http:x.avi" or "-x.avi" from being taken for anything but a file.
        container = av.open(f"file:{os.fspath(path)}", options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(Verdict.UNDECODABLE, f"not a video file, or cut off or damaged: {_sentence(error)}") from None
    with container:
        streams = [item for item in container.streams.video if not item.disposition & item.disposition.attached_pic]
        if not streams:
            raise VideoError(Verdict.NO_VIDEO, "the file has no video stream")
        stream = next((item for item in streams if item.disposition & item.disposition.default), streams[0])
        codec = stream.codec_context
        if codec is None:
            raise VideoError(Verdict.UNDECODABLE, "no decoder for its video codec")
        _check_pixels(codec, max_pixels)
        codec.thread_count = 1  # parallelism is one process per video
        codec.options = limit
        yield container, stream


def _check_pixels(image: Any, limit: int) -> None:
    if image.width * image.height > limit:
        size = f"{image.width}x{image.height}"
        raise VideoError(Verdict.TOO_LARGE, f"{size} pixels, the limit is {limit} in all (--max-pixels)")


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError(Verdict.MISSING, "no such file") from None
    except OSError as error:
        raise VideoError(Verdict.UNDECODABLE, f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise VideoError(Verdict.UNDECODABLE, "not a regular file")


def _declared_frames(container: Any, stream: Any) -> int:
    """Number of frames that the header declares; -1 = it declares none."""
    if not stream.frames:
        return -1
    if "mp4" in container.format.name:  # an edit list cuts frames from the index, not from the number in the header
        return sum(not entry.is_discard for entry in stream.index_entries)
    return int(stream.frames)


def _missing_seconds(container: Any, end: float, rate: Fraction) -> str:
    """What is missing between ``end``, in s, and the duration in the header; "" = nothing."""
    declared = container.duration / av.time_base if container.duration else 0.0
    if not rate or declared - end <= 1.5 / rate:
        return ""
    return f"its header declares {declared:.2f} s, it ends at {end:.2f} s"


def _end(packet: Any) -> float:
    """Time in s at which ``packet`` ends; 0 where it has no time stamp."""
    start = packet.dts if packet.pts is None else packet.pts
    return float((start + (packet.duration or 0)) * packet.time_base) if start is not None else 0.0


def _time(frame: Any) -> Fraction | None:
    """Presentation time in s."""
    return frame.pts * frame.time_base if frame.pts is not None and frame.time_base else None


def _orientation(frame: Any) -> tuple[bool, bool, bool]:
    """Whether, to stand upright, ``frame`` must have x and y exchanged, then x mirrored, then y mirrored.

    Its display matrix takes (x, y) to (a x + c y, b x + d y); mirrors and quarter turns are followed.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()  # the first of three rows of three
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


def _upright(frame: Any, converter: VideoReformatter) -> NDArray[np.uint8]:
    """``frame`` as (H, W, 3) uint8 RGB, turned as its display matrix says."""
    try:
        image = converter.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
    except (av.FFmpegError, ValueError) as error:
        reason = f"its pixel format {frame.format.name} does not convert to RGB: {_sentence(error)}"
        raise VideoError(Verdict.UNDECODABLE, reason) from None
    turned, mirror_x, mirror_y = _orientation(frame)
    if turned:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """``image`` at ``size`` (height, width): area average where it shrinks, bicubic where it grows."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    cv2 = opencv.load()
    method = cv2.INTER_AREA if size[0] * size[1] < height * width else cv2.INTER_CUBIC
    result: NDArray[np.uint8] = cv2.resize(image, (size[1], size[0]), interpolation=method)
    return result


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
    with _writing(path), av.open(os.fspath(path), "w") as container:
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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """FFmpeg's errors on ``path`` as StoreError."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise StoreError(f"{path}: cannot be written: {_sentence(error)}.") from None
