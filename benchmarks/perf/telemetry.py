"""What telemetry costs: two trainers make the same round, one with all of it, one without, a vector step each in turn.

The log's own thread is waited for at the end of each step, so its work counts in full, as if nothing ran beside it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.perf.measure import Report, Target, each, spread
from esper_agents.karn.sinks import TensorBoardSink
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.simic.training import Trainer
from esper_agents.telemetry import Telemetry
from esper_env.nissa import ConsoleSink

EPOCHS = 60
GOAL = 0.01
SIDES = ("without", "with")


class Turns:
    """Lets one of two threads run at a time, with random numbers of its own, and keeps the time of each."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(SIDES, 0.0)
        self._turn = {side: threading.Semaphore(0) for side in SIDES}
        self._random = dict.fromkeys(SIDES, torch.get_rng_state())
        self._since = 0.0

    def begin(self) -> None:
        """Give the first side its turn."""
        self._turn[SIDES[0]].release()

    def wait(self, side: str) -> None:
        """Wait for the turn of `side`."""
        self._turn[side].acquire()
        torch.set_rng_state(self._random[side])
        self._since = time.perf_counter()

    def end(self, side: str) -> None:
        """End the turn of `side`; the other's begins."""
        self.seconds[side] += time.perf_counter() - self._since
        self._random[side] = torch.get_rng_state()
        self._turn[SIDES[1 - SIDES.index(side)]].release()


def config() -> PPOConfig:
    """Of the round."""
    settings = PRESETS["cifar_baseline"] | {"dataset": "synthetic", "envs": 4, "episode_length": EPOCHS}
    return PPOConfig(**settings, rounds=1)


def play(side: str, turns: Turns) -> None:
    """Train one round, stepping when it is `side`'s turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns.wait(side)
        trainer = Trainer(config(), folder)
        venv: Any = trainer.env.venv.unwrapped
        step, flush = venv.step, _nothing

        def in_turn(actions: Any) -> Any:
            flush()
            turns.end(side)
            turns.wait(side)
            return step(actions)

        venv.step = in_turn
        if side == "with":
            with Telemetry(folder, [TensorBoardSink(folder), ConsoleSink()]) as log:
                flush = log._log.flush
                trainer.run(progress=False, report=lambda _: None, telemetry=log)
        else:
            trainer.run(progress=False, report=lambda _: None)
        turns.end(side)
        trainer.env.close()


def _nothing() -> bool:
    return True


def measure(process: int) -> dict[str, Any]:
    """Seconds of a round with and without telemetry."""
    config().make(1).reset(seed=0)  # what all environments share is made once, and charged to neither side
    turns = Turns()
    failed: list[BaseException] = []

    def run(side: str) -> None:
        try:
            play(side, turns)
        except BaseException as error:
            failed.append(error)
            turns.end(side)

    threads = [threading.Thread(target=run, args=(side,)) for side in SIDES]
    for thread in threads:
        thread.start()
    turns.begin()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return dict(turns.seconds)


def report(rows: list[dict[str, Any]]) -> Report:
    """The share of a round."""
    share = each(rows, "with") / each(rows, "without") - 1.0
    text = (
        f"A round of four episodes of {EPOCHS} epochs takes {spread(each(rows, 'without'), '.1f')} s; the log, "
        f"TensorBoard, the alarms and the flight recorder add {spread(share, '.2%')} to it."
    )
    met = bool(np.median(share) <= GOAL)
    return Report(text, [Target("telemetry, of a training round", f"<= {GOAL:.0%}", spread(share, ".2%"), met)])
