"""MaskableRecurrentPPO: its gradients, masks and memories against a plain step-by-step computation."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiDiscrete
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from esper_agents.simic import MaskableRecurrentPPO
from esper_agents.simic.masking import MaskedCategorical, check_masks
from esper_agents.simic.recurrent_policy import MaskableRecurrentActorCriticPolicy
from esper_agents.simic.rollouts import SequenceRolloutBuffer

OPS = [0, 1, 1, 2, 2]
MEMORIES = {
    "two memories": {},
    "one memory": {"shared_lstm": True, "enable_critic_lstm": False},
    "none for the critic": {"enable_critic_lstm": False},
}


class Walk(gymnasium.Env):
    """Episodes of random length and random numbers, with random masks; ends or is cut off at random."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, sizes=(5,), *, endless=False):
        self.action_space = spaces.Discrete(sizes[0]) if len(sizes) == 1 else spaces.MultiDiscrete(list(sizes))
        self.sizes, self.endless = sizes, endless

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._draw()
        return self.observation, {}

    def step(self, action):
        starts = np.cumsum([0, *self.sizes[:-1]])
        assert self.masks[starts + np.atleast_1d(action)].all(), "an illegal action"
        self._draw()
        ended, cut = (False, False) if self.endless else (self.np_random.random(2) < 0.1)
        info = {"terminal_action_mask": self.masks.copy()}
        return self.observation, float(self.np_random.normal()), bool(ended), bool(cut), info

    def _draw(self):
        self.observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        self.masks = self.np_random.random(sum(self.sizes)) < 0.5
        for start, size in zip(np.cumsum([0, *self.sizes[:-1]]), self.sizes, strict=True):
            self.masks[start + self.np_random.integers(size)] = True

    def action_masks(self):
        return self.masks


class Stop(BaseCallback):
    """Keeps every step's rewards and infos."""

    def __init__(self):
        super().__init__()
        self.rewards, self.infos, self.dones = [], [], []

    def _on_step(self):
        self.rewards.append(self.locals["rewards"].copy())
        self.infos.append(self.locals["infos"])
        self.dones.append(self.locals["dones"].copy())
        return True


def learner(sizes=(5,), *, envs=3, endless=False, **kwargs):
    venv = DummyVecEnv([lambda: Walk(sizes, endless=endless)] * envs)
    memory = {"lstm_hidden_size": 8, "net_arch": [6]}
    kwargs["policy_kwargs"] = memory | kwargs.get("policy_kwargs", {})
    defaults = {"n_steps": 24, "batch_size": 24, "n_epochs": 1, "seed": 0, "device": "cpu"}
    return MaskableRecurrentPPO("MlpLstmPolicy", venv, **(defaults | kwargs))


def collected(model):
    """A learner whose buffer holds a rollout that does not begin with an episode."""
    model.learning_rate = 0.0
    model._setup_lr_schedule()
    watch = Stop()
    model.learn(2 * model.n_steps * model.n_envs, callback=watch)
    return model, watch


