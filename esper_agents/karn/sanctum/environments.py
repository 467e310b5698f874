"""The environments and their slots."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Final

from rich.style import Style
from rich.text import Text

from esper_agents.karn.readings import gate, measured
from esper_agents.karn.sanctum.actions import short_action
from esper_agents.karn.sanctum.figures import BAD, FAINT, NOTE, WARN, bar, curve, fit, flow, height, moment, row
from esper_agents.karn.sanctum.view import ALARM, View
from esper_agents.karn.snapshot import EnvironmentState, Snapshot
from esper_agents.karn.words import MISSING, number, seed_name
from esper_env.leyline import Stage
from esper_env.leyline.events import Anomaly
from esper_env.rendering import STAGE_COLOURS

LETTERS: Final = {stage.name: stage.name[0] for stage in Stage}
"""A stage without its colour."""
ON_DARK: Final = (Stage.HOLDING, Stage.FOSSILIZED, Stage.PRUNED)
CHIPS: Final = (36, 25, 14, 7)
"""Widths of a slot's cell: with the stage's name, the blueprint, a bar, the contribution; else letter and alpha."""
NAME: Final = max(len(stage.name) for stage in Stage)


@dataclass(frozen=True)
class Slot:
    """A slot as the last step left it."""

    name: str
    stage: str
    blueprint: str | None
    alpha: float
    contribution: float | None
    """Points of accuracy."""
    shapley: float | None


def _slots(snapshot: Snapshot, env: EnvironmentState) -> list[Slot]:
    if env.step is None or snapshot.header is None:
        return []
    each = zip(snapshot.header.slots, env.step.stages, env.step.blueprints, env.step.alphas, strict=True)
    return [Slot(*state, *measured(env, state[0])) for state in each]


def environments(view: View) -> Text:
    """A row for each environment, or a block with a line for each slot; those with alarms come first."""
    snap = view.snapshot
    if not any(env.step for env in snap.envs.values()):
        return Text("no environment has stepped yet", style=FAINT)
    alarms = {i: [(s, a) for s, a in snap.alarms.values() if a.env == i] for i in snap.envs}
    envs = sorted(snap.envs.values(), key=lambda env: (not alarms[env.env], env.env))
    lines = [] if view.detail else [_headings(view)]
    for env in envs:
        lines += _block(view, env, bool(alarms[env.env])) if view.detail else [_row(view, env, bool(alarms[env.env]))]
        lines += [line for time_s, alarm in alarms[env.env] for line in _alarm_lines(view, time_s, alarm)]
        if env.rollbacks:
            epochs = ", ".join(str(epoch) for epoch in env.rollbacks)
            lines.append(fit(Text(f"    ↺ rolled back at epoch {epochs}", style=WARN), view.width))
    if not view.detail:
        lines += _legend(snap, view.width)
    return Text("\n").join(lines)


def detail_fits(snapshot: Snapshot, height: int) -> bool:
    """Whether `height` lines hold a block for each environment."""
    slots = 0 if snapshot.header is None else len(snapshot.header.slots)
    return len(snapshot.envs) * (2 + slots) <= height


def _alarm_lines(view: View, time_s: float, alarm: Anomaly) -> list[Text]:
    text = f"{ALARM} {alarm.detector} since {moment(time_s, view.now)}: {alarm.message}"
    return [Text(f"    {line}", style=BAD) for line in textwrap.wrap(text, view.width - 4)]


def _number_cell(env: EnvironmentState, alarm: bool) -> Text:
    return Text(f"{ALARM if alarm else ' '}{env.env:>3}", style=f"bold reverse {BAD}" if alarm else "bold")


def _widths(view: View) -> tuple[int, int, int, bool]:
    """Of a slot's cell, of the action and of the curve; and whether there is room for the episode's seed."""
    slots = 0 if view.snapshot.header is None else len(view.snapshot.header.slots)
    seed = view.width >= 100
    room = view.width - (43 if seed else 35)
    slot = next((w for w in CHIPS if room - slots * (w + 1) >= (30 if w > 7 else 16)), 3)
    room -= slots * (slot + 1)
    action = min(44, max(10, room - 12))
    return slot, action, max(0, min(60, room - action - 1)), seed


def _headings(view: View) -> Text:
    slot, action, room, seed = _widths(view)
    names = () if view.snapshot.header is None else view.snapshot.header.slots
    cells = [" env", *(["episode"] if seed else []), "  epoch", " return", "  acc.", "growth"]
    cells += [
        fit(name, width).plain
        for name, width in [*((n, slot) for n in names), ("last action" if action > 10 else "action", action)]
    ]
    cells.append(fit("accuracy by epoch" if room >= 17 else "accuracy", room).plain)
    return Text(" ".join(cells)[: view.width], style=f"underline {FAINT}")


def _row(view: View, env: EnvironmentState, alarm: bool) -> Text:
    slot, action, room, seed = _widths(view)
    cells: list[Text | str] = [_number_cell(env, alarm)]
    if env.step is None:
        return row([*cells, Text("no step yet", style=FAINT)])
    step = env.step
    length = MISSING if view.snapshot.header is None else str(view.snapshot.header.episode_epochs)
    cells += [f"{seed_name(step.episode_seed):>7}"] if seed else []
    cells += [f"{step.epoch}/{length}".rjust(7), number(env.total_return, "+.4f").rjust(7)]
    cells += [number(step.val_accuracy, ".1%").rjust(6), number(step.growth, "+.0%").rjust(6)]
    cells += [_chip(s, slot) for s in _slots(view.snapshot, env)]
    words = short_action(step.action, () if view.snapshot.header is None else view.snapshot.header.slots, action)
    cells.append(fit(Text(words, style="" if step.executed else WARN), action))
    cells.append(Text(curve(env.accuracy, room), style=NOTE))
    return fit(row(cells), view.width)


def _chip(slot: Slot, width: int) -> Text:
    """A slot in `width` characters: its stage, alpha, contribution and blueprint, as far as there is room."""
    letter, style = LETTERS[slot.stage], stage_style(slot.stage)
    colour = STAGE_COLOURS[Stage[slot.stage]]
    points = number(slot.contribution, "+.1f")
    if width < CHIPS[-2]:
        figures = f"{points:>5}" if width == CHIPS[-1] else ""
        return fit(Text.assemble((letter, style), (height(slot.alpha), colour), figures), width)
    cells: list[Text | str] = [Text(f" {letter} ", style=style), bar(slot.alpha, 4, colour), f"{points:>5}"]
    if width >= CHIPS[1]:
        cells.insert(1, fit(slot.blueprint or MISSING, 10))
    if width == CHIPS[0]:
        cells[0] = Text(f" {letter} {slot.stage.ljust(NAME)} ", style=style)
    return fit(row(cells), width)


def _block(view: View, env: EnvironmentState, alarm: bool) -> list[Text]:
    number_cell = _number_cell(env, alarm)
    if env.step is None:
        return [row([number_cell, Text("no step yet", style=FAINT)])]
    step, header, wide = env.step, view.snapshot.header, view.width >= 100
    length, slots = (MISSING, ()) if header is None else (str(header.episode_epochs), header.slots)
    pieces: list[Text | str] = [
        number_cell,
        f"{'epoch ' if wide else ''}{step.epoch}/{length}",
        f"return {number(env.total_return, '+.4f')}",
        f"{'accuracy' if wide else 'acc.'} {number(step.val_accuracy, '.1%')}",
        f"growth {number(step.growth, '+.0%')}",
        Text(short_action(step.action, slots, 44 if wide else 10), style="" if step.executed else WARN),
    ]
    if wide:
        pieces += [f"rent {number(step.rent, '.4f')}", f"episode seed {seed_name(step.episode_seed)}"]
        pieces.append(f"contributions measured at epoch {env.measured_epoch or MISSING}")
    room = view.width - row(pieces, "  ").cell_len - 1
    pieces[3] = row([pieces[3], Text(curve(env.accuracy, min(room, 60 if wide else 10)), style=NOTE)])
    losses = [f"loss {number(loss, '.3f')}" for loss in (step.train_loss_nats, step.val_loss_nats)]
    trained = f"    training: {losses[0]}, accuracy {number(step.train_accuracy, '.1%')}; validation: {losses[1]} nats"
    lines = [fit(row(pieces, "  "), view.width), fit(Text(trained, style=FAINT), view.width)]
    for slot in _slots(view.snapshot, env):
        told = [("contribution", slot.contribution)] + ([("Shapley value", slot.shapley)] if wide else [])
        cells: list[Text | str] = [
            f"    {slot.name:<5}",
            Text(f" {LETTERS[slot.stage]} {slot.stage.ljust(NAME)} ", style=stage_style(slot.stage)),
            fit(slot.blueprint or MISSING, 10),
            f"alpha {number(slot.alpha, '.2f')}",
            bar(slot.alpha, 20 if wide else 4, STAGE_COLOURS[Stage[slot.stage]]),
            *(f"{name} {number(v, '+.1f'):>5}{' ' * 7 if v is None else ' points'}" for name, v in told),
            gate(env, slot.name, slot.stage) if wide else "",
        ]
        lines.append(fit(row(cells), view.width))
    return lines


def _legend(snapshot: Snapshot, width: int) -> list[Text]:
    """The letters that are in the table, and what the figures beside them are."""
    present = {stage for env in snapshot.envs.values() if env.step is not None for stage in env.step.stages}
    pieces: list[Text | str] = [
        Text.assemble((LETTERS[stage.name], stage_style(stage.name)), (f" {stage.name.lower()}", FAINT))
        for stage in Stage
        if stage.name in present
    ]
    return flow(
        [*pieces, Text(f"bar: alpha, figure: contribution in points, {MISSING} not measured", style=FAINT)], width
    )


def stage_style(stage: str) -> Style:
    """A stage's colour as the background."""
    known = Stage[stage]
    return Style(color="#ffffff" if known in ON_DARK else "#000000", bgcolor=STAGE_COLOURS[known], bold=True)
