"""Where the time of a training round goes: collecting episodes of CifarBaseline and updating the policy, one thread."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, Target, spread
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.simic import MaskableRecurrentPPO, checkpoints, training
from esper_agents.simic.adapter import GymnasiumVecEnv
from esper_env import EsperEnv, EsperVectorEnv
from esper_env.kasmina import GrowingModel
from esper_env.tolaria import episode

EPOCHS = 50
REST = "the rest"
PARTS: dict[str, list[tuple[Any, str]]] = {
    "training": [(episode, "train_epoch")],
    "evaluation, counterfactual": [(episode, "counterfactual")],
    "evaluation at the end": [(episode.Episode, "settle")],
    "snapshots and checks": [(episode, "capture"), (GrowingModel, "is_finite")],
    "new hosts and seeds": [(EsperVectorEnv, "reset"), (GrowingModel, "install")],
    "observations, masks, infos": [(EsperEnv, "_observe"), (EsperEnv, "action_masks"), (EsperEnv, "_info")],
    "vector environment and adapter": [(GymnasiumVecEnv, "step_wait")],
    "policy": [(MaskableRecurrentPPO, "collect_rollouts")],
    "update": [(MaskableRecurrentPPO, "train")],
    "checkpoint": [(checkpoints, "capture")],
    REST: [(training.Trainer, "_round")],
}
"""Functions by what they are for. A function's time does not include that of others here which it calls."""


class Clock:
    """Exclusive seconds of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._now, self._part = time.perf_counter(), REST

    def _switch(self, part: str) -> str:
        now, before = time.perf_counter(), self._part
        self.seconds[before] += now - self._now
        self._now, self._part = now, part
        return before

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what `PARTS` names."""
        with ExitStack() as stack:
            for part, functions in PARTS.items():
                for owner, name in functions:
                    stack.enter_context(mock.patch.object(owner, name, self._timed(part, getattr(owner, name))))
            self._now, self.seconds = time.perf_counter(), defaultdict(float)
            yield
            self._switch(REST)

    def _timed(self, part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = self._switch(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch(before)

        return call


def measure(process: int) -> dict[str, Any]:
    """Seconds of each part of a round, and of the round by a clock of its own."""
    settings = PRESETS["cifar_baseline"] | {
        "dataset": "synthetic",
        "episode_length": EPOCHS,
        "envs": 4,
        "num_workers": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.Trainer(PPOConfig(**settings, rounds=1), Path(folder))
        clock = Clock()
        start = time.perf_counter()
        with clock.running():
            trainer.run(progress=False, report=lambda _: None)
        total = time.perf_counter() - start
        trainer.env.close()
    return {"parts": {part: clock.seconds[part] for part in PARTS}, "total": total}


def report(rows: list[dict[str, Any]]) -> Report:
    """Shares of a round."""
    shares = {part: np.array([100 * r["parts"][part] / r["total"] for r in rows]) for part in PARTS}
    named = sum(values for part, values in shares.items() if part != REST)
    lines = [[part, spread(values, ".1f")] for part, values in shares.items()]
    total = spread([r["total"] for r in rows], ".0f")
    text = (
        f"A round of four episodes of {EPOCHS} epochs takes {total} s:\n\n{markdown(['part', '% of a round'], lines)}"
    )
    what = "parts of a training round that are named, share of its time"
    return Report(text, [Target(what, ">= 98 %", f"{spread(named, '.1f')} %", bool(np.median(named) >= 98))])
