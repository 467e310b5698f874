"""Lets Stable-Baselines3 train on a Gymnasium vector environment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from esper_agents.infos import info_row

MASK, MASKS = "action_mask", "action_masks"
IGNORED = "ignored_step"
"""Info key: nobody decided this transition; it only brought the next episode's first observation."""


def allow_ignored_steps(env: VecEnv) -> None:
    """Tell the `GymnasiumVecEnv` inside `env`, if any, that its user gives no weight to ignored steps."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    if isinstance(env, GymnasiumVecEnv):
        env.ignored_steps_allowed = True


class GymnasiumVecEnv(VecEnv):
    """A `gymnasium.vector.VectorEnv` as a Stable-Baselines3 `VecEnv`.

    - At an episode's end the step's info is that of the last step, with ``terminal_observation``,
      ``terminal_action_mask`` if there are masks, and ``TimeLimit.truncated``; the new episode's reset info is
      in ``reset_infos``.
    - That info also has ``episode`` as SB3's `Monitor` gives it, so there is no need for a monitor: return
      ``r``, length ``l`` and seconds ``t`` since construction.
    - If infos hold an ``action_mask``, ``env_method("action_masks")`` answers with the last one, at no cost:
      what sb3-contrib's maskable algorithms ask for. Whether they do is known from the first reset on; until
      then ``has_attr("action_masks")`` says yes.
    - ``seed`` and ``set_options`` apply at the next reset. Gymnasium takes one dict of options for all.
    - Every autoreset mode is understood. ``SAME_STEP`` is what SB3 expects; with ``DISABLED`` the adapter
      resets what has ended. With ``NEXT_STEP`` the first observation of an episode comes a step late, by an
      *ignored step* whose action nobody heeds; its info has ``ignored_step``. Only an algorithm that gives
      such a step no weight may learn from them: `MaskableRecurrentPPO` does.

    Args:
        venv: its observation and action spaces are boxes, discrete and the like, not dicts or tuples.

    Raises:
        ValueError: at the first reset, the autoreset mode is ``NEXT_STEP`` and another algorithm learns.
    """

    def __init__(self, venv: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        self.mode = AutoresetMode(venv.metadata["autoreset_mode"])
        self.ignored_steps_allowed = False
        self.venv = venv
        self._masks: NDArray[np.bool_] | None = None
        self._begun = False
        self._started = time.monotonic()
        self._returns = np.zeros(venv.num_envs)
        self._lengths = np.zeros(venv.num_envs, np.int64)
        self._ended = np.zeros(venv.num_envs, np.bool_)
        super().__init__(venv.num_envs, venv.single_observation_space, venv.single_action_space)

    # -- stepping ------------------------------------------------------------------------------------

    def reset(self) -> NDArray[Any]:
        """Reset all environments; return observations (K, ...)."""
        if self.mode is AutoresetMode.NEXT_STEP and not self.ignored_steps_allowed:
            raise ValueError(
                "the autoreset mode NEXT_STEP does not fit this algorithm: build the vector environment with "
                "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP"
            )
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        # Gymnasium annotates one seed only, but every vector environment takes a list
        options = self._shared_options()
        observations, infos = self.venv.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        self._reset_seeds()
        self._reset_options()
        self._begun = True
        self._returns[:], self._lengths[:] = 0.0, 0
        self._ended[:] = False
        self.reset_infos = [info_row(infos, i) for i in range(self.num_envs)]
        self._keep_masks(infos)
        return np.asarray(observations)

    def seed_each(self, seeds: Sequence[int]) -> None:
        """Seed every environment at the next reset, each with its own of `seeds`."""
        self._seeds = list(seeds)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Note the actions, (K, ...), for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments: observations (K, ...), rewards (K,) float32, dones (K,) bool, K infos."""
        observations, rewards, terminated, truncated, infos = self.venv.step(self._actions)
        observations, dones = np.asarray(observations), terminated | truncated
        ignored = self._ended & (self.mode is AutoresetMode.NEXT_STEP)
        self._returns += np.where(ignored, 0.0, rewards)
        self._lengths += ~ignored
        rows = [info_row(infos, i) for i in range(self.num_envs)]
        for i in np.flatnonzero(ignored).tolist():
            self.reset_infos[i] = rows[i]
            rows[i] = {**rows[i], IGNORED: True}
        for i in np.flatnonzero(dones).tolist():
            final_observation, final_info = observations[i].copy(), rows[i]
            if self.mode is AutoresetMode.SAME_STEP:
                final_observation, final_info = rows[i].pop("final_obs"), rows[i].pop("final_info")
                self.reset_infos[i] = rows[i]
            masks = {"terminal_action_mask": final_info[MASK]} if MASK in final_info else {}
            rows[i] = {
                **final_info,
                **masks,
                "terminal_observation": final_observation,
                "episode": self._statistics(i),
            }
            self._returns[i], self._lengths[i] = 0.0, 0
        for i, row in enumerate(rows):
            row["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        self._keep_masks(infos)
        self._ended = dones
        if self.mode is AutoresetMode.DISABLED and dones.any():
            observations = self._reset_ended(dones)
        return observations, np.asarray(rewards, np.float32), dones, rows

    def _reset_ended(self, ended: NDArray[np.bool_]) -> NDArray[Any]:
        """Reset the environments whose episode has ended; the observations of all."""
        observations, infos = self.venv.reset(options={"reset_mask": ended.copy()})
        for i in np.flatnonzero(ended).tolist():
            self.reset_infos[i] = info_row(infos, i)
        self._keep_masks(infos)
        return np.asarray(observations)

    def close(self) -> None:
        """Close the vector environment."""
        self.venv.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return each environment's picture."""
        images: Any = self.venv.render()
        return [None] * self.num_envs if images is None else list(images)

    # -- attributes and methods ----------------------------------------------------------------------

    def has_attr(self, attr_name: str) -> bool:
        """Say whether every environment has the attribute."""
        if attr_name == MASKS:
            return self._masks is not None or not self._begun
        return super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the attribute of the chosen environments.

        Raises:
            AttributeError: an environment, or the kind of vector environment, does not have it.
        """
        if attr_name == "render_mode":
            return [self.venv.render_mode] * len(self._chosen(indices))
        values = self._inner("get_attr", attr_name)(attr_name)
        return [values[i] for i in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set the attribute of the chosen environments to `value`."""
        values = [value] * self.num_envs
        chosen = self._chosen(indices)
        if len(chosen) < self.num_envs:
            values = self.get_attr(attr_name)
            for i in chosen:
                values[i] = value
        self._inner("set_attr", attr_name)(attr_name, values)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of every environment; "action_masks" is answered from the last infos, of any of them.

        Raises:
            RuntimeError: the masks are asked for before the first reset.
            AttributeError: the infos hold no ``action_mask``.
            ValueError: some environments are chosen: Gymnasium can only call a method of all.
        """
        chosen = self._chosen(indices)
        if method_name == MASKS:
            if not self._begun:
                raise RuntimeError("no episode has begun, so there are no action masks: call reset() first")
            if self._masks is None:
                raise AttributeError("the environments' infos hold no action_mask")
            return [self._masks[i] for i in chosen]
        if len(chosen) < self.num_envs:
            raise ValueError(f"{method_name}: a Gymnasium vector environment calls all environments, not {chosen}")
        return list(self._inner("call", method_name)(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """Say yes for `Monitor`, whose statistics the infos hold, and no for every other wrapper."""
        return [wrapper_class is Monitor] * len(self._chosen(indices))

    # -- parts ---------------------------------------------------------------------------------------

    def _chosen(self, indices: VecEnvIndices) -> list[int]:
        return list(self._get_indices(indices))

    def _inner(self, method: str, wanted: str) -> Any:
        try:
            return getattr(self.venv.unwrapped, method)
        except AttributeError as error:
            raise AttributeError(f"{self.venv} cannot reach {wanted!r}: it has no {method}()") from error

    def _shared_options(self) -> dict[str, Any] | None:
        if any(options != self._options[0] for options in self._options):
            raise ValueError("options differ between environments; a Gymnasium vector environment takes one dict")
        return self._options[0] or None

    def _statistics(self, i: int) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        return {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": round(seconds, 6)}

    def _keep_masks(self, infos: Mapping[str, Any]) -> None:
        """Keep the masks in `infos`; after a partial reset the other environments' last ones stay."""
        if MASK not in infos:
            return
        masks = np.array(infos[MASK], np.bool_)
        if self._masks is not None:
            absent = ~np.asarray(infos[f"_{MASK}"])
            masks[absent] = self._masks[absent]
        self._masks = masks
