"""Whole episodes: what is recorded, what is printed and drawn of them, and a loop without our runner."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn
from tqdm import tqdm

from esper_agents.demo import table
from esper_agents.pictures import draw_lives
from esper_agents.report import slot_life, spans, summary
from esper_agents.runner import run_episodes
from esper_agents.tamiyo import Planting, make_controller
from esper_env import Stage

PLAN = (Planting("r0c0", "conv_light", 1), Planting("r0c1", "norm", 20))


@pytest.fixture
def planned(make_tiny):
    """Two records of a schedule with one seed that is kept and one that is too late."""
    venv = make_tiny(2, episode_length=30)
    return run_episodes(make_controller("fixed_schedule", venv, schedule=PLAN), venv, 2, seed=4)


def same(a, b):
    assert a.seed == b.seed and a.actions == b.actions
    for name in ("rewards", "val_accuracy", "stages", "alphas", "blueprints"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert set(a.final) == set(b.final)
    for key, value in a.final.items():
        np.testing.assert_array_equal(value, b.final[key], err_msg=key)


def test_a_record_tells_the_episode(planned):
    record = planned[1]
    assert record.seed == 5 and record.slots == ("r0c0", "r1c0", "r0c1")
    assert record.stages.shape == record.alphas.shape == record.blueprints.shape == (30, 3)
    assert record.episode_return == pytest.approx(record.final["value"] - 0.1)
    assert record.blueprint_names[record.blueprints[5, 0]] == "conv_light"
    assert record.stages[-1].tolist() == [Stage.FOSSILIZED, Stage.DORMANT, Stage.PRUNED]


def test_episodes_do_not_depend_on_how_they_are_spread(make_tiny, planned):
    for num_envs, mode in ((1, "SameStep"), (3, "NextStep")):
        venv = make_tiny(num_envs, episode_length=30, autoreset_mode=mode)
        controller = make_controller("fixed_schedule", venv, schedule=PLAN)
        with tqdm(disable=True) as progress:
            records = run_episodes(controller, venv, 2, seed=4, progress=progress)
        assert len(records) == 2
        for ours, theirs in zip(records, planned, strict=True):
            same(ours, theirs)


def test_an_episode_that_ends_early_is_recorded_up_to_its_end(make_tiny):
    venv = make_tiny(2, max_episode_steps=7)
    assert [len(r.actions) for r in run_episodes(make_controller("wait", venv), venv, 2, seed=0)] == [7, 7]


def test_a_truncated_episode_is_reported_without_the_figures_it_lacks(make_tiny, tmp_path):
    venv = make_tiny(1, max_episode_steps=7)
    records = run_episodes(make_controller("fixed_schedule", venv, schedule=PLAN), venv, 1, seed=1)
    assert not records[0].settled
    text = summary(records[0])
    assert "7 epochs" in text and f"{records[0].val_accuracy[-1]:.2%} (validation); truncated" in text
    assert "fossilised" not in text and "r0c0  conv_light: germinated 1" in text
    draw_lives({"schedule": records[0]}, tmp_path / "lives.png", "Lives")
    assert (tmp_path / "lives.png").stat().st_size


def test_environments_that_do_not_reset_themselves_are_refused(make_tiny):
    venv = make_tiny(1, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match="'SameStep' or 'NextStep'"):
        run_episodes(make_controller("wait", venv), venv, 1, seed=0)


def test_reports(planned, tmp_path):
    text = summary(planned[0])
    assert "episode with seed 4: 30 epochs" in text and "germinated 2, fossilised 1, pruned 0" in text
    life = "conv_light: germinated 1, training 2, blending 7, holding 12, fossilized 13"
    assert slot_life(planned[0], 0) == life and life in text
    assert slot_life(planned[0], 1) == "never used"
    assert slot_life(planned[0], 2).endswith("removed unfinished 30")
    for slot in range(3):
        found = spans(planned[0], slot)
        assert found[0].first == 1 and found[-1].last == 30
        assert all(a.last + 1 == b.first for a, b in itertools.pairwise(found))
    assert "one" in table({"one": planned})
    draw_lives({"one": planned[0], "two": planned[1]}, tmp_path / "new" / "lives.png", "Lives")
    assert (tmp_path / "new" / "lives.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("threshold", "ends", "other"), [(99.0, ("fading", ", pruned"), "fossilized"), (-99.0, ("fossilized",), "pruned")]
)
def test_the_heuristic_completes_lives_by_its_threshold(make_tiny, threshold, ends, other):
    venv = make_tiny(1, episode_length=30)
    rule = {"first_epoch": 3, "fossilize_points": threshold, "loss_points": 99.0, "judge_epochs": 99}
    (record,) = run_episodes(make_controller("heuristic", venv, **rule), venv, 1, seed=1)
    life = slot_life(record, 0)
    assert all(end in life for end in ends) and other not in life
    assert record.final["germinated"] >= 2
    assert bool(record.final["fossilized"]) is ("fossilized" in ends)


def test_a_plain_reinforcement_learning_loop_runs():
    """CleanRL's form: nothing but Gymnasium, numpy and torch."""
    envs = gymnasium.make_vec(
        "Esper/Tiny-v0", num_envs=2, samples_per_epoch=16, val_samples=256, batch_size=16, episode_length=8
    )
    torch.manual_seed(0)
    actor = nn.Linear(128, int(envs.single_action_space.n))
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
    before = actor.weight.detach().clone()
    obs, info = envs.reset(seed=1)
    for _ in range(2):
        log_probs, rewards, ended = [], [], 0
        while not ended:
            logits = actor(torch.as_tensor(obs))
            logits = logits.masked_fill(torch.as_tensor(info["action_mask"]) == 0, -1e9)
            policy = torch.distributions.Categorical(logits=logits)
            actions = policy.sample()
            obs, reward, terminated, truncated, info = envs.step(actions.numpy())
            assert not info["invalid_action"].any()
            log_probs.append(policy.log_prob(actions))
            rewards.append(torch.as_tensor(reward))
            ended = (terminated | truncated).any()
        returns = torch.stack(rewards).flip(0).cumsum(0).flip(0)
        loss = -(torch.stack(log_probs) * (returns - returns.mean())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        obs, _, _, _, info = envs.step(np.zeros(2, np.int64))  # the step that resets
    assert (actor.weight != before).any()
    envs.close()
