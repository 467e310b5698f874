"""Training batches: a shuffled cursor over the training split, with augmentation in one gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from esper_env.kasmina import native
from esper_env.tolaria.datasets import ImageData, Split
from esper_env.tolaria.repetition import Moving

PAD = 4
"""Pixels added on each side before the random crop."""


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A data set with what training and evaluation derive from it once a process and device."""

    data: ImageData
    padded: torch.Tensor
    """The training images with PAD pixels more on each side: (N, H + 2 PAD, W + 2 PAD, C) uint8."""
    mean: torch.Tensor
    """Per channel, in 0..255: (C, 1, 1)."""
    gain: torch.Tensor
    """1 / standard deviation, per channel: (C, 1, 1)."""

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) uint8 to (N, C, H, W) float32 in channels-last layout."""
        return images.permute(0, 3, 1, 2).float().sub_(self.mean).mul_(self.gain)


@lru_cache(maxsize=8)
def prepare(data: ImageData, device: str) -> PreparedData:
    """Pad the training images by reflection and put them on `device`; cached by data set and device.

    A constant border would be a feature that validation images do not have.
    """
    padded = np.pad(data.train.images.numpy(), ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)), mode="reflect")
    return PreparedData(
        data,
        torch.from_numpy(padded).to(device),
        (255 * torch.tensor(data.mean, dtype=torch.float32)[:, None, None]).to(device),
        (1 / (255 * torch.tensor(data.std, dtype=torch.float32)[:, None, None])).to(device),
    )


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Normalised images in chunks that fit the cache, with their labels. Only the last chunk may be smaller."""

    images: tuple[torch.Tensor, ...]
    labels: tuple[torch.Tensor, ...]

    @property
    def size(self) -> int:
        """Number of images."""
        return sum(len(chunk) for chunk in self.labels)

    @property
    def whole(self) -> int:
        """How many chunks are as large as the first."""
        return sum(len(chunk) == len(self.labels[0]) for chunk in self.labels)

    @property
    def moving(self) -> Moving:
        """What every chunk takes its own part of: the chunks lie one behind the other."""
        return [(t, t.element_size() * t.numel()) for t in (self.images[0], self.labels[0])]


def _arranged(images: torch.Tensor) -> torch.Tensor:
    """The layout in memory that is fastest for the hosts."""
    return images if images.device.type != "cpu" or native.in_use() is None else native.lanes(images)


