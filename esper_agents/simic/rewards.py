"""Rewards to learn from, as wrappers of single and vector environments. All have the optimum of ``net``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from esper_agents.infos import info_row
from esper_agents.simic.economy import SustainedShapley, progress

Info = Mapping[str, Any]


class Reward(Protocol):
    """Rewards one environment's transitions, each after it happened. Begins with the info of a reset."""

    def __call__(self, info: Info, net: float, *, terminated: bool, ended: bool) -> float:
        """Return the reward of a transition to the state of `info` that the environment rewards with `net`.

        Args:
            info: of the new state.
            net: the environment's own reward.
            terminated: the episode is over; nothing is worth anything after it.
            ended: it is over or was cut off.
        """


class Sparse:
    """Nothing until the end, then the whole return."""

    def __init__(self, info: Info, gamma: float) -> None:
        self._sum = 0.0

    def __call__(self, info: Info, net: float, *, terminated: bool, ended: bool) -> float:
        """See `Reward`."""
        self._sum += net
        return self._sum if ended else 0.0


class Shaped:
    """The net reward with potential-based shaping, gamma phi(s') - phi(s), by how far along the seeds are.

    Ng, Harada & Russell 1999, "Policy invariance under reward transformations". The potential of a terminal
    state is 0, so at gamma 1 an episode's return is what it was.
    """

    def __init__(self, info: Info, gamma: float) -> None:
        self.gamma = gamma
        self._before = self._potential(info)

    def _potential(self, info: Info) -> float:
        return progress(info)

    def __call__(self, info: Info, net: float, *, terminated: bool, ended: bool) -> float:
        """See `Reward`."""
        after = 0.0 if terminated else self._potential(info)
        shaping, self._before = self.gamma * after - self._before, after
        return net + shaping


class Escrow(Shaped):
    """The net reward with potential-based shaping by the seeds' sustained Shapley values.

    A seed's gain is paid as soon as it has held for three measurements, and taken back when the seed is pruned,
    or at the end of the episode.
    """

    def __init__(self, info: Info, gamma: float) -> None:
        self._shapley = SustainedShapley(info)
        super().__init__(info, gamma)

    def _potential(self, info: Info) -> float:
        return self._shapley.update(info)


REWARDS: dict[str, Callable[[Info, float], Reward] | None] = {
    "net": None,
    "sparse": Sparse,
    "shaped": Shaped,
    "escrow": Escrow,
}
"""Rewards by name; ``net`` is the environment's own."""


def _known(reward: str) -> Callable[[Info, float], Reward]:
    if reward not in REWARDS:
        raise ValueError(f"unknown reward {reward!r}; choose one of {list(REWARDS)}")
    return REWARDS[reward] or _Net


class _Net:
    def __init__(self, info: Info, gamma: float) -> None:
        pass

    def __call__(self, info: Info, net: float, *, terminated: bool, ended: bool) -> float:
        return net


class RewardWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rewards a single environment by one of `REWARDS`.

    Args:
        env: an Esper environment.
        reward: "net", "sparse", "shaped" or "escrow".
        gamma: discount of the objective; it has to be the learner's.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], reward: str, gamma: float = 1.0) -> None:
        super().__init__(env)
        self._make, self._gamma = _known(reward), gamma

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and the reward."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._reward = self._make(info, self._gamma)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment; the reward is this wrapper's."""
        observation, net, terminated, truncated, info = self.env.step(action)
        reward = self._reward(info, float(net), terminated=terminated, ended=terminated or truncated)
        return observation, reward, terminated, truncated, info


class VectorRewardWrapper(gymnasium.vector.VectorWrapper):
    """Rewards every environment of a vector environment by one of `REWARDS`, in any autoreset mode.

    Args:
        env: Esper environments.
        reward: "net", "sparse", "shaped" or "escrow".
        gamma: discount of the objective; it has to be the learner's.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any], reward: str, gamma: float = 1.0) -> None:
        super().__init__(env)
        self._make, self._gamma = _known(reward), gamma
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._rewards: list[Reward] = []
        self._ended = np.zeros(env.num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environments that `options` say, or all, and their rewards."""
        mask = (options or {}).get("reset_mask")
        chosen = np.ones(self.num_envs, np.bool_) if mask is None else np.array(mask)
        observations, infos = self.env.reset(seed=seed, options=options)
        rows = [info_row(infos, i) for i in range(self.num_envs)]
        fresh = [self._make(rows[i], self._gamma) if chosen[i] else self._rewards[i] for i in range(self.num_envs)]
        self._rewards, self._ended = fresh, self._ended & ~chosen
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step the environments; the rewards are this wrapper's."""
        observations, nets, terminated, truncated, infos = self.env.step(actions)
        rewards = np.zeros(self.num_envs)
        ended = terminated | truncated
        for i in range(self.num_envs):
            row = info_row(infos, i)
            if self._mode is AutoresetMode.NEXT_STEP and self._ended[i]:
                self._rewards[i] = self._make(row, self._gamma)  # this step only reset it
                continue
            now = row.get("final_info", row)
            rewards[i] = self._rewards[i](now, float(nets[i]), terminated=bool(terminated[i]), ended=bool(ended[i]))
            if self._mode is AutoresetMode.SAME_STEP and ended[i]:
                self._rewards[i] = self._make(row, self._gamma)
        self._ended = ended
        return observations, rewards, terminated, truncated, infos
