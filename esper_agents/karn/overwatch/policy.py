"""The policy: its last update, and its last decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from esper_agents.karn.overwatch.charts import sparkline
from esper_agents.karn.overwatch.markup import Html, cell, figure, join, note, table, tag
from esper_agents.karn.overwatch.words import counted
from esper_agents.karn.snapshot import Snapshot
from esper_agents.karn.words import number
from esper_env.leyline.events import Decision, Update
from esper_env.nissa.detectors import CLIPPED, KL, RATIO_ERROR

METRICS: Final[tuple[tuple[str, str, str, str, str, Callable[[Update], float | None]], ...]] = (
    ("policy loss", "policy_loss", "+.3g", "", "", lambda u: u.policy_loss),
    ("value loss", "value_loss", ".4g", "", "value_loss", lambda u: u.value_loss),
    ("entropy", "entropy", ".3f", "nats", "", lambda u: u.entropy_nats),
    ("KL divergence", "kl", ".3g", "nats", "kl", lambda u: u.approx_kl_nats),
    ("clip share", "clip_share", ".1f", "%", "clipped", lambda u: 100 * u.clip_share),
    ("ratio error", "ratio_error", ".1e", "", "ratio", lambda u: u.ratio_error),
    ("explained variance", "explained_variance", ".3f", "", "", lambda u: u.explained_variance),
    ("learning rate", "learning_rate", ".1e", "", "", lambda u: u.learning_rate),
)
"""Name, field, format, unit, the detector that watches it, value."""
LIMITS: Final = {"kl": f"{KL[0]:g} nats", "clipped": f"{CLIPPED[0]:.0%}", "ratio": f"{RATIO_ERROR[0]:.0e}"}
"""Above which detectors raise an alarm."""


def _untrained(snapshot: Snapshot, waiting: str, otherwise: str) -> Html:
    header = snapshot.header
    if header is None or header.controller == "ppo":
        return note(waiting)
    return note(f"{otherwise}: the controller is {header.controller}.")


def policy(snapshot: Snapshot) -> Html:
    """The last update's figures with their course over the rounds, and entropy and Q by operation."""
    if not snapshot.updates:
        return _untrained(
            snapshot, "No update yet: the first comes when the first round is over.", "No policy is trained"
        )
    update = snapshot.updates[-1]
    raised = {detector for detector, env in snapshot.alarms if env is None}
    rows = [_metric(snapshot, metric, raised) for metric in METRICS]
    when = note(f"Round {update.round}, after {update.done_steps:,} steps of the environments.")
    metrics = table(("measure", "last", counted(len(snapshot.updates), "round"), "alarm above"), rows, class_="slim")
    return join(when, tag("div", metrics, _operations(update, raised), class_="pair"))


def _metric(
    snapshot: Snapshot, metric: tuple[str, str, str, str, str, Callable[[Update], float | None]], raised: set[str]
) -> Html:
    name, field, spec, unit, detector, value = metric
    alarm = detector in raised
    return tag(
        "tr",
        tag("th", "▲ " if alarm else "", name, scope="row"),
        cell(figure(value(snapshot.updates[-1]), spec, unit, field=field), class_="number"),
        cell(sparkline([value(u) for u in snapshot.updates], f"{name} by round")),
        cell(LIMITS.get(detector, "")),
        class_="alarmed" if alarm else None,
    )


def _operations(update: Update, raised: set[str]) -> Html:
    rows = []
    for name in {**update.entropy_by_operation_nats, **update.q_by_operation}:
        alarm = f"entropy {name}" in raised
        rows.append(
            tag(
                "tr",
                tag("th", "▲ " if alarm else "", name, scope="row"),
                cell(figure(update.entropy_by_operation_nats.get(name), ".3f", field="entropy"), class_="number"),
                cell(figure(update.q_by_operation.get(name), "+.4f", field="q"), class_="number"),
                class_="alarmed" if alarm else None,
                data_operation=name,
            )
        )
    return table(("operation", "entropy, nats", "Q (return)"), rows, class_="slim")


def decisions(snapshot: Snapshot) -> Html:
    """The policy's last choices, the newest first: what it took, how likely that was, and what else."""
    if not snapshot.decisions:
        return _untrained(snapshot, "No decision yet.", "No probabilities are told")
    return tag("ol", [_decision(d) for d in reversed(snapshot.decisions)], class_="decisions")


def _decision(decision: Decision) -> Html:
    first = tag(
        "p",
        tag("span", f"env {decision.env}, after epoch {decision.epoch}: ", class_="quiet"),
        tag("strong", decision.action),
        f" {number(100 * decision.probability, '.1f')} %",
    )
    figures = tag(
        "p",
        "expected return ",
        figure(decision.expected_return, "+.3f", field="v"),
        f", entropy {number(decision.entropy_nats, '.2f')} nats",
        class_="quiet",
    )
    others = ", ".join(f"{action} {number(100 * p, '.1f')} %" for action, p in decision.alternatives.items())
    rest = tag("p", f"else: {others}" if others else "nothing else was legal", class_="quiet")
    return tag("li", first, figures, rest, _q(decision.q_by_operation))


def _q(values: Mapping[str, float | None]) -> Html | None:
    told = ", ".join(f"{name} {number(q, '+.3f')}" for name, q in values.items() if q is not None)
    return tag("p", f"Q: {told}", class_="quiet") if told else None
