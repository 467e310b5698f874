"""Reads events off a vector environment: what changed from one info to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from esper_agents.infos import info_row
from esper_agents.tamiyo import Interface
from esper_env.leyline import Op, Stage
from esper_env.leyline.events import Counterfactual, EpisodeEnd, Event, Gate, Lifecycle, Rollback, Step

ONWARD = (Op.ADVANCE, Op.FOSSILIZE)
"""Operations that a gate stands before."""
PARTS = ("train", "evaluate", "observe")
"""What an environment's step takes its time for."""


class RecordedVectorEnv(gymnasium.vector.VectorWrapper):
    """Emits the events of every step; changes nothing.

    Put it right around Esper's vector environment, inside of reward wrappers: rewards are then the environment's own.

    Args:
        env: an Esper vector environment in the autoreset mode ``SAME_STEP``.
        emit: takes the events, as `esper_env.nissa.EventLog.emit` does; without it only `spent_s` is kept.
    """

    def __init__(
        self, env: gymnasium.vector.VectorEnv[Any, Any, Any], emit: Callable[[Event], None] | None = None
    ) -> None:
        super().__init__(env)
        self.emit = emit
        self.interface = Interface.of(env)
        self._seeds: list[int] = [-1] * self.num_envs
        self._before: list[Mapping[str, Any]] = [{} for _ in range(self.num_envs)]
        self._returns = [0.0] * self.num_envs
        self.spent_s: dict[str, float] = dict.fromkeys((*PARTS, "telemetry"), 0.0)
        """Wall-clock seconds of the steps so far, by part, and of telling about them."""
        names = self.interface.layout.slots
        self._onward = {
            (slot, op): [i for i, a in enumerate(self.interface.actions) if (a.slot, a.op) == (slot, op)]
            for slot in names
            for op in ONWARD
        }

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; the seeds name the episodes."""
        obs, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + i for i in range(self.num_envs)]
        for i in range(self.num_envs):
            row = info_row(infos, i)
            if row:
                self._begin(i, row, -1 if seed is None or seed[i] is None else int(seed[i]))  # type: ignore[arg-type]
        return obs, infos

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step, and emit what happened."""
        start = time.perf_counter()
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        stepped = time.perf_counter()
        spent = self.unwrapped.get_attr("seconds")  # type: ignore[attr-defined]
        self._account(stepped - start, spent)
        if self.emit is None:
            return obs, rewards, terminated, truncated, infos
        for i in range(self.num_envs):
            row = info_row(infos, i)
            after = row.get("final_info", row)
            for event in self._record(i, int(actions[i]), float(rewards[i]), after, spent[i]):
                self.emit(event)
            if terminated[i] or truncated[i]:
                self.emit(self._end(i, after))
                if "final_info" in row:
                    self._begin(i, row, -1)
        self.spent_s["telemetry"] += time.perf_counter() - stepped
        return obs, rewards, terminated, truncated, infos

    def _begin(self, i: int, info: Mapping[str, Any], seed: int) -> None:
        self._seeds[i], self._before[i] = seed, info
        self._returns[i] = 0.0

    def _account(self, wall: float, spent: Sequence[Mapping[str, float]]) -> None:
        """Split the wall-clock time of a step as the environments' threads spent theirs."""
        parts = {part: sum(s.get(part, 0.0) for s in spent) for part in PARTS}
        total = sum(parts.values())
        for part, seconds in parts.items():
            self.spent_s[part] += wall * seconds / total if total else 0.0

    def _record(
        self, i: int, action: int, reward: float, info: Mapping[str, Any], spent: Mapping[str, float]
    ) -> Iterator[Event]:
        self._returns[i] += reward
        if info["error_code"]:  # the step failed: its figures stand for nothing
            return
        before, epoch = self._before[i], int(info["epoch"])
        names = self.interface.blueprints
        blueprints = tuple(None if b < 0 else names[int(b)] for b in info["blueprints"])
        stages = tuple(Stage(int(s)).name for s in info["stages"])
        yield Step(
            env=i,
            episode_seed=self._seeds[i],
            epoch=epoch,
            action=str(self.interface.actions[action]),
            executed=not bool(info["invalid_action"]),
            reward=reward,
            value=float(info["value"]),
            train_loss_nats=float(info["train_loss"]),
            train_accuracy=float(info["train_accuracy"]),
            val_loss_nats=float(info["val_loss"]),
            val_accuracy=float(info["val_accuracy"]),
            params=int(info["params"]),
            growth=float(info["growth"]),
            rent=float(info["rent"]),
            stages=stages,
            alphas=tuple(float(a) for a in info["alphas"]),
            blueprints=blueprints,
            train_s=spent["train"],
            evaluate_s=spent["evaluate"],
            observe_s=spent["observe"],
        )
        old = [Stage(int(s)).name for s in before["stages"]]
        were = [None if b < 0 else names[int(b)] for b in before["blueprints"]]
        for j, slot in enumerate(self.interface.layout.slots):
            if old[j] != stages[j]:
                yield Lifecycle(i, epoch, slot, blueprints[j] or were[j], old[j], stages[j])
            for op in ONWARD:
                places = self._onward[slot, op]
                was, now = (bool(any(x["action_mask"][p] for p in places)) for x in (before, info))
                if was != now:
                    yield Gate(i, epoch, slot, op.name, now)
        if np.any(info["contributions_measured"]):
            points = {
                name: tuple(
                    100.0 * float(v) if m else None for v, m in zip(info[name], info[f"{name}_measured"], strict=True)
                )
                for name in ("contributions", "shapley")
            }
            yield Counterfactual(i, epoch, points["contributions"], points["shapley"])
        if info["rollback"]:
            yield Rollback(i, epoch)
        self._before[i] = info

    def _end(self, i: int, info: Mapping[str, Any]) -> EpisodeEnd:
        counts = ("params", "germinated", "fossilized", "pruned", "rollbacks", "invalid_actions", "flops_total")
        return EpisodeEnd(
            env=i,
            episode_seed=self._seeds[i],
            total_return=self._returns[i],
            committed_accuracy=float(info["committed_accuracy"]),
            growth=float(info["growth"]),
            error_code=int(info["error_code"]),
            **{name: int(info[name]) for name in counts},
        )
