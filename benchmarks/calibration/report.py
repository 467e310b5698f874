"""Writes docs/calibration.md from the rows: every figure there comes from here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from benchmarks.calibration.plan import EXPERIMENTS, HEAVIEST, LATE_EPOCHS, NEVER, SCHEDULES, VARIED_SCHEDULES
from benchmarks.calibration.run import read_rows
from benchmarks.pages import markdown
from benchmarks.rows import Row
from benchmarks.statistics import Estimate, paired
from esper_env.tasks import BUILT_IN


def net_value(row: Row, rent: float) -> float:
    """Committed accuracy less rent, in points. Rent changes no training, so any price can be applied afterwards."""
    return 100.0 * float(row["committed_accuracy"] - rent * row["added_params"] / row["reference_params"])


def _column(rows: Iterable[Row], schedule: str, value: Callable[[Row], float], twin: str | None = None) -> list[float]:
    chosen = [r for r in rows if r["schedule"] == schedule and r["twin_of"] == twin]
    return [value(r) for r in sorted(chosen, key=lambda r: r["seed"])]


def _rent(id: str) -> float:
    return BUILT_IN[id].rent


def best_schedule(rows: list[Row], rent: float) -> str:
    """The schedule with the best mean net value."""
    names = [name for name in SCHEDULES if _column(rows, name, lambda r: 0.0)]
    return max(names, key=lambda name: np.mean(_column(rows, name, lambda r: net_value(r, rent))))


def convergence(rows: list[Row]) -> str:
    """Spread of WAIT's last 30 epochs."""
    table = []
    for r in sorted((r for r in rows if r["schedule"] == NEVER), key=lambda r: (r["id"], r["seed"])):
        curve = 100 * np.asarray(r["curve"])
        marks = [f"{curve[e - 1]:.1f}" for e in (30, 60, 90, 120, 150)]
        table.append([r["id"], str(r["seed"]), *marks, f"{curve[-30:].std():.2f}"])
    return markdown(["task", "seed", "30", "60", "90", "120", "150", "std of the last 30"], table)


def headroom(twins: list[Row], never: list[Row]) -> str:
    """WAIT against the host with conv_light everywhere from the start."""
    bare, light = (
        {r["seed"]: 100 * r["committed_accuracy"] for r in rows if r["schedule"] == NEVER} for rows in (never, twins)
    )
    seeds = sorted(set(bare) & set(light))
    table = [[str(s), f"{bare[s]:.1f}", f"{light[s]:.1f}", f"{light[s] - bare[s]:+.1f}"] for s in seeds]
    return markdown(["seed", "WAIT", "conv_light everywhere", "gain"], table)


def late(rows: list[Row], never: list[Row]) -> str:
    """Gain against germination epoch."""
    base = {r["seed"]: r["committed_accuracy"] for r in never if r["schedule"] == NEVER}
    table = []
    for epoch in LATE_EPOCHS:
        mine = {r["seed"]: r for r in rows if r["schedule"] == f"light everywhere at {epoch}" and r["seed"] in base}
        gains = [100 * (r["committed_accuracy"] - base[seed]) for seed, r in sorted(mine.items())]
        if gains:
            table.append([str(epoch), f"{np.mean(gains):+.2f}", " ".join(f"{g:+.1f}" for g in gains)])
    return markdown(["germination epoch", "gain over WAIT, points", "by seed"], table)


def rates(rows: list[Row], usual: list[Row]) -> str:
    """WAIT at other host rates, and late seeds at a lower rate of their own, beside the task's own rates."""
    table = []
    for name in (NEVER, "light everywhere at 75"):
        cells: dict[tuple[float, float], list[float]] = {}
        seeds = {r["seed"] for r in rows}
        for r in rows + [r for r in usual if r["seed"] in seeds]:
            if r["schedule"] == name:
                used = r["arguments"]["host_lr"], r["arguments"]["seed_lr"]
                cells.setdefault(used, []).append(100 * r["committed_accuracy"])
        for (host, seed), values in sorted(cells.items()):
            by_seed = " ".join(f"{v:.1f}" for v in values)
            table.append([name, f"{host:g}", f"{seed:g}", f"{np.mean(values):.1f}", by_seed])
    return markdown(["schedule", "host rate", "seed rate", "committed accuracy", "by seed"], table)


