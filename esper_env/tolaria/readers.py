"""The public data sets: what is known of each, and the readers of their two file formats.

CIFAR-10 comes as pickled batches, Fashion-MNIST as idx files. Both readers check what they read before
they trust it: a damaged or foreign file is a `DataFormatError` that names the file and what was found.
CIFAR-10's official files are pickles, which can run any code when loaded the ordinary way; here an
unpickler resolves only what a numpy array is made of and refuses everything else.
"""

from __future__ import annotations

import codecs
import gzip
import math
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
FASHION_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_CIFAR10_PIXELS = 3 * 32 * 32
_FASHION_MNIST_SIDE = 28
_FASHION_MNIST_PAD = 2  # to 32 x 32, which five halvings divide
_NUM_CLASSES = 10
_IDX_UNSIGNED_BYTE = 8


class DataFormatError(ValueError):
    """A data file is damaged, incomplete or of another format."""


class RawImages(NamedTuple):
    """A data set as published, before a validation split is held out.

    Images are uint8 (n, height, width, channels), labels int64 (n,) in 0..9.
    """

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]


def read_cifar10(folder: Path) -> RawImages:
    """Read the folder `cifar-10-batches-py`: five training batches and the test batch.

    Raises:
        DataFormatError: a batch is damaged, asks for code to run, or does not hold 32x32 colour images.
        FileNotFoundError: a batch is missing.
    """
    batches = [_read_cifar10_batch(folder / name) for name in CIFAR10_FILES]
    train, test = batches[:-1], batches[-1]
    return RawImages(
        np.concatenate([images for images, _ in train]),
        np.concatenate([labels for _, labels in train]),
        *test,
    )


def read_fashion_mnist(folder: Path) -> RawImages:
    """Read the four idx files, plain or gzip, and zero-pad 28x28 to 32x32.

    Raises:
        DataFormatError: a file is damaged, truncated or holds something else.
        FileNotFoundError: a file is missing.
    """
    train_images, train_labels, test_images, test_labels = (
        read_idx(_idx_path(folder, name)) for name in FASHION_MNIST_FILES
    )
    return RawImages(
        _fashion_images(train_images, folder),
        _checked_labels(train_labels, len(train_images), folder),
        _fashion_images(test_images, folder),
        _checked_labels(test_labels, len(test_images), folder),
    )


def _idx_path(folder: Path, name: str) -> Path:
    """The plain file if there is one, else the path of the gzip file."""
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an idx file of unsigned bytes; a name that ends in .gz is decompressed.

    The format: two zero bytes, the element type (8), the number of dimensions, each dimension as a
    big-endian 32-bit number, then the elements in row-major order.

    Raises:
        DataFormatError: the file is not such a file, or is shorter or longer than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_UNSIGNED_BYTE:
        raise DataFormatError(
            f"{path} is not an idx file of unsigned bytes: it starts with "
            f"{content[:4].hex(' ') or 'nothing'}, expected 00 00 08 and the number of dimensions"
        )
    header = 4 + 4 * content[3]
    shape = tuple(int(n) for n in np.frombuffer(content[4:header][: 4 * (len(content[4:header]) // 4)], ">u4"))
    if len(shape) != content[3] or len(content) != header + math.prod(shape):
        raise DataFormatError(
            f"{path} is truncated or damaged: {len(content)} bytes, but its header says "
            f"{content[3]} dimensions {shape}; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _fashion_images(images: npt.NDArray[np.uint8], folder: Path) -> npt.NDArray[np.uint8]:
    side, pad = _FASHION_MNIST_SIDE, _FASHION_MNIST_PAD
    if images.ndim != 3 or images.shape[1:] != (side, side):
        raise DataFormatError(f"{folder}: images have shape {images.shape}, expected (n, {side}, {side})")
    return np.pad(images, ((0, 0), (pad, pad), (pad, pad)))[..., None]


def _checked_labels(labels: npt.NDArray[np.generic], count: int, where: Path) -> npt.NDArray[np.int64]:
    if labels.shape != (count,):
        raise DataFormatError(f"{where}: labels have shape {labels.shape} for {count} images")
    if not np.issubdtype(labels.dtype, np.integer) or (count and not 0 <= labels.min() <= labels.max() < _NUM_CLASSES):
        raise DataFormatError(f"{where}: labels must be whole numbers from 0 to {_NUM_CLASSES - 1}")
    return labels.astype(np.int64)


def _read_cifar10_batch(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    with path.open("rb") as file:
        try:
            batch = _ArrayUnpickler(file).load()
        except DataFormatError as error:
            raise DataFormatError(f"{path}: {error}") from error
        # A damaged pickle can fail in any of these ways; pickle's documentation promises no single one.
        except (
            pickle.UnpicklingError,
            EOFError,
            AttributeError,
            IndexError,
            KeyError,
            MemoryError,
            OverflowError,
            TypeError,
            ValueError,
            ImportError,
        ) as error:
            raise DataFormatError(f"{path} is not a readable CIFAR-10 batch ({error}); fetch it again") from error
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise DataFormatError(f"{path} is not a CIFAR-10 batch: expected a dict with 'data' and 'labels'")
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(data), _CIFAR10_PIXELS):
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataFormatError(f"{path}: 'data' must be uint8 (n, {_CIFAR10_PIXELS}), found {found}")
    labels = batch["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataFormatError(f"{path}: 'labels' must be a list of whole numbers")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), _checked_labels(np.asarray(labels), len(data), path)


class _ArrayUnpickler(pickle.Unpickler):
    """Loads built-in containers, numbers, strings and numpy arrays; refuses every other name."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")  # the official files were written by Python 2

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """Resolve the few names that an array needs.

        Raises:
            DataFormatError: the pickle names anything else.
        """
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:
            return lambda _subtype, shape, _kind: np.empty(shape, dtype=np.int8)
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in protocol 2
            return lambda text, _encoding: codecs.latin_1_encode(text)[0]
        raise DataFormatError(
            f"refused: the pickle asks for {module}.{name}, which is no part of a CIFAR-10 batch; "
            "the file may be malicious"
        )


@dataclass(frozen=True)
class RealDataset:
    """What is known of a public data set: how to find, read and get it."""

    title: str
    shape: tuple[int, int, int]  # channels, height, width as delivered
    flip: bool
    files: tuple[str, ...]
    subfolder: str  # torchvision's layout below a root
    packaged: tuple[Path, ...]  # folders in which a system package puts the files
    how_to_get: str
    read: Callable[[Path], RawImages]
    suffixes: tuple[str, ...] = ("",)  # of the files: an idx file may also be compressed

    def holds(self, folder: Path, file: str) -> bool:
        """Whether a folder has one of `files`."""
        return any((folder / f"{file}{suffix}").is_file() for suffix in self.suffixes)


REAL_DATASETS = {
    "cifar10": RealDataset(
        title="CIFAR-10",
        shape=(3, 32, 32),
        flip=True,
        files=CIFAR10_FILES,
        subfolder="cifar-10-batches-py",
        packaged=(),
        how_to_get="run `python -m esper_env.data fetch cifar10` once, with network access",
        read=read_cifar10,
    ),
    "fashion_mnist": RealDataset(
        title="Fashion-MNIST",
        shape=(1, 32, 32),
        flip=False,
        files=FASHION_MNIST_FILES,
        subfolder="FashionMNIST/raw",
        packaged=(DEBIAN_FASHION_MNIST,),
        how_to_get="run `python -m esper_env.data fetch fashion_mnist` once, with network access, "
        "or install Debian's package dataset-fashion-mnist",
        read=read_fashion_mnist,
        suffixes=("", ".gz"),
    ),
}
