"""Recurrent actor-critic policies with action masks, which run whole sequences in fused calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from esper_agents.simic.masking import MaskedCategorical, action_sizes, check_masks
from esper_agents.simic.rollouts import Group, Minibatch, Observations, States

Masks = torch.Tensor | None


@dataclass(frozen=True)
class Evaluation:
    """What a policy says of B transitions, for the loss."""

    log_prob: torch.Tensor
    """(B,) of the actions taken"""
    entropy: torch.Tensor
    """(B,) nats"""
    predicted: torch.Tensor
    """(B,) what the critic is trained on: V(s), or Q(s, op) of the operation taken"""
    critic: torch.Tensor
    """(B, 1) or (B, operations): all that the critic says"""


class MaskableRecurrentActorCriticPolicy(RecurrentActorCriticPolicy):
    """sb3-contrib's recurrent policy with action masks, for `Discrete` and `MultiDiscrete` actions.

    It has the modules and the arguments of its parent, and two more abilities:

    - `evaluate_sequences` runs whole sequences through the memory in one fused call for each group of similar
      length, not step by step.
    - With `op_of_action` the critic is Q(s, op), one value for each *operation*, a class of actions. Then
      V(s) = sum over op of pi(op|s) Q(s, op), with pi(op|s) summed from the masked probabilities of the
      operation's actions, without gradient. V depends on no action, so it is an unbiased baseline.

    Args:
        op_of_action: the operation of each action, (A,), numbered from 0; ``None`` makes the critic V(s).
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *args: Any,
        op_of_action: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.sizes = action_sizes(action_space)
        self._operations = None if op_of_action is None else [int(op) for op in op_of_action]
        if self._operations is not None and (len(self.sizes) > 1 or len(self._operations) != self.sizes[0]):
            raise ValueError(f"op_of_action has {len(self._operations)} entries for the action space {action_space}")
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        self.considered: tuple[MaskedCategorical, torch.Tensor] | None = None
        """What `forward` chose from last: the distribution, and the critic's (N, operations)."""
        self.op_of_action: torch.Tensor | None
        operations = None if self._operations is None else torch.tensor(self._operations)
        self.register_buffer("op_of_action", operations, persistent=False)

    @property
    def operations(self) -> int:
        """How many values the critic has."""
        return 1 if self._operations is None else 1 + max(self._operations)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Build the features extractor, with a width that an LSTM accepts."""
        extractor = super().make_features_extractor()
        extractor._features_dim = int(extractor.features_dim)  # numpy's for MultiDiscrete observations
        return extractor

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self._operations is not None:
            self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, self.operations)
            if self.ortho_init:
                self.init_weights(self.value_net, gain=1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        memory = {
            "lstm_hidden_size": self.lstm_actor.hidden_size,
            "n_lstm_layers": self.lstm_actor.num_layers,
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "lstm_kwargs": self.lstm_kwargs,
        }
        return super()._get_constructor_parameters() | memory | {"op_of_action": self._operations}

    # -- parts ---------------------------------------------------------------------------------------

    def remember(self, memory: nn.Module, features: torch.Tensor, states: States) -> tuple[torch.Tensor, States]:
        """Run (T, N, F) `features` through `memory` from `states`: (T, N, H), and the states after."""
        output, after = memory(features, states)
        return output, after

    def _critic_input(self, latent: torch.Tensor) -> torch.Tensor:
        """What the critic sees of a memory it shares with the actor: like its parent's, without gradient."""
        return latent.detach()

    def _both_features(self, observations: Observations) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.extract_features(observations)
        return (features, features) if isinstance(features, torch.Tensor) else features

    def _heads(
        self, latent_pi: torch.Tensor, latent_vf: torch.Tensor, masks: Masks
    ) -> tuple[MaskedCategorical, torch.Tensor]:
        """The distribution, and the critic's (B, operations)."""
        logits = self.action_net(self.mlp_extractor.forward_actor(latent_pi))
        critic: torch.Tensor = self.value_net(self.mlp_extractor.forward_critic(latent_vf))
        return MaskedCategorical(logits, masks, self.sizes), critic

    def _value(self, distribution: MaskedCategorical, critic: torch.Tensor) -> torch.Tensor:
        """V(s), (B,)."""
        if self.op_of_action is None:
            return critic[:, 0]
        probs = distribution.probs.detach()
        return (torch.zeros_like(critic, dtype=probs.dtype).index_add(1, self.op_of_action, probs) * critic).sum(1)

    def _step_memory(
        self, memory: nn.Module, features: torch.Tensor, states: States, episode_starts: torch.Tensor
    ) -> tuple[torch.Tensor, States]:
        """One step of N sequences, (N, F) to (N, H); those that start do so from zeros."""
        going_on = (1.0 - episode_starts.to(features.dtype))[None, :, None]
        output, after = self.remember(memory, features[None], tuple(going_on * state for state in states))
        return output[0], after

    def _step(
        self, observations: Observations, states: RNNStates, episode_starts: torch.Tensor, masks: Masks
    ) -> tuple[MaskedCategorical, torch.Tensor, RNNStates]:
        """One step of N environments: distribution, what the critic says, and the states after."""
        pi, vf = self._both_features(observations)
        latent_pi, states_pi = self._step_memory(self.lstm_actor, pi, states.pi, episode_starts)
        states_vf = states_pi
        if self.lstm_critic is not None:
            latent_vf, states_vf = self._step_memory(self.lstm_critic, vf, states.vf, episode_starts)
        elif self.shared_lstm:
            latent_vf = self._critic_input(latent_pi)
        else:
            assert self.critic is not None
            latent_vf = self.critic(vf)
        distribution, critic = self._heads(latent_pi, latent_vf, masks)
        return distribution, critic, RNNStates(states_pi, states_vf)

    # -- acting --------------------------------------------------------------------------------------

    def forward(  # type: ignore[override]
        self,
        obs: Observations,
        lstm_states: RNNStates,
        episode_starts: torch.Tensor,
        deterministic: bool = False,
        action_masks: Masks = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, RNNStates]:
        """Act in N environments.

        Args:
            obs: N observations.
            lstm_states: the memories before this step.
            episode_starts: (N,); the memory of an environment where it is true starts from zeros.
            deterministic: take the likeliest action.
            action_masks: (N, A) bool, what is legal; ``None`` makes everything legal.

        Returns:
            Actions (N, D) int64, V(s) (N,), log-probabilities (N,), and the memories after.
        """
        distribution, critic, states = self._step(obs, lstm_states, episode_starts, action_masks)
        self.considered = distribution, critic
        actions = distribution.actions(deterministic)
        return actions, self._value(distribution, critic), distribution.log_prob(actions), states

    def predict_values(  # type: ignore[override]
        self, obs: Observations, lstm_states: RNNStates, episode_starts: torch.Tensor, action_masks: Masks = None
    ) -> torch.Tensor:
        """Return V(s), (N,). Both memories and the masks are needed: V may depend on the distribution."""
        distribution, critic, _ = self._step(obs, lstm_states, episode_starts, action_masks)
        return self._value(distribution, critic)

    def get_distribution(  # type: ignore[override]
        self, obs: Observations, lstm_states: RNNStates, episode_starts: torch.Tensor, action_masks: Masks = None
    ) -> tuple[MaskedCategorical, RNNStates]:
        """Return the masked distribution, and the memories after."""
        distribution, _, states = self._step(obs, lstm_states, episode_starts, action_masks)
        return distribution, states

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
        """Act for one or N environments.

        Args:
            observation: one observation or N.
            state: what the last call returned; ``None`` starts from zeros.
            episode_start: (N,) bool; the memory of an environment where it is true starts from zeros.
            deterministic: take the likeliest action.
            action_masks: (A,) or (N, A), what is legal; ``None`` makes everything legal.

        Returns:
            The action, or N of them, and the state for the next call.
        """
        self.set_training_mode(False)
        observations, vectorized = self.obs_to_tensor(observation)
        first = next(iter(observations.values())) if isinstance(observations, dict) else observations
        n = len(first)
        if state is None:
            layers, _, width = self.lstm_hidden_state_shape
            state = (np.zeros((layers, n, width), np.float32),) * 2
        hidden, cell = (torch.as_tensor(part, device=self.device) for part in state)
        starts = torch.as_tensor(np.zeros(n) if episode_start is None else episode_start, device=self.device)
        masks = None
        if action_masks is not None:
            masks = torch.as_tensor(check_masks(action_masks, self.sizes, n), device=self.device)
        with torch.no_grad():
            pi, _ = self._both_features(observations)
            latent, after = self._step_memory(self.lstm_actor, pi, (hidden, cell), starts)
            logits = self.action_net(self.mlp_extractor.forward_actor(latent))
            actions = MaskedCategorical(logits, masks, self.sizes).actions(deterministic)
        chosen = actions.cpu().numpy().reshape((-1, *(self.action_space.shape or ())))
        return chosen if vectorized else chosen.squeeze(0), tuple(part.cpu().numpy() for part in after)

    # -- learning ------------------------------------------------------------------------------------

    def evaluate_sequences(self, batch: Minibatch) -> Evaluation:
        """Evaluate the transitions of a minibatch, with gradients through whole sequences."""
        pi, vf = self._both_features(batch.observations)
        latent_pi = self._run(self.lstm_actor, pi, batch.groups, [g.states.pi for g in batch.groups])
        if self.lstm_critic is not None:
            latent_vf = self._run(self.lstm_critic, vf, batch.groups, [g.states.vf for g in batch.groups])
        elif self.shared_lstm:
            latent_vf = self._critic_input(latent_pi)
        else:
            assert self.critic is not None
            latent_vf = self.critic(vf)
        distribution, critic = self._heads(latent_pi, latent_vf, batch.action_masks)
        taken = torch.zeros_like(batch.actions) if self.op_of_action is None else self.op_of_action[batch.actions]
        return Evaluation(
            log_prob=distribution.log_prob(batch.actions),
            entropy=distribution.entropy(),
            predicted=critic.gather(1, taken[:, :1]).squeeze(1),
            critic=critic.detach(),
        )

    def _run(
        self, memory: nn.Module, features: torch.Tensor, groups: Sequence[Group], states: Sequence[States]
    ) -> torch.Tensor:
        """Run rows of `features`, (B, F), in their groups through `memory`: (B, H)."""
        outputs = []
        for group, rows, start in zip(groups, torch.split(features, [g.rows for g in groups]), states, strict=True):
            places = rows
            if group.real is not None:
                empty = rows.new_zeros(group.length * group.sequences, rows.shape[1])
                places = empty.index_copy(0, group.real, rows)
            output, _ = self.remember(memory, places.view(group.length, group.sequences, -1), start)
            flat = output.flatten(0, 1)
            outputs.append(flat if group.real is None else flat[group.real])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def evaluate_actions(self, *args: Any, **kwargs: Any) -> Any:
        """Not here.

        Raises:
            NotImplementedError: always; `evaluate_sequences` does this with masks.
        """
        raise NotImplementedError("use evaluate_sequences: it takes masks and whole sequences")


class MaskableRecurrentActorCriticCnnPolicy(MaskableRecurrentActorCriticPolicy):
    """The same for images."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"features_extractor_class": NatureCNN} | kwargs))


class MaskableRecurrentMultiInputActorCriticPolicy(MaskableRecurrentActorCriticPolicy):
    """The same for dict observations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"features_extractor_class": CombinedExtractor} | kwargs))
