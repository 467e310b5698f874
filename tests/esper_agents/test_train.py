"""The trainer's command line, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from esper_agents.config import environment_ids
from esper_agents.train import HeuristicConfig

SMALL = json.dumps({"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16})


def test_the_heuristic_runs_and_reports(tmp_path):
    command = [sys.executable, "-m", "esper_agents.train", "heuristic", "--task", "tiny", "--episodes", "2"]
    options = ["--episode-length", "24", "--envs", "2", "--seed", "7", "--num-workers", "1", "--env-json", SMALL]
    options += ["--telemetry-dir", str(tmp_path)]
    done = subprocess.run(command + options, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "episode with seed 7: 24 epochs" in done.stdout and "episode with seed 8" in done.stdout
    for word in ("return", "committed", "test", "growth", "fossilised", "FLOPs", "r0c0  conv_light: germinated"):
        assert word in done.stdout
    for word in ("48/48", "step/s", "round=1", "epoch=24", "accuracy="):
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "heuristic"),
        (["heuristics"], "heuristic"),
        (["heuristic", "--task", "cifar"], "choose one of cifar_baseline, "),
        (["heuristic", "--seed", "1000000"], "must be below 1000000"),
        (["heuristic", "--seed", "-1"], "greater than or equal to 0"),
        (["heuristic", "--episodes", "0"], "greater than or equal to 1"),
        (["heuristic", "--envs", "many"], "--envs"),
        (["heuristic", "--sed", "1"], "--seed"),
        (["heuristic", "--devices", "cuda:7"], "there is no device 'cuda:7'; choose from cpu"),
        (["heuristic", "--gpu-preload"], "--gpu-preload: environments run on the CPU"),
        (["heuristic", "--env-json", '{"device": "cpu"}'], "has a flag of its own"),
        (["heuristic", "--env-json", "{"], "--env-json"),
        (["heuristic", "--env-json", "[1]"], "is not a JSON object"),
        (["heuristic", "--env-json", '{"val_sample": 1}'], "did you mean 'val_samples'?"),
        (["heuristic", "--env-json", '{"zzz": 1}'], "choose from slots, "),
        (["heuristic", "--env-json", '{"episode_length": 1}'], "has a flag of its own"),
        (["heuristic", "--task", "tiny", "--dataset", "mnist"], "choose one of auto, cifar10"),
        (["heuristic", "--task", "tiny", "--env-json", '{"slots": ["r9"]}'], "choose one of ['r0c0'"),
        (["heuristic", "--task", "tiny", "--env-json", '{"val_samples": 9999}'], "has 512 images"),
    ],
)
def test_bad_values_say_what_to_choose(arguments, message, refused):
    assert refused(arguments, message)


def test_a_task_goes_by_its_name_or_its_id():
    assert environment_ids()["cifar_baseline"] == "Esper/CifarBaseline-v0"
    assert HeuristicConfig(task="tiny").env_id == HeuristicConfig(task="Esper/Tiny-v0").env_id == "Esper/Tiny-v0"


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="episode"):
        HeuristicConfig(episode=3)
    with pytest.raises(ValueError, match="valid integer"):
        HeuristicConfig(episodes="3")
