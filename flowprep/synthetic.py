"""Clips of moving textures whose optical flow is known exactly: for demonstrations, self-tests and tests.

The texture is analytic, a seeded sum of sinusoids, so a frame is exact at any sub-pixel position and nothing is ever
resampled. With A the affine map that takes a point of one frame to its place in the next,

    frame_t(x) = texture(A^-t x),    flow from t to t+1 at x = A x - x,    flow from t+1 to t at x = A^-1 x - x.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WAVES = 64
FINEST, COARSEST = 7.0, 56.0  # px: wavelengths in frame 0
CONTRAST = 48.0  # standard deviation in grey levels: about 1 % of the values are clipped to 0..255
COLOUR_SPREAD = 0.5  # rad: phase between the colour channels; 0 = grey
FRAMES, HEIGHT, WIDTH = 16, 120, 160  # of a demonstration video
STRETCH = 0.5  # largest logarithm of the factors by which textures of training clips are stretched
POSES = 7  # keeps the random numbers of these stretches apart from those of textures


@dataclass(frozen=True)
class Motion:
    """The same affine motion from every frame to the next, about the centre of the frame."""

    name: str
    velocity: tuple[float, float] = (0.0, 0.0)  # px per frame, right and down
    rotation: float = 0.0  # degrees per frame, clockwise as seen on the screen
    zoom: tuple[float, float] = (1.0, 1.0)  # factors per frame, horizontal and vertical; above 1 = grows

    def matrix(self, height: int, width: int) -> NDArray[np.float64]:
        """A: the 3x3 matrix that takes (x, y, 1) px in one frame to its place in the next."""
        angle = np.radians(self.rotation)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        result = np.eye(3)
        result[:2, :2] = turn @ np.diag(self.zoom)
        result[:2, 2] = centre - result[:2, :2] @ centre + self.velocity
        return result


@dataclass(frozen=True)
class Clip:
    """Frames and their true flow. The flow arrays are read-only: all fields of a clip share their memory."""

    frames: NDArray[np.uint8]  # (T, H, W, 3) RGB
    flow: NDArray[np.float32]  # (T-1, 2, H, W) px; field i: frame i -> i+1
    backward: NDArray[np.float32]  # (T-1, 2, H, W) px; field i: frame i+1 -> i


@dataclass(frozen=True)
class DemoVideo:
    """One file that ``write_demo_videos`` wrote, and how to render it again."""

    id: str  # path below the folder, '/' between parts
    motion: Motion
    seed: tuple[int, ...]
    frames: int
    height: int
    width: int
    part: str = ""  # "train" or "test" of clips to train with

    @property
    def label(self) -> str:
        return self.motion.name

    def clip(self) -> Clip:
        """The frames before they were encoded, and their true flow."""
        return render(
            self.motion,
            seed=self.seed,
            frames=self.frames,
            height=self.height,
            width=self.width,
            shuffled=bool(self.part),
        )

    def true_flow(self) -> NDArray[np.float32]:
        """Of the clip: (T-1, 2, H, W) px."""
        field = _displacement(self.motion.matrix(self.height, self.width), self.height, self.width)
        return np.broadcast_to(field, (self.frames - 1, *field.shape))


class _Encoding(NamedTuple):
    suffix: str
    codec: str
    pixel_format: str
    options: dict[str, str]


# Fine quantisation throughout: it is the decoders that differ. Matroska and WebM declare no number of frames,
# H.264 with B-frames stores them out of order, FFV1 is lossless RGB.
_ENCODINGS = (
    _Encoding("avi", "mpeg4", "yuv420p", {"qmin": "1", "qmax": "2"}),
    _Encoding("mp4", "libx264", "yuv420p", {"crf": "10", "bf": "3"}),
    _Encoding("webm", "libvpx-vp9", "yuv420p", {"crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
    _Encoding("avi", "mjpeg", "yuvj420p", {"qmin": "1", "qmax": "2"}),
    _Encoding("mkv", "ffv1", "bgr0", {}),
)

# Six classes that stay apart under what training does to flow: a horizontal mirror makes left right and clockwise
# counterclockwise, and subtracting the mean flow removes every translation, so there is one class of each.
DEMO_MOTIONS = (
    Motion("left", velocity=(-2.0, 0.0)),
    Motion("rotate", rotation=1.5),
    Motion("zoom_in", zoom=(1.025, 1.025)),
    Motion("zoom_out", zoom=(0.975, 0.975)),
    Motion("widen", zoom=(1.03, 1.0)),
    Motion("heighten", zoom=(1.0, 1.04)),
)


def render(
    motion: Motion,
    *,
    seed: int | tuple[int, ...],
    frames: int,
    height: int,
    width: int,
    shuffled: bool = False,
) -> Clip:
    """A clip of ``frames`` frames, ``height`` x ``width`` px, in which the texture of ``seed`` has ``motion``.

    A longer clip begins with the frames of a shorter one. Not so ``shuffled`` clips, of which no single frame tells the
    motion: each has a texture that is stretched at random, far more than any motion does until the end of the clip, and
    that is as it was drawn in the middle of the clip: what grows was as small at first as it is large at last.
    """
    step = motion.matrix(height, width)
    back = np.linalg.inv(step)
    texture = _Texture(seed)
    times, pose = range(frames), np.eye(3)
    if shuffled:
        times, pose = range(-(frames // 2), frames - frames // 2), _pose(seed)
    pictures = [texture.draw(pose @ np.linalg.matrix_power(back, t), height, width) for t in times]
    fields = (frames - 1, 2, height, width)
    return Clip(
        frames=np.stack(pictures),
        flow=np.broadcast_to(_displacement(step, height, width), fields),
        backward=np.broadcast_to(_displacement(back, height, width), fields),
    )


def write_demo_videos(
    folder: Path,
    *,
    clips_per_class: int = 2,
    frames: int = FRAMES,
    height: int = HEIGHT,
    width: int = WIDTH,
    seed: int = 0,
) -> list[DemoVideo]:
    """Write FOLDER/<label>/<label>_00.<suffix> and so on: the videos of ``DEMO_MOTIONS``, and return what they show.

    Every clip has a texture of its own, and codecs and containers go round over the clips, so that neither gives the
    class away. ``height`` and ``width`` are even (most codecs store colour at half size). Existing files are replaced.
    """
    return _write_videos(folder, [""] * clips_per_class, frames=frames, height=height, width=width, seed=seed)


def write_training_videos(
    folder: Path,
    *,
    train: int,
    test: int,
    frames: int = FRAMES,
    height: int = HEIGHT,
    width: int = WIDTH,
    seed: int = 0,
) -> list[DemoVideo]:
    """Write ``train`` and ``test`` clips of each of ``DEMO_MOTIONS``, whose classes only motion tells apart.

    FOLDER/videos.tsv lists them with label and part. Otherwise as :func:`write_demo_videos`.
    """
    parts = ["train"] * train + ["test"] * test
    videos = _write_videos(folder, parts, frames=frames, height=height, width=width, seed=seed)
    rows = ["path\tlabel\tsplit", *(f"{video.id}\t{video.label}\t{video.part}" for video in videos)]
    (folder / "videos.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return videos


def _displacement(matrix: NDArray[np.floating], height: int, width: int) -> NDArray[np.float32]:
    """``matrix`` x - x at every pixel: (2, H, W) px."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    moves = matrix - np.eye(3)
    return np.stack([row[0] * x + row[1] * y + row[2] for row in moves[:2]]).astype(np.float32)


