"""The rollout of a recurrent masked policy, and its minibatches of whole sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer

Observations = torch.Tensor | dict[str, torch.Tensor]
States = tuple[torch.Tensor, ...]
"""Hidden and cell state of a memory, each (layers, sequences, hidden size)."""


@dataclass(frozen=True)
class Group:
    """Sequences of similar length, which one fused call of the memory runs through.

    Its rows in the minibatch follow each other, step by step, the sequences of a step in order.
    """

    length: int
    sequences: int
    real: torch.Tensor | None
    """Where the rows belong among the length x sequences places, int64; ``None`` if they fill all of them."""
    states: RNNStates
    """Of actor and critic at the start of the sequences."""

    @property
    def rows(self) -> int:
        """How many rows of the minibatch it has."""
        return self.length * self.sequences if self.real is None else len(self.real)


@dataclass(frozen=True)
class Minibatch:
    """B transitions as whole sequences."""

    observations: Observations
    """(B, ...)"""
    actions: torch.Tensor
    """(B, D) int64"""
    action_masks: torch.Tensor | None
    """(B, A) bool"""
    old_log_prob: torch.Tensor
    old_values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    """(B,) float32 each"""
    weights: torch.Tensor
    """(B,) float32: 0 for a transition that only brought the next episode's first observation, else 1"""
    decided: torch.Tensor
    """(B,) float32: 1 for a transition that counts and had more than one legal action, else 0"""
    groups: tuple[Group, ...]


