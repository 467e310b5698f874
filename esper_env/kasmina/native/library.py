"""Compiles and loads the kernels; says whether they are in use."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = [FOLDER / f"{name}.cpp" for name in ("convolution", "normalisation", "joints", "elementwise", "tape")]
HEADERS = [FOLDER / f"{name}.hpp" for name in ("lanes", "kernels")]
VARIABLE = "ESPER_KERNELS"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-mtune=generic", "-fPIC", "-shared", "-Wno-ignored-attributes")

_OFF = threading.local()
_LOCK = threading.Lock()

# P: pointer, I: int, F: float
SIGNATURES = {
    "to_lanes": "PPII",
    "crops": "PIIPPPPPPPIIII",
    "convolution": "PPPPIIIIIIII",
    "convolution_weight": "PPPIIIIII",
    "depthwise": "PPPIIIIII",
    "depthwise_weight": "PPPIIIII",
    "batch_norm": "PPPPPPPFFPIIIII",
    "batch_norm_backward": "PPPPPPPPPIIIII",
    "group_norm": "PPPPPFPIIIIII",
    "group_norm_backward": "PPPPPPPPPIIIIII",
    "scaled_add": "PPPFPIII",
    "scaled_add_backward": "PPPFPPIII",
    "scaled_multiply": "PPPFPIII",
    "scaled_multiply_backward": "PPPPFPPPIII",
    "gated": "PPPPIII",
    "gated_backward": "PPPPPIII",
    "weighted": "PPPPII",
    "weighted_backward": "PPPPPII",
    "silu": "PPI",
    "silu_backward": "PPPI",
    "sum": "PPPI",
    "channel_sums": "PPIII",
    "mean_pixels": "PPII",
    "mean_pixels_backward": "PPII",
    "cross_entropy": "PPPPPII",
    "sgd": "IPPPPPPFFP",
    "replay": "PIPPII",
    "affine": "PPPPIIIIII",
    "max_pool_backward": "PPPIIII",
}
_TYPES = {"P": ctypes.c_void_p, "I": ctypes.c_int, "F": ctypes.c_float}


class KernelsNotBuiltError(RuntimeError):
    """The C++ kernels could not be compiled."""


@contextmanager
def torch_kernels() -> Iterator[None]:
    """Compute with torch's own layers in this thread, as for counting their operations."""
    before = getattr(_OFF, "value", False)
    _OFF.value = True
    try:
        yield
    finally:
        _OFF.value = before


def in_use() -> ctypes.CDLL | None:
    """The compiled kernels, or ``None`` where torch's own are in use.

    The environment variable ``ESPER_KERNELS`` decides: "native" compiles them or fails, "torch" does without,
    "auto" (the default) warns once when they cannot be compiled and does without.
    """
    return None if getattr(_OFF, "value", False) else _library()


def loaded() -> ctypes.CDLL:
    """The compiled kernels, which must be there."""
    library = _library()
    assert library is not None
    return library


@cache
def _library() -> ctypes.CDLL | None:
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in ("auto", "native", "torch"):
        raise ValueError(f"{VARIABLE} must be auto, native or torch, not {choice!r}")
    if choice == "torch":
        return None
    try:
        with _LOCK:
            return _load(_build())
    except KernelsNotBuiltError as error:
        if choice == "native":
            raise
        warnings.warn(
            f"training runs with torch's own layers, some two times slower: {error}. Install a C++ compiler, or set "
            f"{VARIABLE}=torch to say that this is meant",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _build() -> Path:
    """Compile into the user's cache, once for each source, compiler and kind of CPU."""
    compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("c++") or shutil.which("g++") or "clang++"]
    target = _run([*compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    text = b"".join(path.read_bytes() for path in [*SOURCES, *HEADERS])
    key = hashlib.sha256(text + target + " ".join(FLAGS).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "esper" / f"kernels-{key}.so"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(".so", dir=path.parent)
        except OSError as error:
            raise KernelsNotBuiltError(f"cannot write to {path.parent}: {error.strerror}") from error
        os.close(handle)
        try:
            _run([*compiler, *FLAGS, "-o", scratch, *map(str, SOURCES)])
            Path(scratch).replace(path)
        finally:
            Path(scratch).unlink(missing_ok=True)
    return path


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise KernelsNotBuiltError("there is no C++ compiler") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise KernelsNotBuiltError(f"{shlex.join(command)} failed: {' '.join(last)}") from error


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelsNotBuiltError(f"{path} cannot be loaded: {error}") from error
    for name, signature in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = [_TYPES[letter] for letter in signature]
        function.restype = None
    return library