def step_by_step(policy, buffer, env, dtype):
    """Log-probability, entropy and prediction of one environment's transitions, one step after another."""
    tensor = lambda a: torch.as_tensor(a, dtype=dtype)  # noqa: E731
    states = RNNStates(*(tuple(s[:, env : env + 1].to(dtype) for s in part) for part in buffer.initial_states))
    rows = []
    for t in range(buffer.buffer_size):
        masks = torch.as_tensor(buffer.action_masks[t, env])[None]
        action = torch.as_tensor(buffer.actions[t, env])[None]
        start = tensor(buffer.episode_starts[t, env])[None]
        x = tensor(buffer.observations[t, env])[None]
        keep = (1 - start)[:, None]

        def cell(lstm, before, x=x, keep=keep):
            h, c = before[0][0] * keep, before[1][0] * keep
            gates = x @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            return h, (h[None], c[None])

        pi, after_pi = cell(policy.lstm_actor, states.pi)
        if policy.lstm_critic is not None:
            vf, after_vf = cell(policy.lstm_critic, states.vf)
        else:
            vf, after_vf = (pi.detach(), after_pi) if policy.shared_lstm else (policy.critic(x), states.vf)
        states = RNNStates(after_pi, after_vf)
        logits = policy.action_net(policy.mlp_extractor.policy_net(pi))
        critic = policy.value_net(policy.mlp_extractor.value_net(vf))
        log_prob, entropy, first = 0.0, 0.0, 0
        for d, size in enumerate(policy.sizes):
            legal = masks[:, first : first + size]
            kept = logits[:, first : first + size][legal][None].log_softmax(1)
            place = legal[:, : action[0, d]].sum()
            log_prob = log_prob + kept[0, place]
            entropy = entropy - (kept.exp() * kept).sum()
            first += size
        op = 0 if policy.op_of_action is None else OPS[action[0, 0]]
        rows.append((log_prob, entropy, critic[0, op]))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def reference_loss(model, dtype):
    buffer = model.rollout_buffer
    columns = [step_by_step(model.policy, buffer, env, dtype) for env in range(model.n_envs)]
    log_prob, entropy, predicted = (torch.stack(c, 1) for c in zip(*columns, strict=True))
    data = {k: torch.as_tensor(getattr(buffer, k), dtype=dtype) for k in ("log_probs", "advantages", "returns")}
    legal = torch.from_numpy(buffer.action_masks).split(model.policy.sizes, -1)
    choice = torch.stack([part.sum(-1) > 1 for part in legal]).any(0)
    advantages = data["advantages"][choice]
    advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    ratio = (log_prob - data["log_probs"]).exp()[choice]
    clipped = ratio.clamp(0.8, 1.2)
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
    value_loss = ((data["returns"] - predicted) ** 2).mean()
    return policy_loss - 0.01 * entropy[choice].mean() + 0.5 * value_loss


def gradients(model, loss):
    model.policy.zero_grad()
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.policy.named_parameters()}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("ops", [None, OPS], ids=["V", "Q"])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"])
def test_gradients_are_those_of_a_step_by_step_reference(memory, ops, dtype, tolerance, monkeypatch):
    model, _ = collected(learner(policy_kwargs=MEMORIES[memory] | {"op_of_action": ops}, ent_coef=0.01))
    assert model.rollout_buffer.episode_starts[1:].sum() > 4 and not model.rollout_buffer.episode_starts[0].all()
    with torch.no_grad():  # away from ratio 1, where the surrogate has a kink
        for p in model.policy.parameters():
            p.add_(0.02 * torch.randn_like(p))
    if dtype == torch.float64:
        original = SequenceRolloutBuffer._flat

        def flat(self, array):
            tensor = original(self, array)
            return tensor.double() if tensor.is_floating_point() else tensor

        monkeypatch.setattr(SequenceRolloutBuffer, "_flat", flat)
        buffer = model.rollout_buffer
        buffer._tensors = {}
        buffer.initial_states = RNNStates(*(tuple(s.double() for s in p) for p in buffer.initial_states))
        model.policy.double()
        monkeypatch.setattr(model.policy, "extract_features", lambda observations: observations.double())
    (batch,) = model.rollout_buffer.get(None)
    mine = gradients(model, model._loss(batch, 0.2, model._advantage_scale())[0])
    model.policy.double()
    theirs = gradients(model, reference_loss(model, torch.float64))
    scale = max(g.abs().max() for g in theirs.values())
    for name, gradient in theirs.items():
        assert (mine[name].double() - gradient).abs().max() <= tolerance * scale, name
    assert sum(bool(g.any()) for g in theirs.values()) == len(theirs)


@pytest.mark.parametrize("sizes", [(5,), (3, 2, 4)], ids=["Discrete", "MultiDiscrete"])
@pytest.mark.parametrize("batch_size", [None, 10, 24])
def test_the_ratio_is_one_on_the_first_pass(sizes, batch_size):
    model, _ = collected(learner(sizes))
    seen = 0
    for batch in model.rollout_buffer.get(batch_size):
        with torch.no_grad():
            evaluation = model.policy.evaluate_sequences(batch)
        assert (evaluation.log_prob - batch.old_log_prob).exp().sub(1).abs().max() <= 1e-6
        assert (evaluation.predicted - batch.old_values).abs().max() <= 1e-6
        seen += len(batch.weights)
    assert seen == model.n_steps * model.n_envs


