"""Where the time goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from esper_agents.karn.overwatch.charts import bar, sparkline
from esper_agents.karn.overwatch.markup import Html, figure, join, note, tag
from esper_agents.karn.overwatch.words import duration
from esper_agents.karn.snapshot import Snapshot

PARTS: Final = ("train", "evaluate", "observe", "policy", "update", "telemetry", "checkpoint")


def spent(snapshot: Snapshot) -> tuple[str, dict[str, float]]:
    """Seconds by part of the last round, or else of the environments' last steps; and of what they are."""
    if snapshot.updates:
        update = snapshot.updates[-1]
        return f"round {update.round}, wall clock", _ordered(update.time_s_by_part)
    steps = [env.step for env in snapshot.envs.values() if env.step is not None]
    parts = {part: sum(getattr(step, f"{part}_s") for step in steps) for part in PARTS[:3]}
    return "the last steps, in the environments' threads", parts


def _ordered(parts: Mapping[str, float]) -> dict[str, float]:
    names = [*(p for p in PARTS if p in parts), *(p for p in parts if p not in PARTS)]
    return {name: parts[name] for name in names}


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
    text = tag("p", verdict, f" of {duration(total)}: {what}.")
    return join(text, tag("div", rows, class_="bars"), course if all(map(math.isfinite, rounds)) else None)
