"""The embedded synthetic image set: ten compositional classes drawn from a seed.

A class is a *shape* (one of five outlines) times a *texture* (one of two fillings). An image is a window
on a lattice of equal textured objects in front of a background that has a texture too. Position, scale,
rotation, colours, contrast (of either sign), phases, background and noise are nuisances, drawn
independently of the class, so no pixel, colour or prototype tells the class. Outlines and textures are
symmetric and an angle is as likely as its negative, so a mirrored image is one of the same class.

Images are the same bytes for any numpy version and processor, so that digests can be compared across
machines: random numbers are raw PCG64 words, whose stream numpy guarantees, and pixels use only float32
operations that IEEE 754 rounds exactly (+, -, *, /, sqrt, floor, rint, abs, min, max).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_CLASSES = 10
MIN_SIZE = 12
CHANNELS = (1, 3)

SHAPES = ("disc", "square", "triangle", "cross", "ring")
TEXTURES = ("stripes", "checks")

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_CHUNK_PIXELS = 1 << 17  # one float32 plane of a chunk is 512 KiB: stays in a core's cache

ROOM = 20  # pixels; smaller images have the easier nuisances

Span = tuple[float, float]


@dataclass(frozen=True)
class Nuisances:
    """Ranges of what varies within a class, uniform. Lengths are in pixels, intensities shares of the range."""

    radius: Span
    """Of an object."""
    spacing: Span
    """Between the centres of neighbours, in radii."""
    period: Span
    """Of a texture."""
    contrast: Span
    """Object minus background, a channel."""
    texture: Span
    """Amplitude on the object."""
    clutter: Span
    """Amplitude of the background's texture."""
    background: Span
    """Mean intensity, a channel."""
    noise: Span
    """Half-width of the uniform noise on each pixel and channel."""
    direction: tuple[Span, Span] = ((-1.0, 1.0), (-1.0, 1.0))
    """A frame's first axis points at a random point of this rectangle."""
    tint: Span = (0.6, 1.0)
    """Share of both amplitudes, a channel."""


# Tuned together: the bare host of CifarBaseline must plateau well below what a grown one reaches.
FULL = Nuisances(
    radius=(6.5, 8.5),
    spacing=(2.1, 2.4),
    period=(3.6, 5.0),
    contrast=(-0.12, 0.12),
    texture=(0.17, 0.25),
    clutter=(0.12, 0.20),
    background=(0.45, 0.55),
    noise=(0.13, 0.21),
)
# For trying code: a few hundred steps of a very small host must be enough to see it learn.
SMALL = Nuisances(
    radius=(4.2, 5.2),
    spacing=(2.1, 2.4),
    period=(3.6, 4.4),
    contrast=(0.30, 0.45),
    texture=(0.25, 0.35),
    clutter=(0.0, 0.05),
    background=(0.15, 0.25),
    noise=(0.0, 0.05),
    direction=((1.0, 1.0), (-0.1, 0.1)),
)


