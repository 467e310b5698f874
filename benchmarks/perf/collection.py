"""What collecting a rollout costs beyond the environments' own steps: ``python -m benchmarks.perf.collection``.

The policy's forward pass, masks, rewards and the adapter, in one process: the time of a rollout less the time within
the environments' ``step``, over the latter. `Esper/CifarBaseline-v0` on embedded data, the preset's policy (goal: at
most 3 %).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pages import fill
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.simic.training import Trainer

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def overhead(steps: int) -> tuple[float, float]:
    """Collect one short episode; return the overhead as a share, and seconds of a vector step."""
    torch.set_num_threads(1)
    settings = PRESETS["cifar_baseline"] | {"dataset": "synthetic", "episode_length": steps, "ppo_epochs": 1}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(PPOConfig(**settings, rounds=1), Path(folder))
        venv: Any = trainer.env.venv.unwrapped
        inside = []
        step = venv.step

        def timed(actions: Any) -> Any:
            start = time.perf_counter()
            result = step(actions)
            inside.append(time.perf_counter() - start)
            return result

        venv.step = timed
        model = trainer.model
        trainer.env.seed_each(list(range(trainer.env.num_envs)))
        _, callback = model._setup_learn(steps * trainer.env.num_envs, None)
        start = time.perf_counter()
        model.collect_rollouts(trainer.env, callback, model.rollout_buffer, steps)
        total = time.perf_counter() - start
        trainer.env.close()
    return total / sum(inside) - 1.0, sum(inside) / steps


def main() -> int:
    """Measure several rollouts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf.collection", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="write it into docs/performance.md")
    arguments = parser.parse_args()
    shares, seconds = zip(*(overhead(arguments.steps) for _ in range(arguments.repeats)), strict=True)
    text = (
        f"Collecting adds {np.median(shares):.2%} [{min(shares):.2%}, {max(shares):.2%}] to the environments' steps "
        f"(goal: at most 3 %); four environments take {np.median(seconds):.2f} s a step."
    )
    print(text)
    if arguments.write:
        fill(PAGE, {"collection": text})
    return 0


if __name__ == "__main__":
    sys.exit(main())
