"""Where the time goes."""

from __future__ import annotations

import math

from esper_agents.karn.overwatch.charts import bar, sparkline
from esper_agents.karn.overwatch.markup import Html, figure, join, note, tag
from esper_agents.karn.readings import spent
from esper_agents.karn.snapshot import Snapshot
from esper_agents.karn.words import duration


def times(snapshot: Snapshot) -> Html:
    """A bar for each part, with its share and its seconds."""
    what, parts = spent(snapshot)
    total = sum(parts.values())
    if not total > 0:
        return note("Not measured yet.")
    greatest = max(parts, key=lambda name: parts[name])
    verdict = tag(
        "strong", f"{100 * parts[greatest] / total:.0f} % {greatest}", class_="verdict", data_field="greatest"
    )
    rows = []
    for name, seconds in parts.items():
        value = tag(
            "span", figure(100 * seconds / total, ".1f", "%", field=f"time-{name}"), tag("small", f" {seconds:.3f} s")
        )
        rows.append(tag("div", tag("span", name), bar(0, seconds / total, "gain"), value, class_="bar-row"))
    rounds = [sum(u.time_s_by_part.values()) for u in snapshot.updates]
    course = tag("p", "seconds by round ", sparkline(rounds, "seconds by round")) if len(rounds) > 1 else None
    source = "wall clock" if snapshot.updates else "in the environments' threads"
    text = tag("p", verdict, f" of {duration(total)}: {what}, {source}.")
    return join(text, tag("div", rows, class_="bars"), course if all(map(math.isfinite, rounds)) else None)
