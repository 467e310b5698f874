"""Calibration: the plan and the page, on rows written here and one tiny real episode."""

import json

import numpy as np
import pytest

from benchmarks.calibration.plan import (
    EXPERIMENTS,
    HEAVIEST,
    NEVER,
    SCHEDULES,
    VARIED_SCHEDULES,
    Job,
    everywhere,
    varied_instances,
)
from benchmarks.calibration.report import best_schedule, closed_loop, figures, judgement, net_value, rates
from benchmarks.calibration.run import read_rows, run_jobs
from benchmarks.pages import fill

TINY = {"episode_length": 16, "samples_per_epoch": 32, "val_samples": 128, "batch_size": 16, "host_lr": 0.05}


def row(schedule, seed, accuracy, added=0, **kwargs):
    """A row as `run_job` writes it, with what the report reads."""
    return {
        "key": f"{schedule}|{seed}|{kwargs}",
        "id": "Esper/CifarBaseline-v0",
        "schedule": schedule,
        "seed": seed,
        "twin_of": None,
        "committed_accuracy": accuracy,
        "test_accuracy": accuracy,
        "added_params": added,
        "reference_params": 1_000,
        "curve": [accuracy] * 150,
        **kwargs,
    }


def test_at_least_ten_schedules_and_no_job_twice():
    assert len(SCHEDULES) >= 10
    for make in EXPERIMENTS.values():
        keys = [job.key for job in make("light first at 1")]
        assert len(keys) == len(set(keys)) > 0


def test_a_judge_needs_a_schedule():
    with pytest.raises(ValueError, match="name it"):
        list(EXPERIMENTS["judge-cifar"](None))


def test_rent_decides_which_schedule_is_best():
    rows = [row(NEVER, s, 0.5) for s in range(3)] + [row(HEAVIEST, s, 0.6, 2_000) for s in range(3)]
    assert net_value(rows[-1], 0.02) == pytest.approx(56.0)
    assert best_schedule(rows, 0.02) == HEAVIEST
    assert best_schedule(rows, 0.06) == NEVER


def test_a_judgement_uses_the_seeds_that_all_were_run_on():
    chosen = "light first at 1"
    rows = [row(NEVER, s, 0.5 + 0.1 * s) for s in range(4)] + [row(chosen, s, 0.6 + 0.1 * s) for s in range(1, 4)]
    assert judgement(rows, 0.0, chosen) == []
    rows += [row(HEAVIEST, s, 0.7 + 0.1 * s) for s in range(2, 4)]
    (over_never, gain), (_, loss) = judgement(rows, 0.0, chosen)
    assert over_never == f"{chosen} - {NEVER}" and gain.seeds == loss.seeds == 2
    assert gain.value == pytest.approx(10.0) and loss.value == pytest.approx(-10.0)


def test_closed_loop_gain_is_judged_on_the_seed_it_was_not_chosen_on():
    """Noise that differs between the seeds gives no gain; a best schedule that differs by instance does."""

    def rows(worth):
        return [
            row(name, seed, worth(i, name, seed), provenance={"instance": instance})
            for i, instance in enumerate(varied_instances())
            for name in VARIED_SCHEDULES
            for seed in (0, 1)
        ]

    _, real = closed_loop(rows(lambda i, name, _: 0.7 if name == VARIED_SCHEDULES[i % 3] else 0.5), 0.0)
    assert real.value == pytest.approx(100 * 0.2 * 2 / 3)
    rng = np.random.default_rng(0)
    _, noise = closed_loop(rows(lambda i, name, seed: 0.5 + 0.1 * rng.random()), 0.0)
    assert noise.low < 0 < noise.high
    one_seed = [r for r in rows(lambda i, name, _: 0.5) if r["seed"] == 0]
    assert closed_loop(one_seed, 0.0) is None


def test_a_real_experiment_is_resumed_and_its_twin_has_the_same_network(tmp_path):
    plan = everywhere("conv_small", 1)[:1]
    jobs = [
        Job("tiny", "Esper/Tiny-v0", TINY, 0, "small", plan),
        Job("tiny", "Esper/Tiny-v0", TINY, 0, NEVER, twin_of="small"),
    ]
    run_jobs(jobs, tmp_path, workers=1)
    first = (tmp_path / "tiny.jsonl").read_text()
    run_jobs(jobs, tmp_path, workers=1)
    assert (tmp_path / "tiny.jsonl").read_text() == first
    grown, twin = read_rows(tmp_path, "tiny")
    assert grown["structure"] == twin["structure"] == [{"slot": "r0c0", "blueprint": "conv_small", "style": "add"}]
    assert grown["added_params"] == twin["added_params"] > 0
    assert len(grown["curve"]) == 16 and twin["twin_of"] == "small"


def test_the_page_is_filled_between_its_markers(tmp_path):
    rows = [row(NEVER, s, 0.5) for s in range(2)] + [row(HEAVIEST, s, 0.6, 500) for s in range(2)]
    (tmp_path / "choose-cifar.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    page = tmp_path / "page.md"
    blank = "".join(f"<!-- {name} -->\n<!-- end -->\n" for name in figures(tmp_path) if name != "choose-cifar")
    page.write_text(f"before\n{blank}<!-- choose-cifar -->\nold\n<!-- end -->\nafter\n")
    fill(page, figures(tmp_path))
    text = page.read_text()
    assert "<!-- varied -->\n*Not run yet.*\n<!-- end -->" in text
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert figures(tmp_path)["choose-cifar"] in text and "+10.00 [+10.00, +10.00]" in text
    page.write_text("nothing here\n")
    with pytest.raises(ValueError, match="no marker"):
        fill(page, figures(tmp_path))


def test_wait_at_other_rates_is_told_from_wait_at_the_tasks_own():
    jobs = list(EXPERIMENTS["rates"](None))
    assert len({job.key for job in jobs}) == len(jobs)
    usual = {"host_lr": 0.2, "seed_lr": 0.2}
    rows = [row(NEVER, s, 0.5, arguments=usual | {"host_lr": 0.02}) for s in range(2)]
    table = rates(rows, [row(NEVER, s, 0.7, arguments=usual) for s in range(5)])
    assert "| never | 0.02 | 0.2 | 50.0 | 50.0 50.0 |" in table
    assert "| never | 0.2 | 0.2 | 70.0 | 70.0 70.0 |" in table
