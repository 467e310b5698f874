"""What collecting a rollout costs beyond the environments' own steps.

The policy's forward pass, masks, rewards and the adapter, in one process: the time of a rollout less the time within
the environments' ``step``, over the latter. `Esper/CifarBaseline-v0` on embedded data with the preset's policy.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.perf.measure import Report, Target, each, spread
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.simic.training import Trainer

GOAL = 0.03
STEPS = 10


def measure(process: int) -> dict[str, Any]:
    """Collect one short episode: the overhead as a share, and seconds of a vector step."""
    settings = PRESETS["cifar_baseline"] | {
        "dataset": "synthetic",
        "envs": 4,
        "episode_length": STEPS,
        "memory_size": 512,
        "ppo_epochs": 1,
    }
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
        _, callback = model._setup_learn(STEPS * trainer.env.num_envs, None)
        start = time.perf_counter()
        model.collect_rollouts(trainer.env, callback, model.rollout_buffer, STEPS)
        total = time.perf_counter() - start
        trainer.env.close()
    return {"share": total / sum(inside) - 1.0, "step": sum(inside) / STEPS}


def report(rows: list[dict[str, Any]]) -> Report:
    """The share."""
    share = each(rows, "share")
    text = (
        f"Collecting adds {spread(share, '.2%')} to the environments' steps; four environments take "
        f"{spread(each(rows, 'step'))} s a step."
    )
    what = "policy, masks, rewards and adapter, of a step of CifarBaseline"
    return Report(text, [Target(what, f"<= {GOAL:.0%}", spread(share, ".2%"), bool(np.median(share) <= GOAL))])
