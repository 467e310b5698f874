"""What is trained to learn what the agent learns, and what the tables make of the rows."""

import json

import pytest

from benchmarks import learning
from benchmarks.learning import CIFAR, TINY


@pytest.mark.parametrize("setting", learning.SETTINGS)
def test_every_setting_is_a_configuration_of_its_own(setting):
    usual, changed = learning.config_of(TINY, learning.USUAL, 1), learning.config_of(TINY, setting, 1)
    assert usual.env_id == TINY and usual.seed == learning.TRAINING_SEEDS_APART
    assert (usual == changed) == (setting == learning.USUAL)


def test_training_runs_share_no_episode():
    jobs = learning.jobs()
    assert len(jobs) == len(set(jobs))
    for task in learning.TASKS:
        config = learning.config_of(task, learning.USUAL, 0)
        assert config.env_id == task
        assert config.rounds * config.envs < learning.TRAINING_SEEDS_APART


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "RESULTS", tmp_path / "rows.jsonl")
    does = {"germinated": 3.0, "fossilized": 1.0, "growth": 0.5, "rollbacks": 0, "failures": 0}
    curves = {key: [0.1, None, 0.3] if key == "fossilized_share" else [0.1, 0.2, 0.3] for key in learning.CURVES}
    trained = {"curves": curves, "likeliest": [0.5, 0.7]}
    rows = [
        {"setting": "V(s)", "seed": 1, "returns": [0.6, 0.6], **trained},
        {"setting": "wait", "seed": 0, "returns": [0.5, 0.7]},
        {"setting": "V(s)", "seed": 0, "returns": [0.8, 0.8], **trained},
        {"setting": learning.USUAL, "seed": 0, "returns": [0.6, 0.8], **trained},
    ]
    text = "".join(json.dumps({"task": TINY, **does, **row}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    return tmp_path


def test_a_table_compares_the_same_seeds_run_by_run(written):
    lines = learning.table(TINY).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| wait", "| the preset", "| V(s)"]
    assert lines[3].startswith("| the preset | 0.7000 | +10.00 [+10.00, +10.00] |  | +0.00 | 3.00 | 1.00 | 0.50")
    assert lines[4].split(" | ")[3] == "+20.0 +0.0"
    assert learning.table(CIFAR).count("\n") == 1


def test_the_picture_is_drawn_from_the_rows(written):
    learning.draw(written / "picture.png")
    assert (written / "picture.png").stat().st_size > 20_000