def test_the_log_probability_of_every_step_is_the_reference_s():
    model, _ = collected(learner((3, 2, 4)))
    for env in range(model.n_envs):
        log_prob, _, value = step_by_step(model.policy, model.rollout_buffer, env, torch.float32)
        assert torch.allclose(log_prob, torch.as_tensor(model.rollout_buffer.log_probs[:, env]), atol=1e-6)
        assert torch.allclose(value, torch.as_tensor(model.rollout_buffer.values[:, env]), atol=1e-6)


@given(st.data())
@settings(max_examples=50)
def test_every_transition_is_in_one_minibatch_in_its_sequence(data):
    """Sequences are whole, their steps in order, and padding is at most as large as what it pads."""
    steps, envs = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    box = spaces.Box(-1e9, 1e9, (1,), np.float64)
    buffer = SequenceRolloutBuffer(steps, box, spaces.Discrete(2), "cpu", n_envs=envs, mask_size=None, seed=0)
    number = np.arange(steps * envs).reshape(steps, envs)
    buffer.observations[..., 0] = number
    resets = data.draw(st.lists(st.booleans(), min_size=envs * steps, max_size=envs * steps))
    buffer.episode_starts[:] = np.reshape(resets, (steps, envs))
    ones = torch.ones(1, envs, 2)
    buffer.initial_states = RNNStates((ones, ones), (ones, ones))
    buffer.full = True
    met = []
    for batch in buffer.get(data.draw(st.one_of(st.none(), st.integers(1, 20)))):
        rows = batch.observations[:, 0].long()
        met += rows.tolist()
        for group, part in zip(batch.groups, torch.split(rows, [g.rows for g in batch.groups]), strict=True):
            grid = torch.full((group.length * group.sequences,), -1)
            grid[torch.arange(group.rows) if group.real is None else group.real] = part
            assert group.rows * 2 > len(grid)
            for column, hidden in zip(grid.view(group.length, -1).T.tolist(), group.states.pi[0][0], strict=True):
                real = [n for n in column if n >= 0]
                t, env = divmod(real[0], envs)
                assert column[: len(real)] == list(number[t : t + len(real), env])
                assert not buffer.episode_starts[t + 1 : t + len(real), env].any()
                assert t + len(real) == steps or buffer.episode_starts[t + len(real), env]
                assert bool(hidden.any()) == (not buffer.episode_starts[t, env])
    assert sorted(met) == list(range(steps * envs))


def test_whole_episodes_of_one_length_are_not_padded():
    model, _ = collected(learner(endless=True))
    for batch in model.rollout_buffer.get(24):
        assert [g.real for g in batch.groups] == [None] and len(batch.weights) == 24


@pytest.mark.parametrize("sizes", [(5,), (3, 2, 4)], ids=["Discrete", "MultiDiscrete"])
def test_illegal_logits_get_exactly_no_gradient_and_no_probability(sizes):
    torch.manual_seed(0)
    logits = (50 * torch.randn(64, sum(sizes))).requires_grad_()
    rng = np.random.default_rng(0)
    raw = rng.random((64, sum(sizes))) < 0.4
    for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        raw[np.arange(64), start + rng.integers(size, size=64)] = True
    masks = torch.from_numpy(check_masks(raw, sizes, 64))
    distribution = MaskedCategorical(logits, masks, sizes)
    actions = distribution.actions()
    (distribution.log_prob(actions).sum() + distribution.entropy().sum()).backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~masks].any() and logits.grad[masks].any()
    assert not distribution.probs.detach()[~masks].any()
    assert masks.gather(1, actions + torch.tensor(np.cumsum([0, *sizes[:-1]]))).all()


def test_saturated_and_half_precision_logits_are_no_error():
    logits = torch.tensor([[1e30, -1e30, 0.0], [3e4, -3e4, 1.0]]).requires_grad_()
    masks = torch.tensor([[False, True, True], [True, True, False]])
    for x in (logits, logits.clamp(-6e4, 6e4).half()):
        distribution = MaskedCategorical(x, masks, (3,))
        assert distribution.log_prob(distribution.actions()).dtype == torch.float32
        assert torch.isfinite(distribution.entropy()).all() and (distribution.entropy() >= 0).all()


