"""The log, for people."""

from __future__ import annotations

import textwrap
from itertools import islice
from typing import Final

from rich.text import Text

from esper_agents.karn.sanctum.figures import BAD, FAINT, GOOD, NOTE, WARN, moment, row
from esper_agents.karn.sanctum.view import View

KINDS: Final = {"alarm": BAD, "clear": GOOD, "rollback": WARN, "episode": NOTE, "update": NOTE, "run": "bold"}
"""Styles of the kinds of lines in the log."""
NEWEST: Final = 100
"""Lines; once there are as many, another one needs no new layout."""


def log_lines(view: View) -> Text:
    """The last lines of the log, the newest first."""
    if not view.snapshot.lines:
        return Text("no event yet", style=FAINT)
    lines = []
    for line in islice(reversed(view.snapshot.lines), NEWEST):
        style = KINDS.get(line.kind, FAINT)
        first, *more = textwrap.wrap(line.text, max(20, view.width - 20)) or [""]
        when = moment(line.time_s, line.time_s)
        lines.append(row([Text(when, style=FAINT), Text(f"{line.kind:<10}", style=style), first]))
        lines += [Text(" " * 20 + text) for text in more]
    return Text("\n").join(lines[:NEWEST])
