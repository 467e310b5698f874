"""How often does the heuristic keep a seed that is worth nothing?

    python -m benchmarks.null_seeds

writes the table in ``docs/calibration.md``. Every seed is turned into a null seed when it germinates: frozen for
good, with an output scale of 0 or a random one. With a scale of 0 the gate G2 never opens, because nothing behind
the scale gets a gradient; the measurement is of the rule, so such seeds are also tried declared healthy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from benchmarks.pages import fill, markdown
from esper_agents.tamiyo import make_controller
from esper_env import EsperEnv, Op, Stage
from esper_env.kasmina import Slot

SETTINGS: dict[str, Any] = {"dataset": "synthetic", "samples_per_epoch": 1024, "val_samples": 1024, "seed_lr": 1e-30}
FIRST_SEED = 500_000
EPISODES, EPOCHS = 2, 150
PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"


def nullify(slot: Slot, scale_std: float, declare_healthy: bool) -> None:
    """Make the slot's seed a null seed; its learning rate is as good as 0 already."""
    if slot.stage is Stage.GERMINATED and slot.seed is not None:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(slot.germinations)
            slot.seed.scale.copy_(scale_std * torch.randn(slot.seed.scale.shape, generator=generator))
    if slot.stage is Stage.TRAINING and declare_healthy:
        slot.evidence.health = 1.0


def measure(scale_std: float, episodes: int, epochs: int, declare_healthy: bool) -> tuple[dict[Op, int], int, float]:
    """Return counts of the operations, how many seeds reached HOLDING, and the mean committed accuracy."""
    env = gymnasium.make("Esper/CifarBaseline-v0", episode_length=epochs, **SETTINGS)
    base = env.unwrapped
    assert isinstance(base, EsperEnv)
    controller = make_controller("heuristic", env)
    count = dict.fromkeys((Op.GERMINATE, Op.PRUNE, Op.FOSSILIZE), 0)
    held = 0
    last: list[float] = []
    for episode in range(episodes):
        obs, info = env.reset(seed=FIRST_SEED + episode)
        state, done = None, False
        while not done:
            actions, state = controller(obs[None], base.action_masks()[None], None, state)
            action = base.action_table[actions[0]]
            before = info["stages"]
            obs, _, done, _, info = env.step(actions[0])
            if action.op in count:
                count[action.op] += 1
            held += int(((info["stages"] == Stage.HOLDING) & (before == Stage.BLENDING)).sum())
            if not done:
                for slot in base.episode.model.slots.values():
                    nullify(slot, scale_std, declare_healthy)
        last.append(float(info["committed_accuracy"]))
    return count, held, float(np.mean(last))


def table() -> str:
    """Markdown of what becomes of null seeds, by the standard deviation of their scales."""
    lines = []
    for scale_std, healthy in ((0.0, False), (0.0, True), (0.1, False), (0.3, False)):
        count, held, accuracy = measure(scale_std, EPISODES, EPOCHS, healthy)
        kept = [str(n) for n in (count[Op.GERMINATE], held, count[Op.PRUNE], count[Op.FOSSILIZE])]
        lines.append([f"{scale_std:g}{', declared healthy' * healthy}", *kept, f"{100 * accuracy:.1f}"])
    return markdown(["scale", "germinated", "reached HOLDING", "pruned", "fossilised", "committed accuracy"], lines)


if __name__ == "__main__":
    fill(PAGE, {"null-seeds": table()})
