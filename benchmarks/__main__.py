"""The benchmark: ``python -m benchmarks run|search|references|report|verify``.

`run` plays episodes and keeps a row of each in ``OUT/rows.csv``; `search` looks for the open-loop schedule that
`random_search` replays; `report` writes a page and pictures from the rows; `verify` plays a row again and compares it
bit for bit. `run` and `search` go on where they stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gymnasium

from benchmarks import play, suites
from benchmarks.references import references
from benchmarks.report import publish, report
from benchmarks.search import search
from esper_agents import load_policy
from esper_agents.tamiyo import Interface
from esper_env import EsperEnv

RUNS = Path("runs")
"""Holds the rows of each suite in a folder of its name, unless told otherwise."""


def _seeds(text: str) -> range:
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"{text!r}: write FIRST:LAST, as in 0:20")
    return range(int(first), int(last))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="play the episodes that have no row yet")
    run.add_argument("--controllers", default="wait,random,heuristic", help=suites.HELP)
    run.add_argument("--seeds", type=_seeds, default="0:20", help="FIRST:LAST, offsets into the evaluation seeds")
    find = commands.add_parser("search", help="search for an open-loop schedule with a budget of FLOPs")
    find.add_argument("--like", help="name or file of a policy: spend what its training spent")
    find.add_argument("--flops", type=float, help="spend this")
    known = commands.add_parser("references", help="play what normalised scores are measured by")
    for command in (run, find, known):
        command.add_argument("--suite", choices=suites.SUITES, required=True)
        command.add_argument("--tasks", nargs="+", default=(), help="of the suite; default all of them")
        command.add_argument("--workers", type=int, default=2, help="processes; default 2")
    verify = commands.add_parser("verify", help="play a row's episode again and compare")
    verify.add_argument("folder", type=Path)
    verify.add_argument("--row", type=int, required=True, help="counted from 0")
    write = commands.add_parser("report", help="write a page and pictures from the rows")
    write.add_argument("folder", type=Path)
    write.add_argument("--tasks", nargs="+", default=(), help="of those with rows; default all of them")
    write.add_argument("--publish", action="store_true", help="put them into README.md and docs/benchmark.md too")
    for command in (run, find, known):
        command.add_argument("--out", type=Path, help=f"folder of the rows; default {RUNS / 'SUITE'}")
    return parser


def _search(arguments: argparse.Namespace) -> None:
    if (arguments.like is None) == (arguments.flops is None):
        raise ValueError("name a policy with --like, or a number of FLOPs with --flops")
    budget = arguments.flops or load_policy(arguments.like).description["origin"]["flops"]
    for task in suites.tasks_of(arguments.suite, arguments.tasks):
        env = gymnasium.make(task.id, **task.arguments).unwrapped
        assert isinstance(env, EsperEnv)
        length = env.settings.episode_length
        found = search(task, Interface.of(env), length, budget, arguments.out, arguments.workers)
        print(f"{task.name}: {found.tried} schedules, {found.flops:.3g} of {budget:.3g} FLOPs")
        print(f"best, with a mean return of {found.mean_return:.4f}: {found.schedule.to_json()}")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args()
    if "out" in arguments and arguments.out is None:
        arguments.out = RUNS / arguments.suite
    try:
        match arguments.command:
            case "run":
                tasks = suites.tasks_of(arguments.suite, arguments.tasks)
                seeds = [suites.EVALUATION_SEED + offset for offset in arguments.seeds]
                play.run(
                    arguments.suite, tasks, arguments.controllers.split(","), seeds, arguments.out, arguments.workers
                )
            case "search":
                _search(arguments)
            case "references":
                for name, figures in references(
                    suites.tasks_of(arguments.suite, arguments.tasks), arguments.out, arguments.workers
                ).items():
                    print(name, {key: round(value, 2) for key, value in figures.items()})
            case "report":
                for make in (report, publish) if arguments.publish else (report,):
                    print(*make(arguments.folder, arguments.tasks), sep="\n")
            case "verify":
                return 0 if play.verify(arguments.folder / play.ROWS, arguments.row) else 1
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