class SequenceRolloutBuffer(RolloutBuffer):
    """Transitions of N environments over T steps, time-major.

    A *sequence* is a stretch of one environment's steps without a reset in between. The memory's state is kept
    for the start of the rollout only: every other sequence starts with an episode, hence from zeros.
    """

    initial_states: RNNStates
    """Of the memories before the first step; set by whoever fills the buffer."""
    action_masks: NDArray[np.bool_] | None
    weights: NDArray[np.float32]
    decided: NDArray[np.float32]

    def __init__(self, *args: Any, mask_size: int | None, seed: int | None, **kwargs: Any) -> None:
        self.mask_size = mask_size
        self.rng = np.random.default_rng(seed)
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Empty it."""
        shape = (self.buffer_size, self.n_envs)
        self.observations: Any
        if isinstance(self.observation_space, spaces.Dict):
            parts = self.observation_space.spaces.items()
            self.observations = {k: np.zeros((*shape, *(s.shape or ())), s.dtype) for k, s in parts}
        else:
            self.observations = np.zeros((*shape, *self.obs_shape), self.observation_space.dtype)
        self.actions = np.zeros((*shape, self.action_dim), np.int64)
        self.action_masks = None if self.mask_size is None else np.ones((*shape, self.mask_size), np.bool_)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages", "weights", "decided"):
            setattr(self, name, np.zeros(shape, np.float32))
        self.pos, self.full = 0, False
        self._tensors: dict[str, Any] = {}

    def add(  # type: ignore[override]
        self,
        obs: NDArray[Any] | dict[str, NDArray[Any]],
        actions: NDArray[np.int64],
        *,
        rewards: NDArray[np.float32],
        episode_starts: NDArray[np.bool_],
        values: torch.Tensor,
        log_probs: torch.Tensor,
        action_masks: NDArray[np.bool_] | None,
        weights: NDArray[np.float32],
        decided: NDArray[np.float32],
    ) -> None:
        """Add a step of all environments; every array has N rows."""
        t = self.pos
        if isinstance(obs, dict):
            for key, part in obs.items():
                self.observations[key][t] = np.asarray(part).reshape(self.observations[key].shape[1:])
        else:
            self.observations[t] = np.asarray(obs).reshape(self.observations.shape[1:])
        self.actions[t] = np.asarray(actions).reshape(self.n_envs, self.action_dim)
        if self.action_masks is not None:
            self.action_masks[t] = action_masks
        self.rewards[t], self.episode_starts[t] = rewards, episode_starts
        self.weights[t], self.decided[t] = weights, decided
        self.values[t] = values.detach().cpu().numpy().reshape(self.n_envs)
        self.log_probs[t] = log_probs.detach().cpu().numpy()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compare_within_groups(self, size: int) -> tuple[float, float]:
        """Take advantages against what the rest of the group got from the same step on.

        An advantage becomes A' = (R - mean R) - c (V - mean V) - d (P - mean P): R the return to go, V the critic's
        guess of it, P the rewards of the episode so far, and the means over a step of the group. What was earned says
        much about what is still to come: whoever had it early has less ahead. c and d are those that leave A' the
        least variance over the rollout, so an untrained critic does no harm. None of this depends on the action that
        is judged, but that R is in the mean and in the fit, which shortens the expected gradient a little.

        Args:
            size: how many environments make a group, those next to each other.

        Returns:
            c and d.
        """
        weights = self._grouped(self.weights, size)
        count = np.maximum(weights.sum(2, keepdims=True), 1.0)

        def centred(x: NDArray[np.float32]) -> NDArray[np.float64]:
            x = self._grouped(x, size)
            return np.asarray(weights * (x - (weights * x).sum(2, keepdims=True) / count), np.float64).ravel()

        known = np.stack([centred(self.values), centred(self._earned())], 1)
        returns = centred(self.returns)
        fit = np.linalg.lstsq(known, returns, rcond=1e-6)[0]
        self.advantages = (returns - known @ fit).astype(np.float32).reshape(self.advantages.shape)
        return float(fit[0]), float(fit[1])

    def _earned(self) -> NDArray[np.float32]:
        """The rewards of the episode, since the rollout began, before each step: T x N."""
        earned = np.zeros_like(self.rewards)
        for t in range(1, len(earned)):
            earned[t] = (earned[t - 1] + self.rewards[t - 1]) * (1.0 - self.episode_starts[t])
        return earned

    def _grouped(self, x: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """T x N as T x groups x size."""
        return x.reshape(len(x), -1, size)

    # -- minibatches ---------------------------------------------------------------------------------

    def get(self, batch_size: int | None = None) -> Iterator[Minibatch]:  # type: ignore[override]
        """Yield minibatches of whole sequences of about `batch_size` transitions each, in random order.

        Sequences are neither cut nor padded into one another, so a minibatch holds at least one and may be
        larger or smaller than asked. ``None`` makes one minibatch of everything.
        """
        assert self.full, "the rollout has to be complete"
        starts, lengths = self._sequences()
        total = self.buffer_size * self.n_envs
        count = 1 if batch_size is None else -(-total // batch_size)
        order = self.rng.permutation(len(starts))
        before = np.cumsum(lengths[order]) - lengths[order]
        for part in range(count):
            chosen = order[before * count // total == part]
            if len(chosen):
                yield self._minibatch(starts[chosen], lengths[chosen])

    def _sequences(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First transition, as environment x T + step, and length of every sequence."""
        first = self.episode_starts.astype(np.bool_)
        first[0] = True
        starts = np.flatnonzero(first.T)
        return starts, np.diff(starts, append=self.buffer_size * self.n_envs)

    def _minibatch(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Minibatch:
        orders, groups = [], []
        doublings = np.ceil(np.log2(lengths)).astype(np.int64)
        for size in np.unique(doublings):  # padding never doubles the work
            mine = doublings == size
            order, group = self._group(starts[mine], lengths[mine])
            orders.append(order)
            groups.append(group)
        environment, step = np.divmod(np.concatenate(orders), self.buffer_size)
        index = torch.from_numpy(step * self.n_envs + environment).to(self.device)

        def take(name: str) -> Any:
            whole = self._tensor(name)
            return {k: v[index] for k, v in whole.items()} if isinstance(whole, dict) else whole[index]

        return Minibatch(
            observations=take("observations"),
            actions=take("actions"),
            action_masks=None if self.action_masks is None else take("action_masks"),
            old_log_prob=take("log_probs"),
            old_values=take("values"),
            advantages=take("advantages"),
            returns=take("returns"),
            weights=take("weights"),
            decided=take("decided"),
            groups=tuple(groups),
        )

    def _group(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], Group]:
        """The transitions of these sequences in the order of a `Group`, and the group."""
        length = int(lengths.max())
        steps = np.arange(length)[:, None]
        inside = steps < lengths  # (length, sequences)
        environments, first = np.divmod(starts, self.buffer_size)
        carried = (first == 0) & (self.episode_starts[0, environments] == 0)
        columns = torch.from_numpy(environments).to(self.device)
        keep = torch.from_numpy(carried).to(self.device)[:, None]

        def at_start(states: States) -> States:
            return tuple(torch.where(keep, s[:, columns], 0.0) for s in states)

        real = None if inside.all() else torch.from_numpy(np.flatnonzero(inside)).to(self.device)
        states = RNNStates(at_start(self.initial_states.pi), at_start(self.initial_states.vf))
        return (starts + steps)[inside], Group(length, len(starts), real, states)

    def _tensor(self, name: str) -> Any:
        """The whole rollout's `name` on the device, one row a transition; made once a rollout."""
        if name not in self._tensors:
            value = getattr(self, name)
            flat = {k: self._flat(v) for k, v in value.items()} if isinstance(value, dict) else self._flat(value)
            self._tensors[name] = flat
        return self._tensors[name]

    def _flat(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device).flatten(0, 1)
