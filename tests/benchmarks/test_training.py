"""Training in two stages: what is kept, what is begun with, and what a second start does."""

import pytest

from benchmarks import training
from esper_agents import load_policy
from esper_agents.ppo_config import PRESETS, base_config

HOSTS = {"samples_per_epoch": 32, "val_samples": 256, "batch_size": 16}
SMALL = {"task": "tiny", "env_json": HOSTS, "envs": 2, "episode_length": 8, "memory_size": 8, "num_workers": 1}


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", SMALL)
    monkeypatch.setattr(training, "DATA", {"tiny": "synthetic"})
    monkeypatch.setattr(training, "ROUNDS", {"tiny": 2})
    monkeypatch.setattr(training, "QUARTER_ROUNDS", 1)
    monkeypatch.setattr(training, "QUARTER", '{"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16}')
    return tmp_path


def test_the_second_stage_begins_with_the_first_s_policy_and_nothing_is_trained_twice(small, capsys):
    assert training.main(["run", "--task", "tiny", "--seed", "3"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python -m")]
    assert len(said) == 2
    quarter, full = (
        load_policy(training.RESULTS / f"{stage}-tiny-3" / training.POLICY).description["origin"]
        for stage in training.STAGES
    )
    assert full["started_from"] == quarter
    assert (quarter["command"], full["command"]) == tuple(said)
    assert quarter["config"]["env_json"]["samples_per_epoch"] == 16 and quarter["config"]["seed"] == 3
    assert full["config"]["env_json"]["samples_per_epoch"] == 32 and full["config"]["seed"] == 103
    assert (quarter["round"], full["round"]) == (1, 2)
    assert training.main(["run", "--task", "tiny", "--seed", "3"]) == 0
    assert "python" not in capsys.readouterr().out
    training.PICTURE.parent.mkdir()
    assert training.main(["report"]) == 0
    assert training.PICTURE.stat().st_size > 10_000


def test_a_run_that_was_stopped_goes_on(small, monkeypatch, capsys):
    monkeypatch.setattr(training, "QUARTER_ROUNDS", 2)
    assert training.train.main(["ppo", *training.flags("quarter", "tiny", 0)[:-4], "--rounds", "1", "--seed", "0"]) == 0
    assert training.run("tiny", 0) == 0
    assert "--resume runs/training/quarter-tiny-0/" in capsys.readouterr().out
    rounds = (training.RESULTS / "quarter-tiny-0" / training.LOG).read_text().splitlines()
    assert len(rounds) == 2


@pytest.mark.parametrize("task", training.DATA)
def test_every_command_is_a_configuration_and_the_stages_share_no_episode(task, monkeypatch):
    quarter, full = (base_config(["ppo", *training.flags(stage, task, 0)]) for stage in training.STAGES)
    assert quarter.task == full.task == task
    assert training.QUARTER_ROUNDS * quarter.groups <= training.FULL_SEED
