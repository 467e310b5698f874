"""The environments and their slots, and which of them is wrong."""

from __future__ import annotations

from esper_agents.karn.overwatch.charts import bar, sparkline
from esper_agents.karn.overwatch.markup import Html, cell, figure, join, note, table, tag
from esper_agents.karn.overwatch.words import counted
from esper_agents.karn.readings import gate
from esper_agents.karn.snapshot import EnvironmentState, Snapshot
from esper_agents.karn.words import MISSING, seed_name
from esper_env.leyline.events import Anomaly, Step


def stage_chip(stage: str, blueprint: str | None = None) -> Html:
    """A stage by its name and its colour, with the blueprint of the seed."""
    return tag("span", tag("b", stage), f" {blueprint}" if blueprint else "", class_=f"stage stage-{stage}")


def environments(snapshot: Snapshot) -> Html:
    """A row for each environment; those with alarms come first."""
    if not snapshot.envs or snapshot.header is None:
        return note("The run has not started yet.")
    alarms = {i: [a for _, a in snapshot.alarms.values() if a.env == i] for i in snapshot.envs}
    envs = sorted(snapshot.envs.values(), key=lambda env: (not alarms[env.env], env.env))
    heads = (
        "env",
        "epoch",
        "accuracy",
        "accuracy by epoch",
        "return",
        "growth",
        "rent",
        *snapshot.header.slots,
        "last action",
    )
    rows = [_row(snapshot, env, alarms[env.env]) for env in envs]
    return table(heads, rows, class_="environments")


def _row(snapshot: Snapshot, env: EnvironmentState, alarms: list[Anomaly]) -> Html:
    header = snapshot.header
    assert header is not None
    bells = [tag("strong", f"▲ {alarm.detector}", title=alarm.message, data_field="alarm") for alarm in alarms]
    rollbacks = [tag("small", f"↺ rolled back at epoch {epoch}", class_="warn") for epoch in env.rollbacks]
    name = tag(
        "th",
        tag("span", str(env.env), class_="big"),
        bells,
        rollbacks,
        scope="row",
    )
    attributes = {"data_env": str(env.env), "class_": "alarmed" if alarms else None}
    step = env.step
    if step is None:
        return tag("tr", name, cell("no step yet", colspan=7 + len(header.slots), class_="note"), **attributes)
    cells = [
        cell(
            tag("span", f"{step.epoch} of {header.episode_epochs}", data_field="epoch", class_="number"),
            tag(
                "small",
                f"seed {seed_name(step.episode_seed)}",
                title=f"of the episode; {counted(env.episodes, 'episode')} finished",
            ),
        ),
        cell(figure(100 * step.val_accuracy, ".1f", "%", field="accuracy"), class_="number"),
        cell(sparkline(env.accuracy, f"accuracy of environment {env.env} by epoch")),
        cell(figure(env.total_return, "+.4f", field="return"), class_="number"),
        cell(
            figure(100 * step.growth, "+.1f", "%", field="growth"),
            class_="number",
            title=f"{step.params:,} parameters",
        ),
        cell(figure(100 * step.rent, ".2f", "points", field="rent"), class_="number"),
        *_slots(env, step, header.slots),
        cell(
            step.action,
            None if step.executed else tag("small", "⚠ not legal: WAIT instead", class_="warn"),
            data_field="action",
        ),
    ]
    return tag("tr", name, cells, **attributes)


def _slots(env: EnvironmentState, step: Step, slots: tuple[str, ...]) -> list[Html]:
    cells = []
    for slot, stage, blueprint, alpha in zip(slots, step.stages, step.blueprints, step.alphas, strict=True):
        if blueprint is None:
            share = tag("small", MISSING, title="there is no seed")
        else:
            share = join(bar(0, alpha, f"stage-{stage}"), figure(alpha, ".2f", field="alpha", name="small"))
        alpha_bar = tag("div", share, class_="alpha", title="alpha")
        onward = gate(env, slot, stage)
        opened = tag("small", onward, title="gate of the next operation", data_field="gate") if onward else None
        cells.append(cell(stage_chip(stage, blueprint), alpha_bar, opened, data_slot=slot))
    return cells
