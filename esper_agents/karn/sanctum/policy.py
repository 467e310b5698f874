"""The policy: its last update, and its last decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final

from rich.text import Text

from esper_agents.karn.sanctum.actions import SHORT_NAMES, short_action
from esper_agents.karn.sanctum.figures import BAD, FAINT, NOTE, beside, curve, fit, flow, row
from esper_agents.karn.sanctum.learning import round_means
from esper_agents.karn.sanctum.view import ALARM, View
from esper_agents.karn.snapshot import DECISIONS, Snapshot
from esper_agents.karn.words import MISSING, number
from esper_env.leyline.events import Decision, Update
from esper_env.nissa.detectors import CLIPPED, KL, RATIO_ERROR

METRICS: Final[tuple[tuple[str, str, str, str | None, Callable[[Update], float | None]], ...]] = (
    ("policy loss", "+.3g", "", None, lambda u: u.policy_loss),
    ("value loss", ".4g", "", "value_loss", lambda u: u.value_loss),
    ("entropy", ".3f", " nats", None, lambda u: u.entropy_nats),
    ("KL", ".3g", " nats", "kl", lambda u: u.approx_kl_nats),
    ("clip share", ".1%", "", "clipped", lambda u: u.clip_share),
    ("ratio error", ".1e", "", "ratio", lambda u: u.ratio_error),
    ("explained variance", ".3f", "", None, lambda u: u.explained_variance),
    ("learning rate", ".2e", "", None, lambda u: u.learning_rate),
)
"""Name, format, unit, the detector that watches it, value."""
LIMITS: Final = {"kl": f"{KL[0]:g}", "clipped": f"{CLIPPED[0]:.0%}", "ratio": f"{RATIO_ERROR[0]:.0e}"}
"""Above which detectors raise an alarm."""


def policy(view: View) -> Text:
    """The last update's figures with their course over the rounds, and entropy and Q by operation."""
    snap = view.snapshot
    if not snap.updates:
        if snap.header is None or snap.header.controller == "ppo":
            return Text("no update yet: the first comes at the end of the first round", style=FAINT)
        return Text(f"no policy is trained here: the controller is {snap.header.controller}", style=FAINT)
    sided = view.width >= 74
    left, right = _metrics(view, view.width - 39 if sided else view.width), _operations(snap)
    return Text("\n").join(beside(left, right, view.width - 39) if sided else [*left, Text(), *right])


def _metrics(view: View, width: int) -> list[Text]:
    snap, update = view.snapshot, view.snapshot.updates[-1]
    raised = {detector for detector, env in snap.alarms if env is None}
    lines = [Text(f"round {update.round}, after {update.done_steps:,} steps", style=FAINT)]
    missing = False
    for name, spec, unit, detector, value in METRICS:
        now = value(update)
        missing |= now is None
        history = [v for u in snap.updates if (v := value(u)) is not None]
        told = number(now, spec) + ("" if now is None else unit)
        limit = None if detector is None else LIMITS.get(detector)
        lines.append(_metric(name, told, history, width, alarm=detector in raised, limit=limit))
    means = round_means(snap)
    lines.append(_metric("return of a round", number(means[-1] if means else None, "+.4f"), means, width))
    values = (*update.entropy_by_operation_nats.values(), *update.q_by_operation.values())
    if missing or None in values:
        lines.append(Text(f"{MISSING} not measured", style=FAINT))
    return lines


def _metric(
    name: str, value: str, history: Sequence[float], width: int, *, alarm: bool = False, limit: str | None = None
) -> Text:
    note = f"alarm > {limit}" if limit is not None and width >= 56 else ""
    curved = Text(curve(history, max(4, width - 34 - len(note))), style=NOTE)
    text = Text(f"{ALARM if alarm else ' '}{name:<18} {value:>11}", style=f"bold {BAD}" if alarm else "")
    return row([text, curved, Text(note, style=FAINT)])


def _operations(snap: Snapshot) -> list[Text]:
    update = snap.updates[-1]
    raised = {detector for detector, env in snap.alarms if env is None}
    lines = [Text(f"{'operation':<17}{'entropy nats':>12}{'Q':>8}", style=FAINT)]
    for name in {**update.entropy_by_operation_nats, **update.q_by_operation}:
        alarm = f"entropy {name}" in raised
        entropy = number(update.entropy_by_operation_nats.get(name), ".3f")
        q = number(update.q_by_operation.get(name), "+.3f")
        style = f"bold {BAD}" if alarm else ""
        lines.append(Text(f"{ALARM if alarm else ' '}{name:<16}{entropy:>12}{q:>8}", style=style))
    return [*lines, Text("Q: expected return", style=FAINT)]


def decisions(view: View) -> Text:
    """The policy's last choices, the newest first: what it took, how likely that was, and what else."""
    snap = view.snapshot
    if not snap.decisions:
        if snap.header is None or snap.header.controller == "ppo":
            return Text("no decision yet", style=FAINT)
        return Text(f"the controller {snap.header.controller} tells no probabilities", style=FAINT)
    slots = () if snap.header is None else snap.header.slots
    lines = (line for decision in reversed(snap.decisions) for line in _decision(decision, view.width, slots))
    return Text("\n").join(islice(lines, DECISIONS))  # as many lines each time need no new layout


def _decision(decision: Decision, width: int, slots: Sequence[str]) -> list[Text]:
    place = f"env {decision.env} {'after epoch ' if width >= 60 else ''}{decision.epoch:>3}"
    figures = f"{number(decision.probability, '.1%'):>6}  V {number(decision.expected_return, '+.3f'):>6}"
    if width >= 74:
        figures += f"  entropy {number(decision.entropy_nats, '.2f')} nats"
    room = width - len(place) - len(figures) - 2
    action = fit(Text(short_action(decision.action, slots, room), style="bold"), room)
    others = [f"{short_action(a, slots, max(12, width - 20))} {p:.1%}" for a, p in decision.alternatives.items()]
    lines = [row([Text(place, style=FAINT), action, figures])]
    for title, texts in (("else", others), ("Q   ", _q(decision.q_by_operation))):
        pieces = [Text(text, style=FAINT) for text in texts]
        if others:
            lines += flow([Text(f"    {title}", style=FAINT), *pieces], width, 10)
    return lines


def _q(values: Mapping[str, float | None]) -> list[str]:
    return [f"{SHORT_NAMES.get(name, name)} {number(q, '+.3f')}" for name, q in values.items() if q is not None]
