"""What telemetry costs: two trainers make the same round, one with all of it, one without, some steps each in turn.

As in any run, the log's own thread and the process of Weights & Biases work beside the training. At the end of a turn
the log is waited for; the process works in the turns of either trainer. Two turns of one side follow two of the other,
which leaves no difference where the machine gets slower or faster at an even pace. Of two trainers in one process one
may be faster even if both do the same, so all of it is done twice, with either side first, after a short round that
makes what is made once.

A busy machine's noise is wider than what is sought. So the processor time of the turns is taken too, which varies less
and is what counts where training leaves no core idle. Screens go by the clock and cannot take turns: their processor
time is taken in another round.
"""

from __future__ import annotations

import itertools
import os
import pty
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
from esper_env.leyline.events import Event
from esper_env.nissa import ConsoleSink, Sink

EPOCHS = 64
GOAL = 0.01
SIDES = ("without", "with")


class Turns:
    """Lets one of two threads run at a time, with random numbers of its own, and keeps the seconds of each.

    Args:
        first: the side that begins.
        second: the other.
    """

    def __init__(self, first: str, second: str) -> None:
        self.seconds = dict.fromkeys(SIDES, 0.0)
        self.processor = dict.fromkeys(SIDES, 0.0)
        """Of this process."""
        self._turn = {side: threading.Semaphore(0) for side in SIDES}
        self._random = dict.fromkeys(SIDES, torch.get_rng_state())
        self._since = self._processor_since = 0.0
        self._order: Iterator[str] = itertools.cycle((first, second, second, first))

    def next(self) -> None:
        """Give the next side its turn."""
        self._turn[next(self._order)].release()

    def wait(self, side: str) -> None:
        """Wait for the turn of `side`."""
        self._turn[side].acquire()
        torch.set_rng_state(self._random[side])
        self._since, self._processor_since = time.perf_counter(), time.process_time()

    def end(self, side: str) -> None:
        """End the turn of `side`; the next begins."""
        self.seconds[side] += time.perf_counter() - self._since
        self.processor[side] += time.process_time() - self._processor_since
        self._random[side] = torch.get_rng_state()
        self.next()

    def leave(self, side: str) -> None:
        """All turns are the other side's from now on."""
        self._order = itertools.repeat(SIDES[1 - SIDES.index(side)])
        self.end(side)


def children() -> list[int]:
    """The processes that telemetry started."""
    return [int(child) for file in Path("/proc/self/task").glob("*/children") for child in file.read_text().split()]


@contextmanager
def screens(folder: Path) -> Iterator[tuple[int, int]]:
    """Sanctum on a terminal and Overwatch, attached to a run; their processes."""
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
        yield sanctum.pid, overwatch.pid
    finally:
        for process in (sanctum, overwatch):
            process.kill()
            process.wait()


def processor_seconds(process: int | str) -> float:
    """Processor time that a process, or ``self/task/...``, a thread of this one, has taken."""
    user, system = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _drain(terminal: int) -> None:
    with suppress(OSError):  # closed at the other end
        while os.read(terminal, 65536):
            pass


def config(epochs: int = EPOCHS) -> PPOConfig:
    """Of the round."""
    settings = PRESETS["cifar_baseline"] | {"dataset": "synthetic", "envs": 4, "episode_length": epochs}
    return PPOConfig(**settings, rounds=1)


def logged(folder: Path) -> Telemetry:
    """Everything that may log a run."""
    sinks: list[Sink] = [TensorBoardSink(folder), WandbSink(folder), ConsoleSink()]
    return Telemetry(folder, sinks)