def choice(rows: list[Row], rent: float) -> str:
    """Net value of the schedules, and their test accuracy against WAIT."""
    table = []
    base = {r["seed"]: 100 * r["test_accuracy"] for r in rows if r["schedule"] == NEVER}
    for name in SCHEDULES:
        mine = [r for r in rows if r["schedule"] == name and r["seed"] in base]
        if mine:
            net = np.mean([net_value(r, rent) for r in mine])
            committed = np.mean([100 * r["committed_accuracy"] for r in mine])
            test = [100 * r["test_accuracy"] for r in mine]
            gain = "" if name == NEVER else str(paired(test, [base[r["seed"]] for r in mine]))
            added = np.mean([r["added_params"] for r in mine])
            numbers = [f"{net:.2f}", f"{committed:.2f}", f"{np.mean(test):.2f}", gain, f"{added:.0f}"]
            table.append([name, *numbers, str(len(mine))])
    return markdown(_CHOICE, table)


_CHOICE = (
    "schedule",
    "net value",
    "committed accuracy",
    "test accuracy",
    "test accuracy over WAIT, paired",
    "added parameters",
    "seeds",
)


def _on_common_seeds(rows: list[Row], names: Iterable[tuple[str, str | None]]) -> list[Row]:
    """The rows of the seeds for which every (schedule, twin) has been run."""
    seeds = [{r["seed"] for r in rows if (r["schedule"], r["twin_of"]) == name} for name in names]
    common = set.intersection(*seeds)
    return [r for r in rows if r["seed"] in common]


def judgement(rows: list[Row], rent: float, chosen: str) -> list[tuple[str, Estimate]]:
    """Paired differences in net value on the fresh seeds that all three schedules have been run on."""
    rows = _on_common_seeds(rows, [(name, None) for name in (chosen, NEVER, HEAVIEST)])
    if not rows:
        return []

    def net(name: str) -> list[float]:
        return _column(rows, name, lambda r: net_value(r, rent))

    return [
        (f"{chosen} - {NEVER}", paired(net(chosen), net(NEVER))),
        (f"{chosen} - {HEAVIEST}", paired(net(chosen), net(HEAVIEST))),
    ]


def fashion(rows: list[Row], chosen: str) -> str:
    """WAIT, heuristic, best schedule and its static twin: test accuracy, parameters, FLOPs."""
    table = []
    for label, name, twin in (
        ("WAIT", NEVER, None),
        ("heuristic", "heuristic", None),
        (chosen, chosen, None),
        (f"static twin of {chosen}", NEVER, chosen),
    ):
        mine = _on_common_seeds(rows, [(name, twin), (NEVER, None)])
        if not mine:
            continue
        accuracy = _column(mine, name, lambda r: 100 * r["test_accuracy"], twin)
        base = _column(mine, NEVER, lambda r: 100 * r["test_accuracy"])
        params = np.mean(_column(mine, name, lambda r: r["host_params"] + r["added_params"], twin))
        flops = np.mean(_column(mine, name, lambda r: r["flops_total"], twin))
        difference = "" if label == "WAIT" else str(paired(accuracy, base))
        cells = [f"{np.mean(accuracy):.2f}", difference, f"{params:.0f}", f"{flops / 1e12:.2f}", str(len(base))]
        table.append([label, *cells])
    head = ["plan", "test accuracy", "paired difference to WAIT, points", "parameters", "total TFLOPs", "seeds"]
    return markdown(head, table)


RENT_FACTORS = tuple(8.0 ** (k / 2) for k in range(-2, 3))
"""Evenly over the range of `varied_instance`, in the logarithm."""


