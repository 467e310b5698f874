"""Tamiyo's learned policy: what it sees, what it remembers, how it chooses and how it values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from esper_agents.simic.recurrent_policy import MaskableRecurrentActorCriticPolicy
from esper_agents.simic.rollouts import States
from esper_agents.tamiyo.controller import Interface
from esper_env.leyline import Action, Op
from esper_env.leyline.observation import BASE_SIZE, BLUEPRINT_BITS, MAX_BLUEPRINTS, SLOT_SIZE

EMBEDDING = 4
"""Learned numbers that take the place of a slot's blueprint code, which has as many bits."""

LEANINGS: Final = {
    Op.WAIT: 0.0,
    Op.GERMINATE: 2.0,
    Op.ADVANCE: 5.0,
    Op.FOSSILIZE: 5.0,
    Op.PRUNE: -4.0,
    Op.SET_ALPHA_TARGET: -4.0,
}
"""How much likelier than WAIT all actions of an operation are together, in nats, before any learning."""


class BlueprintFeatures(BaseFeaturesExtractor):
    """Observation to features: an embedding in place of each blueprint code, a linear layer, norm, ReLU.

    Args:
        observation_space: a box of 23 + 35 S numbers.
        size: features, 512 unless told.
    """

    def __init__(self, observation_space: spaces.Box, size: int = 512) -> None:
        super().__init__(observation_space, size)
        (width,) = observation_space.shape
        self.slots, rest = divmod(width - BASE_SIZE, SLOT_SIZE + BLUEPRINT_BITS)
        if rest or self.slots < 1:
            raise ValueError(f"an observation of Esper has 23 + 35 S numbers, not {width}")
        self.embedding = nn.Embedding(MAX_BLUEPRINTS + 1, EMBEDDING)  # the last row: no seed
        self.linear = nn.Linear(width + self.slots * (EMBEDDING - BLUEPRINT_BITS), size)
        self.norm = nn.LayerNorm(size)
        self.bits: torch.Tensor
        self.register_buffer("bits", 2 ** torch.arange(BLUEPRINT_BITS), persistent=False)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """(B, 23 + 35 S) to (B, size)."""
        numbers, codes = observations.tensor_split([-BLUEPRINT_BITS * self.slots], dim=1)
        codes = codes.reshape(-1, self.slots, BLUEPRINT_BITS)
        index = ((codes > 0) * self.bits).sum(-1)  # (B, S)
        index = torch.where((codes == 0).all(-1), MAX_BLUEPRINTS, index)
        embedded = self.embedding(index).flatten(1)  # (B, 4 S)
        return torch.relu(self.norm(self.linear(torch.cat([numbers, embedded], 1))))


class NoMemory(nn.Module):
    """A feedforward layer where a memory would be: the memoryless ablation."""

    num_layers = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.linear = nn.Linear(input_size, hidden_size)

    def forward(self, features: torch.Tensor, states: States) -> tuple[torch.Tensor, States]:
        """(T, N, F) to (T, N, H); the states stay what they are."""
        return torch.relu(self.linear(features)), states


