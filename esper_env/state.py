"""The byte form of an environment's state: safetensors and JSON behind a checksum, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

_MAGIC = b"ESPERENV1\n"
_DIGEST = 32


class StateError(ValueError):
    """Bytes that are no state, a damaged one, or one of another environment."""


def pack(tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> bytes:
    """Return tensors and JSON-able values as bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    body = safetensors.torch.save(plain, metadata={"esper": json.dumps(values, sort_keys=True)})
    return _MAGIC + hashlib.sha256(body).digest() + body


def unpack(state: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Invert `pack`.

    Raises:
        StateError: the bytes are foreign, truncated or damaged.
    """
    if not isinstance(state, bytes | bytearray | memoryview) or bytes(state[: len(_MAGIC)]) != _MAGIC:
        raise StateError("this is not a state of an Esper environment; pass what get_state() returned")
    data = bytes(state)
    digest, body = data[len(_MAGIC) : len(_MAGIC) + _DIGEST], data[len(_MAGIC) + _DIGEST :]
    if hashlib.sha256(body).digest() != digest:
        raise StateError("the state is truncated or damaged: its checksum does not match")
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    values: dict[str, Any] = json.loads(header["__metadata__"]["esper"])
    return safetensors.torch.load(body), values
