"""Evaluation of a learner that may have a memory, masks or both."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from esper_agents.simic.adapter import IGNORED, allow_ignored_steps


def evaluate_policy(
    model: Any,
    env: GymEnv | VecEnv,
    n_eval_episodes: int = 10,
    *,
    deterministic: bool = True,
    use_masking: bool | None = None,
) -> tuple[list[float], list[int]]:
    """Run whole episodes and return what each came to.

    Like the functions of this name in Stable-Baselines3, which takes no masks, and in sb3-contrib, which forgets the
    memory between steps. Each environment has its share of the episodes, so short ones are not preferred.

    Args:
        model: anything with `predict`.
        env: single or vector. Where it is wrapped in a `Monitor`, returns and lengths are the monitor's.
        n_eval_episodes: number of episodes, at least 1.
        deterministic: take the likeliest actions.
        use_masking: ask `env` for masks and give them to `predict`; ``None``: if both can.

    Returns:
        Undiscounted returns and lengths in steps, in the order in which the episodes ended.

    Raises:
        ValueError: no episode is asked for, or masks are and `env` has none.
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, got {n_eval_episodes}")
    vec = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: Monitor(env)])
    allow_ignored_steps(vec)
    if use_masking is None:
        use_masking = _takes_masks(model) and is_masking_supported(vec)
    if use_masking and not is_masking_supported(vec):
        raise ValueError("the environment has no action_masks(): pass use_masking=False")
    left = np.array([(n_eval_episodes + i) // vec.num_envs for i in range(vec.num_envs)])
    rewards, lengths = np.zeros(vec.num_envs), np.zeros(vec.num_envs, np.int64)
    returns: list[float] = []
    steps: list[int] = []
    observations, state, starts = vec.reset(), None, np.ones(vec.num_envs, np.bool_)
    while left.any():
        masks = {"action_masks": get_action_masks(vec)} if use_masking else {}
        actions, state = model.predict(observations, state, starts, deterministic=deterministic, **masks)
        observations, reward, dones, infos = vec.step(actions)
        ignored = np.array([bool(info.get(IGNORED)) for info in infos])
        rewards += np.where(ignored, 0.0, reward)
        lengths += ~ignored
        for i in np.flatnonzero(dones):
            if left[i]:
                episode = infos[i].get("episode", {"r": rewards[i], "l": lengths[i]})
                returns.append(float(episode["r"]))
                steps.append(int(episode["l"]))
                left[i] -= 1
            rewards[i], lengths[i] = 0.0, 0
        starts = dones | ignored
    return returns, steps


def _takes_masks(model: Any) -> bool:
    """Whether `predict` can be given masks, and the learner was not told to do without."""
    return "action_masks" in inspect.signature(model.predict).parameters and getattr(model, "use_masking", True)
