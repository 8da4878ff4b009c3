"""Drawing primitives: a posed sheet to paint on, noise, and exact histogram specification.

Coordinates are units of half the image: the picture spans -1 to 1 in x (to the right) and y (downward), so that a
drawing is the same at every size. Tones lie in 0 to 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Plane = npt.NDArray[np.float32]
"""(H, W) or (H, W, 3) float32."""

Tones = tuple[npt.NDArray[np.float32], ...]
"""A drawing's tones inside its field of view: by channel, ascending."""

Points = npt.NDArray[np.float64]
"""(n, 2) positions as (x, y)."""

Place = Sequence[float] | npt.NDArray[np.float64]
"""One position, or the two radii of an ellipse, as (x, y)."""

Tone = float | tuple[float, float, float]
"""A grey value or a colour, 0 to 1."""

SUPERSAMPLE = 2
"""Sheets are painted this many times larger and averaged down, for smooth edges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A drawing before its tones are fixed.

    Attributes:
        image: (H, W, C) float32 with C of 1 or 3, about 0 to 1.
        field: (H, W) bool, the field of view; it must not depend on the finding.
    """

    image: Plane
    field: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """The position of the anatomy in the picture: ``matrix @ point + offset``."""

    matrix: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]

    @classmethod
    def random(
        cls, rng: np.random.Generator, *, turn: float, shift: float, zoom: tuple[float, float], mirror: bool = False
    ) -> Pose:
        """Draw a pose.

        Args:
            turn: largest rotation either way, in radians.
            shift: largest translation either way, in units of half the image.
            zoom: smallest and largest magnification; width and height also differ by up to 6 %.
            mirror: mirror half of the poses left to right.
        """
        angle = rng.uniform(-turn, turn)
        scale = rng.uniform(*zoom) * rng.uniform(0.94, 1.06, size=2)
        if mirror and rng.random() < 0.5:
            scale[0] = -scale[0]
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return cls(matrix=rotation * scale, offset=rng.uniform(-shift, shift, size=2))


@functools.cache
def _circle(num_points: int) -> Points:
    angles = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


_FADING = np.tile(1 / np.arange(1, 5), 2)
"""Factors that weaken each higher wave of a blob's outline."""


@functools.cache
def _harmonics(num_points: int) -> Points:
    angles = np.arange(num_points)[:, None] * (2 * np.pi / num_points) * np.arange(2, 6)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


@functools.cache
def grid(size_px: int) -> tuple[Plane, Plane]:
    """Return the x and y of every pixel's centre, each (H, W)."""
    axis = ((np.arange(size_px, dtype=np.float32) + 0.5) * 2 / size_px - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


@functools.cache
def _bernstein(num_points: int) -> Points:
    t = np.linspace(0, 1, num_points)
    return np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)


def curve(start: Place, bend: Place, end: Place, *, num_points: int = 7) -> Points:
    """Return points along a quadratic Bezier curve, (num_points, 2)."""
    points: Points = _bernstein(num_points) @ np.array([start, bend, end])
    return points


def scattered(rng: np.random.Generator, count: int, *, centre: Place, spread: float) -> Points:
    """Return ``count`` points, evenly spread over a disc of radius ``spread``."""
    radius = spread * np.sqrt(rng.random(count))
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


