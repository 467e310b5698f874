"""Builds HTML. Text is escaped, whatever a log says; only `Html` is taken as it is."""

from __future__ import annotations

import html
from collections.abc import Iterable

from esper_agents.karn.words import number


class Html(str):
    """Markup, not text."""

    __slots__ = ()


def tag(name: str, *children: str | Iterable[str] | None, **attributes: str | float | None) -> Html:
    """An element. Underscores in attributes' names become hyphens, a trailing one is dropped; ``None`` is left out."""
    texts = [
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return Html(f"<{name}{''.join(texts)}>{join(*children)}</{name}>")


def join(*children: str | Iterable[str] | None) -> Html:
    """Put elements and texts one after the other."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(child))
        elif child is not None:
            parts += [join(each) for each in child]
    return Html("".join(parts))


def figure(value: float | None, spec: str, unit: str = "", *, field: str, name: str = "span") -> Html:
    """A number that can be found by its `field`; a dash says that it was not measured."""
    missing = value is None
    text = number(value, spec)
    return tag(
        name,
        text if missing or not unit else f"{text} {unit}".replace(" %", "%"),
        class_="missing" if missing else "figure",
        data_field=field,
        title="not measured" if missing else None,
    )


def note(text: str) -> Html:
    """Something said in passing, such as why a panel is empty."""
    return tag("p", text, class_="note")


def table(heads: Iterable[str], rows: Iterable[Html], **attributes: str | None) -> Html:
    """A table with a row of headings."""
    first = tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads]))
    return tag("table", first, tag("tbody", rows), **attributes)


def cell(*children: str | Iterable[str] | None, **attributes: str | float | None) -> Html:
    """A cell of a table."""
    return tag("td", *children, **attributes)
