"""The thread pool of the vector environment: two workers against one, many environments, a busy machine, memory."""

from __future__ import annotations

import multiprocessing
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, Target, each, in_turn, medians, spread
from esper_env import EsperVectorEnv
from esper_env.kasmina import native
from esper_env.tolaria.training import _Epoch

GOAL, LINEAR = 1.85, 0.10
COUNTS = (1, 4, 16, 64)
SMALL = {"dataset": "synthetic", "samples_per_epoch": 256, "val_samples": 256}


def make(count: int, workers: int, **settings: Any) -> EsperVectorEnv:
    """Environments at the start of their episodes."""
    env = gymnasium.make_vec("Esper/CifarBaseline-v0", num_envs=count, workers=workers, **settings).unwrapped
    assert isinstance(env, EsperVectorEnv)
    env.reset(seed=0)
    return env


def waiting(env: EsperVectorEnv) -> Any:
    """A step of all, in which they wait."""
    return lambda: env.step(np.zeros(env.num_envs, np.int64))


def resident() -> int:
    """Bytes of memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def burn(stop: Any) -> None:
    """Keep a core busy."""
    while not stop.is_set():
        sum(range(10_000))


def busy(env: EsperVectorEnv) -> dict[str, float]:
    """How many times longer a step of one environment takes beside two busy processes, with one and two threads in it.

    Two environments of two intra-op threads each is what torch does when nobody sets its threads.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    plain = env.envs[0].episode.model.forward
    images = torch.randn(64, 3, 32, 32)

    def two_threads() -> None:
        torch.set_num_threads(2)
        for _ in range(20):
            plain(images)
        torch.set_num_threads(1)

    sides = {"pool": waiting(env), "two intra-op threads": two_threads}
    quiet = medians(sides, 5)
    others = [context.Process(target=burn, args=(stop,), daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    time.sleep(2.0)
    loud = medians(sides, 5)
    stop.set()
    for other in others:
        other.join()
    return {name: loud[name] / quiet[name] for name in sides}


def replays() -> float:
    """How many times as fast as one thread two threads run nothing but recorded kernels, those of a training batch.

    No lock and no Python is in the way: it is what the machine's cores can do beside each other.
    """
    tapes = []
    env = make(2, 1, dataset="synthetic")
    for one in env.envs:
        batches = one.episode.source.epoch()
        epoch = _Epoch(one.episode.model, batches, [0.0] * len(batches), bf16=False)
        tape = native.Tape()
        with tape.recording():
            epoch.batch(0)
        tapes.append(tape)

    def run(pool: ThreadPoolExecutor) -> None:
        list(pool.map(lambda tape: tape.replay(40), tapes))

    with ThreadPoolExecutor(1) as one_thread, ThreadPoolExecutor(2) as two_threads:
        times = medians({"one": partial(run, one_thread), "two": partial(run, two_threads)}, 6)
    return times["one"] / times["two"]


def measure(process: int) -> dict[str, Any]:
    """Seconds of a step by workers and by number of environments; bytes of each; slowdown beside others."""
    one, two = (make(8, workers, dataset="synthetic") for workers in (1, 2))
    workers = medians({"1": waiting(one), "2": waiting(two)}, 10, 2)
    before = resident()
    many = {str(count): make(count, 1, **SMALL) for count in COUNTS}
    for env in many.values():
        waiting(env)()
    memory = (resident() - before) / sum(COUNTS)
    times = in_turn({name: waiting(env) for name, env in many.items()}, 4)
    return {
        "workers": workers,
        "each": {name: float(np.median(t)) / int(name) for name, t in times.items()},
        "memory": memory,
        "replays": replays(),
        "busy": busy(two),
    }


def report(rows: list[dict[str, Any]]) -> Report:
    """The ratios."""
    ratio = each(rows, "workers", "1") / each(rows, "workers", "2")
    base = each(rows, "each", "4")
    relative = {count: each(rows, "each", str(count)) / base for count in COUNTS}
    worst = max(float(np.median(np.abs(r - 1))) for r in relative.values())
    slow = {name: each(rows, "busy", name) for name in rows[0]["busy"]}
    lines = [[f"{count}", spread(r)] for count, r in relative.items()]
    text = [
        f"Two workers step eight environments {spread(ratio)} times as fast as one; two threads run nothing but "
        f"recorded kernels {spread(each(rows, 'replays'))} times as fast as one thread.",
        f"An environment holds {spread(each(rows, 'memory') / 2**20, '.1f')} MiB, besides the data, which all share.",
        f"Beside two busy processes on two cores (a fair share is a slowdown of 2) a step of the pool takes "
        f"{spread(slow['pool'])} times as long, forward passes with two intra-op threads "
        f"{spread(slow['two intra-op threads'])} times.",
        "",
        markdown(["environments", "time of one's step, 1 worker, against four environments"], lines),
    ]
    return Report(
        "\n".join(text),
        [
            Target("thread pool, 2 workers against 1", f">= {GOAL}", spread(ratio), bool(np.median(ratio) >= GOAL)),
            Target(
                "growth of cost with the number of environments, 1 to 64",
                f"linear within {LINEAR:.0%}",
                f"within {worst:.1%}",
                worst <= LINEAR,
            ),
        ],
    )
