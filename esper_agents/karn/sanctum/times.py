"""Where the time goes."""

from __future__ import annotations

import math

from rich.text import Text

from esper_agents.karn.readings import spent
from esper_agents.karn.sanctum.figures import FAINT, NOTE, bar, curve, fit, flow, row
from esper_agents.karn.sanctum.view import View
from esper_agents.karn.words import duration


def time_line(view: View) -> list[Text]:
    """The parts that take the most time; a line, or two if it must."""
    what, parts = spent(view.snapshot)
    total = sum(parts.values())
    if not total:
        return [row([Text("time", style="bold"), "not measured yet"], "  ")]
    pieces: list[Text | str] = [Text.assemble(("time", "bold"), f" of {what}")]
    greatest = sorted(parts.items(), key=lambda pair: -pair[1])[:3]
    for i, (name, seconds) in enumerate(greatest):
        text = f"{name} {seconds / total:.0%}"
        pieces.append(row([text, bar(seconds / total, 6, NOTE)]) if i < 2 else text)
    rest = total - sum(seconds for _, seconds in greatest)
    return flow([*pieces, *([f"rest {rest / total:.0%}"] if len(greatest) < len(parts) else [])], view.width)


def time_panel(view: View) -> Text:
    """A bar for each part, with its share and its seconds."""
    what, parts = spent(view.snapshot)
    total = sum(parts.values())
    if not total:
        return Text("not measured yet", style=FAINT)
    history = view.snapshot.updates
    wide = view.width >= 70
    lines = []
    for name, seconds in parts.items():
        share = seconds / total
        cells: list[Text | str] = [fit(name, 10), bar(share, max(4, view.width - (48 if wide else 31)), NOTE)]
        cells += [f"{share:>6.1%}", f"{seconds:>9.3f} s"]
        if wide:
            cells.append(Text(curve([u.time_s_by_part.get(name, math.nan) for u in history], 16), style=FAINT))
        lines.append(row(cells))
    source = "wall clock" if history else "the environments' threads"
    lines.append(Text(f"of {what}: {duration(total)}, {source}", style=FAINT))
    return Text("\n").join(lines)