def _joined(chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The same tensors, one behind the other in memory."""
    whole, parts, start = chunks[0].new_empty(sum(chunk.numel() for chunk in chunks)), [], 0
    for chunk in chunks:
        part = whole[start : start + chunk.numel()].as_strided(chunk.shape, chunk.stride(), start)
        parts.append(part.copy_(chunk))
        start += chunk.numel()
    return tuple(parts)


_CHUNK_PIXELS = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Pixels of a chunk. The activations of 64 images of 32 x 32 fit a CPU's cache; a GPU had better be asked seldom."""


@lru_cache(maxsize=16)
def evaluation_set(data: ImageData, split: str, samples: int | None, device: str) -> EvaluationSet:
    """Return the first `samples` images of a split (``None``: all of it), the same for every environment."""
    prepared, whole = prepare(data, device), getattr(data, split)
    assert isinstance(whole, Split)
    images, labels = whole.images[:samples].to(device), whole.labels[:samples]
    chunk = max(1, _CHUNK_PIXELS[torch.device(device).type] // (data.shape[1] * data.shape[2]))
    return EvaluationSet(
        _joined([_arranged(prepared.normalise(part)) for part in torch.split(images, chunk)]),
        torch.split(labels.to(device), chunk),
    )


class BatchSource:
    """The training stream of one episode.

    Args:
        prepared: the data, on the device of the batches.
        labels: (N,) int64 training labels, possibly with noise.
        samples: images an epoch.
        batch_size: images a batch; the last batch of an epoch may be smaller.
        order: generator of the shuffles. Structure edits never advance it, nor `augmentation`.
        augmentation: generator of crops and flips.
    """

    def __init__(
        self,
        prepared: PreparedData,
        labels: torch.Tensor,
        samples: int,
        batch_size: int,
        *,
        order: torch.Generator,
        augmentation: torch.Generator,
    ) -> None:
        self.prepared, self.device = prepared, prepared.padded.device
        self.labels = labels.to(self.device)
        self.samples, self.batch_size = samples, batch_size
        self.order, self.augmentation = order, augmentation
        self.permutation = torch.empty(0, dtype=torch.int64)
        self.cursor = 0

    def _next_indices(self) -> torch.Tensor:
        parts, missing = [], self.samples
        while missing:
            if self.cursor == len(self.permutation):
                self.permutation = torch.randperm(len(self.labels), generator=self.order)
                self.cursor = 0
            part = self.permutation[self.cursor : self.cursor + missing]
            self.cursor += len(part)
            missing -= len(part)
            parts.append(part)
        return torch.cat(parts)

    def epoch(self) -> Batches:
        """The batches of the next epoch."""
        indices = self._next_indices()
        shape = (self.samples,)
        shifts = torch.randint(2 * PAD + 1, (2, *shape), generator=self.augmentation)
        flips = torch.randint(2, shape, generator=self.augmentation).bool()
        if not self.prepared.data.flip:
            flips.zero_()
        # to the device once an epoch: nothing waits for it within
        indices, shifts, flips = indices.to(self.device), shifts.to(self.device), flips.to(self.device)
        return Batches(self.prepared, self.batch_size, indices, shifts, flips, self.labels[indices])


@dataclass(frozen=True, eq=False)
class Batches(Sequence[tuple[torch.Tensor, torch.Tensor]]):
    """The batches of one epoch of N images: (B, C, H, W) float32 and (B,) int64, cut when they are asked for."""

    prepared: PreparedData
    batch_size: int
    indices: torch.Tensor
    """(N,) int64, the images."""
    shifts: torch.Tensor
    """(2, N) int64, top and left of each crop."""
    flips: torch.Tensor
    """(N,) bool, whether it is mirrored."""
    labels: torch.Tensor
    """(N,) int64"""

    def __len__(self) -> int:
        return (len(self.labels) + self.batch_size - 1) // self.batch_size

    def __getitem__(self, i: Any) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        part = slice(i % len(self) * self.batch_size, (i % len(self) + 1) * self.batch_size)
        cut = self._gather if self.labels.device.type != "cpu" or native.in_use() is None else self._cut
        return cut(self.indices[part], self.shifts[:, part], self.flips[part]), self.labels[part]

    @property
    def moving(self) -> Moving:
        """What every batch takes its own part of."""
        tensors = (self.indices, *self.shifts, self.flips, self.labels)
        return [(t, t.element_size() * self.batch_size) for t in tensors]

    def _cut(self, rows: torch.Tensor, shifts: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        prepared = self.prepared
        h, w = prepared.data.train.images.shape[1:3]
        corners = shifts[0], shifts[1]
        return native.crops(prepared.padded, rows, corners, flips, prepared.mean, prepared.gain, (h, w))

    def _gather(self, rows: torch.Tensor, shifts: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        """The same with torch: one gather of whole pixels, wherever the images are."""
        h, w = self.prepared.data.train.images.shape[1:3]
        columns = torch.arange(w, device=rows.device)
        columns = torch.where(flips[:, None], w - 1 - columns, columns)  # (B, W)
        y = shifts[0][:, None] + torch.arange(h, device=rows.device)
        x = shifts[1][:, None] + columns
        return self.prepared.normalise(self.prepared.padded[rows[:, None, None], y[:, :, None], x[:, None, :]])


def noisy_labels(labels: torch.Tensor, share: float, classes: int, generator: torch.Generator) -> torch.Tensor:
    """Return `labels` with about `share` of them replaced by a uniformly random class."""
    if share == 0.0:
        return labels
    replaced = torch.rand(labels.shape, generator=generator) < share
    random = torch.randint(classes, labels.shape, generator=generator)
    return torch.where(replaced, random, labels)