@pytest.mark.parametrize("masks", [np.zeros((2, 5)), np.ones((2, 4)), np.ones((3, 5))])
def test_masks_that_make_no_sense_are_errors(masks):
    with pytest.raises(ValueError, match=r"legal|shape"):
        check_masks(masks, (5,), 2)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_memory_carried_across_predict_equals_the_whole_sequence(memory):
    """The likeliest actions from `predict`, step by step with resets, are the likeliest of whole sequences."""
    model, _ = collected(learner(policy_kwargs=MEMORIES[memory]))
    buffer = model.rollout_buffer
    state = tuple(s.numpy() for s in buffer.initial_states.pi)
    chosen = np.zeros_like(buffer.actions)
    for t in range(buffer.buffer_size):
        starts, masks = buffer.episode_starts[t] > 0, buffer.action_masks[t]
        actions, state = model.predict(buffer.observations[t], state, starts, True, masks)
        chosen[t, :, 0] = actions

    def evaluated(actions):
        buffer.actions[:], buffer._tensors, buffer.rng = actions, {}, np.random.default_rng(0)
        (batch,) = buffer.get(None)
        with torch.no_grad():
            return batch, model.policy.evaluate_sequences(batch)

    log_probs = torch.stack([evaluated(action)[1].log_prob for action in range(5)])
    batch, _ = evaluated(chosen)
    assert torch.equal(log_probs.argmax(0), batch.actions[:, 0]) and len(np.unique(chosen)) > 2


def test_predict_takes_one_observation_and_no_state():
    model = learner()
    action, state = model.predict(np.zeros(3, np.float32), action_masks=np.array([0, 0, 1, 0, 0]))
    assert action == 2 and np.shape(action) == () and state[0].shape == (1, 1, 8)
    again, _ = model.predict(np.zeros(3, np.float32), state, np.array([True]), True)
    fresh, _ = model.predict(np.zeros(3, np.float32), None, None, True)
    assert again == fresh


@pytest.mark.parametrize("ops", [None, OPS], ids=["V", "Q"])
def test_truncated_episodes_bootstrap_from_their_last_state_and_its_mask(ops):
    """Advantages and returns from the definition, with V of the step-by-step policy at every bootstrap."""
    model, watch = collected(learner(policy_kwargs={"op_of_action": ops}, gamma=0.9, gae_lambda=0.8))
    buffer = model.rollout_buffer
    rewards = np.stack(watch.rewards[-buffer.buffer_size :])
    infos = watch.infos[-buffer.buffer_size :]
    cut = np.array([[info.get("TimeLimit.truncated", False) for info in row] for row in infos])
    done = np.stack(watch.dones[-buffer.buffer_size :])
    assert cut.sum() > 2 and (done & ~cut).sum() > 2
    extra = buffer.rewards - rewards
    assert not extra[~cut].any() and extra[cut].all()
    following = np.vstack([buffer.values[1:], np.full((1, model.n_envs), np.nan)])
    advantage = np.zeros(model.n_envs)
    for t in reversed(range(buffer.buffer_size - 1)):
        going_on = ~done[t]
        if t == buffer.buffer_size - 2:
            advantage = buffer.advantages[t + 1]
        delta = buffer.rewards[t] + 0.9 * np.where(going_on, following[t], 0.0) - buffer.values[t]
        advantage = delta + 0.9 * 0.8 * going_on * advantage
        assert np.allclose(buffer.advantages[t], advantage, atol=1e-5)


