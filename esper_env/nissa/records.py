"""Turns events into plain records, and refuses what is not of its field's type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from esper_env.leyline.events import EVENTS, Event, field_names

Record = dict[str, Any]
"""An event as JSON has it: its kind, ``time_s`` and its fields."""

HINTS = {kind: {name: get_type_hints(event)[name] for name in field_names(event)} for kind, event in EVENTS.items()}
"""The type of every field, by kind of event."""

NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}


class EventError(TypeError):
    """A field of an event holds what it must not."""


def record(event: Event, time_s: float) -> Record:
    """Return the record of an event.

    A number that was measured and is not finite becomes the text "NaN", "Infinity" or "-Infinity"; ``None`` stays
    null, which says not measured.

    Raises:
        EventError: a field is of another type than it says.
    """
    out: Record = {"kind": event.kind, "time_s": time_s}
    for name, hint in HINTS[event.kind].items():
        out[name] = _plain(getattr(event, name), hint, f"{type(event).__name__}.{name}")
    return out


def number(value: Any) -> float | None:
    """Read a number of a record: not finite ones are texts there."""
    return None if value is None else float(value)


def _plain(value: Any, hint: Any, where: str) -> Any:  # noqa: PLR0911 - one case a kind of type
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (inner,) = (a for a in arguments if a is not NoneType)
        return _plain(value, inner, where)
    if origin is tuple:
        if not isinstance(value, tuple):
            raise EventError(f"{where} must be a tuple, got {value!r}")
        return [_plain(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise EventError(f"{where} must map texts to values, got {value!r}")
        return {key: _plain(item, arguments[1], f"{where}[{key!r}]") for key, item in value.items()}
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise EventError(f"{where} must be a number, got {value!r}")
        value = float(value)
        return value if math.isfinite(value) else NOT_FINITE.get(value, "NaN")
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise EventError(f"{where} must be {hint.__name__}, got {value!r}")
    return value
