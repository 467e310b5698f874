"""The image data sets: where they are looked for, how they are split, one copy in memory a process.

`resolve_data` decides which data set will be used and reads nothing; `load_resolved` reads it. Splits are
fixed: 5,000 validation images (a tenth of the training images where there are fewer than 50,000) are held
out of the published training set by a fixed permutation, the test split is the published one.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from esper_env.tolaria import readers, synthetic

DATASETS = ("auto", "cifar10", "fashion_mnist", "synthetic")
EMBEDDED = "embedded"
NUM_CLASSES = 10
VALIDATION_IMAGES = 5_000
SYNTHETIC_SIZES = (20_000, 5_000, 5_000)
DEFAULT_ROOT = "~/.cache/esper_env"
ROOT_VARIABLE = "ESPER_DATA"

_SPLIT_SEED = 20_240_229  # any constant: it only has to stay the same for ever
_STATISTICS_CHUNK = 1_000  # images; bounds the int64 temporary to about 25 MB


class EsperDataWarning(UserWarning):
    """A real data set is not on disk, so the embedded synthetic one takes its place."""


class DataNotFoundError(FileNotFoundError):
    """A data set that was asked for by name is not on disk."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 (N, H, W, C) contiguous, and their labels, int64 (N,). Shared: never write to them."""

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, eq=False)
class ImageData:
    """One data set in memory, shared by all environments of the process.

    `source` is the absolute folder it was read from, or "embedded". `mean` and `std`, one number a
    channel, are of pixel / 255 over the training split only. `flip` says that mirroring an image keeps
    its class. `digest` is the SHA-256, in hex, of all images and labels with their shapes and splits.
    """

    name: str
    source: str
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    num_classes: int
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, height, width, channels = self.train.images.shape
        return channels, height, width


@dataclass(frozen=True)
class ResolvedData:
    """Which data set will be used: its name, and its absolute folder (None: the embedded one)."""

    name: str
    folder: str | None


_lock = threading.Lock()
_warned: set[str] = set()
_cache: dict[tuple[object, ...], _Entry] = {}


