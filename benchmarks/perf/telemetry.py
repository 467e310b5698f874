"""What telemetry costs: training rounds of CifarBaseline with all of it, and without, in turn."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.perf.measure import Report, Target, each, medians, spread
from esper_agents.karn.sinks import TensorBoardSink
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.simic.training import Trainer
from esper_agents.telemetry import Telemetry
from esper_env.nissa import ConsoleSink

EPOCHS = 40
REPEATS = 3
GOAL = 0.01


def play(telemetry: bool) -> None:
    """Train one round, the same one every time."""
    settings = PRESETS["cifar_baseline"] | {"dataset": "synthetic", "envs": 4, "episode_length": EPOCHS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = Trainer(PPOConfig(**settings, rounds=1), folder)
        if telemetry:
            with Telemetry(folder, [TensorBoardSink(folder), ConsoleSink()]) as log:
                trainer.run(progress=False, report=lambda _: None, telemetry=log)
        else:
            trainer.run(progress=False, report=lambda _: None)
        trainer.env.close()


def measure(process: int) -> dict[str, Any]:
    """Median seconds of a round with and without telemetry."""
    return medians({"without": partial(play, False), "with": partial(play, True)}, REPEATS, warm_up=0)


def report(rows: list[dict[str, Any]]) -> Report:
    """The share of a round."""
    share = each(rows, "with") / each(rows, "without") - 1.0
    text = (
        f"A round of four episodes of {EPOCHS} epochs takes {spread(each(rows, 'without'), '.1f')} s; the log, "
        f"TensorBoard, the alarms and the flight recorder add {spread(share, '.2%')} to it."
    )
    met = bool(np.median(share) <= GOAL)
    return Report(text, [Target("telemetry, of a training round", f"<= {GOAL:.0%}", spread(share, ".2%"), met)])
