"""When two functions are the same: what is registered may be registered again, as by a notebook's cell run twice."""

from __future__ import annotations

from types import FunctionType
from typing import Any


def as_defined(value: Any) -> Any:
    """What equals that of `value` when it is defined once more: a function's code and all that goes into it."""
    if isinstance(value, FunctionType):
        return value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__
    return value
