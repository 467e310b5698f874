"""Decisions every few epochs: between them a policy waits."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from esper_agents.tamiyo.controller import Interface
from esper_env.leyline import Action, Op
from esper_env.leyline.observation import BASE_WHERE


def paced(masks: Any, epochs: NDArray[np.int64], interval: int, wait: int) -> NDArray[np.bool_]:
    """Return the masks, (K, A), with nothing but the action `wait` legal between decisions.

    Args:
        masks: what the environments allow.
        epochs: of the episode so far, (K,); decisions are due at the multiples of `interval`.
        interval: epochs from one decision to the next.
        wait: index of WAIT.
    """
    out = np.array(masks, np.bool_)
    between = epochs % interval != 0
    out[between] = False
    out[between, wait] = True
    return out


def is_first(observations: Any) -> NDArray[np.bool_]:
    """Say which observations, (K, 23 + 35 S), are those of a reset: bool (K,)."""
    return np.asarray(np.asarray(observations)[:, BASE_WHERE["progress"]][:, 0] == 0)


class PacedVectorEnv(gymnasium.vector.VectorWrapper):
    """Leaves only WAIT legal, in the action masks of its infos, but for every few epochs.

    An episode of 150 decisions has one of them in a hundred that matters much, and what the others happened to be hides
    what it was worth. Seeds take some epochs for every stage, so that little is lost by deciding less often.

    Args:
        env: Esper environments.
        interval: epochs from one decision to the next, from the first epoch of an episode on.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any], interval: int) -> None:
        super().__init__(env)
        self.interval = interval
        self._wait = Interface.of(env).index[Action(Op.WAIT)]
        self._epochs = np.zeros(env.num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environments that `options` say, or all."""
        mask = (options or {}).get("reset_mask")
        self._epochs[... if mask is None else np.array(mask)] = 0
        observations, infos = self.env.reset(seed=seed, options=options)
        return observations, self._paced(infos, self._epochs)

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step the environments."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        after = self._epochs + 1
        self._epochs = np.where(is_first(observations), 0, after)
        infos = self._paced(infos, self._epochs)
        if "final_info" in infos:
            infos["final_info"] = self._paced(infos["final_info"], after)
        return observations, rewards, terminated, truncated, infos

    def _paced(self, infos: dict[str, Any], epochs: NDArray[np.int64]) -> dict[str, Any]:
        masks = infos["action_mask"]
        return infos | {"action_mask": paced(masks, epochs, self.interval, self._wait).astype(masks.dtype)}
