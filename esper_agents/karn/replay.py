"""Opens a recording of the flight recorder, and goes on from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from esper_agents import load_policy
from esper_agents.flight import Recording, RecordingError
from esper_agents.karn.reading import parse
from esper_agents.karn.snapshot import Snapshot
from esper_agents.tamiyo import make_controller
from esper_agents.tamiyo.policy_files import PolicyFileError
from esper_env.nissa import Record

SCRIPTED = ("wait", "random", "heuristic", "periodic")


def tell(folder: Path) -> str:
    """Return what a recording holds: why it was made, the last events, and each environment's state."""
    recording = Recording(folder)
    snapshot = _fold(recording.events)
    lines = [f"recorded because of: {recording.reason}", "", "the last events:"]
    lines += [f"  {line.kind:<10} {line.text}" for line in list(snapshot.lines)[-20:]]
    for i in range(recording.num_envs):
        env = recording.open(i)
        lines += ["", f"environment {i}:", str(env.render())]
        env.close()
    return "\n".join(lines)


def play(folder: Path, i: int, controller: str, epochs: int) -> str:
    """Go on with environment `i` for `epochs` epochs; return what happened, a line an epoch.

    Args:
        folder: of the recording.
        i: which environment.
        controller: a scripted one's name, or a policy file.
        epochs: at most to the end of the episode.

    Raises:
        RecordingError: there is no such recording, environment or controller.
    """
    env = Recording(folder).open(i)
    if controller in SCRIPTED:
        decide = make_controller(controller, env)
    elif Path(controller).is_file():
        try:
            decide = load_policy(Path(controller), env)
        except PolicyFileError as error:
            raise RecordingError(str(error)) from error
    else:
        raise RecordingError(f"{controller!r}: choose one of {', '.join(SCRIPTED)}, or a policy file")
    observation, state = env.observation, None
    lines, done = [f"environment {i} at epoch {env.episode.epoch}"], env.done
    for _ in range(epochs):
        if done:
            lines.append("the episode is over")
            break
        actions, state = decide(observation[None], env.action_masks()[None], None, state)
        observation, reward, done, _, info = env.step(int(np.asarray(actions)[0]))
        lines.append(
            f"epoch {info['epoch']:>4}: {env.action_table[int(actions[0])]!s:<50} reward {float(reward):+.4f}, "
            f"accuracy {info['val_accuracy']:.1%}"
        )
    env.close()
    return "\n".join(lines)


def _fold(records: list[Record]) -> Snapshot:
    snapshot = Snapshot()
    for record in records:
        snapshot.fold(*parse(record))
    return snapshot
