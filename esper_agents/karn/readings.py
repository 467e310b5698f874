"""What both screens read off a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from esper_agents.karn.snapshot import EnvironmentState, Snapshot

PARTS: Final = ("train", "evaluate", "observe", "policy", "update", "telemetry", "checkpoint")
ONWARD: Final = {"GERMINATED": "ADVANCE", "TRAINING": "ADVANCE", "BLENDING": "ADVANCE", "HOLDING": "FOSSILIZE"}
"""The operation before which a gate stands, by stage."""


def measured(env: EnvironmentState, slot: str) -> tuple[float | None, float | None]:
    """Contribution and Shapley value of the seed that the slot holds now; another seed's are not its own."""
    blueprint, planted = None, None
    for stretch in reversed(env.lanes.get(slot, [])):
        if stretch.blueprint is None or blueprint not in (None, stretch.blueprint):
            break
        blueprint, planted = stretch.blueprint, stretch.first_epoch
    if planted is None or env.measured_epoch is None or env.measured_epoch < planted:
        return None, None
    return env.contributions.get(slot, (None, None))


def gate(env: EnvironmentState, slot: str, stage: str) -> str:
    """The operation that carries the seed of a slot on, and whether its gate is open; nothing where none does."""
    operation = ONWARD.get(stage)
    if operation is None:
        return ""
    return f"{operation} {'open' if (slot, operation) in env.gates else 'not yet'}"


def spent(snapshot: Snapshot) -> tuple[str, dict[str, float]]:
    """Seconds by part of the last round, or else of the environments' last steps; and of what they are."""
    if snapshot.updates:
        update = snapshot.updates[-1]
        return f"round {update.round}", _ordered(update.time_s_by_part)
    steps = [env.step for env in snapshot.envs.values() if env.step is not None]
    each = [(step.train_s, step.evaluate_s, step.observe_s) for step in steps]
    return "the last steps", dict(zip(PARTS, map(sum, zip(*each, strict=True)), strict=False))


def _ordered(parts: Mapping[str, float]) -> dict[str, float]:
    names = [*(p for p in PARTS if p in parts), *(p for p in parts if p not in PARTS)]
    return {name: parts[name] for name in names}