def watch() -> dict[str, float]:
    """Train one round with telemetry that both screens watch; return its seconds and theirs of processor time."""
    emitting = 0.0

    def timed(event: Event) -> None:
        nonlocal emitting
        start = time.thread_time()
        emit(event)
        emitting += time.thread_time() - start

    with tempfile.TemporaryDirectory() as name, logged(Path(name)) as log:
        of_log = [f"self/task/{thread.native_id}" for thread in threading.enumerate()[1:]] + children()
        emit, log.emit = log.emit, timed  # type: ignore[method-assign]
        with screens(Path(name)) as of_screens:
            trainer = Trainer(config(), Path(name))
            processes = [*of_log, *of_screens]
            start, before = time.perf_counter(), [processor_seconds(process) for process in processes]
            trainer.run(progress=False, report=lambda _: None, telemetry=log)
            log._log.flush()
            took, after = time.perf_counter() - start, [processor_seconds(process) for process in processes]
            trainer.env.close()
    *logging, sanctum, overwatch = (there - here for here, there in zip(before, after, strict=True))
    return {"watched": took, "telemetry": emitting + sum(logging), "sanctum": sanctum, "overwatch": overwatch}


def play(side: str, folder: Path, log: Telemetry | None, turns: Turns, epochs: int) -> None:
    """Train one round, stepping when it is `side`'s turn."""
    turns.wait(side)
    trainer = Trainer(config(epochs), folder)
    venv: Any = trainer.env.venv.unwrapped
    step = venv.step

    def in_turn(actions: Any) -> Any:
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


def compare(first: str, second: str, *, epochs: int = EPOCHS) -> dict[str, float]:
    """Seconds of either side, and of processor time."""
    turns = Turns(first, second)
    failed: list[BaseException] = []

    def run(side: str, folder: Path, log: Telemetry | None) -> None:
        try:
            play(side, folder, log, turns, epochs)
        except BaseException as error:
            failed.append(error)
            turns.leave(side)

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folders = {side: Path(name) / side for side in (first, second)}
        logs = {"without": None, "with": stack.enter_context(logged(folders["with"]))}
        before = sum(map(processor_seconds, children()))
        threads = [threading.Thread(target=run, args=(side, folders[side], logs[side])) for side in folders]
        for thread in threads:
            thread.start()
        turns.next()
        for thread in threads:
            thread.join()
        turns.processor["with"] += sum(map(processor_seconds, children())) - before
    if failed:
        raise failed[0]
    return turns.seconds | {f"{side}_processor": turns.processor[side] for side in SIDES}


def measure(process: int) -> dict[str, Any]:
    """Seconds of a round with and without telemetry, and the processor time of screens in one that they watch."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    compare(*SIDES, epochs=4)  # makes what is made once
    orders = [compare(*SIDES), compare(*reversed(SIDES))]
    return watch() | {name: float(np.mean([seconds[name] for seconds in orders])) for name in orders[0]}


def report(rows: list[dict[str, Any]]) -> Report:
    """The shares of a round."""
    cost = each(rows, "with") / each(rows, "without") - 1
    processor = each(rows, "with_processor") / each(rows, "without_processor") - 1
    watched = each(rows, "watched")
    telemetry, sanctum, overwatch = (each(rows, name) / watched for name in ("telemetry", "sanctum", "overwatch"))
    cores = (telemetry + sanctum + overwatch) / each(rows, "cores")
    text = (
        f"A round of four episodes of {EPOCHS} epochs takes {spread(each(rows, 'without'), '.1f')} s. The log, "
        f"TensorBoard, Weights & Biases offline, the alarms and the flight recorder add {spread(cost, '.2%')} to it, "
        f"and {spread(processor, '.2%')} to its processor time. Of one core's time, events once they are built take "
        f"{spread(telemetry, '.2%')}, Sanctum, drawing 200 by 50 characters, {spread(sanctum, '.2%')}, and Overwatch "
        f"{spread(overwatch, '.2%')}, in part of what training leaves idle."
    )
    names = {
        "telemetry, of a training round": cost,
        "telemetry, of its processor time": processor,
        "processor time of telemetry and both screens, of the machine's": cores,
    }
    return Report(
        text,
        [
            Target(name, f"<= {GOAL:.0%}", spread(share, ".2%"), bool(np.median(share) <= GOAL))
            for name, share in names.items()
        ],
    )
