"""How fast Esper is, measured: ``python -m benchmarks.perf run [NAME ...] | report``.

Every measurement is a module here with two functions: ``measure(process)`` times its sides in turn, one intra-op
thread each, and ``report(rows)`` says what came out. `run` calls `measure` in several fresh processes, one after the
other, and keeps their rows in ``benchmarks/results/perf/NAME.jsonl``; `report` writes the tables in
``docs/performance.md``. A ratio is taken within a process; what is printed is its median over the processes with the
lowest and the highest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import rows
from benchmarks.pages import fill, markdown
from benchmarks.perf.measure import Report, Target

FOLDER = Path(__file__).parents[1] / "results" / "perf"
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
NAMES = (
    "step",
    "facts",
    "pool",
    "counterfactual",
    "throughput",
    "imports",
    "shadow",
    "kernels",
    "floors",
    "precision",
    "learner",
    "collection",
    "round",
    "telemetry",
)
PROCESSES = 5


def module(name: str) -> Any:
    """The module of a measurement."""
    return importlib.import_module(f"benchmarks.perf.{name}")


def measured(name: str, process: int) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.perf", "one", name, "--processes", str(process)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    if done.returncode:
        raise SystemExit(f"measuring {name} failed; `{' '.join(command[1:])}` says why")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    flags = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__.split("+")[0], "cpu": flags, "cores": len(os.sched_getaffinity(0))}


def run(names: list[str], processes: int) -> None:
    """Measure each of `names` anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in (bar := tqdm(names)):
        bar.set_description(name)
        lines = [json.dumps({**machine(), **measured(name, i)}) for i in range(processes)]
        (FOLDER / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        tqdm.write(f"{name}\n{reported(name).text}\n")


def reported(name: str) -> Report:
    """What the rows of a measurement say."""
    report: Report = module(name).report(rows.read(FOLDER / f"{name}.jsonl"))
    return report


def target_table(targets: list[Target]) -> str:
    """All targets."""
    verdict = {True: "yes", False: "**no**", None: ""}
    return markdown(
        ["what", "goal", "measured", "met"], [[t.what, t.goal, t.measured, verdict[t.met]] for t in targets]
    )


def report() -> None:
    """Write the tables of everything that was measured."""
    there = [name for name in NAMES if (FOLDER / f"{name}.jsonl").exists()]
    reports = {name: reported(name) for name in there}
    targets = [target for r in reports.values() for target in r.targets]
    fill(PAGE, {name: r.text for name, r in reports.items()} | {"targets": target_table(targets)})


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf", description=__doc__)
    parser.add_argument("what", choices=("run", "report", "one"), help="`one`: the process with that number, here")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--processes", type=int, default=PROCESSES, help=f"default {PROCESSES}")
    arguments = parser.parse_args()
    names = arguments.names or list(NAMES)
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"unknown {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    if arguments.what == "run":
        run(names, arguments.processes)
    if arguments.what == "one":
        torch.set_num_threads(1)
        print(json.dumps(module(names[0]).measure(arguments.processes)))
    else:
        report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
