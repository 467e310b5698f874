"""Records the log beside it anew: ``python tests/esper_agents/karn/alarmed/record.py``.

A short training in which the weights of one network are broken once, so that there are alarms and a rollback.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from esper_agents.ppo_config import PPOConfig
from esper_agents.simic.training import Trainer
from esper_agents.telemetry import EVENTS, Telemetry

SETTINGS: dict[str, Any] = {
    "task": "tiny",
    "rounds": 1,
    "envs": 2,
    "episode_length": 30,
    "memory_size": 16,
    "learning_rate": 0.003,
    "env_json": {"samples_per_epoch": 128, "val_samples": 128, "batch_size": 32, "tempos": [1]},
}
BROKEN = (0, 0, 9)
"""Environment, round and epoch after which its host's weights are no numbers."""


def main() -> None:
    """Train, and keep the log, with what it tells of this machine left out."""
    torch.set_num_threads(1)  # as the command does
    flags = [f for k, v in SETTINGS.items() for f in (f"--{k.replace('_', '-')}", _word(v))]
    command = shlex.join(["python", "-m", "esper_agents.train", "ppo", *flags])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(PPOConfig(**SETTINGS), Path(folder), command=command)
        _break(trainer)
        with Telemetry(Path(folder)) as telemetry:
            trainer.run(progress=False, telemetry=telemetry)
        trainer.env.close()
        lines = [json.loads(line) for line in (Path(folder) / EVENTS).read_text().splitlines()]
    for line in lines:
        if line["kind"] == "run_start":
            line["host"] = "example"
        elif line["kind"] == "checkpoint":
            line["file"] = f"runs/alarmed/checkpoints/{Path(line['file']).name}"
    Path(__file__).with_name(EVENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _break(trainer: Trainer) -> None:
    number, broken_round, epoch = BROKEN
    env = trainer.recorded.unwrapped.envs[number]  # type: ignore[attr-defined]
    step = env.step

    def broken(action: Any) -> Any:
        if (trainer.round, env.episode.epoch) == (broken_round, epoch):
            with torch.no_grad():
                next(env.episode.model.host.parameters()).fill_(float("nan"))
        return step(action)

    env.step = broken


if __name__ == "__main__":
    sys.exit(main())
