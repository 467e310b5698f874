"""Writes the report: one HTML page that needs no other file, and the pictures as PNG beside it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import figures, statistics, suites
from benchmarks.compare import (
    LEARNED,
    RETURN,
    TEST,
    Results,
    called,
    compared,
    comparisons,
    dominated,
    non_inferior,
    place,
    rank,
    return_on_growth,
    secondary,
    transfers,
)
from benchmarks.episodes import Row, read
from benchmarks.figures import PICTURES
from benchmarks.pages import fill, markdown
from benchmarks.play import ROWS
from benchmarks.suites import REFERENCES

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #ddd; padding: .3em .45em; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }
"""
WAIT = "wait"
GAP = 2.0
"""Points between the references that normalised scores need."""
ROOT = Path(__file__).parents[1]
CORNER = (0.1, 10.0, 0.0)
"""What the hypervolume is measured from: test accuracy of guessing, ten times WAIT's FLOPs, no stability."""
HEAD = (
    "controller",
    "runs",
    "return",
    "IQM",
    "median",
    "lower quartile",
    "test accuracy, %",
    "normalised",
    "stability",
    "growth, %",
    "kept",
    "FLOPs",
    "of WAIT's",
    "points/1,000 params",
)


def reference(results: Results) -> dict[str, float] | None:
    """What `references` measured on the task: test accuracies in points, and the interval of their difference."""
    known = json.loads(REFERENCES.read_text()) if REFERENCES.exists() else {}
    arguments = next(iter(results.groups.values()))[0][0].arguments
    found: dict[str, float] | None = known.get(f"{results.task} {arguments}")
    return found


def normalised(results: Results, name: str) -> str:
    """Test accuracy between that of WAIT, 0, and that of conv_light everywhere from the start, 1; "" if unknown."""
    found = reference(results)
    if found is None or found["low"] <= GAP:
        return ""
    return f"{(100 * results.mean(name, TEST) - found['wait']) / (found['static'] - found['wait']):.2f}"


def scale(results: Results) -> str:
    """What normalised scores are measured by, or why there are none."""
    found = reference(results)
    if found is None:
        return "No normalised scores: `python -m benchmarks references` was not run for this task."
    gap = f"{found['static'] - found['wait']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    which = f"WAIT's test accuracy, {found['wait']:.2f} %, and that of conv_light everywhere, {found['static']:.2f} %"
    if found["low"] <= GAP:
        return f"No normalised scores: between {which}, lie {gap} points; the interval should be above {GAP:g}."
    return f"Normalised scores are 0 at the first and 1 at the second of {which}; {gap} points lie between."


def table(results: Results) -> list[list[str]]:
    """A line for every group."""
    lines = []
    wait = results.mean(WAIT, "flops_total") if WAIT in results.groups else None
    for name, runs in results.groups.items():
        flops = results.mean(name, "flops_total")
        gain = return_on_growth(results, name)
        returns = results.scores(name, RETURN, 100.0)
        lines.append(
            [
                name,
                str(len(runs)),
                str(results.points(name, RETURN)).replace("+", ""),
                str(statistics.estimate(statistics.interquartile_mean, returns)).replace("+", ""),
                *(f"{np.quantile(returns, q):.2f}" for q in (0.5, 0.25)),
                str(results.points(name, TEST)).replace("+", ""),
                normalised(results, name),
                f"{results.mean(name, 'stability'):.3f}",
                f"{100 * results.mean(name, 'growth'):.0f}",
                f"{results.mean(name, 'fossilized'):.2f}",
                f"{flops:.3g}",
                "" if wait is None else f"{flops / wait:.2f}",
                "" if gain is None else f"{gain:+.2f}",
            ]
        )
    return lines


def sentences(results: Results) -> list[str]:
    """What is settled and what is not, in words."""
    said = [comparison.words() for comparison in comparisons(results)]
    said += [f"Not named beforehand, not corrected: {comparison.words()}" for comparison in secondary(results)]
    said += [s for s in (non_inferior(results),) if s is not None]
    better = dominated(results)
    if LEARNED in results.groups:
        by = f"dominated in quality, cost and stability by {', '.join(better)}" if better else "dominated by no control"
        said.append(f"{called(LEARNED, len(results.groups[LEARNED]))} is {by}.")
    said += [f"Transfer, not corrected: {comparison.words()}" for comparison in transfers(results)]
    points = {name: place(results, name) for name in results.groups}
    said.append(f"By their means on the front of quality, cost and stability: {', '.join(statistics.front(points))}.")
    if WAIT in points:
        unit = -points[WAIT][1]
        volume = statistics.hypervolume(
            [(quality, cost / unit, stable) for quality, cost, stable in points.values()],
            (CORNER[0], -CORNER[1], CORNER[2]),
        )
        said.append(
            f"Hypervolume of all: {volume:.3f}, from a test accuracy of {CORNER[0]:g}, {CORNER[1]:g} times WAIT's "
            f"FLOPs and a stability of {CORNER[2]:g}."
        )
    said.append(scale(results))
    if results.incomplete:
        lacks = ", ".join(f"{name} lacks {count}" for name, count in results.incomplete.items())
        said.append(f"Left out, since not every controller has a row of them: seeds ({lacks}).")
    if results.failed:
        which = ", ".join(f"{row.controller} on seed {row.seed}" for row in results.failed)
        said.append(f"Failed, and left out with their seeds: {which}.")
    return said