def _write_videos(
    folder: Path, parts: list[str], *, frames: int, height: int, width: int, seed: int
) -> list[DemoVideo]:
    """Clips of each class, one for each of ``parts``."""
    from flowprep.video import write_video

    if height % 2 or width % 2:
        raise ValueError(f"demonstration videos have even sides, not {width}x{height} pixels")
    videos = []
    for label, motion in enumerate(DEMO_MOTIONS):
        (folder / motion.name).mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(parts):
            suffix, codec, pixel_format, options = _ENCODINGS[(label + number) % len(_ENCODINGS)]
            name = f"{motion.name}/{motion.name}_{number:02d}.{suffix}"
            video = DemoVideo(name, motion, (seed, label, number), frames, height, width, part)
            write_video(folder / name, video.clip().frames, codec=codec, pixel_format=pixel_format, options=options)
            videos.append(video)
    return videos


def _pose(seed: int | tuple[int, ...]) -> NDArray[np.float64]:
    """A random stretch of a texture: the 3x3 matrix that takes (x, y, 1) px of a frame to its place in the texture."""
    random = np.random.default_rng((POSES, *np.atleast_1d(seed)))
    turn, skew = (
        np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for angle in random.uniform(0, np.pi, 2)
    )
    pose = np.eye(3)
    pose[:2, :2] = turn @ np.diag(np.exp(random.uniform(-STRETCH, STRETCH, 2))) @ skew
    return pose


class _Texture:
    """A sum of sinusoids of random direction, phase and colour; their wavelengths are log-uniform."""

    def __init__(self, seed: int | tuple[int, ...]) -> None:
        random = np.random.default_rng(seed)
        wavelength = np.exp(random.uniform(np.log(FINEST), np.log(COARSEST), WAVES))
        direction = random.uniform(0, np.pi, WAVES)
        phase = random.uniform(0, 2 * np.pi, WAVES) + random.normal(0, COLOUR_SPREAD, (3, WAVES))
        amplitude = wavelength**0.75 * random.uniform(0.5, 1.5, (3, WAVES))
        amplitude *= CONTRAST / np.sqrt((amplitude**2).sum(axis=1, keepdims=True) / 2)  # a sinusoid's variance is a^2/2
        self._waves = 2 * np.pi / wavelength * np.array([np.cos(direction), np.sin(direction)])  # (2, WAVES) rad/px
        self._colours = amplitude * np.exp(1j * phase)  # (3, WAVES)

    def draw(self, to_texture: NDArray[np.floating], height: int, width: int) -> NDArray[np.uint8]:
        """The frame whose pixel (x, y) shows the texture at ``to_texture`` (x, y, 1): (H, W, 3) uint8 RGB."""
        # The phase of a wave is linear in x and y, so that each wave is an outer product of a row and a column.
        per_x, per_y, offset = (self._waves.T @ to_texture[:2]).T  # rad/px, rad/px, rad; (WAVES,) each
        along_x = np.exp(1j * np.outer(per_x, np.arange(width)))  # (WAVES, W)
        along_y = np.exp(1j * (np.outer(np.arange(height), per_y) + offset))  # (H, WAVES)
        channels = [((along_y * colour) @ along_x).real for colour in self._colours]
        levels = np.rint(127.5 + np.stack(channels, axis=-1))
        return levels.clip(0, 255).astype(np.uint8)
