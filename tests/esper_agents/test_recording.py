"""Events read off a vector environment, against what its infos say."""

import itertools

import gymnasium
import numpy as np
import pytest

import esper_env
from esper_agents.recording import RecordedVectorEnv
from esper_agents.runner import run_episodes
from esper_agents.tamiyo import Interface, Planting, make_controller
from esper_env import EsperEnv
from esper_env.leyline.events import EpisodeEnd, Gate, Lifecycle, Step
from esper_env.nissa import record


@pytest.fixture
def recorded():
    events = []
    settings = {"episode_length": 20, "samples_per_epoch": 64, "val_samples": 64, "tempos": [1]}
    venv = gymnasium.make_vec("Esper/Tiny-v0", num_envs=2, autoreset_mode="SameStep", **settings)
    env = RecordedVectorEnv(venv, "fixed_schedule", events.append)
    yield env, events
    env.close()


def run(env, episodes=2):
    schedule = (Planting("r0c0", "conv_light", epoch=2, tempo=1),)
    controller = make_controller("fixed_schedule", env, schedule=schedule)
    return run_episodes(controller, env, episodes, seed=7)


def test_every_step_and_episode_is_told_as_it_was(recorded):
    env, events = recorded
    records = run(env)
    steps = [e for e in events if isinstance(e, Step)]
    ends = [e for e in events if isinstance(e, EpisodeEnd)]
    assert len(steps) == 40 and [e.episode_seed for e in ends] == [7, 8]
    for i, (episode, end) in enumerate(zip(records, ends, strict=True)):
        mine = [e for e in steps if e.env == i]
        assert [e.epoch for e in mine] == list(range(1, 21)) and {e.episode_seed for e in mine} == {7 + i}
        assert [e.action for e in mine] == [str(a) for a in episode.actions]
        assert [e.reward for e in mine] == episode.rewards.tolist()
        assert [e.val_accuracy for e in mine] == episode.val_accuracy.tolist()
        assert [e.alphas for e in mine] == [tuple(a) for a in episode.alphas.tolist()]
        assert end.total_return == pytest.approx(episode.episode_return)
        assert end.fossilized == episode.final["fossilized"] == 1
    assert all(record(e, 0.0) for e in events), "every field is of its type"


def test_a_seed_s_life_and_its_gates_are_told_in_order(recorded):
    env, events = recorded
    run(env)
    life = [e for e in events if isinstance(e, Lifecycle) and e.env == 0]
    stages = ["DORMANT", "GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"]
    assert [(e.before, e.after) for e in life] == list(itertools.pairwise(stages))
    assert {e.slot for e in life} == {"r0c0"} and {e.blueprint for e in life} == {"conv_light"}
    gates = [(e.operation, e.open) for e in events if isinstance(e, Gate) and e.env == 0 and e.slot == "r0c0"]
    assert gates[0] == ("ADVANCE", True) and ("FOSSILIZE", True) in gates
    for operation in ("ADVANCE", "FOSSILIZE"):
        turns = [is_open for op, is_open in gates if op == operation]
        assert all(a != b for a, b in itertools.pairwise(turns)), "a gate that is open does not open"


def test_counterfactuals_are_measured_or_none(recorded):
    env, events = recorded
    run(env)
    measured = [e for e in events if e.kind == "counterfactual" and e.env == 0]
    assert measured
    for event in measured:
        assert event.contribution_points[0] is not None and event.contribution_points[1:] == (None, None)
        assert event.shapley_points[0] == pytest.approx(event.contribution_points[0])


def test_recording_changes_nothing_and_a_failed_step_has_no_figures(recorded, monkeypatch):
    env, events = recorded
    plain = run(env.env)
    assert not events
    again = run(env)
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_array_equal(a.rewards, b.rewards)
    events.clear()
    with monkeypatch.context() as broken:
        broken.setattr(EsperEnv, "_advance", lambda *_: 1 / 0)
        env.reset(seed=1)
        wait = Interface.of(env).index[esper_env.Action(esper_env.Op.WAIT)]
        env.step(np.full(2, wait))
    assert [e.kind for e in events] == ["episode", "episode"] and all(e.error_code for e in events)
    for i, event in enumerate(events):
        assert event.committed_accuracy is None, "it was not settled"
        assert event.error == "ZeroDivisionError: division by zero", "also where the next episode has begun"
        assert event.episode_seed == 1 + i
    events.clear()
    env.step(np.full(2, wait))
    assert {e.episode_seed for e in events if e.kind == "step"} == {None}, "of the episode that began by itself"
    run(env)
    ends = [e for e in events if e.kind == "episode"][-2:]
    assert [(e.error, e.committed_accuracy is None) for e in ends] == [(None, False)] * 2


def test_a_truncated_episode_has_no_end_and_the_next_one_is_told_anew():
    events = []
    settings = {"episode_length": 20, "samples_per_epoch": 64, "val_samples": 64, "tempos": [1]}
    venv = gymnasium.make_vec("Esper/Tiny-v0", num_envs=1, autoreset_mode="SameStep", max_episode_steps=3, **settings)
    env = RecordedVectorEnv(venv, "wait", events.append)
    env.reset(seed=7)
    for _ in range(7):
        env.step(np.array([0]))
    env.close()
    assert [(e.episode_seed, e.epoch) for e in events if isinstance(e, Step)] == [
        *((7, epoch) for epoch in (1, 2, 3)),
        *((None, epoch) for epoch in (1, 2, 3, 1)),
    ]
    assert not any(isinstance(e, EpisodeEnd) for e in events)
