"""Puts a command's run under telemetry, with the screens and services that its flags ask for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from esper_agents.config import EnvironmentConfig
from esper_agents.telemetry import Telemetry
from esper_env.nissa import ConsoleSink, Sink

LAST_LOOK_S = 3.0
"""How long Overwatch stays after the run's end, so that a page that is open shows it."""


@contextmanager
def monitored(config: EnvironmentConfig, folder: Path) -> Iterator[Telemetry]:
    """Log the run in `folder`, and show it as `config` says. At the end what was lost is printed.

    Raises:
        ValueError: the folder cannot be written, another process logs to it, there is no terminal for Sanctum, or
            Weights & Biases cannot be reached.
    """
    from esper_agents.karn.sinks import TensorBoardSink, WandbSink  # noqa: PLC0415 - slow to import

    if config.sanctum and not sys.stdout.isatty():
        raise ValueError("--sanctum needs a terminal; leave it out, or look at the run with --overwatch")
    with _told() as begun, ExitStack() as screens, ExitStack() as stack:  # screens go last: they show how it ended
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sinks: list[Sink] = [TensorBoardSink(folder)]
            if config.wandb:
                sinks.append(WandbSink(folder))
            if not config.sanctum:  # it has the terminal to itself
                sinks.append(ConsoleSink())
            telemetry = stack.enter_context(Telemetry(folder, sinks))
            begun.append(telemetry)
        except OSError as error:
            hint = "choose another folder with --telemetry-dir"
            raise ValueError(f"cannot log to {folder}: {error.strerror or error}; {hint}") from error
        for screen in ("sanctum", "overwatch"):
            if getattr(config, screen):
                screens.enter_context(_beside(screen, folder))
        try:
            yield telemetry
        except ValueError as error:  # those of a run that began are no bad arguments
            raise RuntimeError(f"the run failed: {error}") from error


@contextmanager
def _told() -> Iterator[list[Telemetry]]:
    """Say at the end, however it comes, what was lost."""
    begun: list[Telemetry] = []
    try:
        yield begun
    finally:
        for telemetry in begun:
            for sink, loss in telemetry.losses.items():
                print(f"telemetry: {sink}: {loss}", file=sys.stderr)


@contextmanager
def _beside(screen: str, folder: Path) -> Iterator[None]:
    """Show the run in a process of its own; training neither waits for it nor fails with it."""
    command = [sys.executable, "-m", "esper_agents.karn", screen, str(folder)]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.wait(None if screen == "sanctum" else LAST_LOOK_S)  # Sanctum's user closes it
        process.terminate()
        process.wait()


def run_folder(config: EnvironmentConfig, prefix: str = "") -> Path:
    """A new folder for a run."""
    name = f"{prefix}{config.task.replace('/', '-')}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path(config.telemetry_dir) / name
