"""Runs whole episodes of a controller and keeps what happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from tqdm import tqdm

from esper_agents.infos import info_row
from esper_agents.tamiyo import Controller, Interface
from esper_env.leyline import Action

VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode of T epochs with S slots. Row t of an array is the state after epoch t + 1."""

    seed: int
    """The seed its environment was reset with."""
    slots: tuple[str, ...]
    blueprint_names: tuple[str, ...]
    """What `blueprints` indexes."""
    actions: tuple[Action, ...]
    """What was asked for, T of them."""
    rewards: NDArray[np.float64]
    """(T,)"""
    val_accuracy: NDArray[np.float64]
    """(T,), 0..1; the last one before the settlement."""
    stages: NDArray[np.int64]
    """(T, S), values of `Stage`; the last row after the settlement."""
    alphas: NDArray[np.float64]
    """(T, S), 0..1"""
    blueprints: NDArray[np.int64]
    """(T, S), -1 without a seed."""
    final: Mapping[str, Any]
    """The info of the last step."""

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of the rewards."""
        return float(self.rewards.sum())

    @property
    def settled(self) -> bool:
        """Whether the episode came to its own end; one that was truncated lacks the figures of the last step."""
        return "committed_accuracy" in self.final


def run_episodes(
    controller: Controller,
    venv: VectorEnv,
    episodes: int,
    *,
    seed: int,
    progress: tqdm[Any] | None = None,
) -> list[EpisodeRecord]:
    """Run `episodes` episodes, in rounds of one per environment.

    Episode i is seeded ``seed + i`` however many environments share the work. What a round runs beyond
    `episodes`, or in an environment whose episode is over, is dropped.

    Args:
        controller: chooses the actions; each round starts it with a fresh state.
        venv: Esper environments in the autoreset mode ``SAME_STEP`` or ``NEXT_STEP``.
        episodes: at least 1.
        seed: of the first episode.
        progress: a bar that counts environment steps; it is given the round, the epoch and the accuracy.

    Raises:
        ValueError: `venv` does not reset its environments itself.
    """
    if venv.metadata.get("autoreset_mode") not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        raise ValueError("run_episodes needs a vector environment with autoreset_mode 'SameStep' or 'NextStep'")
    interface = Interface.of(venv)
    records: list[EpisodeRecord] = []
    for first in range(0, episodes, venv.num_envs):
        lives = [_Life(interface, seed + first + i) for i in range(venv.num_envs)]
        for epoch in _run_round(controller, venv, lives):
            if progress is not None:
                accuracy = np.mean([life.infos[-1]["val_accuracy"] for life in lives])
                round_number = first // venv.num_envs + 1
                progress.set_postfix(round=round_number, epoch=epoch, accuracy=f"{accuracy:.1%}", refresh=False)
                progress.update(venv.num_envs)
        records += [life.record() for life in lives]
    return records[:episodes]


@dataclass
class _Life:
    """An episode as it is recorded."""

    interface: Interface
    seed: int
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    def record(self) -> EpisodeRecord:
        return EpisodeRecord(
            seed=self.seed,
            slots=self.interface.layout.slots,
            blueprint_names=self.interface.blueprints,
            actions=tuple(self.interface.actions[action] for action in self.actions),
            rewards=np.array(self.rewards),
            val_accuracy=self._series("val_accuracy"),
            stages=self._series("stages"),
            alphas=self._series("alphas"),
            blueprints=self._series("blueprints"),
            final=self.infos[-1],
        )

    def _series(self, key: str) -> NDArray[Any]:
        return np.array([info[key] for info in self.infos])


def _run_round(controller: Controller, venv: VectorEnv, lives: list[_Life]) -> Iterator[int]:
    """Run one episode in every environment; yields the epochs done, after each."""
    seeds: Any = [life.seed for life in lives]  # Gymnasium annotates one seed only, but takes a list
    obs, infos = venv.reset(seed=seeds)
    state = None
    while not all(life.done for life in lives):
        actions, state = controller(obs, infos["action_mask"], infos, state)
        obs, rewards, terminated, truncated, infos = venv.step(actions)
        for i, life in enumerate(lives):
            if life.done:
                continue
            life.done = bool(terminated[i] or truncated[i])
            info = info_row(infos, i)
            life.infos.append(info.get("final_info", info))
            life.actions.append(int(actions[i]))
            life.rewards.append(float(rewards[i]))
        yield max(len(life.actions) for life in lives)
