"""Writes tables between the markers ``<!-- NAME -->`` and ``<!-- end -->`` of a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(page: Path, contents: Mapping[str, str]) -> None:
    """Put each content between its markers.

    Raises:
        ValueError: a marker is not on the page.
    """
    text = page.read_text()
    for name, content in contents.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        if not rest:
            raise ValueError(f"{page} has no marker <!-- {name} -->")
        _, _, after = rest.partition("<!-- end -->")
        text = f"{before}<!-- {name} -->\n{content}\n<!-- end -->{after}"
    page.write_text(text)
