"""The scalars of a run over its environment steps: what TensorBoard and Weights & Biases are fed with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from esper_agents.karn.readings import PARTS
from esper_agents.karn.snapshot import Snapshot
from esper_env.leyline.events import Counterfactual, EpisodeEnd, Event, RunStart, Step, Update

Scalar = tuple[str, float]
"""Tag and value."""

LAYOUT: Final[dict[str, dict[str, Sequence[str]]]] = {
    "Does it learn?": {
        "return": ["env/return"],
        "accuracy of what was kept": ["env/committed_accuracy"],
        "accuracy by epoch": ["env/val_accuracy"],
        "seeds of an episode": ["seed/germinated", "seed/fossilized", "seed/pruned"],
    },
    "Is the update healthy?": {
        "KL": ["policy/approx_kl_nats"],
        "entropy": ["policy/entropy_nats"],
        "clipped": ["policy/clip_share"],
        "explained variance": ["value/explained_variance"],
    },
    "Where does the time go?": {
        "shares": [f"time/{part}" for part in PARTS],
    },
}
"""Charts of the custom-scalars page, by the question they answer."""


EPOCH: Final = ("val_accuracy", "val_loss_nats", "train_accuracy", "train_loss_nats")
SECONDS: Final = ("train_s", "evaluate_s", "observe_s")
"""Figures of a step that are drawn as means over the environments."""


class Metrics:
    """Turns events into scalars; those of episodes are means over a round of them."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._ends: list[EpisodeEnd] = []
        self._operations: Counter[str] = Counter()
        self._contributions: list[float] = []

    def fold(self, time_s: float, event: Event) -> Iterator[Scalar]:
        """Take an event in, and yield the scalars it completes. They belong to ``snapshot.steps``."""
        self.snapshot.fold(time_s, event)
        envs = len(self.snapshot.envs)
        if isinstance(event, RunStart):
            self._forget()
        if isinstance(event, Step):
            self._operations[event.action.partition(" ")[0]] += 1
            if event.env == envs - 1:
                steps = [env.step for env in self.snapshot.envs.values() if env.step is not None]
                for name in EPOCH:
                    yield f"env/{name}", float(np.mean([getattr(step, name) for step in steps]))
                for name in SECONDS:
                    yield f"time/step_{name}", float(np.mean([getattr(step, name) for step in steps]))
        elif isinstance(event, Counterfactual):
            self._contributions += [points for points in event.contribution_points if points is not None]
        elif isinstance(event, EpisodeEnd):
            self._ends.append(event)
            if len(self._ends) == envs:
                yield from self._round()
        elif isinstance(event, Update):
            yield from self._update(event)

    def _round(self) -> Iterator[Scalar]:
        sound = [end for end in self._ends if not end.error_code]
        yield "env/failures", float(len(self._ends) - len(sound))
        if sound:

            def mean(name: str) -> float:
                return float(np.mean([getattr(end, name) for end in sound]))

            yield "env/return", mean("total_return")
            for name in ("committed_accuracy", "growth", "params", "rollbacks", "invalid_actions", "flops_total"):
                yield f"env/{name}", mean(name)
            for name in ("germinated", "fossilized", "pruned"):
                yield f"seed/{name}", mean(name)
            if germinated := sum(end.germinated for end in sound):
                yield "seed/fossilized_share", sum(end.fossilized for end in sound) / germinated
        if self._contributions:
            yield "seed/contribution_points", float(np.mean(self._contributions))
        total = sum(self._operations.values())
        for op in self.snapshot.header.operations if self.snapshot.header is not None and total else ():
            yield f"policy/share/{op}", self._operations[op] / total
        yield "env/alarms", float(self.snapshot.alarms_raised)
        self._forget()

    def _forget(self) -> None:
        self._ends, self._contributions = [], []
        self._operations.clear()

    def _update(self, update: Update) -> Iterator[Scalar]:
        yield "policy/loss", update.policy_loss
        yield "policy/entropy_nats", update.entropy_nats
        yield "policy/approx_kl_nats", update.approx_kl_nats
        yield "policy/clip_share", update.clip_share
        yield "policy/learning_rate", update.learning_rate
        if update.ratio_error is not None:
            yield "policy/ratio_error", update.ratio_error
        for op, entropy in update.entropy_by_operation_nats.items():
            if entropy is not None:
                yield f"policy/entropy/{op}", entropy
        yield "value/loss", update.value_loss
        if update.explained_variance is not None:
            yield "value/explained_variance", update.explained_variance
        for op, q in update.q_by_operation.items():
            if q is not None:
                yield f"value/q/{op}", q
        total = sum(update.time_s_by_part.values())
        for part, seconds in update.time_s_by_part.items():
            yield f"time/{part}", seconds / total
        if self.snapshot.steps_per_s is not None:
            yield "time/steps_per_s", self.snapshot.steps_per_s
