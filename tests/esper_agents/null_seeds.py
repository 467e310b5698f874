"""How often does the heuristic keep a seed that is worth nothing? Not collected by pytest; run it:

    python tests/esper_agents/null_seeds.py [episodes] [epochs]

Every seed is turned into a null seed when it germinates: frozen for good, with an output scale of 0 or a
random one. With a scale of 0 the gate G2 never opens, because nothing behind the scale gets a gradient; the
measurement is of the rule, so these seeds are declared healthy.
"""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import torch

import esper_env  # noqa: F401 - registers the ids
from esper_agents.tamiyo import make_controller
from esper_env import Op, Stage

SETTINGS = {"dataset": "synthetic", "samples_per_epoch": 1024, "val_samples": 1024, "seed_lr": 1e-30}
FIRST_SEED = 500_000


def nullify(slot, scale_std, declare_healthy):
    """Make the slot's seed a null seed; its learning rate is as good as 0 already."""
    if slot.stage is Stage.GERMINATED:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(slot.germinations)
            slot.seed.scale.copy_(scale_std * torch.randn(len(slot.seed.scale), generator=generator))
    if slot.stage is Stage.TRAINING and declare_healthy:
        slot.evidence.health = 1.0


def measure(scale_std, episodes, epochs, declare_healthy):
    """Return how many null seeds were germinated, reached HOLDING, were pruned and were fossilised."""
    env = gymnasium.make("Esper/CifarBaseline-v0", episode_length=epochs, **SETTINGS)
    controller = make_controller("heuristic", env)
    table = env.unwrapped.action_table
    count = dict.fromkeys((Op.GERMINATE, Op.PRUNE, Op.FOSSILIZE), 0)
    held, last = 0, []
    for episode in range(episodes):
        obs, info = env.reset(seed=FIRST_SEED + episode)
        state, done = None, False
        while not done:
            actions, state = controller(obs[None], env.unwrapped.action_masks()[None], None, state)
            action = table[actions[0]]
            before = info["stages"]
            obs, _, done, _, info = env.step(actions[0])
            if action.op in count:
                count[action.op] += 1
            held += int(((info["stages"] == Stage.HOLDING) & (before == Stage.BLENDING)).sum())
            if not done:
                for slot in env.unwrapped.episode.model.slots.values():
                    nullify(slot, scale_std, declare_healthy)
        last.append(float(info["committed_accuracy"]))
    return count, held, float(np.mean(last))


if __name__ == "__main__":
    episodes, epochs = (int(x) for x in ([*sys.argv[1:], "2", "150"])[:2])
    for scale_std, healthy in ((0.0, False), (0.0, True), (0.1, False), (0.3, False)):
        count, held, accuracy = measure(scale_std, episodes, epochs, healthy)
        print(
            f"scale std {scale_std}, declared healthy {healthy}: germinated {count[Op.GERMINATE]}, held {held}, "
            f"pruned {count[Op.PRUNE]}, fossilised {count[Op.FOSSILIZE]}; committed accuracy {accuracy:.1%}",
            flush=True,
        )
