"""The native vector environment: many episodes in one process, a thread each, one copy of the data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from esper_env.env import EsperEnv, Observation
from esper_env.settings import count

StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]


class EsperVectorEnv(gymnasium.vector.VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """`num_envs` copies of one `EsperEnv`, stepped by a pool of threads.

    Results are bitwise those of the single environments, of ``SyncVectorEnv`` and of ``AsyncVectorEnv``,
    whatever the number of workers; environment i is seeded ``seed + i``.

    Args:
        task: name of the task; `gymnasium.make_vec` fills it in.
        num_envs: number of environments.
        workers: threads; ``None`` is one per CPU core this process may use.
        autoreset_mode: ``AutoresetMode`` or its name: "NextStep", "SameStep" or "Disabled".
        max_episode_steps: truncate episodes there, as the ``TimeLimit`` wrapper does.
        device: of all environments, or several, over which they are spread in turn.
        render_mode, **arguments: those of `EsperEnv`.

    ``reset(seed=, options=)`` takes an int or one seed an environment; ``options["reset_mask"]``, bool
    (num_envs,), resets only some. ``call``, ``get_attr`` and ``set_attr`` reach the environments.
    """

    def __init__(
        self,
        task: str,
        *,
        num_envs: int = 1,
        workers: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        device: str | Sequence[str] = "cpu",
        **arguments: Any,
    ) -> None:
        self.num_envs = count("num_envs", num_envs)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.max_episode_steps = None
        if max_episode_steps is not None and max_episode_steps != -1:
            self.max_episode_steps = count("max_episode_steps", max_episode_steps)
        self.workers = default_workers() if workers is None else count("workers", workers)
        devices = [device] if isinstance(device, str) else list(device)
        self.envs = [
            EsperEnv(task, render_mode=render_mode, device=devices[i % len(devices)], **arguments)
            for i in range(self.num_envs)
        ]
        self.render_mode = render_mode
        self.metadata = {**EsperEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._pool = ThreadPoolExecutor(
            min(self.workers, self.num_envs), "esper", initializer=torch.set_num_threads, initargs=(1,)
        )
        shape = self.single_observation_space.shape
        assert shape is not None
        self._running: dict[int, Future[Any]] = {}
        self._observations = np.zeros((self.num_envs, *shape), np.float32)
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._unfinished = np.zeros(self.num_envs, np.bool_)
        """Whose step or reset did not come to its end: what state they are in is not known."""
        self._steps = np.zeros(self.num_envs, np.int64)

    @property
    def unwrapped(self) -> EsperVectorEnv:
        """This environment."""
        return self

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``.

        Returns:
            Observations (num_envs, 23 + 35 S) float32 of all, and the infos of those that were reset.
        """
        seeds = self._seeds(seed)
        options = dict(options or {})
        mask = self._reset_mask(options.pop("reset_mask", None))
        chosen = [int(i) for i in np.flatnonzero(mask)]
        self._unfinished[mask] = True
        results = self._map(lambda i: self.envs[i].reset(seed=seeds[i], options=options or None), chosen)
        infos: dict[str, Any] = {}
        for i, (observation, info) in zip(chosen, results, strict=True):
            self._observations[i] = observation
            infos = self._add_info(infos, info, i)
        self._ended[mask], self._steps[mask], self._unfinished[mask] = False, 0, False
        return self._observations.copy(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every environment.

        Args:
            actions: whole numbers, (num_envs,).

        Raises:
            ValueError: `actions` is not of that shape and kind.
            RuntimeError: an ended environment was not reset in the autoreset mode "Disabled", or a step or reset
                did not come to its end and no reset came after it.
        """
        actions = self._check(actions)
        if self._unfinished.any():
            raise RuntimeError(
                f"a step or reset of the environments {np.flatnonzero(self._unfinished).tolist()} did not come to its "
                "end, as after Ctrl-C: reset them"
            )
        restart = self._ended.copy()
        if self.autoreset_mode is AutoresetMode.DISABLED and restart.any():
            raise RuntimeError(
                f"environments {np.flatnonzero(restart).tolist()} have ended: reset them with "
                'reset(options={"reset_mask": mask})'
            )
        rewards = np.zeros(self.num_envs, np.float64)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        infos: dict[str, Any] = {}
        self._unfinished[:] = True
        results = self._map(lambda i: self._step_one(i, int(actions[i]), bool(restart[i])), range(self.num_envs))
        for i, ((observation, reward, term, trunc, info), again) in enumerate(results):
            rewards[i], terminated[i], truncated[i] = reward, term, trunc
            if again is not None:
                infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, i)
                observation, info = again  # noqa: PLW2901
            self._observations[i] = observation
            infos = self._add_info(infos, info, i)
        self._ended = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._ended[:] = False
        self._unfinished[:] = False
        return self._observations.copy(), rewards, terminated, truncated, infos

    def _step_one(
        self, i: int, action: int, restart: bool
    ) -> tuple[StepResult, tuple[Observation, dict[str, Any]] | None]:
        """Step environment i; the second value is its new beginning in the autoreset mode "SameStep"."""
        env = self.envs[i]
        if restart:
            observation, info = env.reset()
            self._steps[i] = 0
            return (observation, 0.0, False, False, info), None
        observation, reward, terminated, truncated, info = env.step(action)
        self._steps[i] += 1
        truncated = truncated or (self.max_episode_steps is not None and self._steps[i] >= self.max_episode_steps)
        result = (observation, float(reward), terminated, bool(truncated), info)
        if (terminated or truncated) and self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._steps[i] = 0
            return result, env.reset()
        return result, None

    def _map(self, function: Callable[[int], Any], indices: Sequence[int]) -> list[Any]:
        """Run `function` for each environment on the pool, the longest first; results in order.

        No environment is at work any more when this returns or raises.
        """
        wait(self._running.values())  # whoever interrupts the waiting below finds them still at work
        order = sorted(indices, key=lambda i: -self._expected_cost(i))
        futures = self._running = {}
        try:
            for i in order:
                futures[i] = self._pool.submit(function, i)
            return [futures[i].result() for i in indices]
        finally:
            wait(futures.values())

    @property
    def running(self) -> tuple[int, ...]:
        """Environments that are in the middle of a step or a reset now; may be asked from any thread."""
        return tuple(sorted(i for i, future in list(self._running.items()) if future.running()))

    def _expected_cost(self, i: int) -> int:
        """FLOPs of a forward pass through everything environment i holds."""
        env = self.envs[i]
        if env._episode is None:
            return 0
        model = env.episode.model
        return model.flops_between(0, model.end) + sum(model.seed_flops.values())

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are legal in each environment, bool (num_envs, A)."""
        return np.stack([env.action_masks() for env in self.envs])

    def render(self) -> tuple[Any, ...]:
        """Return every environment's picture or text."""
        return tuple(env.render() for env in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call the method, or read the attribute, called `name` of every environment."""
        values = [env.get_wrapper_attr(name) for env in self.envs]
        return tuple(value(*args, **kwargs) if callable(value) else value for value in values)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read the attribute `name` of every environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set the attribute `name` of every environment, to one value or to a list of num_envs values."""
        if not isinstance(values, list | tuple):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(f"{len(values)} values for {self.num_envs} environments")
        for env, value in zip(self.envs, values, strict=True):
            env.set_wrapper_attr(name, value)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the pool."""
        self._pool.shutdown()
        for env in self.envs:
            env.close()

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        return list(seed)

    def _reset_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f'options["reset_mask"] must be a bool array of shape ({self.num_envs},), got {mask!r}')
        if not mask.any():
            raise ValueError('options["reset_mask"] selects no environment')
        return mask

    def _check(self, actions: Any) -> NDArray[np.int64]:
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"actions must be {self.num_envs} whole numbers, shape ({self.num_envs},); "
                f"got {array.dtype} of shape {array.shape}"
            )
        size = len(self.envs[0].action_table)
        if ((array < 0) | (array >= size)).any():
            raise ValueError(f"actions {array.tolist()}: choose each from 0 to {size - 1}")
        return array.astype(np.int64)


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    names = {m.value: m for m in AutoresetMode} | {m.name: m for m in AutoresetMode}
    if isinstance(mode, AutoresetMode):
        return mode
    if mode not in names:
        raise ValueError(f"autoreset_mode={mode!r}: choose one of {[m.value for m in AutoresetMode]}")
    return names[mode]


def default_workers() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
