"""What a policy had in mind: its choices told as events, and how it chooses on average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from esper_agents.simic.masking import MaskedCategorical
from esper_agents.tamiyo.controller import Interface
from esper_env.leyline import Op
from esper_env.leyline.events import Decision

ALTERNATIVES = 3
"""Other actions that are told of, the likeliest first."""
Means = dict[str, float | None]


class Decisions:
    """Follows the decisions of a policy over a round.

    Args:
        interface: of the environments.
        reward_scale: what the learner's rewards are multiplied by; values are told in the environment's unit.
    """

    def __init__(self, interface: Interface, reward_scale: float) -> None:
        self.names = [str(action) for action in interface.actions]
        self.op_of_action = np.array([int(action.op) for action in interface.actions])
        self.onehot = np.eye(len(Op))[self.op_of_action]  # (A, ops)
        self.reward_scale = reward_scale
        self.clear()

    def clear(self) -> None:
        """Begin a round."""
        self._count = np.zeros(len(Op))
        self._entropy = np.zeros(len(Op))
        self._q = np.zeros(len(Op))
        self._has_q = True

    def see(
        self,
        considered: tuple[MaskedCategorical, torch.Tensor],
        actions: NDArray[np.int64],
        masks: NDArray[np.bool_],
        values: NDArray[np.float64],
        epochs: Sequence[int],
    ) -> Iterator[Decision]:
        """Yield the decisions of a step.

        Args:
            considered: what the policy chose from, of N environments.
            actions: what it chose, (N,).
            masks: what was legal, (N, A).
            values: V(s) as the learner has it, (N,).
            epochs: done when the decision was taken, N of them.
        """
        distribution, critic = considered
        probs = distribution.probs.detach().cpu().double().numpy()
        entropies = distribution.entropy().detach().cpu().double().numpy()
        q = critic.detach().cpu().double().numpy() / self.reward_scale
        by_op = probs @ self.onehot  # (N, ops)
        legal = masks.astype(np.float64) @ self.onehot > 0
        self._has_q = q.shape[1] == len(Op)
        chosen = legal & (legal.sum(1, keepdims=True) > 1)
        self._count += chosen.sum(0)
        self._entropy += np.where(chosen, _binary_entropy(by_op), 0.0).sum(0)
        if self._has_q:
            self._q += np.where(chosen, q, 0.0).sum(0)
        for i, action in enumerate(actions.tolist()):
            likeliest = [int(a) for a in np.argsort(-probs[i], kind="stable")[: ALTERNATIVES + 1] if a != action]
            yield Decision(
                env=i,
                epoch=epochs[i],
                action=self.names[action],
                probability=float(probs[i, action]),
                expected_return=float(values[i]) / self.reward_scale,
                q_by_operation={op.name: float(q[i, op]) if self._has_q and legal[i, op] else None for op in Op},
                entropy_nats=float(entropies[i]),
                alternatives={self.names[a]: float(probs[i, a]) for a in likeliest[:ALTERNATIVES] if masks[i, a]},
            )

    def entropy_by_operation(self) -> Means:
        """Mean entropy of taking an operation or not, by operation, over the states where it and others were legal."""
        return self._means(self._entropy)

    def q_by_operation(self) -> Means:
        """Mean Q(s, op) over the same states, by operation; not measured without such a critic."""
        return self._means(self._q) if self._has_q else dict.fromkeys((op.name for op in Op), None)

    def _means(self, sums: NDArray[np.float64]) -> Means:
        return {op.name: float(sums[op] / self._count[op]) if self._count[op] else None for op in Op}


def _binary_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(p, 0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, -x * np.log(x), 0.0) for x in (p, 1.0 - p)]
    return np.asarray(terms[0] + terms[1])
