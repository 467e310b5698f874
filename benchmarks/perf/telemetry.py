"""What telemetry costs: two trainers make the same round, one with all of it, one without, some steps each in turn.

As in any run, the log's own thread and the processes of Weights & Biases and of both screens work beside the training.
At the end of a turn the log is waited for, and the processes stand still in the turns of the other trainer. Their
clocks go on then, so turns are long beside the seconds in which a screen looks again.
"""

from __future__ import annotations

import itertools
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.perf.measure import Report, Target, each, spread
from esper_agents.karn.sinks import TensorBoardSink, WandbSink
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.simic.training import Trainer
from esper_agents.telemetry import Telemetry
from esper_env.nissa import ConsoleSink, Sink

EPOCHS = 80
TURN = 20
"""Vector steps."""
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
        if side == "with":
            _signal_children(signal.SIGCONT)
        torch.set_rng_state(self._random[side])
        self._since = time.perf_counter()

    def end(self, side: str) -> None:
        """End the turn of `side`; the other's begins."""
        self.seconds[side] += time.perf_counter() - self._since
        _signal_children(signal.SIGSTOP)
        self._random[side] = torch.get_rng_state()
        self._turn[SIDES[1 - SIDES.index(side)]].release()


def _signal_children(number: signal.Signals) -> None:
    """Signal the processes that telemetry started."""
    for file in Path("/proc/self/task").glob("*/children"):
        for child in file.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)


@contextmanager
def screens(folder: Path) -> Iterator[None]:
    """Sanctum on a terminal and Overwatch, attached to a run."""
    command = [sys.executable, "-m", "esper_agents.karn"]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(terminal, (50, 200))
    env = os.environ | {"TERM": "xterm-256color"}
    sanctum = subprocess.Popen([*command, "sanctum", str(folder)], stdin=end, stdout=end, stderr=end, env=env)
    overwatch = subprocess.Popen(
        [*command, "overwatch", str(folder), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    os.close(end)
    assert overwatch.stdout is not None
    overwatch.stdout.readline()  # its address
    os.read(terminal, 1024)  # the first picture
    threading.Thread(target=_drain, args=(terminal,), daemon=True).start()
    try:
        yield
    finally:
        for process in (sanctum, overwatch):
            process.kill()
            process.wait()


def _drain(terminal: int) -> None:
    with suppress(OSError):  # closed at the other end
        while os.read(terminal, 65536):
            pass


def config(epochs: int = EPOCHS) -> PPOConfig:
    """Of the round."""
    settings = PRESETS["cifar_baseline"] | {"dataset": "synthetic", "envs": 4, "episode_length": epochs}
    return PPOConfig(**settings, rounds=1)


def play(side: str, watched: bool, turns: Turns, ready: threading.Event) -> None:
    """Train one round, stepping when it is `side`'s turn; with screens if telemetry is `watched`."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, log = Path(name), None
        if side == "with":
            sinks: list[Sink] = [TensorBoardSink(folder), WandbSink(folder), ConsoleSink()]
            log = stack.enter_context(Telemetry(folder, sinks))
            if watched:
                stack.enter_context(screens(folder))
            stack.callback(_signal_children, signal.SIGCONT)
        ready.set()
        turns.wait(side)
        trainer = Trainer(config(), folder)
        venv: Any = trainer.env.venv.unwrapped
        step, count = venv.step, itertools.count(1)

        def in_turn(actions: Any) -> Any:
            if next(count) % TURN == 0:
                if log is not None:
                    log._log.flush()
                turns.end(side)
                turns.wait(side)
            return step(actions)

        venv.step = in_turn
        trainer.run(progress=False, report=lambda _: None, telemetry=log)
        if log is not None:
            log._log.flush()
        turns.end(side)
        trainer.env.close()


def measure(process: int) -> dict[str, Any]:
    """Seconds of a round with and without telemetry, and with and without telemetry that both screens watch."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    with tempfile.TemporaryDirectory() as folder:  # what is made once is charged to neither side
        trainer = Trainer(config(epochs=2), Path(folder))
        trainer.run(progress=False, report=lambda _: None)
        trainer.env.close()
    rounds = {"logged": compare(watched=False), "watched": compare(watched=True)}
    return {f"{name} {side}": seconds for name, times in rounds.items() for side, seconds in times.items()}


def compare(*, watched: bool) -> dict[str, float]:
    """Seconds of either side."""
    turns = Turns()
    failed: list[BaseException] = []

    def run(side: str, ready: threading.Event) -> None:
        try:
            play(side, watched, turns, ready)
        except BaseException as error:
            failed.append(error)
            ready.set()
            turns.end(side)

    threads = []
    for side in SIDES:
        ready = threading.Event()
        threads.append(threading.Thread(target=run, args=(side, ready)))
        threads[-1].start()
        ready.wait()  # screens start before, and are charged to neither side
    turns.begin()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return turns.seconds


def report(rows: list[dict[str, Any]]) -> Report:
    """The shares of a round."""
    logged, watched = (each(rows, f"{name} with") / each(rows, f"{name} without") - 1 for name in ("logged", "watched"))
    text = (
        f"A round of four episodes of {EPOCHS} epochs takes {spread(each(rows, 'logged without'), '.1f')} s. The log, "
        f"TensorBoard, Weights & Biases offline, the alarms and the flight recorder add {spread(logged, '.2%')} to it; "
        f"with Overwatch open and Sanctum drawing 200 by 50 characters on the same two cores it is "
        f"{spread(watched, '.2%')}."
    )
    names = {"telemetry": logged, "telemetry that both screens watch": watched}
    return Report(
        text,
        [
            Target(
                f"{name}, of a training round", f"<= {GOAL:.0%}", spread(share, ".2%"), bool(np.median(share) <= GOAL)
            )
            for name, share in names.items()
        ],
    )