def test_v_is_the_expected_q_under_the_masked_policy_without_its_gradient():
    model = learner(policy_kwargs={"op_of_action": OPS})
    policy = model.policy
    obs, start = torch.randn(4, 3), torch.ones(4)
    masks = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0]], dtype=torch.bool)
    zeros = torch.zeros(1, 4, 8)
    states = RNNStates((zeros, zeros), (zeros, zeros))
    distribution, _ = policy.get_distribution(obs, states, start, masks)
    values = policy.predict_values(obs, states, start, masks)
    latent, _ = policy.lstm_critic(obs[None], (zeros, zeros))
    q = policy.value_net(policy.mlp_extractor.forward_critic(latent[0]))
    p = distribution.probs
    expected = p[:, 0] * q[:, 0] + (p[:, 1] + p[:, 2]) * q[:, 1] + (p[:, 3] + p[:, 4]) * q[:, 2]
    assert torch.allclose(values, expected, atol=1e-6)
    values.sum().backward()
    assert policy.action_net.weight.grad is None and policy.value_net.weight.grad is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: InvalidActionEnvDiscrete(dim=12, n_invalid_actions=6),
        lambda: InvalidActionEnvMultiDiscrete(dims=[4, 4], n_invalid_actions=3),
    ],
    ids=["Discrete", "MultiDiscrete"],
)
def test_it_learns_sb3_contribs_masked_environments(make):
    np.random.seed(0)  # noqa: NPY002 - what the environment draws from
    model = MaskableRecurrentPPO(
        "MlpLstmPolicy",
        DummyVecEnv([make] * 4),
        n_steps=50,
        batch_size=100,
        n_epochs=4,
        learning_rate=3e-3,
        gamma=0.4,
        seed=0,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": 16},
    )
    env = model.get_env()
    model.learn(8_000)
    obs, state, start, total = env.reset(), None, np.ones(4, bool), 0.0
    for _ in range(100):
        masks = np.stack(env.env_method("action_masks"))
        actions, state = model.predict(obs, state, start, deterministic=True, action_masks=masks)
        obs, rewards, start, _ = env.step(actions)
        total += rewards.mean()
    assert total > 70


def test_mistakes_are_errors_that_say_what_to_do():
    with pytest.raises(ValueError, match="leave it out"):
        learner(policy_kwargs={"op_of_action": OPS}, clip_range_vf=0.2)
    with pytest.raises(ValueError, match="op_of_action has 2 entries"):
        learner(policy_kwargs={"op_of_action": [0, 1]})
    with pytest.raises(ValueError, match="Discrete or a flat MultiDiscrete"):
        MaskableRecurrentPPO("MlpLstmPolicy", "Pendulum-v1", device="cpu")
    plain = MaskableRecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, device="cpu")
    with pytest.raises(ValueError, match="use_masking=False"):
        plain.learn(8)
    with pytest.raises(ValueError, match="choose a divisor"):
        learner(envs=3, group_size=2)
    model = learner()
    with pytest.raises(NotImplementedError, match="evaluate_sequences"):
        model.policy.evaluate_actions()
    assert isinstance(model.policy, MaskableRecurrentActorCriticPolicy)


def test_a_saved_learner_acts_as_before(tmp_path):
    model, _ = collected(learner(policy_kwargs={"op_of_action": OPS}))
    model.save(tmp_path / "model.zip")
    loaded = MaskableRecurrentPPO.load(tmp_path / "model.zip", device="cpu")
    obs = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    mine, theirs = model.predict(obs, deterministic=True), loaded.predict(obs, deterministic=True)
    assert np.array_equal(mine[0], theirs[0]) and np.array_equal(mine[1], theirs[1])
    assert loaded.use_masking and loaded.policy.operations == 3


def test_the_actor_learns_from_transitions_with_a_choice_and_the_critic_from_all():
    model, _ = collected(learner())
    buffer = model.rollout_buffer
    legal = np.split(buffer.action_masks, np.cumsum(model.policy.sizes)[:-1], -1)
    choice = np.any([part.sum(-1) > 1 for part in legal], 0)
    assert 0 < choice.sum() < choice.size
    np.testing.assert_array_equal(buffer.decided, choice)
    with torch.no_grad():  # at ratio 1 the policy loss is 0 whatever the advantages are
        for p in model.policy.parameters():
            p.add_(0.1 * torch.randn_like(p))

    def measured():
        buffer._tensors = {}
        (batch,) = buffer.get(None)
        return model._loss(batch, 0.2, model._advantage_scale())[1]

    before = measured()
    buffer.advantages[~choice] += 100.0
    buffer.returns[~choice] += 100.0
    after = measured()
    for name in ("policy_gradient_loss", "entropy_loss"):
        assert float(after[name]) == pytest.approx(float(before[name]), rel=1e-4) != 0.0
    assert after["value_loss"] > before["value_loss"] + 1.0


@pytest.mark.parametrize(
    ("options", "losses"),
    [({"normalize_over": "rollout"}, [-1.0, 1.0]), ({}, [0.0, 0.0]), ({"normalize_advantage": False}, [-3.0, -1.0])],
)
def test_long_sequences_are_told_apart_when_advantages_are_normalised_over_the_rollout(options, losses):
    model, _ = collected(learner(endless=True, envs=2, **options))  # minibatches of one sequence each
    model.rollout_buffer.advantages[:] = [3.0, 1.0]
    model.rollout_buffer.decided[:] = 1.0
    measured = [model._loss(b, 0.2, model._advantage_scale())[1] for b in model.rollout_buffer.get(24)]
    assert sorted(float(m["policy_gradient_loss"]) for m in measured) == pytest.approx(losses, abs=1e-4)