class _Entry:
    """One place of the cache: the first thread loads under the lock, the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._data: ImageData | None = None

    def get(self, load: Callable[[], ImageData]) -> ImageData:
        with self._lock:
            if self._data is None:
                self._data = load()
            return self._data


def resolve_data(dataset: str, *, preferred: str, data_root: str | None) -> ResolvedData:
    """Decide which data set will be used, without reading it.

    Args:
        dataset: one of `DATASETS`. "auto" takes `preferred` where it is on disk and the embedded
            synthetic set where it is not, with one `EsperDataWarning` per process and data set.
        preferred: the data set that "auto" stands for: "cifar10", "fashion_mnist" or "synthetic".
        data_root: the folder to look in first; None leaves the other places of `search_folders`.

    Raises:
        DataNotFoundError: the data set was asked for by name and is nowhere, or `data_root` or $ESPER_DATA
            is no folder.
        readers.DataFormatError: a folder holds only some of the data set's files.
        ValueError: an unknown name.
    """
    if dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; choose one of {', '.join(DATASETS)}")
    if preferred not in DATASETS[1:]:
        raise ValueError(f"unknown preferred dataset {preferred!r}; choose one of {', '.join(DATASETS[1:])}")
    name = preferred if dataset == "auto" else dataset
    if name == "synthetic":
        return ResolvedData(name, None)
    folder = find_dataset(name, data_root)
    if folder is not None:
        return ResolvedData(name, str(folder))
    if dataset == "auto":
        _warn_once(name, data_root)
        return ResolvedData("synthetic", None)
    raise DataNotFoundError(_missing(name, data_root))


def find_dataset(name: str, data_root: str | None) -> Path | None:
    """The absolute folder that holds all files of a real data set, or None where there is none.

    Raises:
        DataNotFoundError: `data_root` or $ESPER_DATA is no folder.
        readers.DataFormatError: the first folder that holds any of the files lacks some of them.
    """
    spec = readers.REAL_DATASETS[name]
    for folder in search_folders(name, data_root):
        missing = [file for file in spec.files if not spec.holds(folder, file)]
        if not missing:
            return folder
        if len(missing) < len(spec.files):
            problem = f"{folder} holds {spec.title} only in part: {', '.join(missing)} missing"
            raise readers.DataFormatError(f"{problem}; remove that folder, or {spec.how_to_get}")
    return None


def search_folders(name: str, data_root: str | None) -> tuple[Path, ...]:
    """The absolute folders in which a real data set is looked for, in order.

    Each root (`data_root`, $ESPER_DATA, ~/.cache/esper_env) counts with torchvision's layout below it
    and as the folder of the files itself; then come the folders of system packages.

    Raises:
        DataNotFoundError: `data_root` or $ESPER_DATA is no folder, so what the user said cannot be meant.
    """
    roots = []
    named = {"data_root": data_root, f"${ROOT_VARIABLE}": os.environ.get(ROOT_VARIABLE)}
    for label, value in named.items():
        if value is None:
            continue
        roots.append(Path(value).expanduser().resolve())
        if not value or not roots[-1].is_dir():
            raise DataNotFoundError(f"{label} is {value!r}, which is not a folder; correct it or leave it unset")
    roots.append(Path(DEFAULT_ROOT).expanduser().resolve())
    spec = readers.REAL_DATASETS[name]
    return (*(place for root in roots for place in (root / spec.subfolder, root)), *spec.packaged)


def check_shape(resolved: ResolvedData, channels: int, size: int) -> None:
    """Check, without reading it, that a data set has images of `channels` and `size`; the synthetic one always has.

    Raises:
        ValueError: it has others.
    """
    wanted = channels, size, size
    if resolved.folder is not None and (shape := readers.REAL_DATASETS[resolved.name].shape) != wanted:
        raise ValueError(
            f"{resolved.name} has images of (channels, height, width) {shape}, but this task takes {wanted}; choose "
            "dataset='synthetic', which is made in the task's shape, or another task"
        )


def load_resolved(
    resolved: ResolvedData, *, channels: int, size: int, sizes: tuple[int, int, int] = SYNTHETIC_SIZES
) -> ImageData:
    """Read a data set, or return the copy that this process has already read.

    Safe to call from many threads: one of them reads, all get the same object.

    Args:
        resolved: the result of `resolve_data`.
        channels, size: what the caller's network takes. A real data set must agree with them.
        sizes: images in the synthetic training, validation and test split. Real data sets have their own.

    Raises:
        ValueError: the data set's images are not of `channels` and `size`.
        readers.DataFormatError: a file is damaged.
    """
    name, folder = resolved.name, resolved.folder
    check_shape(resolved, channels, size)
    key = (resolved,) if folder is not None else (resolved, channels, size, tuple(sizes))
    with _lock:
        entry = _cache.setdefault(key, _Entry())
    if folder is not None:
        return entry.get(lambda: _load_real(name, Path(folder)))
    return entry.get(lambda: _load_synthetic(channels, size, sizes))


def _load_real(name: str, folder: Path) -> ImageData:
    spec = readers.REAL_DATASETS[name]
    raw = spec.read(folder)
    total = len(raw.train_images)
    held_out = min(VALIDATION_IMAGES, total // 10)
    if not held_out or not len(raw.test_images):
        found = f"{total} training and {len(raw.test_images)} test images"
        raise readers.DataFormatError(f"{folder} holds {found}; at least 10 and 1 are needed")
    # Raw PCG64 words, not Generator.permutation: numpy keeps only the former the same in every version.
    order = np.argsort(np.random.PCG64(_SPLIT_SEED).random_raw(total), kind="stable")
    validation, train = np.sort(order[:held_out]), np.sort(order[held_out:])
    splits = {
        "train": (raw.train_images[train], raw.train_labels[train]),
        "validation": (raw.train_images[validation], raw.train_labels[validation]),
        "test": (raw.test_images, raw.test_labels),
    }
    return _assemble(name, str(folder), splits, flip=spec.flip)


def _load_synthetic(channels: int, size: int, sizes: tuple[int, int, int]) -> ImageData:
    train, validation, test = synthetic.generate(channels, size, sizes)
    splits = {"train": train, "validation": validation, "test": test}
    return _assemble("synthetic", EMBEDDED, splits, flip=True)


_Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def _assemble(name: str, source: str, splits: dict[str, _Arrays], *, flip: bool) -> ImageData:
    mean, std = _statistics(splits["train"][0])
    tensors = {part: Split(*map(torch.from_numpy, arrays)) for part, arrays in splits.items()}
    digest = _digest(splits)
    return ImageData(name, source, **tensors, mean=mean, std=std, flip=flip, num_classes=NUM_CLASSES, digest=digest)


def _statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of pixel / 255, from exact integer sums."""
    channels = images.shape[-1]
    first, second = np.zeros(channels, dtype=np.int64), np.zeros(channels, dtype=np.int64)
    for start in range(0, len(images), _STATISTICS_CHUNK):
        pixels = images[start : start + _STATISTICS_CHUNK].reshape(-1, channels).astype(np.int64)
        first += pixels.sum(axis=0)
        second += (pixels * pixels).sum(axis=0)
    count = images.size // channels
    mean = first / count / 255
    std = np.sqrt(second / count / 255**2 - mean**2)
    return tuple(float(m) for m in mean), tuple(float(s) for s in std)


def _digest(splits: dict[str, _Arrays]) -> str:
    digest = hashlib.sha256()
    for name, (images, labels) in splits.items():
        for array in (images, labels.astype("<i8")):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
    return digest.hexdigest()


def _missing(name: str, data_root: str | None) -> str:
    spec = readers.REAL_DATASETS[name]
    searched = ", ".join(str(folder) for folder in search_folders(name, data_root))
    return (
        f"{spec.title} ({', '.join(spec.files)}) is not on disk. To get it, {spec.how_to_get}; "
        f"or set data_root or ${ROOT_VARIABLE} to the folder that has it. Searched: {searched}"
    )


def _warn_once(name: str, data_root: str | None) -> None:
    with _lock:
        if name in _warned:
            return
        message = f"dataset='auto' uses the embedded synthetic data set: {_missing(name, data_root)}"
        warnings.warn(message, EsperDataWarning, stacklevel=3)
        # After the warning: where a filter turns it into an error, it is raised again the next time.
        _warned.add(name)
