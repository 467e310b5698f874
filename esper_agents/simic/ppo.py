"""Proximal policy optimisation for recurrent policies with action masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from esper_agents.simic.adapter import IGNORED, allow_ignored_steps
from esper_agents.simic.masking import check_masks, leave_a_choice
from esper_agents.simic.recurrent_policy import (
    MaskableRecurrentActorCriticCnnPolicy,
    MaskableRecurrentActorCriticPolicy,
    MaskableRecurrentMultiInputActorCriticPolicy,
)
from esper_agents.simic.rollouts import Minibatch, SequenceRolloutBuffer


class MaskableRecurrentPPO(RecurrentPPO):
    """PPO with a recurrent policy and invalid-action masking, for any Stable-Baselines3 vector environment.

    Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; masks as in Huang & Ontanon 2020, "A Closer
    Look at Invalid Action Masking in Policy Gradient Algorithms". Differences to `sb3_contrib.RecurrentPPO`:

    - Masks are asked of the environment (``action_masks``, as `sb3_contrib.MaskablePPO` does), stored with the
      transitions and applied again in the update.
    - Minibatches are whole sequences, run through the memory in fused calls (`SequenceRolloutBuffer`), so
      `batch_size` is approximate: a sequence is never cut.
    - Policy loss and entropy are means over the transitions that had more than one legal action: where there is no
      choice there is nothing to learn about choosing.
    - A value that bootstraps a truncated episode or the end of the rollout uses that state's mask.

    Args:
        policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy" or a subclass of
            `MaskableRecurrentActorCriticPolicy`.
        env: its actions are `Discrete` or `MultiDiscrete`.
        use_masking: ask the environment for masks; an environment that has none is then an error.
        normalize_over: what `normalize_advantage` takes mean and deviation of. A minibatch, as in the parent, holds few
            sequences when they are long; its mean then takes away what sets them apart, and "rollout" is better.
        reward_scale: rewards are multiplied by this before anything is learned from them. Actor and critic share
            their memory, so returns should be of order one; episode statistics keep the environment's unit.
        critic_warmup: for this many steps only the critic learns. The advantages of an untrained critic say
            nothing but how much of the episode is left.
        group_size: so many environments next to each other are at the same point of the same problem at every step, as
            when their episodes have one seed and one length. Advantages are then taken against what the group got from
            there, as in group-relative policy optimisation (Shao et al. 2024, "DeepSeekMath"), here step by step, and
            less what the critic and the rewards so far still say (`SequenceRolloutBuffer.compare_within_groups`).
        **kwargs: those of `sb3_contrib.RecurrentPPO`, with the same defaults.

    Raises:
        ValueError: the action space is another one, the environment has no masks, `clip_range_vf` is given with a
            policy whose critic is Q(s, op), or the environments make no groups of `group_size`.
    """

    policy: MaskableRecurrentActorCriticPolicy
    rollout_buffer: SequenceRolloutBuffer
    clip_range: Schedule
    _last_lstm_states: RNNStates  # type: ignore[assignment]
    clip_range_vf: Schedule | None

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": MaskableRecurrentActorCriticPolicy,
        "CnnLstmPolicy": MaskableRecurrentActorCriticCnnPolicy,
        "MultiInputLstmPolicy": MaskableRecurrentMultiInputActorCriticPolicy,
    }

    def __init__(
        self,
        policy: str | type[MaskableRecurrentActorCriticPolicy],
        env: GymEnv | str,
        *,
        use_masking: bool = True,
        normalize_over: Literal["minibatch", "rollout"] = "minibatch",
        reward_scale: float = 1.0,
        critic_warmup: int = 0,
        group_size: int = 1,
        **kwargs: Any,
    ) -> None:
        self.use_masking, self.normalize_over = use_masking, normalize_over
        self.reward_scale, self.critic_warmup = reward_scale, critic_warmup
        self.group_size = group_size
        super().__init__(policy, env, **kwargs)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        if self.group_size < 1 or self.n_envs % self.group_size:
            raise ValueError(f"{self.n_envs} environments make no groups of {self.group_size}: choose a divisor")
        kwargs = self.policy_kwargs
        policy = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **kwargs)
        if not isinstance(policy, MaskableRecurrentActorCriticPolicy):
            raise ValueError(f"the policy has to be a MaskableRecurrentActorCriticPolicy, not {type(policy).__name__}")
        if policy.op_of_action is not None and self.clip_range_vf is not None:
            raise ValueError("clip_range_vf clips the change of V(s); leave it out with a critic Q(s, op)")
        self.policy = policy.to(self.device)
        self.rollout_buffer = SequenceRolloutBuffer(
            self.n_steps,
            self.observation_space,
            self.action_space,
            self.device,
            gae_lambda=self.gae_lambda,
            gamma=self.gamma,
            n_envs=self.n_envs,
            mask_size=sum(policy.sizes) if self.use_masking else None,
            seed=self.seed,
        )
        self._last_lstm_states = self._empty_states()
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def _empty_states(self) -> RNNStates:
        layers, _, width = self.policy.lstm_hidden_state_shape
        zeros = torch.zeros(layers, self.n_envs, width, device=self.device)
        return RNNStates((zeros, zeros), (zeros, zeros))

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        env = self.env
        assert env is not None
        allow_ignored_steps(env)
        result = super()._setup_learn(*args, **kwargs)
        if self.use_masking and not is_masking_supported(env):
            raise ValueError(
                "the environment has no action_masks(): wrap it in sb3_contrib.common.wrappers.ActionMasker, "
                "or pass use_masking=False"
            )
        return result

    # -- acting --------------------------------------------------------------------------------------

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
        """Act for one or N environments; see `MaskableRecurrentActorCriticPolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    def _masks(self, env: VecEnv) -> NDArray[np.bool_] | None:
        return check_masks(get_action_masks(env), self.policy.sizes, env.num_envs) if self.use_masking else None

    def _tensor(self, array: NDArray[Any] | None) -> torch.Tensor | None:
        return None if array is None else torch.as_tensor(array, device=self.device)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the rollout buffer with `n_rollout_steps` steps of every environment.

        Returns:
            False if a callback stopped it.
        """
        assert isinstance(rollout_buffer, SequenceRolloutBuffer)
        assert self._last_obs is not None and self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        rollout_buffer.initial_states = states = self._last_lstm_states
        callback.on_rollout_start()
        masks = self._masks(env)
        for _ in range(n_rollout_steps):
            with torch.no_grad():
                observations = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
                starts = torch.as_tensor(self._last_episode_starts, device=self.device)
                actions, values, log_probs, states = self.policy(
                    observations, states, starts, action_masks=self._tensor(masks)
                )
            chosen = actions.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(chosen.reshape((-1, *(self.action_space.shape or ()))))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            ignored = np.array([bool(info.get(IGNORED)) for info in infos])
            decided = ~ignored if masks is None else ~ignored & leave_a_choice(masks, self.policy.sizes)
            rollout_buffer.add(
                self._last_obs,  # type: ignore[arg-type]
                chosen,
                rewards=self.reward_scale * rewards + self.gamma * self._values_of_truncated(infos, dones, states),
                episode_starts=self._last_episode_starts,
                values=values,
                log_probs=log_probs,
                action_masks=masks,
                weights=1.0 - ignored.astype(np.float32),
                decided=decided.astype(np.float32),
            )
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones | ignored  # an episode begins after either
            self._last_lstm_states = states
            masks = self._masks(env)
        with torch.no_grad():
            observations = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
            starts = torch.as_tensor(self._last_episode_starts, device=self.device)
            values = self.policy.predict_values(observations, states, starts, self._tensor(masks))
        rollout_buffer.compute_returns_and_advantage(values, self._last_episode_starts)
        if self.group_size > 1:
            of_critic, of_earned = rollout_buffer.compare_within_groups(self.group_size)
            self.logger.record("train/baseline_critic", of_critic)
            self.logger.record("train/baseline_earned", of_earned)
        callback.on_rollout_end()
        return True

    def _values_of_truncated(
        self, infos: list[dict[str, Any]], dones: NDArray[np.bool_], states: RNNStates
    ) -> NDArray[np.float32]:
        """V of the last state of every episode that was cut off at this step, else 0: (N,)."""
        values = np.zeros(len(infos), np.float32)
        for i in np.flatnonzero(dones):
            info: Mapping[str, Any] = infos[i]
            if not info.get("TimeLimit.truncated", False):
                continue
            observation, _ = self.policy.obs_to_tensor(info["terminal_observation"])
            masks = info.get("terminal_action_mask")
            if masks is not None:
                masks = self._tensor(check_masks(masks, self.policy.sizes, 1))
            elif self.use_masking and self.policy.op_of_action is not None:
                raise ValueError("a critic Q(s, op) needs info['terminal_action_mask'] of truncated episodes")
            mine = RNNStates(
                *((part[0][:, i : i + 1].contiguous(), part[1][:, i : i + 1].contiguous()) for part in states)
            )
            with torch.no_grad():
                start = torch.zeros(1, device=self.device)
                values[i] = self.policy.predict_values(observation, mine, start, masks).item()
        return values

    # -- learning ------------------------------------------------------------------------------------

    def train(self) -> None:
        """Update the policy on the collected rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip = float(self.clip_range(self._current_progress_remaining))
        scale = self._advantage_scale()
        logs: dict[str, list[float]] = {}
        ratio_error: float | None = None
        for _ in range(self.n_epochs):
            epoch: dict[str, list[float]] = {}
            stopped = False
            for batch in self.rollout_buffer.get(self.batch_size):
                loss, measured = self._loss(batch, clip, scale)
                error = float(measured.pop("ratio_error"))
                ratio_error = error if ratio_error is None else ratio_error
                for name, value in measured.items():
                    epoch.setdefault(name, []).append(float(value))
                if self.target_kl is not None and epoch["approx_kl"][-1] > 1.5 * self.target_kl:
                    stopped = True
                    break
                self.policy.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
            self._n_updates += 1
            for name, values in epoch.items():
                logs.setdefault(name, []).append(float(np.mean(values)))
            if stopped:
                break
        for name, values in logs.items():
            self.logger.record(f"train/{name}", values[-1] if name == "approx_kl" else float(np.mean(values)))
        self.logger.record("train/ratio_error", ratio_error)  # of the first minibatch: before any gradient step
        buffer = self.rollout_buffer
        variance = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", variance)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip)

    def _advantage_scale(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the rollout's advantages, if they are what minibatches are normalised by."""
        if not self.normalize_advantage or self.normalize_over == "minibatch":
            return None
        advantages = self.rollout_buffer.advantages[self.rollout_buffer.decided > 0.0].astype(np.float64)
        return (float(advantages.mean()), float(advantages.std())) if len(advantages) else (0.0, 1.0)

    def _loss(
        self, batch: Minibatch, clip: float, scale: tuple[float, float] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a minibatch, and what is logged of it; `scale` is what `_advantage_scale` returned."""
        decided = batch.decided / batch.decided.sum().clamp(min=1.0)

        def mean(x: torch.Tensor) -> torch.Tensor:
            return (x * decided).sum()

        evaluation = self.policy.evaluate_sequences(batch)
        advantages = batch.advantages
        if scale is not None:
            advantages = (advantages - scale[0]) / (scale[1] + 1e-8)
        elif self.normalize_advantage and len(advantages) > 1:
            centred = advantages - mean(advantages)
            advantages = centred / (mean(centred**2).sqrt() + 1e-8)
        log_ratio = evaluation.log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        policy_loss = -mean(torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)))
        predicted = evaluation.predicted
        if self.clip_range_vf is not None:
            bound = float(self.clip_range_vf(self._current_progress_remaining))
            predicted = batch.old_values + (predicted - batch.old_values).clamp(-bound, bound)
        value_loss = ((batch.returns - predicted) ** 2 * batch.weights).sum() / batch.weights.sum().clamp(min=1.0)
        entropy_loss = -mean(evaluation.entropy)
        actor_loss = policy_loss + self.ent_coef * entropy_loss
        warming = 0 < self.num_timesteps <= self.critic_warmup
        loss = self.vf_coef * value_loss + (0.0 if warming else 1.0) * actor_loss
        with torch.no_grad():
            measured = {
                "loss": loss.detach(),
                "policy_gradient_loss": policy_loss.detach(),
                "value_loss": value_loss.detach(),
                "entropy_loss": entropy_loss.detach(),
                "approx_kl": mean((ratio - 1) - log_ratio),
                "clip_fraction": mean(((ratio - 1).abs() > clip).to(ratio.dtype)),
                "ratio_mean": mean(ratio),
                "ratio_error": ((ratio - 1).abs() * (batch.weights > 0)).max(),
            }
        return loss, measured

    def learn(  # noqa: PLR0917
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "MaskableRecurrentPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for `total_timesteps` steps, counted over all environments."""
        interval: Any = log_interval  # None, for never, is not in the parent's annotation
        return super().learn(total_timesteps, callback, interval, tb_log_name, reset_num_timesteps, progress_bar)
