"""Takes apart the infos of a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def info_row(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Return what `infos` says of environment `i`, which is what its own info would be.

    Gymnasium puts the values of key ``k`` in one array and marks in ``_k`` the environments that have it.
    """
    row: dict[str, Any] = {}
    for key, value in infos.items():
        present = infos.get(f"_{key}")
        if present is not None and present[i]:
            row[key] = info_row(value, i) if isinstance(value, Mapping) else value[i]
    return row
