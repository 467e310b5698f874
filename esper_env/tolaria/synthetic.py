"""The embedded synthetic image set: ten compositional classes drawn from a seed.

A class is a *shape* (one of five outlines) times a *texture* (one of two fillings). Position, scale,
rotation, colours, contrast, texture phase, background and noise are nuisances, drawn independently of
the class, so no single pixel or colour says anything about it. All shapes and textures are mirror
images of themselves up to a rotation: a horizontal flip keeps the class.

Pixels use only operations that IEEE 754 rounds exactly (+, -, *, /, floor, abs, min, max) on float32,
and random numbers are raw PCG64 words, whose stream numpy guarantees. The same arguments therefore give
the same bytes with any numpy version and any processor, so data digests can be compared across machines.
"""

from __future__ import annotations

import math

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

_CHUNK_PIXELS = 1 << 16  # one float32 plane of a chunk is 256 KiB: stays in a core's cache

RADIUS = (0.24, 0.36)
PERIOD = (0.11, 0.17)
CONTRAST = (0.12, 0.4)
TEXTURE = (0.1, 0.35)
CLUTTER = (0.0, 0.35)
BACKGROUND = (0.3, 0.7)
TINT = (0.4, 1)
NOISE = 0.18


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
    radius = _between(bits, count, RADIUS) * np.float32(size)
    # The outline stays inside the image but for a corner: the class can always be seen.
    reach = np.float32(size / 2) - np.float32(0.85) * radius
    axis = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    dx = axis[None, None, :] - reach * _between(bits, count, (-1, 1))  # (count, 1, size), pixels
    dy = axis[None, :, None] - reach * _between(bits, count, (-1, 1))  # (count, size, 1)

    u, v = _rotated(bits, dx, dy)  # the object's own frame
    mask = _clipped(_OUTLINES[shape](u / radius, v / radius) * radius, -0.5, 0.5)  # antialiased over a pixel
    mask += np.float32(0.5)
    # Behind the object is a texture of either kind, so its presence somewhere in the image says nothing.
    other = TEXTURES[int(bits.random_raw()) % len(TEXTURES)]
    pattern = _pattern(bits, other, *_rotated(bits, dx, dy), size) * _between(bits, count, CLUTTER)
    pattern += mask * (_pattern(bits, texture, u, v, size) * _between(bits, count, TEXTURE) - pattern)

    def each(span: tuple[float, float]) -> Floats:
        return _between(bits, count * channels, span).reshape(count, channels, 1, 1)

    value = _noise(bits, (count, channels, size, size))
    value += each(BACKGROUND)
    value += pattern[:, None] * each(TINT)
    value += mask[:, None] * (each(CONTRAST) * np.sign(each((-1, 1))))
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


def _pattern(bits: np.random.PCG64, name: str, x: Floats, y: Floats, size: int) -> Floats:
    """A zero-mean pattern in -1..1 over the frame (x, y), pixels, with a period and phases of its own."""
    period = _between(bits, len(x), PERIOD) * np.float32(size)
    first = _wave(x / period + _between(bits, len(x), (0, 1)))
    if name == "stripes":
        return first
    second = _wave(y / period + _between(bits, len(x), (0, 1)))
    return first * second * np.float32(1.5)


def _wave(phase: Floats) -> Floats:
    """A triangle wave of period 1 in -1..1."""
    phase -= np.floor(phase)
    phase -= np.float32(0.5)
    wave = np.abs(phase, out=phase)
    wave *= np.float32(4)
    wave -= np.float32(1)
    return wave


def _rotated(bits: np.random.PCG64, dx: Floats, dy: Floats) -> tuple[Floats, Floats]:
    """Coordinates in a frame turned by a random angle: two arrays (count, size, size), pixels."""
    angle = _between(bits, len(dx), (0, 2 * math.pi)).astype(np.float64)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _between(bits: np.random.PCG64, count: int, span: tuple[float, float]) -> Floats:
    """Uniform numbers, one an image, shaped to broadcast over its plane: (count, 1, 1)."""
    low, high = np.float32(span[0]), np.float32(span[1])
    unit = (bits.random_raw(count) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return (low + (high - low) * unit).reshape(count, 1, 1)


def _noise(bits: np.random.PCG64, shape: tuple[int, ...]) -> Floats:
    """White noise, uniform in -NOISE..NOISE."""
    count = math.prod(shape)
    raw = bits.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count]
    noise = raw.reshape(shape).astype(np.float32)
    noise -= np.float32(127.5)
    noise *= np.float32(NOISE / 127.5)
    return noise


def _clipped(values: Floats, low: float, high: float) -> Floats:
    """The same array, limited in place."""
    np.maximum(values, np.float32(low), out=values)
    return np.minimum(values, np.float32(high), out=values)
