"""What a controller is, what it must know of its environment, and the two that decide without looking."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from esper_env.leyline import Action, ObservationLayout, Op

Observations = NDArray[np.float32]
Masks = NDArray[np.int8] | NDArray[np.bool_]
Actions = NDArray[np.int64]


class Controller(Protocol):
    """Chooses the actions of K environments at once; scripted and learned ones alike."""

    def __call__(
        self, obs: Observations, action_mask: Masks, info: Mapping[str, Any] | None, state: Any
    ) -> tuple[Actions, Any]:
        """Choose an action for each environment.

        Args:
            obs: (K, 23 + 35 S) float32.
            action_mask: (K, A) int8 or bool, what is legal.
            info: the vector environment's info, or ``None``.
            state: what the last call returned, ``None`` at the start. It is not changed.

        Returns:
            Actions, int64 (K,), and the state for the next call. An environment whose observation is that
            of a reset (``progress`` 0) starts with a fresh state of its own.
        """


@dataclass(frozen=True)
class Interface:
    """What a controller needs to know of its environment."""

    actions: tuple[Action, ...]
    layout: ObservationLayout

    @classmethod
    def of(cls, env: Any) -> Interface:
        """Read it from a single environment, a Gymnasium vector environment or a Stable-Baselines3 one."""
        inner = env.unwrapped
        if hasattr(inner, "get_attr"):
            return cls(inner.get_attr("action_table")[0], inner.get_attr("layout")[0])
        return cls(inner.action_table, inner.layout)

    @cached_property
    def index(self) -> dict[Action, int]:
        """Index of each action in the action space."""
        return {action: i for i, action in enumerate(self.actions)}

    @property
    def blueprints(self) -> tuple[str, ...]:
        """Blueprints that can be germinated, in order."""
        return tuple(dict.fromkeys(a.blueprint for a in self.actions if a.blueprint is not None))

    def germination(self, slot: str, blueprint: str) -> Action:
        """The first action that germinates `blueprint` in `slot`: the environment's first style and tempo.

        Raises:
            ValueError: there is no such slot or blueprint.
        """
        for action in self.actions:
            if action.op is Op.GERMINATE and (action.slot, action.blueprint) == (slot, blueprint):
                return action
        raise ValueError(
            f"cannot germinate {blueprint!r} in {slot!r}: choose blueprints from {list(self.blueprints)}, "
            f"slots from {list(self.layout.slots)}"
        )


class Wait:
    """Never grows: the bare host's baseline."""

    def __init__(self, interface: Interface) -> None:
        self._wait = interface.index[Action(Op.WAIT)]

    def __call__(
        self, obs: Observations, action_mask: Masks, info: Mapping[str, Any] | None, state: Any
    ) -> tuple[Actions, Any]:
        """Return WAIT for every environment."""
        return np.full(len(obs), self._wait, np.int64), state


class Random:
    """Uniform over the legal actions; `seed` starts its own generator."""

    def __init__(self, interface: Interface, *, seed: int = 0) -> None:
        self.seed = seed

    def __call__(
        self, obs: Observations, action_mask: Masks, info: Mapping[str, Any] | None, state: Any
    ) -> tuple[Actions, Any]:
        """Draw an action for every environment; the state is the generator."""
        rng = np.random.default_rng(self.seed) if state is None else copy.deepcopy(state)
        return np.array([rng.choice(np.flatnonzero(row)) for row in action_mask], np.int64), rng
