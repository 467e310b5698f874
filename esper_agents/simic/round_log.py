"""What a training round came to: collected while its episodes run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from esper_agents.simic.decisions import Decisions
from esper_agents.simic.economy import Churn, rent_points
from esper_agents.simic.recurrent_policy import MaskableRecurrentActorCriticPolicy
from esper_agents.tamiyo.controller import Interface
from esper_env.leyline import Op
from esper_env.leyline.events import Event


class RoundLog(BaseCallback):
    """Collects what the environments and the policy say during a round.

    Args:
        interface: of the environments.
        reward_scale: of the learner.
        progress: a bar that counts environment steps.
        emit: takes the policy's decisions.
    """

    def __init__(
        self,
        interface: Interface,
        reward_scale: float,
        progress: tqdm[Any] | None,
        emit: Callable[[Event], None] | None,
    ) -> None:
        super().__init__()
        self.ops = np.array([action.op for action in interface.actions])
        self.progress, self.emit = progress, emit
        self.decisions = Decisions(interface, reward_scale)
        self.clear()

    def clear(self) -> None:
        """Begin a round."""
        self.decisions.clear()
        self._epochs: list[int] = []
        self.telemetry_s = 0.0
        self.collected_at = time.perf_counter()
        self.finals: list[dict[str, Any]] = []
        self.operations = np.zeros(len(Op), np.int64)

    def _on_step(self) -> bool:
        actions = self.locals["actions"].cpu().numpy().reshape(-1)
        self.operations += np.bincount(self.ops[actions], minlength=len(Op))
        self.finals += [info for info in self.locals["infos"] if "episode" in info]
        if self.progress is not None:
            self.progress.update(len(actions))
        self._epochs = self._epochs or [0] * len(actions)
        if self.emit is not None:
            self._tell(actions)
        infos = self.locals["infos"]
        self._epochs = [0 if "episode" in i else e + 1 for e, i in zip(self._epochs, infos, strict=True)]
        return True

    def _on_rollout_end(self) -> None:
        self.collected_at = time.perf_counter()

    def _tell(self, actions: NDArray[np.int64]) -> None:
        start = time.perf_counter()
        policy = self.model.policy
        assert isinstance(policy, MaskableRecurrentActorCriticPolicy) and policy.considered is not None
        values = self.locals["values"].cpu().double().numpy()
        assert self.emit is not None
        for decision in self.decisions.see(policy.considered, actions, self.locals["masks"], values, self._epochs):
            self.emit(decision)
        self.telemetry_s += time.perf_counter() - start

    def summary(self) -> dict[str, float]:
        """Means over the round's whole episodes; failed ones are only counted."""
        sound = [info for info in self.finals if not info["error_code"]]
        churn = [Churn.of(info) for info in sound]
        germinated = sum(c.germinated for c in churn)
        out = {"episodes": float(len(sound)), "failures": float(len(self.finals) - len(sound))}
        out["flops"] = float(sum(info["flops_total"] for info in self.finals))
        for op in Op:
            out[f"operation_share/{op.name}"] = self.operations[op] / max(1, self.operations.sum())
        if sound:
            out |= {
                "return": float(np.mean([info["episode"]["r"] for info in sound])),
                "committed_accuracy": float(np.mean([info["committed_accuracy"] for info in sound])),
                "growth": float(np.mean([info["growth"] for info in sound])),
                "rent_points": float(np.mean([rent_points(info) for info in sound])),
                "fossilized": float(np.mean([c.fossilized for c in churn])),
                "reversals": float(np.mean([c.reversals for c in churn])),
                "fossilized_share": sum(c.fossilized for c in churn) / germinated if germinated else float("nan"),
                "rollbacks": float(np.mean([info["rollbacks"] for info in sound])),
            }
        return out
