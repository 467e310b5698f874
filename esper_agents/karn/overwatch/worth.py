"""What an environment's return is made of, and what its seeds are worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

from esper_agents.karn.overwatch.charts import bar
from esper_agents.karn.overwatch.markup import Html, figure, join, note, tag
from esper_agents.karn.readings import measured
from esper_agents.karn.snapshot import EnvironmentState, Snapshot
from esper_agents.karn.words import MISSING
from esper_env.accounting import ROLLBACK_PENALTY


@dataclass(frozen=True)
class Part:
    """A part of a return, as accuracy 0..1."""

    name: str
    amount: float


@dataclass(frozen=True)
class Waterfall:
    """A return, from what it starts at to what it comes to."""

    chance: float
    """The accuracy that the episode starts at."""
    parts: tuple[Part, ...]
    """They add up to `total`."""
    total: float
    """The return so far."""


def waterfall(env: EnvironmentState) -> Waterfall | None:
    """Split the return so far of an environment; ``None`` before its first step.

    A step pays the change of V = accuracy - rent, less a penalty for a rollback. So the sum is what V has gained over
    chance, less the penalties. At the end V is taken anew, without what was not fossilised and over all validation
    images: that is the settlement. What events that were lost would explain is a part of its own.
    """
    if env.step is None:
        return None
    penalties = ROLLBACK_PENALTY * len(env.rollbacks)
    settled = env.step.value + env.step.rent - env.accuracy[-1]
    value = env.step.value if len(env.rewards) == 1 else env.accuracy[0] - env.rents[0]
    chance = value - env.rewards[0] - (ROLLBACK_PENALTY if env.rollbacks[:1] == [1] else 0.0)
    parts = [
        Part("accuracy", env.accuracy[-1] - chance),
        Part("settlement", settled),
        Part("rent", 0.0 - env.rents[-1]),
        Part("rollbacks", 0.0 - penalties),
    ]
    lost = env.total_return - sum(part.amount for part in parts)
    if abs(lost) > 1e-9:
        parts.append(Part("not in the log", lost))
    return Waterfall(chance, tuple(parts), env.total_return)


def worth(snapshot: Snapshot, env: int) -> Html:
    """The waterfall of an environment's return, and the contributions of its seeds."""
    state = snapshot.envs.get(env)
    found = None if state is None else waterfall(state)
    if state is None or found is None:
        return note("This environment has not stepped yet.")
    return join(
        tag("h3", "Return so far"),
        _waterfall(found),
        tag("h3", "Contributions"),
        _contributions(state),
        tag("h3", "Last epoch"),
        _epoch(state),
    )


def _epoch(env: EnvironmentState) -> Html:
    step = env.step
    assert step is not None
    return tag(
        "p",
        "training: loss ",
        figure(step.train_loss_nats, ".3f", "nats", field="train-loss"),
        ", accuracy ",
        figure(100 * step.train_accuracy, ".1f", "%", field="train-accuracy"),
        "; validation: loss ",
        figure(step.val_loss_nats, ".3f", "nats", field="val-loss"),
        ".",
    )


def _waterfall(found: Waterfall) -> Html:
    levels = [0.0, found.chance]
    for part in found.parts:
        levels.append(levels[-1] + part.amount)
    low, high = min(levels), max(levels)
    span = (high - low) or 1.0

    def row(name: str, start: float, end: float, value: Html, css: str) -> Html:
        return tag(
            "div", tag("span", name), bar((start - low) / span, (end - low) / span, css), value, class_="bar-row"
        )

    def points(amount: float, field: str) -> Html:
        return figure(100 * amount, "+.2f", "points", field=field)

    rows = [row("chance", 0.0, found.chance, points(found.chance, "chance"), "plain")]
    for part, start, end in zip(found.parts, levels[1:], levels[2:], strict=False):
        field = part.name.replace(" ", "-")
        rows.append(row(part.name, start, end, points(part.amount, field), "loss" if part.amount < 0 else "gain"))
    rows.append(row("comes to", 0.0, levels[-1], points(levels[-1], "comes-to"), "plain"))
    total = tag(
        "p", "The return is all of it but chance: ", tag("strong", figure(found.total, "+.4f", field="total")), "."
    )
    return join(tag("div", rows, class_="bars"), total)


def _contributions(env: EnvironmentState) -> Html:
    values = {slot: measured(env, slot) for slot in env.lanes}
    known = [abs(v) for pair in values.values() for v in pair if v is not None and math.isfinite(v)]
    scale = max([1.0, *known])
    rows = []
    for slot, (contribution, shapley) in values.items():
        seed = env.lanes[slot][-1].blueprint
        name = tag("span", tag("b", slot), f" {seed}" if seed else "")
        if contribution is None:
            value = tag("span", "not measured" if seed else "no seed", class_="missing", data_field="contribution")
            rows.append(tag("div", name, bar(0.5, 0.5), value, class_="bar-row", data_slot=slot))
            continue
        end = 0.5 + 0.5 * max(-1.0, min(1.0, contribution / scale)) if math.isfinite(contribution) else 0.5
        value = tag(
            "span",
            figure(contribution, "+.2f", "points", field="contribution"),
            tag("small", " Shapley ", figure(shapley, "+.2f", field="shapley")),
        )
        shown = bar(0.5, end, "loss" if contribution < 0 else "gain")
        rows.append(tag("div", name, shown, value, class_="bar-row", data_slot=slot))
    epoch = MISSING if env.measured_epoch is None else str(env.measured_epoch)
    when = note(f"Points of accuracy that are lost without the seed; last measured at epoch {epoch}.")
    return join(tag("div", rows, class_="bars"), when)