class TamiyoPolicy(MaskableRecurrentActorCriticPolicy):
    """Features -> memory, with a residual connection and layer norm around it -> actor and critic.

    Actor and critic are linear in the memory's output and both train it.

    Args:
        feature_size: width of the feature network.
        memory_size: width of the LSTM.
        memory: "lstm", or "none" for a feedforward layer in its place.
        critic_memory: the critic has an LSTM of its own.
        op_of_action: see `MaskableRecurrentActorCriticPolicy`; ``None`` makes the critic V(s).
        initial_logits: of every action, (A,), before any learning; ``None`` makes all legal actions equally likely.
        decision_interval: epochs from one decision to the next in the environments it learns in, as `PacedVectorEnv`
            makes them; whoever acts with it does the same.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        feature_size: int = 512,
        memory_size: int = 512,
        memory: Literal["lstm", "none"] = "lstm",
        critic_memory: bool = False,
        op_of_action: Sequence[int] | None = None,
        initial_logits: Sequence[float] | None = None,
        decision_interval: int = 1,
        **kwargs: Any,
    ) -> None:
        self._own = {
            "feature_size": feature_size,
            "memory_size": memory_size,
            "memory": memory,
            "critic_memory": critic_memory,
            "op_of_action": None if op_of_action is None else [int(op) for op in op_of_action],
            "initial_logits": None if initial_logits is None else [float(logit) for logit in initial_logits],
            "decision_interval": decision_interval,
        }
        self.decision_interval = decision_interval
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            features_extractor_class=BlueprintFeatures,
            features_extractor_kwargs={"size": feature_size},
            lstm_hidden_size=memory_size,
            shared_lstm=not critic_memory,
            enable_critic_lstm=critic_memory,
            op_of_action=op_of_action,
            **kwargs,
        )
        if memory == "none":
            self.lstm_actor = NoMemory(feature_size, memory_size)  # type: ignore[assignment]
            if critic_memory:
                self.lstm_critic = NoMemory(feature_size, memory_size)  # type: ignore[assignment]
        same = feature_size == memory_size
        self.skip = nn.Identity() if same else nn.Linear(feature_size, memory_size, bias=False)
        self.norm = nn.LayerNorm(memory_size)
        self.critic_norm = nn.LayerNorm(memory_size) if critic_memory else None
        if initial_logits is not None:
            assert isinstance(self.action_net, nn.Linear)
            with torch.no_grad():
                self.action_net.bias.copy_(torch.tensor(initial_logits))
        options = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **options)

    def remember(self, memory: nn.Module, features: torch.Tensor, states: States) -> tuple[torch.Tensor, States]:
        """Run (T, N, F) `features` through `memory`, its residual connection and its norm."""
        output, after = memory(features, states)
        norm = self.norm if memory is self.lstm_actor or self.critic_norm is None else self.critic_norm
        return norm(self.skip(features) + output), after

    def _critic_input(self, latent: torch.Tensor) -> torch.Tensor:
        return latent

    def constructor_arguments(self) -> dict[str, Any]:
        """JSON-able keyword arguments that build a policy of the same shape."""
        return dict(self._own)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        base = {"observation_space": self.observation_space, "action_space": self.action_space}
        return base | {"lr_schedule": self._dummy_schedule} | self._own


def prompt_start(actions: Sequence[Action]) -> list[float]:
    """Return the logits, (A,), with which empty slots are soon planted and seeds go on as soon as they may.

    What is to be learned is which seeds are worth having where. A seed is pruned in one step but needs some fifteen to
    be fossilised, so that uniform draws almost never finish one; and where every stage lasts for as long as luck has
    it, luck is most of what sets returns apart. This is where learning begins, and no bound on where it goes.
    """
    count = Counter(action.op for action in actions)
    return [LEANINGS[action.op] - math.log(count[action.op]) for action in actions]


def policy_arguments(
    env: Any, *, critic: Literal["q", "v"] = "q", start: Literal["prompt", "uniform"] = "prompt", **kwargs: Any
) -> dict[str, Any]:
    """Return the arguments of `TamiyoPolicy` that follow from an Esper environment, with `kwargs` added.

    Args:
        env: single, vector, or a Stable-Baselines3 one.
        critic: "q" for Q(s, op) over the operations of the environment's action table, "v" for V(s).
        start: how the untrained policy acts: "prompt" (see `prompt_start`), or "uniform" over legal actions.
        **kwargs: other arguments of `TamiyoPolicy`.
    """
    actions = Interface.of(env).actions
    return {
        "op_of_action": [int(action.op) for action in actions] if critic == "q" else None,
        "initial_logits": prompt_start(actions) if start == "prompt" else None,
    } | kwargs
