"""Decisions every few epochs, in training and in acting."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import esper_env  # noqa: F401
from esper_agents import load_policy, save_policy
from esper_agents.runner import run_episodes
from esper_agents.simic import GymnasiumVecEnv
from esper_agents.tamiyo.pace import PacedVectorEnv
from esper_agents.tamiyo.policy import TamiyoPolicy, policy_arguments
from esper_env.leyline import Op
from esper_env.leyline.observation import BASE_WHERE


def make(mode=AutoresetMode.SAME_STEP, length=8):
    return gymnasium.make_vec("Esper/Tiny-v0", num_envs=2, workers=1, autoreset_mode=mode.value, episode_length=length)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("interval", [1, 3])
def test_between_decisions_only_waiting_is_legal(mode, interval):
    plain, paced = make(mode), PacedVectorEnv(make(mode), interval)
    (obs, first), second = plain.reset(seed=0), paced.reset(seed=0)[1]
    for _ in range(20):  # two episodes and more
        due = round(8 * float(obs[0, BASE_WHERE["progress"]][0])) % interval == 0
        expected = first["action_mask"] if due else np.eye(1, first["action_mask"].shape[1]).repeat(2, 0)
        np.testing.assert_array_equal(second["action_mask"], expected)
        assert second["action_mask"].dtype == first["action_mask"].dtype
        obs, _, _, _, first = plain.step([0, 0])
        second = paced.step([0, 0])[4]
        if "final_info" in second:  # after epoch 8
            last, paced_last = first["final_info"]["action_mask"], second["final_info"]["action_mask"]
            assert paced_last.sum() == (last.sum() if 8 % interval == 0 else 2)


def test_an_environment_that_is_reset_alone_begins_with_a_decision():
    env = PacedVectorEnv(make(AutoresetMode.DISABLED), 3)
    env.reset(seed=0)
    env.step([0, 0])
    infos = env.reset(options={"reset_mask": np.array([False, True])})[1]
    assert infos["action_mask"][1].sum() > 1
    assert env.step([0, 0])[4]["action_mask"].sum() == 2
    after = env.step([0, 0])[4]["action_mask"].sum(1)
    assert after[0] > 1 and after[1] == 1


def test_a_policy_acts_at_the_pace_it_has_learned_at(tmp_path):
    env = make(length=20)
    arguments = policy_arguments(env, memory_size=8, feature_size=8, decision_interval=4)
    adapter = GymnasiumVecEnv(env)
    policy = TamiyoPolicy(adapter.observation_space, adapter.action_space, lambda _: 0.0, **arguments)
    save_policy(policy, tmp_path / "policy", env)
    controller = load_policy(tmp_path / "policy", env, temperature=1.0)
    assert controller.policy.decision_interval == 4
    for record in run_episodes(controller, env, 4, seed=0):  # two after each other in each environment
        acted = [epoch for epoch, action in enumerate(record.actions) if action.op is not Op.WAIT]
        assert len(acted) >= 1 and all(epoch % 4 == 0 for epoch in acted)