class Sheet:
    """A picture on which each shape is painted over the earlier ones.

    Args:
        size_px: side of the finished picture.
        pose: applied to every shape.
        ground: the tone of the empty sheet; with a colour it is a colour sheet.
    """

    def __init__(self, size_px: int, pose: Pose, *, ground: Tone = 0.0) -> None:
        side = size_px * SUPERSAMPLE
        self._image = Image.new("L" if isinstance(ground, int | float) else "RGB", (side, side), _ink(ground))
        self._draw = ImageDraw.Draw(self._image)
        self._to_pixels = pose.matrix.T * (side / 2)
        self._origin = (pose.offset + 1) * (side / 2)
        self._scale_px = side / 2 * math.sqrt(abs(np.linalg.det(pose.matrix)))

    def polygon(self, points: Points, tone: Tone) -> None:
        """Paint a filled polygon."""
        self._draw.polygon(self._pixels(points), fill=_ink(tone))

    def ellipse(self, at: Place, radii: Place, tone: Tone, *, angle: float = 0.0) -> None:
        """Paint a filled ellipse, turned by ``angle`` radians."""
        (rx, ry), cos, sin = radii, math.cos(angle), math.sin(angle)
        self.polygon(_circle(24) @ np.array([[rx * cos, rx * sin], [-ry * sin, ry * cos]]) + np.asarray(at), tone)

    def blob(self, at: Place, radii: Place, tone: Tone, *, rng: np.random.Generator, rough: float) -> None:
        """Paint an ellipse whose outline wanders by about the share ``rough`` of its radius."""
        waves = _harmonics(36) @ (rng.standard_normal(8) * (rough * _FADING))
        reach = np.minimum(np.maximum(1 + waves, 0.4), 2.0)[:, None] * np.asarray(radii)
        self.polygon(_circle(36) * reach + np.asarray(at), tone)

    def line(self, points: Points, width: float, tone: Tone) -> None:
        """Paint a line along ``points``; its width is at least one pixel before averaging."""
        width_px = max(1, round(width * self._scale_px))
        self._draw.line(self._pixels(points), fill=_ink(tone), width=width_px, joint="curve" if width_px > 3 else None)

    def dots(self, points: Points, radii: npt.NDArray[np.float64], tone: Tone) -> None:
        """Paint round dots of ``radii`` at ``points``."""
        ink = _ink(tone)
        pixels = (points @ self._to_pixels + self._origin).tolist()
        for (x, y), radius in zip(pixels, (radii * self._scale_px).tolist(), strict=True):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)

    def array(self, *, blur_px: float = 0.0) -> Plane:
        """Return the picture so far, (H, W) or (H, W, 3), blurred by ``blur_px`` finished pixels."""
        image = self._image.reduce(SUPERSAMPLE)
        if blur_px:
            image = image.filter(ImageFilter.GaussianBlur(blur_px))
        return np.asarray(image, dtype=np.float32) / np.float32(255)

    def _pixels(self, points: Points) -> list[float]:
        pixels: list[float] = (points @ self._to_pixels + self._origin).ravel().tolist()
        return pixels


def _ink(tone: Tone) -> int | tuple[int, ...]:
    if isinstance(tone, tuple):
        return tuple(min(255, max(0, round(part * 255))) for part in tone)
    return min(255, max(0, round(tone * 255)))


def clouds(rng: np.random.Generator, size_px: int, cells: int) -> Plane:
    """Return smooth noise of mean about 0 and deviation about 1, with ``cells`` bumps across, (H, W)."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size_px, size_px), Image.Resampling.BICUBIC))


def shaded(image: Plane, rng: np.random.Generator, *, light: float, texture: float) -> Plane:
    """Return a painted picture with uneven light and fine texture, (H, W, C).

    Both are smooth and the same in every channel: they decide the ranks of flat areas when tones are matched, where
    white noise would scatter a reference's highlights as coloured specks.
    """
    size_px = image.shape[0]
    factor = 1 + light * clouds(rng, size_px, 3) + texture * clouds(rng, size_px, size_px // 4)
    lit: Plane = image * factor[..., None] if image.ndim == 3 else (image * factor)[..., None]
    return lit


@functools.cache
def everywhere(size_px: int) -> npt.NDArray[np.bool_]:
    """Return the field of view that is the whole picture."""
    return np.ones((size_px, size_px), np.bool_)


def speckle(rng: np.random.Generator, size_px: int, *, passes: int) -> Plane:
    """Return log-compressed Rayleigh speckle of mean about 1, the texture of coherent imaging, (H, W).

    Each of the ``passes`` smooths the echoes over their neighbours; more passes make coarser grains.
    """
    echoes = rng.standard_normal((2, size_px, size_px), dtype=np.float32)
    for _ in range(passes):
        echoes = echoes + 0.5 * (np.roll(echoes, 1, axis=1) + np.roll(echoes, -1, axis=1))
        echoes = echoes + 0.5 * (np.roll(echoes, 1, axis=2) + np.roll(echoes, -1, axis=2))
    amplitude = np.sqrt(np.sqrt(echoes[0] ** 2 + echoes[1] ** 2))
    grains: Plane = amplitude / amplitude.mean()
    return grains


def tones_of(drawing: Drawing) -> Tones:
    """Return the tones inside the field of view."""
    return tuple(np.sort(drawing.image[..., channel][drawing.field]) for channel in range(drawing.image.shape[2]))


def specify_histogram(own: Drawing, reference: Tones) -> Plane:
    """Return ``own`` with the tones of another drawing, channel by channel, inside the field of view, (H, W, C).

    Exact rank mapping: the k-th darkest pixel gets the tone of the reference's k-th darkest. The result shows where
    ``own`` has things, and not how much of each tone it has.
    """
    out = own.image.copy()
    for channel, tones in enumerate(reference):
        # 16-bit ranks sort stably and fast (radix sort), so that ties fall the same way on every processor
        levels = np.clip(own.image[..., channel][own.field] * 21845 + 21845, 0, 65535).astype(np.uint16)
        mapped = np.empty(len(levels), np.float32)
        mapped[np.argsort(levels, kind="stable")] = tones[np.arange(len(levels)) * len(tones) // len(levels)]
        out[..., channel][own.field] = mapped
    return out
