"""What the tests of the environment share: a tiny environment, legal rollouts, exact comparison, digests."""

import hashlib

import numpy as np

from esper_env.env import EsperEnv
from esper_env.leyline import Op

SMALL = {"dataset": "synthetic", "samples_per_epoch": 32, "val_samples": 64, "batch_size": 16}
"""Arguments that make a step of `Esper/Tiny-v0` take a few milliseconds."""

TINY = "Esper/Tiny-v0"
IDS = {
    "Esper/CifarBaseline-v0": 6_418,
    "Esper/CifarImpaired-v0": 77,
    "Esper/CifarMinimal-v0": 164,
    "Esper/CifarScale-v0": 99_922,
    "Esper/CifarVaried-v0": 6_418,
    "Esper/FashionBaseline-v0": 6_274,
    TINY: 510,
}
"""Every registered id and the parameters of its host at the default instance."""

RNG_SEED = 7

MODES = ("NextStep", "SameStep", "Disabled")
NUM_ENVS = 2
SHORT = {**SMALL, "episode_length": 6}
STEPS = 15
"""Two whole episodes of `SHORT` and a half."""


def tiny(**arguments):
    return EsperEnv("tiny", **{**SMALL, **arguments})


def index(env, op, slot=None, **wanted):
    """The index of the first action of the table with these fields."""
    for i, action in enumerate(env.unwrapped.action_table):
        if action.op is op and slot in (None, action.slot) and all(getattr(action, k) == v for k, v in wanted.items()):
            return i
    raise LookupError((op, slot, wanted))


def pick(rng, env, mask=None):
    """A random legal action: first the operation, then one of its actions, so that seeds get somewhere."""
    mask = env.unwrapped.action_masks() if mask is None else mask
    legal = np.flatnonzero(mask)
    ops = sorted({env.unwrapped.action_table[i].op for i in legal})
    op = ops[rng.integers(len(ops))]
    choices = [int(i) for i in legal if env.unwrapped.action_table[i].op is op]
    return choices[rng.integers(len(choices))]


def rollout(env, steps, seed=RNG_SEED):
    """Yield (action, result) of random legal steps; stops at the episode's end."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        action = pick(rng, env)
        result = env.step(action)
        yield action, result
        if result[2] or result[3]:
            return


def steps(env, op, slot=None, **wanted):
    """Step with one action, which must be legal; return its result."""
    action = index(env, op, slot, **wanted)
    assert env.unwrapped.action_masks()[action], f"{env.unwrapped.action_table[action]} is not legal"
    return env.step(action)


def wait(env, n=1):
    for _ in range(n):
        result = env.step(0)
    return result


def grow_to(env, stage, slot, blueprint="conv_light", style="add"):
    """Bring a dormant slot to `stage` by the shortest legal way; return the last result."""
    result = steps(env, Op.GERMINATE, slot, blueprint=blueprint, style=style)
    while env.episode.model.slots[slot].stage < stage:
        facts = env.slot_facts[slot]
        op = Op.FOSSILIZE if facts.stage.name == "HOLDING" else Op.ADVANCE
        action = index(env, op, slot)
        result = env.step(action if env.action_masks()[action] else 0)
        assert env.episode.epoch < env.settings.episode_length, "the episode is too short for this"
    return result


def plain(value):
    """A value with every type and dtype spelled out, so that == and repr mean bitwise equality."""
    if isinstance(value, dict):
        return {"dict": {key: plain(value[key]) for key in sorted(value)}}
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(plain, value)]
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), value.shape, value.tobytes().hex()]
    return [type(value).__name__, value.hex() if isinstance(value, float) else repr(value)]


def digest(value):
    """SHA-256 of `plain`: the same in every process, if and only if the values are bitwise equal."""
    return hashlib.sha256(repr(plain(value)).encode()).hexdigest()


def assert_same(a, b):
    """Fail, naming the first differing entry, unless a and b are bitwise equal."""
    a, b = plain(a), plain(b)
    assert a == b


def record(env, n, seed=3, rng_seed=RNG_SEED):
    """Everything a reset and n random legal steps return."""
    return [env.reset(seed=seed), *(result for _, result in rollout(env, n, rng_seed))]


def vector_record(envs, n, seed=3, rng_seed=RNG_SEED, mode="NextStep"):
    """Everything a vector environment returns in n masked steps; in the mode "Disabled" with explicit resets."""
    observations, infos = envs.reset(seed=seed)
    out = [(observations, infos)]
    rng = np.random.default_rng(rng_seed)
    masks = np.stack(infos["action_mask"])
    for _ in range(n):
        # one draw a row whatever the masks are, so that all kinds of vector environment get the same actions
        actions = (rng.random(masks.shape) * (masks != 0)).argmax(1)
        result = envs.step(actions)
        out.append(result)
        masks = np.stack(result[4]["action_mask"])
        ended = result[2] | result[3]
        if mode == "Disabled" and ended.any():
            again = envs.reset(options={"reset_mask": ended})
            out.append(again)
            masks = np.where(ended[:, None], again[1]["action_mask"], masks)
    return out


def feature_values(env, observation):
    """The observation by feature name."""
    return {f.name: observation[f.where] for f in env.unwrapped.layout.features()}
