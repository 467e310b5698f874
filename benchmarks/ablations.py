"""What the agent's settings are worth, one at a time: ``python -m benchmarks.ablations run|report``.

Every setting is trained on `Esper/Tiny-v0` with three seeds and judged on held-out ones, beside WAIT and random.
``run`` adds the rows that are missing to ``benchmarks/results/ablations.jsonl``; ``report`` writes the table in
``docs/agent.md``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import rows
from benchmarks.pages import fill, markdown
from esper_agents import load_policy
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.runner import EpisodeRecord, run_episodes
from esper_agents.simic.training import LOG, Trainer
from esper_agents.tamiyo import make_controller

RESULTS = Path(__file__).parent / "results" / "ablations.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "agent.md"
SEEDS = range(3)
TRAINING_SEEDS_APART = 10_000
EVALUATION_SEED, EVALUATION_EPISODES = 2_000_000, 32

SETTINGS: dict[str, dict[str, Any]] = {
    "the preset": {},
    "1 pass": {"ppo_epochs": 1},
    "8 passes": {"ppo_epochs": 8},
    "4 minibatches": {"minibatches": 4},
    "learning rate 3e-4": {"learning_rate": 3e-4},
    "learning rate 3e-3": {"learning_rate": 3e-3},
    "shaped": {"reward": "shaped"},
    "escrow": {"reward": "escrow"},
    "V(s)": {"critic": "v"},
    "shared seeds": {"group_seeds": True},
    "LSTM 512": {"memory_size": 512},
    "no memory": {"memory": "none"},
    "separate critic memory": {"critic_memory": True},
}
"""Changes to the preset "tiny"."""
SCRIPTED = ("wait", "random", "heuristic")


def config_of(setting: str, seed: int) -> PPOConfig:
    """The configuration of a training run; runs of different seeds meet different episodes."""
    apart = {"seed": seed * TRAINING_SEEDS_APART, "preset": "tiny", "num_workers": 1}
    return PPOConfig(**PRESETS["tiny"] | apart | SETTINGS[setting])


def row_of(records: list[EpisodeRecord]) -> dict[str, Any]:
    """What the evaluation episodes came to."""
    germinated = sum(r.final["germinated"] for r in records)
    fossilized = sum(r.final["fossilized"] for r in records)
    return {
        "returns": [round(r.episode_return, 6) for r in records],
        "germinated": germinated / len(records),
        "fossilized": fossilized / len(records),
        "rollbacks": int(sum(r.final["rollbacks"] for r in records)),
        "failures": int(sum(r.final["error_code"] != 0 for r in records)),
    }


def judge(controller: Any, config: PPOConfig) -> dict[str, Any]:
    """Run a controller on the evaluation seeds."""
    venv = config.make(config.envs)
    try:
        return row_of(run_episodes(controller(venv), venv, EVALUATION_EPISODES, seed=EVALUATION_SEED))
    finally:
        venv.close()


def run_one(setting: str, seed: int) -> dict[str, Any]:
    """Train with a setting, or take a scripted controller, and judge it."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    row: dict[str, Any] = {"setting": setting, "seed": seed}
    if setting in SCRIPTED:
        config = config_of("the preset", 0)
        row |= judge(lambda venv: make_controller(setting, venv), config)
    else:
        config = config_of(setting, seed)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = Trainer(config, Path(scratch))
            trainer.run(progress=False, report=lambda _: None)
            trainer.env.close()
            rounds = [json.loads(line) for line in (Path(scratch) / LOG).read_text().splitlines()]
            policy = Path(scratch) / "policy.safetensors"
            row |= judge(lambda venv: load_policy(policy, venv), config)
        kept = ("round/return", "round/fossilized_share", "train/approx_kl", "train/clip_fraction")
        row["curves"] = {key: [r.get(key) for r in rounds] for key in kept}
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def run(workers: int) -> None:
    """Run what has no row yet."""
    done = {(row["setting"], row["seed"]) for row in rows.read(RESULTS)}
    jobs = [(name, 0) for name in SCRIPTED] + [(name, seed) for seed in SEEDS for name in SETTINGS]
    jobs = [job for job in jobs if job not in done]
    rows.make(RESULTS, jobs, run_one, workers)


def table() -> str:
    """Mean held-out return of every setting, and what it does."""
    head = ["setting", "mean return", "by seed", "over WAIT", "germinated", "fossilised", "rollbacks"]
    lines = []
    found = rows.read(RESULTS)
    wait = next((np.mean(r["returns"]) for r in found if r["setting"] == "wait"), np.nan)
    for name in (*SCRIPTED, *SETTINGS):
        mine = sorted((r for r in found if r["setting"] == name), key=lambda r: int(r["seed"]))
        if mine:
            means = [float(np.mean(r["returns"])) for r in mine]
            numbers = [f"{np.mean([r[key] for r in mine]):.2f}" for key in ("germinated", "fossilized", "rollbacks")]
            by_seed = " ".join(f"{m:.4f}" for m in means)
            lines.append([name, f"{np.mean(means):.4f}", by_seed, f"{np.mean(means) - wait:+.4f}", *numbers])
    return markdown(head, lines)


if __name__ == "__main__":
    sys.exit(rows.command("benchmarks.ablations", __doc__, run, lambda: fill(PAGE, {"ablations": table()})))