def closed_loop(rows: list[Row], rent: float) -> tuple[str, Estimate] | None:
    """Best schedule per instance minus best single schedule; each is judged on a seed and chosen on the others.

    An instance here is what trains (width, impaired block, noise, rate) with a rent factor from a grid; only those
    are used that every schedule was run on with every seed.
    """
    worth: dict[tuple[str, float], dict[int, dict[str, float]]] = {}
    for r in rows:
        for factor in RENT_FACTORS:
            cell = worth.setdefault((str(r["provenance"]["instance"]), factor), {})
            cell.setdefault(r["seed"], {})[r["schedule"]] = net_value(r, rent * factor)
    seeds = sorted({r["seed"] for r in rows})
    full = [v for v in worth.values() if sum(len(v.get(s, ())) for s in seeds) == len(seeds) * len(VARIED_SCHEDULES)]
    if not full or len(seeds) < 2:
        return None
    gains, singles = [], []
    for judge in seeds:
        worths = [{n: sum(v[s][n] for s in seeds if s != judge) for n in VARIED_SCHEDULES} for v in full]
        single = max(VARIED_SCHEDULES, key=lambda n: sum(w[n] for w in worths))
        own = [max(VARIED_SCHEDULES, key=lambda n: w[n]) for w in worths]
        gains.append([v[judge][n] - v[judge][single] for v, n in zip(full, own, strict=True)])
        singles.append(single)
    by_instance = np.reshape(gains, (len(seeds), -1, len(RENT_FACTORS))).mean((0, 2))
    return " / ".join(dict.fromkeys(singles)), paired(list(by_instance), [0.0] * len(by_instance))


def stability(rows: list[Row]) -> str:
    """Rollbacks and failed episodes by task and plan."""
    table = []
    for id in BUILT_IN:
        for name in (NEVER, "heuristic", HEAVIEST):
            mine = [r for r in rows if r["id"] == id and r["schedule"] == name and not r["twin_of"]]
            if mine:
                totals = [str(sum(r[key] for r in mine)) for key in ("rollbacks", "error_code")]
                table.append([id, name, str(len(mine)), *totals])
    return markdown(["task", "plan", "episodes", "rollbacks", "failures"], table)


def figures(folder: Path) -> dict[str, str]:
    """Every table of the page; a sentence where there are no rows yet."""
    rows = {e: read_rows(folder, e) for e in EXPERIMENTS}
    out = dict.fromkeys((*EXPERIMENTS, "convergence", "fashion"), "*Not run yet.*")
    chosen_from = rows["choose-cifar"] + rows["choose-fashion"]
    if chosen_from:
        out["convergence"] = convergence(chosen_from)
    if rows["headroom"]:
        out["headroom"] = headroom(rows["headroom"], rows["choose-cifar"])
    if rows["late"]:
        out["late"] = late(rows["late"] + rows["choose-cifar"], rows["choose-cifar"])
    if rows["rates"]:
        out["rates"] = rates(rows["rates"], rows["late"] + rows["choose-cifar"])
    for kind, id in (("cifar", "Esper/CifarBaseline-v0"), ("fashion", "Esper/FashionBaseline-v0")):
        rent = _rent(id)
        if rows[f"choose-{kind}"]:
            out[f"choose-{kind}"] = choice(rows[f"choose-{kind}"], rent)
        judged = rows[f"judge-{kind}"]
        if judged:
            chosen = best_schedule(rows[f"choose-{kind}"], rent)
            differences = judgement(judged, rent, chosen)
            if differences:
                table = [[name, str(interval), str(interval.seeds)] for name, interval in differences]
                out[f"judge-{kind}"] = markdown(["net value, paired by seed", "points", "seeds"], table)
            if kind == "fashion":
                out["fashion"] = fashion(judged, chosen)
    if rows["stability"]:
        # with the task's own rates, and no structure given
        usual = [name for name in EXPERIMENTS if name not in ("headroom", "rates")]
        out["stability"] = stability([row for name in usual for row in rows[name]])
    varied = closed_loop(rows["varied"], _rent("Esper/CifarVaried-v0"))
    if varied:
        single, interval = varied
        table = [[single, str(interval), str(interval.seeds)]]
        head = ["best single schedule", "best per instance - best single, points", "instances"]
        out["varied"] = markdown(head, table)
    return out