def report(folder: Path, tasks: Sequence[str] = ()) -> list[Path]:
    """Write ``report.html`` and the pictures into `folder`; return the files.

    Args:
        folder: of the rows.
        tasks: names of those to report on; default all.

    Raises:
        ValueError: there are no rows.
    """
    rows = rows_of(folder, tasks)
    files, parts = [], []
    for results in by_task(rows):
        if not results.seeds:
            parts.append(f"<h2>{html.escape(results.task)}</h2><p>No seed has a sound row of every controller yet.</p>")
            continue
        parts.append(_section(results))
        for name, draw in PICTURES.items():
            path = folder / f"{results.name}-{name}.png"
            draw(results, path)
            files.append(path)
            data = base64.b64encode(path.read_bytes()).decode()
            parts.append(f'<img alt="{name} of {html.escape(results.task)}" src="data:image/png;base64,{data}">')
    page = folder / "report.html"
    page.write_text(_page(rows, parts))
    return [page, *files]


def publish(folder: Path, tasks: Sequence[str] = ()) -> list[Path]:
    """Put the results into the project's pages: a table and a picture for the README, all figures for the benchmark's.

    Args:
        folder: of the rows.
        tasks: names of those to publish; default all.

    Raises:
        ValueError: there are no rows, or a page has no place for them.
    """
    sound = [results for results in by_task(rows_of(folder, tasks)) if results.seeds]
    readme, page, picture = (ROOT / name for name in ("README.md", "docs/benchmark.md", "docs/benchmark.png"))
    parts = [f"### {results.name}\n\n{summary(results)}" for results in sound]
    fill(page, {"results": "\n\n".join(parts)})
    fill(readme, {"results": overview(sound)})
    figures.overview(sound, picture)
    return [readme, page, picture]


def rows_of(folder: Path, tasks: Sequence[str] = ()) -> list[Row]:
    """The rows of a benchmark, of the tasks of these names or of all.

    Raises:
        ValueError: there are none.
    """
    rows = read(folder / ROWS)
    if not rows:
        raise ValueError(f"there are no rows in {folder / ROWS}: run `python -m benchmarks run` first")
    there = list(dict.fromkeys(suites.short(row.task) for row in rows))
    if unknown := set(tasks) - set(there):
        raise ValueError(f"no rows of {', '.join(sorted(unknown))}: there are some of {', '.join(there)}")
    return [row for row in rows if not tasks or suites.short(row.task) in tasks]


def by_task(rows: Sequence[Row]) -> list[Results]:
    """The results of each task, in the order of the suites, then of the rows."""
    order = [task.id for tasks in suites.SUITES.values() for task in tasks]
    there = {row.task for row in rows}
    return [Results.of(task, rows) for task in dict.fromkeys([*order, *(row.task for row in rows)]) if task in there]


def summary(results: Results) -> str:
    """Table and sentences of a task as Markdown."""
    said = (f"- {sentence}" for sentence in sentences(results))
    return "\n".join([f"{len(results.seeds)} seeds.", "", markdown(HEAD, table(results)), "", *said])


def overview(tasks: Sequence[Results]) -> str:
    """A line for every group as Markdown: its return on each task over WAIT's, in points."""
    names = sorted({name for results in tasks for name in results.groups}, key=rank)
    lines = [[name, *(_over_wait(results, name) for results in tasks)] for name in names]
    return markdown(["", *(f"{results.name}, {len(results.seeds)} seeds" for results in tasks)], lines)


def _over_wait(results: Results, name: str) -> str:
    if name not in results.groups:
        return ""
    if name == WAIT:
        return f"{100 * results.mean(WAIT, RETURN):.2f}"
    return str(compared(results, name, WAIT).difference)


def _section(results: Results) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in HEAD)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in table(results)
    )
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences(results))
    return (
        f"<h2>{html.escape(results.task)}</h2><p>{len(results.seeds)} seeds, paired. Returns and accuracies in points, "
        f"means with 95 % intervals.</p><table><tr>{head}</tr>{body}</table><ul>{said}</ul>"
    )


def _page(rows: Sequence[Row], parts: list[str]) -> str:
    where = sorted({f"{row.cpu}, commit {row.commit}, {row.versions}" for row in rows})
    made = "".join(f"<li>{html.escape(line)}</li>" for line in where)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Esper benchmark</title><style>{STYLE}</style>'
        f"<h1>Esper benchmark</h1>{''.join(parts)}<h2>Made with</h2><ul>{made}</ul></html>\n"
    )
