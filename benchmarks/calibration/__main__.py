"""``python -m benchmarks.calibration run EXPERIMENT...`` and ``python -m benchmarks.calibration report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.calibration.plan import EXPERIMENTS, SCHEDULES
from benchmarks.calibration.report import figures
from benchmarks.calibration.run import run_jobs
from benchmarks.pages import fill

RESULTS = Path(__file__).parents[1] / "results" / "calibration"
PAGE = Path(__file__).parents[2] / "docs" / "calibration.md"


def main() -> int:
    """Run episodes or write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the episodes that have no row yet")
    run.add_argument("experiments", nargs="+", choices=EXPERIMENTS, metavar="EXPERIMENT", help=", ".join(EXPERIMENTS))
    run.add_argument("--chosen", choices=SCHEDULES, help="the schedule that a judge-* experiment judges")
    run.add_argument("--workers", type=int, default=2, help="processes; default 2")
    report = commands.add_parser("report", help="write the page from the rows")
    for command in (run, report):
        command.add_argument("--out", type=Path, default=RESULTS, help="folder of the rows")
    report.add_argument("--page", type=Path, default=PAGE, help="the Markdown file")
    arguments = parser.parse_args()
    if arguments.command == "report":
        fill(arguments.page, figures(arguments.out))
        return 0
    if arguments.chosen is None and any(e.startswith("judge") for e in arguments.experiments):
        parser.error("a judge-* experiment needs --chosen SCHEDULE")
    for experiment in arguments.experiments:
        run_jobs(list(EXPERIMENTS[experiment](arguments.chosen)), arguments.out, arguments.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
