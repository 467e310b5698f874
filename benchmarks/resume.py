"""Kills training runs at random instants and resumes them: ``python -m benchmarks.resume [runs]``.

Every run is killed twice with SIGKILL, then finished. The policy's digest has to be that of a run nobody disturbed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HOSTS = {"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16, "host_lr": 0.05, "seed_lr": 0.05}
FLAGS = [
    *("--task", "tiny", "--env-json", json.dumps(HOSTS), "--envs", "2", "--episode-length", "8"),
    *("--memory-size", "8", "--num-workers", "1", "--rounds", "6", "--seed", "5"),
]
KILLS = 2


def train(*flags: str) -> subprocess.Popen[str]:
    """Start or resume a training run."""
    command = [sys.executable, "-m", "esper_agents.train", "ppo", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def begin_in(folder: Path) -> list[str]:
    """The flags of a new run whose files go under `folder`."""
    return [*FLAGS, "--telemetry-dir", str(folder)]


def policy_of(process: subprocess.Popen[str]) -> str:
    """The digest that a run prints at its end.

    Raises:
        RuntimeError: it failed.
    """
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err)
    return next(line.split()[1] for line in out.splitlines() if line.startswith("policy "))


def killed_and_resumed(folder: Path, rng: np.random.Generator, kills: int = KILLS) -> str:
    """The digest of a run that is killed, again and again, a random time after a new checkpoint."""
    flags = begin_in(folder)
    for kill in range(kills):
        process = train(*flags)
        while process.poll() is None and len(list(folder.rglob("*.checkpoint"))) <= kill:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        flags = ["--resume", str(next(folder.iterdir()))]
    return policy_of(train(*flags))


def main() -> int:
    """Compare the digests of as many runs as the command line says, 20 unless told."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        whole = policy_of(train(*begin_in(Path(scratch) / "whole")))
        same = 0
        for i in range(runs):
            same += killed_and_resumed(Path(scratch) / str(i), rng) == whole
            print(f"{same} of {i + 1} runs, killed {KILLS} times each, ended with the policy {whole}", flush=True)
    return 0 if same == runs else 1


if __name__ == "__main__":
    sys.exit(main())