def generate(
    channels: int, size: int, sizes: tuple[int, int, int], seed: int = 0
) -> tuple[tuple[Images, Labels], tuple[Images, Labels], tuple[Images, Labels]]:
    """Draw the training, validation and test split.

    Args:
        channels: 1 (grey) or 3 (colour).
        size: height and width in pixels, at least 12.
        sizes: number of images of the training, validation and test split, each at least 1.
        seed: another seed gives another set of the same distribution.

    Returns:
        Three pairs of images, uint8 (n, size, size, channels), and labels, int64 (n,) in 0..9. Within
        a split the classes are balanced to within one image and the order is random. Every image is an
        independent draw and belongs to one split only; a split does not depend on the others' sizes.

    Raises:
        ValueError: an argument is outside the ranges above.
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels must be 1 or 3 for the synthetic data set, got {channels!r}")
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} for the synthetic data set, got {size!r}")
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"sizes must be three positive numbers (training, validation, test), got {sizes!r}")
    train, validation, test = (
        _split(np.random.PCG64(np.random.SeedSequence((seed, channels, size, part))), channels, size, count)
        for part, count in enumerate(sizes)
    )
    return train, validation, test


def _split(bits: np.random.PCG64, channels: int, size: int, count: int) -> tuple[Images, Labels]:
    order = np.argsort(bits.random_raw(count), kind="stable")
    images = np.empty((count, size, size, channels), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    chunk = max(1, _CHUNK_PIXELS // (size * size))
    for label in range(NUM_CLASSES):
        places = order[label::NUM_CLASSES]
        labels[places] = label
        for start in range(0, len(places), chunk):
            part = places[start : start + chunk]
            images[part] = _draw(bits, label, len(part), channels, size).transpose(0, 2, 3, 1)
    return images, labels


def _draw(bits: np.random.PCG64, label: int, count: int, channels: int, size: int) -> Images:
    """Draw `count` images of one class: uint8 (count, channels, size, size)."""
    shape, texture = SHAPES[label // len(TEXTURES)], TEXTURES[label % len(TEXTURES)]
    ranges = FULL if size >= ROOM else SMALL
    radius = _between(bits, count, ranges.radius)
    spacing = radius * _between(bits, count, ranges.spacing)
    axis = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    dx = axis[None, None, :] - spacing * _between(bits, count, (-0.5, 0.5))  # (count, 1, size)
    dy = axis[None, :, None] - spacing * _between(bits, count, (-0.5, 0.5))  # (count, size, 1)

    u, v = _rotated(bits, dx, dy, ranges.direction)
    cell_u: Floats = u - spacing * np.rint(u / spacing)  # from the nearest centre
    cell_v: Floats = v - spacing * np.rint(v / spacing)
    mask = _clipped(_OUTLINES[shape](cell_u / radius, cell_v / radius) * radius, -0.5, 0.5)
    mask += np.float32(0.5)  # 1 on an object, 0 off it, with an edge one pixel wide
    inside = _pattern(bits, texture, u, v, ranges.period) * _between(bits, count, ranges.texture)
    # The background has either texture, so that finding one somewhere in the image decides nothing.
    either = [_pattern(bits, name, *_rotated(bits, dx, dy, ranges.direction), ranges.period) for name in TEXTURES]
    pattern = np.where(_between(bits, count, (-1, 1)) < 0, *either) * _between(bits, count, ranges.clutter)
    pattern += mask * (inside - pattern)

    def each(span: Span) -> Floats:
        return _between(bits, count * channels, span).reshape(count, channels, 1, 1)

    value = _noise(bits, (count, channels, size, size))
    value *= _between(bits, count, ranges.noise)[:, None]
    value += each(ranges.background)
    value += pattern[:, None] * each(ranges.tint)
    value += mask[:, None] * each(ranges.contrast)
    value *= np.float32(255)
    return _clipped(value, 0, 255).astype(np.uint8)


def _disc(u: Floats, v: Floats) -> Floats:
    return np.float32(0.9) - np.sqrt(u * u + v * v)


def _square(u: Floats, v: Floats) -> Floats:
    return np.float32(0.8) - np.maximum(np.abs(u), np.abs(v))


def _triangle(u: Floats, v: Floats) -> Floats:
    side = np.float32(math.sqrt(3) / 2) * np.abs(u) + np.float32(0.5) * v
    return np.float32(0.58) - np.maximum(side, -v)


def _cross(u: Floats, v: Floats) -> Floats:
    a, b = np.abs(u), np.abs(v)
    arm, end = np.float32(0.36), np.float32(1.0)
    return np.maximum(np.minimum(arm - a, end - b), np.minimum(arm - b, end - a))


def _ring(u: Floats, v: Floats) -> Floats:
    return np.float32(0.3) - np.abs(np.sqrt(u * u + v * v) - np.float32(0.7))


_OUTLINES = {"disc": _disc, "square": _square, "triangle": _triangle, "cross": _cross, "ring": _ring}


def _pattern(bits: np.random.PCG64, name: str, x: Floats, y: Floats, periods: Span) -> Floats:
    """A zero-mean pattern of about unit amplitude over the frame (x, y), with its own period and phases."""
    period = _between(bits, len(x), periods)
    first = _wave(x / period + _between(bits, len(x), (0, 1)))
    if name == "stripes":
        return first
    second = _wave(y / period + _between(bits, len(x), (0, 1)))
    product = np.sign(first) * np.sign(second)
    product *= np.minimum(np.abs(first), np.abs(second))
    product *= np.float32(1.5)  # as much contrast as stripes have, by eye
    return product


def _wave(phase: Floats) -> Floats:
    """A triangle wave of period 1 in -1..1."""
    phase -= np.floor(phase)
    phase -= np.float32(0.5)
    wave = np.abs(phase, out=phase)
    wave *= np.float32(4)
    wave -= np.float32(1)
    return wave


def _rotated(bits: np.random.PCG64, dx: Floats, dy: Floats, direction: tuple[Span, Span]) -> tuple[Floats, Floats]:
    """Coordinates in a frame turned by a random angle: two arrays (count, size, size), pixels."""
    # The direction of a random point of a rectangle: unlike cos and sin exactly rounded.
    x, y = (_between(bits, len(dx), span) for span in direction)
    length: Floats = np.sqrt(x * x + y * y)
    cos, sin = x / length, y / length
    return cos * dx + sin * dy, cos * dy - sin * dx


def _between(bits: np.random.PCG64, count: int, span: Span) -> Floats:
    """Uniform numbers, one an image, shaped to broadcast over its plane: (count, 1, 1)."""
    low, high = np.float32(span[0]), np.float32(span[1])
    unit = (bits.random_raw(count) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return (low + (high - low) * unit).reshape(count, 1, 1)


def _noise(bits: np.random.PCG64, shape: tuple[int, ...]) -> Floats:
    """White noise, uniform in -1..1 in steps of a byte."""
    count = math.prod(shape)
    raw = bits.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count]
    noise = raw.reshape(shape).astype(np.float32)
    noise -= np.float32(127.5)
    noise *= np.float32(1 / 127.5)
    return noise


def _clipped(values: Floats, low: float, high: float) -> Floats:
    """The same array, limited in place."""
    np.maximum(values, np.float32(low), out=values)
    return np.minimum(values, np.float32(high), out=values)
