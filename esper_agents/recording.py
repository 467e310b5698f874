"""Reads events off environments: what changed from one info to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from esper_agents.infos import info_row
from esper_agents.tamiyo import Interface
from esper_env.info import NOT_FINITE
from esper_env.leyline import Op, Stage
from esper_env.leyline.events import Counterfactual, EpisodeEnd, Event, Gate, Lifecycle, Rollback, Step

ONWARD = (Op.ADVANCE, Op.FOSSILIZE)
"""Operations that a gate stands before."""
PARTS = ("train", "evaluate", "observe")
"""What an environment's step takes its time for."""


class EpisodeRecorder:
    """Tells the events of one environment.

    Args:
        env: its number.
        interface: of the environment.
        controller: who decides.
    """

    def __init__(self, env: int, interface: Interface, controller: str) -> None:
        self.env, self.interface, self.controller = env, interface, controller
        self._seed: int | None = None
        self._before: Mapping[str, Any] = {}
        self._return = 0.0
        self._onward = {
            (slot, op): [i for i, a in enumerate(interface.actions) if (a.slot, a.op) == (slot, op)]
            for slot in interface.layout.slots
            for op in ONWARD
        }

    def begin(self, info: Mapping[str, Any], seed: int | None) -> None:
        """An episode begins, with the info and the seed of its reset."""
        self._before, self._seed, self._return = info, seed, 0.0

    def step(self, action: int, reward: float, info: Mapping[str, Any], spent: Mapping[str, float]) -> Iterator[Event]:
        """Yield what a step came to; `spent` are the environment's seconds by part."""
        self._return += reward
        if info["error_code"]:  # the step failed: its figures stand for nothing
            return
        before, epoch = self._before, int(info["epoch"])
        names = self.interface.blueprints
        blueprints = tuple(None if b < 0 else names[int(b)] for b in info["blueprints"])
        stages = tuple(Stage(int(s)).name for s in info["stages"])
        yield Step(
            env=self.env,
            episode_seed=self._seed,
            epoch=epoch,
            action=str(self.interface.actions[action]),
            executed=not bool(info["invalid_action"]),
            reward=reward,
            value=float(info["value"]),
            train_loss_nats=_loss(info["train_loss"]),
            train_accuracy=float(info["train_accuracy"]),
            val_loss_nats=_loss(info["val_loss"]),
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
                yield Lifecycle(self.env, epoch, slot, blueprints[j] or were[j], old[j], stages[j])
            for op in ONWARD:
                places = self._onward[slot, op]
                was, now = (bool(any(x["action_mask"][p] for p in places)) for x in (before, info))
                if was != now:
                    yield Gate(self.env, epoch, slot, op.name, now)
        if np.any(info["contributions_measured"]):
            contributions, shapley = (
                tuple(100.0 * float(v) if m else None for v, m in zip(info[k], info[f"{k}_measured"], strict=True))
                for k in ("contributions", "shapley")
            )
            yield Counterfactual(self.env, epoch, contributions, shapley)
        if info["rollback"]:
            yield Rollback(self.env, epoch)
        self._before = info

    def end(self, info: Mapping[str, Any], error: str | None = None) -> EpisodeEnd:
        """Return what the episode came to, from the info of its last step; `error` is what made it fail."""
        counts = ("params", "germinated", "fossilized", "pruned", "rollbacks", "invalid_actions", "flops_total")
        return EpisodeEnd(
            env=self.env,
            controller=self.controller,
            episode_seed=self._seed,
            total_return=self._return,
            committed_accuracy=None if info["error_code"] else float(info["committed_accuracy"]),
            growth=float(info["growth"]),
            error_code=int(info["error_code"]),
            error=error,
            **{name: int(info[name]) for name in counts},
        )


def _loss(value: Any) -> float:
    """A loss of an info; there the largest number stands for one that is not finite."""
    return math.nan if value == NOT_FINITE else float(value)


class RecordedVectorEnv(gymnasium.vector.VectorWrapper):
    """Emits the events of every step; changes nothing. A truncated episode is not settled and has no end.

    Put it right around Esper's vector environment, inside of reward wrappers: rewards are then the environment's own.

    Args:
        env: an Esper vector environment in the autoreset mode ``SAME_STEP``.
        controller: who decides.
        emit: takes the events, as `esper_env.nissa.EventLog.emit` does; without it only `spent_s` is kept.
    """

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        controller: str,
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(env)
        self.emit = emit
        self.interface = Interface.of(env)
        self.spent_s: dict[str, float] = dict.fromkeys((*PARTS, "telemetry"), 0.0)
        """Wall-clock seconds of the steps so far, by part, and of telling about them."""
        self._recorders = [EpisodeRecorder(i, self.interface, controller) for i in range(self.num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; the seeds name the episodes."""
        obs, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        seeds: Sequence[int | None] = [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        elif seed is not None:
            seeds = [None if s is None else int(s) for s in seed]
        for i, recorder in enumerate(self._recorders):
            row = info_row(infos, i)
            if row:
                recorder.begin(row, seeds[i])
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
        for i, recorder in enumerate(self._recorders):
            row = info_row(infos, i)
            after = row.get("final_info", row)
            for event in recorder.step(int(actions[i]), float(rewards[i]), after, spent[i]):
                self.emit(event)
            if terminated[i]:
                self.emit(recorder.end(after, self._error(i) if after["error_code"] else None))
            if "final_info" in row:
                recorder.begin(row, None)
        self.spent_s["telemetry"] += time.perf_counter() - stepped
        return obs, rewards, terminated, truncated, infos

    def _error(self, i: int) -> str | None:
        """What made the last episode of environment `i` that failed do so."""
        return self.unwrapped.get_attr("last_error")[i]  # type: ignore[attr-defined, no-any-return]

    def _account(self, wall: float, spent: Sequence[Mapping[str, float]]) -> None:
        """Split the wall-clock time of a step as the environments' threads spent theirs."""
        parts = {part: sum(s.get(part, 0.0) for s in spent) for part in PARTS}
        total = sum(parts.values())
        for part, seconds in parts.items():
            self.spent_s[part] += wall * seconds / total if total else 0.0