class SharedLuck(gymnasium.Env):
    """Action 1 is worth a tenth; luck, which is the same in every environment, is worth ten."""

    observation_space, action_space = spaces.Box(0, 1, (1,), np.float32), spaces.Discrete(2)

    def __init__(self):
        self.luck, self.steps = np.random.default_rng(0), 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.ones(1, np.float32), 0.1 * action + self.luck.normal(0, 10), self.steps == 8, False, {}


@pytest.mark.parametrize(("group_size", "learned"), [(8, True), (4, True), (1, False)])
def test_luck_that_all_environments_share_is_no_advantage_in_a_group(group_size, learned):
    model = MaskableRecurrentPPO(
        "MlpLstmPolicy",
        DummyVecEnv([SharedLuck] * 8),
        use_masking=False,
        group_size=group_size,
        gamma=1.0,
        gae_lambda=1.0,
        n_steps=8,
        batch_size=64,
        n_epochs=4,
        learning_rate=1e-2,
        normalize_over="rollout",
        policy_kwargs={"lstm_hidden_size": 8, "net_arch": []},
        seed=0,
        device="cpu",
    )
    model.learn(64 * 15)
    assert (float(model.rollout_buffer.actions.mean()) > 0.9) == learned


@given(st.integers(2, 5), st.integers(4, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_a_group_s_advantages_lose_what_is_common_to_a_step_and_most_of_their_variance(envs, steps, seed):
    rng = np.random.default_rng(seed)
    returns, values, rewards, common = rng.normal(size=(4, steps, envs)).astype(np.float32)
    starts = rng.random((steps, envs)) < 0.2
    common[:] = common[:, :1]

    def compared(returns, values, rewards, starts, *, weights=None, size=None):
        count = returns.shape[1]
        buffer = SequenceRolloutBuffer(
            steps, spaces.Box(0, 1, (1,)), spaces.Discrete(2), "cpu", n_envs=count, mask_size=None, seed=0
        )
        buffer.returns, buffer.values, buffer.rewards = returns, values, rewards
        buffer.episode_starts = starts.astype(np.float32)
        buffer.weights = np.ones_like(returns) if weights is None else weights
        return buffer.compare_within_groups(size or count), buffer.advantages

    fit, advantages = compared(returns, values, rewards, starts)
    assert advantages.mean(1) == pytest.approx(0.0, abs=1e-4)
    again, moved = compared(returns + common, values - common, rewards, starts)
    assert again == pytest.approx(fit, rel=1e-3, abs=1e-3)
    assert moved == pytest.approx(advantages, abs=1e-3)
    earned = np.zeros((steps, envs))
    for env in range(envs):
        for t in range(1, steps):
            earned[t, env] = 0.0 if starts[t, env] else earned[t - 1, env] + rewards[t - 1, env]
    centred = [x - x.mean(1, keepdims=True) for x in (returns, values, earned)]
    for c, d in [fit, (0.0, 0.0), (1.0, 0.0), (0.0, -1.0), *rng.normal(fit, 0.1, (10, 2))]:
        other = centred[0] - c * centred[1] - d * centred[2]
        assert (advantages**2).sum() <= (other**2).sum() + 1e-3
        if (c, d) == fit:
            assert advantages == pytest.approx(other, abs=1e-3)
    twice = [np.hstack([x, x]) for x in (returns, values, rewards, starts)]
    twice[0] += np.hstack([common, -common])
    assert compared(*twice, size=envs)[1] == pytest.approx(np.hstack([advantages, advantages]), abs=1e-3)
    if envs > 2:  # a transition that nobody decided takes no part
        decided = np.ones_like(returns)
        decided[:, 0] = 0.0
        _, rest = compared(*(x[:, 1:] for x in (returns, values, rewards, starts)))
        mine = compared(returns, values, rewards, starts, weights=decided)[1]
        assert mine[:, 1:] == pytest.approx(rest, abs=1e-3)
