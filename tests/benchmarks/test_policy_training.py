"""The training of the benchmark's policies: what is kept, and what a second start does."""

import pytest

from benchmarks import training
from esper_agents import load_policy
from esper_agents.ppo_config import PRESETS

HOSTS = {"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16}
SMALL = {"task": "tiny", "env_json": HOSTS, "envs": 2, "episode_length": 8, "memory_size": 8, "num_workers": 1}


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", SMALL)
    monkeypatch.setattr(training, "DATA", {"tiny": "synthetic"})
    monkeypatch.setattr(training, "QUARTER", {**HOSTS, "batch_size": 8})
    monkeypatch.setattr(training, "ROUNDS", {"tiny": (1, 2)})


def test_a_policy_is_trained_once_by_the_commands_that_are_printed(capsys):
    assert training.main(["run", "--task", "tiny", "--seed", "3"]) == 0
    quarter, full = (line for line in capsys.readouterr().out.splitlines() if line.startswith("python -m"))
    for said, name, seed, rounds in ((quarter, "tiny-quarter-3", 3, 1), (full, "tiny-3", 1003, 2)):
        origin = load_policy(training.RESULTS / name / training.POLICY).description["origin"]
        assert origin["command"] == said and origin["round"] == rounds and origin["config"]["seed"] == seed
    assert "--start benchmarks/results/training/tiny-quarter-3/policy.safetensors" in full
    assert training.main(["run", "--task", "tiny", "--seed", "3"]) == 0
    assert "python" not in capsys.readouterr().out
    training.PICTURE.parent.mkdir()
    assert training.main(["report"]) == 0
    assert training.PICTURE.stat().st_size > 10_000


def test_a_report_of_nothing_says_what_to_do():
    with pytest.raises(SystemExit, match="train a policy first"):
        training.main(["report"])


def test_a_run_that_was_stopped_goes_on(monkeypatch, capsys):
    (training.RUNS / "tiny-quarter-0" / "tiny-seed0-20000101-000000").mkdir(parents=True)  # before its first checkpoint
    assert training.train.main(["ppo", *training.flags("tiny", 0, True)]) == 0
    monkeypatch.setattr(training, "ROUNDS", {"tiny": (2, 1)})
    assert training.run("tiny", 0) == 0
    assert "--resume runs/training/tiny-quarter-0/" in capsys.readouterr().out
    assert len((training.RESULTS / "tiny-quarter-0" / training.LOG).read_text().splitlines()) == 2
