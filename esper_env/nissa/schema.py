"""The JSON Schema of a log's lines, from the events themselves."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from esper_env.leyline.events import EVENTS, SCHEMA_VERSION
from esper_env.nissa.records import HINTS


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) that every line of ``events.jsonl`` obeys."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Esper event",
        "version": SCHEMA_VERSION,
        "oneOf": [
            {
                "title": kind,
                "description": (event.__doc__ or "").strip(),
                "type": "object",
                "properties": {"kind": {"const": kind}, "time_s": {"type": "number"}}
                | {name: _schema(hint) for name, hint in HINTS[kind].items()},
                "required": ["kind", "time_s", *HINTS[kind]],
                "additionalProperties": False,
            }
            for kind, event in EVENTS.items()
        ],
    }


def _schema(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin in (Union, UnionType):
        return {"anyOf": [{"type": "null"} if a is NoneType else _schema(a) for a in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if hint is float:
        return {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    return {"type": {int: "integer", bool: "boolean", str: "string"}[hint]}
