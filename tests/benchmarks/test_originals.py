"""The environments and tables of the learner's comparisons."""

import json

import numpy as np
from gymnasium.utils.env_checker import check_env

from benchmarks import originals
from benchmarks.originals import MaskedTMaze, Positions


def through(env, turn):
    """Return of an episode that goes straight to the junction and there takes `turn(first observation)`."""
    first, _ = env.reset()
    total, done = 0.0, False
    while not done:
        masks = env.unwrapped.action_masks()
        action = MaskedTMaze.FORWARD if masks[MaskedTMaze.FORWARD] else turn(first)
        _, reward, done, _, _ = env.step(action)
        total += reward
    return total


def test_the_t_maze_pays_memory_only():
    env = MaskedTMaze()
    check_env(env, skip_render_check=True)
    remembering = [through(env, lambda first: MaskedTMaze.LEFT + int(first[0] > 0)) for _ in range(40)]
    assert np.allclose(remembering, 1 - 0.01 * MaskedTMaze.LENGTH)
    guessing = [through(env, lambda first: MaskedTMaze.LEFT) for _ in range(40)]
    assert set(np.sign(guessing)) == {-1.0, 1.0}
    env.reset()
    before = env.place
    _, reward, *_ = env.step(MaskedTMaze.LEFT)
    assert (reward, env.place) == (-0.05, before)


def test_cart_pole_shows_no_velocity():
    make = originals.TASKS["CartPole without velocities"].make
    env = make()
    assert isinstance(env, Positions)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (2,) and np.array_equal(obs, env.unwrapped.state[[0, 2]].astype(np.float32))


def test_the_table_is_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "RESULTS", tmp_path / "o.jsonl")
    rows = [
        {"task": "masked T-maze", "algorithm": algorithm, "seed": s, "return": s / 2 + more, "seconds": 10}
        for s in (1, 0)
        for algorithm, more in (("RecurrentPPO", 0.0), ("MaskableRecurrentPPO", 1.0))
    ]
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours, theirs = originals.table().splitlines()[2:]
    assert ours == "| masked T-maze | 120,000 | MaskableRecurrentPPO | 1.25 | 1.00 1.50 |  | 10 |"
    assert theirs == "| masked T-maze | 120,000 | RecurrentPPO | 0.25 | 0.00 0.50 | +1.00 [+0.50, +1.50] | 10 |"
