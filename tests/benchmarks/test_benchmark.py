"""The benchmark's rows, controls and search, on tiny episodes."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import compare, episodes, figures, play, references, report, search, suites, when
from benchmarks.episodes import Job
from benchmarks.suites import Task
from esper_agents.karn.reading import RunLog
from esper_agents.karn.snapshot import Snapshot
from esper_agents.tamiyo import Interface, Planting, Schedule

TINY = Task("Esper/Tiny-v0", {"episode_length": 30, "samples_per_epoch": 64, "val_samples": 64, "tempos": [1]})
SEED = 2_000_000


@pytest.fixture
def here(monkeypatch):
    """Play in this process."""

    def play_all(jobs, path, workers, title):
        rows = {row.key: row for row in episodes.read(path)}
        for job in jobs:
            if job.key not in rows:
                rows[job.key] = episodes.play(job)
                episodes.append(path, rows[job.key])
        return [rows[job.key] for job in jobs]

    monkeypatch.setattr(play, "play_all", play_all)
    monkeypatch.setattr(search, "play_all", play_all)
    monkeypatch.setattr(when, "play_all", play_all)
    monkeypatch.setitem(suites.SUITES, "smoke", (TINY,))


def planted():
    plantings = [vars(Planting("r0c0", "conv_light", tempo=1))]
    return Job("smoke", TINY.id, TINY.arguments, "planted", SEED, "schedule", plantings, "h")


def test_a_row_is_read_as_it_was_written_and_replayed_bit_for_bit(tmp_path):
    row = episodes.play(planted())
    assert row.fossilized == 1 and json.loads(row.structure)[0]["blueprint"] == "conv_light"
    assert sum(json.loads(row.operations).values()) == len(json.loads(row.curve)) == 30
    assert row.images == 30 * 64
    episodes.append(tmp_path / "rows.csv", row)
    (again,) = episodes.read(tmp_path / "rows.csv")
    assert again == row
    assert episodes.differences(again, episodes.replay(again)) == []
    other = replace(again, actions=json.dumps([0] * 30))
    assert "test_accuracy" in episodes.differences(other, episodes.replay(other))


def test_a_line_that_was_cut_off_is_none_and_does_no_harm(tmp_path):
    row, path = episodes.play(planted()), tmp_path / "rows.csv"
    episodes.append(path, row)
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[1][:100])
    assert episodes.read(path) == [row]
    second = replace(row, seed=SEED + 1)
    episodes.append(path, second)
    assert episodes.read(path) == [row, second]


def test_twins_have_the_final_structure_from_the_start_and_equal_flops_if_asked(tmp_path, here, monkeypatch):
    monkeypatch.setattr(suites, "SCHEDULES", tmp_path)
    schedule = Schedule((Planting("r0c0", "conv_heavy", tempo=1),))
    (tmp_path / "fixed_schedule-Tiny.json").write_text(schedule.to_json())
    names = ["fixed_schedule", "static_final:fixed_schedule", "static_flops:fixed_schedule"]
    rows = play.run("smoke", [TINY], names, [SEED, SEED + 1], tmp_path / "out", 1)
    assert [row.controller for row in rows] == [name for name in names for _ in range(2)]
    for grown, static, flops in zip(rows[:2], rows[2:4], rows[4:], strict=True):
        assert grown.seed == static.seed == flops.seed
        assert grown.params == static.params == flops.params and grown.fossilized == 1
        assert json.loads(static.stages)[0] == json.loads(grown.stages)[-1]
        assert len(json.loads(static.curve)) == 30
        spent = grown.flops_training + grown.flops_shadow
        assert flops.flops_training == pytest.approx(spent, abs=static.flops_training / 30)
    before = (tmp_path / "out" / "rows.csv").read_bytes()
    assert play.run("smoke", [TINY], names, [SEED, SEED + 1], tmp_path / "out", 1) == rows
    assert (tmp_path / "out" / "rows.csv").read_bytes() == before
    failed = [replace(row, error_code=int(row is rows[2])) for row in rows]
    (twin,) = suites.twin("smoke", TINY, names[2], failed)
    assert twin.seed == SEED + 1, "what failed has no twin, and the others have theirs"


def test_growing_late_is_held_against_the_same_network_at_the_same_cost(tmp_path, here, monkeypatch):
    schedule = Schedule((Planting("r0c0", "conv_heavy", tempo=1),))
    (tmp_path / "fixed_schedule-Tiny.json").write_text(schedule.to_json())
    page = tmp_path / "page.md"
    page.write_text("<!-- when -->\n<!-- end -->\n")
    for name, value in {
        "FOLDER": tmp_path,
        "PAGE": page,
        "TASKS": (TINY,),
        "EPOCHS": (1, 10),
        "SEEDS": range(1_000_000, 1_000_002),
    }.items():
        monkeypatch.setattr(when, name, value)
    when.run(1)
    rows = {(row.controller, row.seed): row for row in episodes.read(tmp_path / "rows.csv")}
    assert len(rows) == 2 * (1 + 2 * 2)
    late, whole, equal = (
        rows[name, 1_000_000] for name in ("planted at 10", "from scratch", "from scratch as planted at 10")
    )
    assert not any(map(max, json.loads(late.stages)[:9])) and max(json.loads(late.stages)[9]) > 0
    assert late.structure == whole.structure == equal.structure
    epoch = whole.flops_training / 30
    assert abs(equal.flops_training - late.flops_training - late.flops_shadow) <= epoch / 2
    assert late.flops_training < 0.9 * whole.flops_training
    when.report()
    line = page.read_text().splitlines()[4].split(" | ")
    pairs = [(rows["planted at 10", s], rows["from scratch", s]) for s in when.SEEDS]
    mean = 100 * np.mean([a.test_accuracy - b.test_accuracy for a, b in pairs])
    assert line[1] == "10" and line[3].startswith(f"{mean:+.2f} [")
    assert line[4] == f"{sum(a.flops_total for a, _ in pairs) / sum(b.flops_total for _, b in pairs):.0%}"
    kept = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(kept[: kept.rindex("\n", 0, -1) + 1])
    with pytest.raises(ValueError, match="when run"):
        when.report()


def test_rows_of_another_suite_are_not_added_to(tmp_path):
    episodes.append(tmp_path / "rows.csv", replace(episodes.play(planted()), suite="full"))
    with pytest.raises(ValueError, match="has rows of suite full; choose another folder with --out"):
        play.play_all([planted()], tmp_path / "rows.csv", 1, "smoke")


def test_rows_of_another_schedule_are_not_gone_on_with(tmp_path):
    job = planted()
    episodes.append(tmp_path / "rows.csv", episodes.play(job))
    (row,) = play.play_all([job], tmp_path / "rows.csv", 1, "same")
    assert json.loads(row.controller_settings)["plantings"] == job.what
    for other in (replace(job, hash="other"), replace(job, kind="structure", what=[])):
        with pytest.raises(ValueError, match="another policy, schedule or structure; choose another folder"):
            play.play_all([other], tmp_path / "rows.csv", 1, "other")


def test_an_episode_that_cannot_be_played_stops_no_other(tmp_path):
    jobs = [replace(planted(), seed=SEED + i, what=[{"nonsense": 1}] if i == 1 else planted().what) for i in range(4)]
    with pytest.raises(ExceptionGroup, match="the same command tries them again") as raised:
        play.play_all(jobs, tmp_path / "rows.csv", 1, "test")
    with pytest.raises(ExceptionGroup):  # the same command again
        play.play_all(jobs, tmp_path / "rows.csv", 1, "test")
    snapshot = Snapshot()
    for time_s, event in RunLog(tmp_path).poll():
        snapshot.fold(time_s, event)
    assert len(snapshot.episodes) == 3 and snapshot.steps == 3 * 30, "those of the part before are kept"
    assert snapshot.end.status == "failed"
    (error,) = raised.value.exceptions
    assert error.__notes__ == [f"This was planted on {TINY.id} with seed {SEED + 1}."]
    assert {row.seed for row in episodes.read(tmp_path / "rows.csv")} == {SEED, SEED + 2, SEED + 3}


def children(pid):
    """The processes that a process started and that still run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if running(child)]


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes as Linux shows them")
def test_nothing_goes_on_when_the_command_is_killed(tmp_path):
    words = [sys.executable, "-m", "benchmarks", "run", "--suite", "smoke", "--controllers", "wait", "--workers", "2"]
    with subprocess.Popen([*words, "--seeds", "0:1000", "--out", tmp_path], stderr=subprocess.DEVNULL) as process:
        wait_for((tmp_path / "rows.csv").exists)
        workers = children(process.pid)
        process.kill()
    assert len(workers) >= 2
    wait_for(lambda: not any(map(running, workers)))


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("in a minute it did not happen")


def test_the_search_spends_its_budget_and_its_winner_is_played(tmp_path, here, monkeypatch):
    monkeypatch.setattr(search, "THIRD", range(search.SECOND.stop, search.SECOND.stop + 3))
    interface = Interface.of(gymnasium.make(TINY.id, **TINY.arguments))
    budget = 50 * episodes.play(replace(planted(), kind="scripted", what="wait")).flops_total
    found = search.search(TINY, interface, 30, budget, tmp_path, 1)
    assert budget <= found.flops <= 1.3 * budget
    rows = episodes.read(tmp_path / "search-Tiny.csv")
    assert len({row.controller for row in rows}) == found.tried >= search.FIVE
    assert all(row.seed < 1_000_000 for row in rows)
    tries = [sum(row.controller == digest for row in rows) for digest in {row.controller for row in rows}]
    assert sorted(tries)[-search.FIVE :] == [1 + len(search.SECOND) + len(search.THIRD)] * search.FIVE
    again = search.search(TINY, interface, 30, budget, tmp_path, 1)
    assert again == found and episodes.read(tmp_path / "search-Tiny.csv") == rows
    (row,) = play.run("smoke", [TINY], ["random_search"], [SEED], tmp_path, 1)
    assert row.controller_hash == found.schedule.digest


def test_a_search_with_cheap_later_episodes_draws_more_and_finds_the_best(tmp_path, monkeypatch, base):
    worth = {}

    def play_all(jobs, *_):
        rows = []
        for job in jobs:
            worth[job.hash] = int(job.hash[:8], 16) / 2**32
            total = 100 if job.seed in search.FIRST else 5
            level = job.seed % 10  # as instances differ
            rows.append(replace(base, seed=job.seed, flops_total=total, episode_return=level + worth[job.hash]))
        return rows

    monkeypatch.setattr(search, "play_all", play_all)
    interface = Interface.of(gymnasium.make(TINY.id, **TINY.arguments))
    found = search.search(TINY, interface, 30, 40_000, tmp_path, 1)
    assert 40_000 <= found.flops < 44_000
    assert found.tried == len(worth) > 300
    assert worth[found.schedule.digest] == max(worth.values())


@pytest.fixture(scope="module")
def base():
    return episodes.play(replace(planted(), kind="scripted", what="wait", controller="wait"))


def made(base, controller, returns, task="Esper/CifarVaried-v0", trained_on="", **fields):
    """Rows with these returns, one a seed."""
    return [
        replace(
            base,
            task=task,
            controller=controller,
            trained_on=trained_on,
            seed=SEED + i,
            episode_return=value,
            test_accuracy=value,
            **fields,
        )
        for i, value in enumerate(returns)
    ]


def test_training_runs_are_grouped_and_transfer_is_kept_apart(base):
    varied = "Esper/CifarVaried-v0"
    rows = made(base, "wait", [0.1, 0.2])
    rows += made(base, "learned:a", [0.3, 0.4], trained_on=varied, controller_hash="a") + made(
        base, "learned:b", [0.5, 0.6], trained_on=varied
    )
    rows += made(base, "learned:c", [0.2, 0.2], trained_on="Esper/Tiny-v0")
    rows += made(base, "static_final:learned:a", [0.3, 0.3], trained_on=varied)
    results = compare.Results.of(varied, rows)
    runs = {name: len(runs) for name, runs in results.groups.items()}
    assert runs == {"wait": 1, "learned": 2, "learned on Tiny": 1, "static_final:learned": 1}
    assert results.scores("learned", "episode_return").tolist() == [[0.3, 0.4], [0.5, 0.6]]
    said = "\n".join(report.sentences(results))
    assert "Transfer, not corrected: Not settled: this policy (learned on Tiny) against wait, +5.00" in said
    assert "dominated by no control" in said


def test_a_policy_by_two_names_is_one_run_and_a_smaller_task_is_another(base):
    rows = made(base, "wait", [0.1])
    for name, policy, where in (("a", "1", "Tiny-v0"), ("b", "1", "Tiny-v0"), ("c", "2", 'Tiny-v0 {"lr": 1}')):
        trained = {"controller_hash": policy, "trained_on": f"Esper/{where}"}
        rows += made(base, f"learned:{name}", [0.3], task="Esper/Tiny-v0", **trained)
    rows[0] = replace(rows[0], task="Esper/Tiny-v0")
    groups = compare.Results.of("Esper/Tiny-v0", rows).groups
    assert {name: len(runs) for name, runs in groups.items() if name != "wait"} == {
        "learned": 1,
        'learned on Tiny {"lr": 1}': 1,
    }


def test_runs_are_held_against_their_own_twins(base):
    """Runs differ by much more than a run and its twin do; the twins come in another order."""
    rows, trained = [], {"trained_on": "Esper/CifarVaried-v0"}
    for i, level in enumerate((0.60, 0.62, 0.64)):
        rows += made(base, f"learned:{i}", [level, level + 0.01], **trained, controller_hash=str(i))
    for i, level in reversed(list(enumerate((0.60, 0.62, 0.64)))):
        twin = {"controller_hash": str(i), **trained}
        rows += made(base, f"static_final:learned:{i}", [level + 0.002, level + 0.012], **twin)
    results = compare.Results.of("Esper/CifarVaried-v0", rows)
    said = compare.non_inferior(results)
    assert "learned is not inferior to its final structure trained from scratch: -0.20 [-0.20, -0.20]" in said
    assert compare.dominated(results) == ["static_final:learned"]
    worse = {"test_accuracy": rows[6].test_accuracy - 0.003, "stability": 1.0, "flops_total": 1}
    below = [replace(row, **worse) for row in rows[6:8]]  # than the best run, but better than the mean of all three
    assert compare.dominated(compare.Results.of("Esper/CifarVaried-v0", rows[:6] + below)) == []
    lost = [replace(row, test_accuracy=row.test_accuracy + 0.02) for row in rows[6:]]
    assert "learned is inferior to its final" in compare.non_inferior(
        compare.Results.of("Esper/CifarVaried-v0", rows[:6] + lost)
    )


def test_few_seeds_settle_nothing(base):
    few = made(base, "wait", np.linspace(0.1, 0.2, 9)) + made(base, "heuristic", np.linspace(0.2, 0.3, 9))
    (comparison,) = compare.comparisons(compare.Results.of(few[0].task, few))
    assert comparison.p < 0.05 and comparison.words().startswith("Not settled: heuristic against wait, +10.00")


def test_schedules_are_held_against_the_policy_too(base):
    trained = {"trained_on": "Esper/CifarVaried-v0"}
    rows = made(base, "random_search", [0.5] * 10) + made(base, "fixed_schedule", [0.55] * 10)
    rows += made(base, "learned:a", [0.52] * 10, **trained)
    said = report.sentences(compare.Results.of(rows[0].task, rows))
    assert said[0].startswith("Settled: this policy (learned) is better than random_search, +2.00")
    assert said[1].startswith(
        "Not named beforehand, not corrected: Settled: this policy (learned) is worse than fixed_"
    )
    assert sum("random_search," in sentence for sentence in said) == 1


def test_rows_of_different_data_are_not_compared(base):
    rows = made(base, "wait", [0.1, 0.2])
    real = json.dumps(json.loads(base.provenance) | {"dataset": "cifar10"})
    for other in ({"provenance": real}, {"arguments": '{"episode_length": 60}'}, {"suite": "full"}):
        with pytest.raises(ValueError, match=r"cannot be compared.*keep them in different folders"):
            compare.Results.of(rows[0].task, [rows[0], replace(rows[1], **other)])


def test_seeds_that_some_controller_lacks_are_counted(base):
    rows = made(base, "wait", [0.1, 0.2, 0.3]) + made(base, "random", [0.1])
    results = compare.Results.of(rows[0].task, rows)
    assert results.seeds == (SEED,) and results.incomplete == {"random": 2}
    assert any("random lacks 2" in sentence for sentence in report.sentences(results))


def test_a_failed_episode_is_listed_and_its_seed_left_out(base):
    rows = made(base, "wait", [0.1, 0.2, 0.3]) + made(base, "random", [0.1, 0.2, 0.3])
    rows[4] = replace(rows[4], error_code=1)
    results = compare.Results.of(rows[0].task, rows)
    assert results.seeds == (SEED, SEED + 2) and results.failed == [rows[4]]
    assert any("random on seed 2000001" in sentence for sentence in report.sentences(results))


def test_words_follow_the_figures(base):
    rng = np.random.default_rng(0)
    wait = rng.normal(0.5, 0.05, 40)
    trained = {"trained_on": "Esper/CifarVaried-v0"}
    dear = {"flops_total": 2 * base.flops_total}
    rows = made(base, "wait", wait) + made(base, "heuristic", wait + rng.normal(0, 0.02, 40))
    for i in range(3):
        rows += made(base, f"learned:{i}", wait + rng.normal(0.03, 0.01, 40), **trained, controller_hash=str(i))
    rows[80:120] = [replace(row, test_accuracy=row.test_accuracy + 0.005) for row in rows[80:120]]
    rows += made(base, "random_search", wait + 0.08)
    rows += made(base, "static_final:learned:0", wait + 0.02, **dear, **trained)
    results = compare.Results.of(rows[0].task, rows)
    said = report.sentences(results)
    assert said[0].startswith("Settled: learned is better than heuristic, +")
    assert said[1].startswith("Settled: learned is better than wait, +2.9")
    assert said[2].startswith("Not settled: heuristic against wait, ")
    assert "better on a seed with probability 0." in said[2]
    assert said[3].startswith("Settled: learned is worse than random_search, -")
    twin = 100 * float(
        np.mean([a.test_accuracy - b.test_accuracy for a, b in zip(rows[80:120], rows[-40:], strict=True)])
    )
    assert f": {twin:+.2f} [" in said[4], "only the run whose final structure was trained counts"
    assert "is not inferior" in said[4] and "50% of its FLOPs, which is at most 70%" in said[4]
    assert "dominated in quality, cost and stability by random_search" in said[5]
    (one,) = compare.comparisons(compare.Results.of(rows[0].task, rows[:40] + rows[80:120]))
    assert "this policy (learned) is" in one.words()
    assert compare.return_on_growth(results, "learned") is None, "nothing grew"


def test_scores_are_normalised_by_references_that_differ_enough(tmp_path, here, base, monkeypatch):
    monkeypatch.setattr(references, "play_all", play.play_all)
    monkeypatch.setattr(references, "SEEDS", 2)
    file = tmp_path / "references.json"
    monkeypatch.setattr(suites, "REFERENCES", file)
    monkeypatch.setattr(report, "REFERENCES", file)
    (known,) = references.references([TINY], tmp_path, 1, file).values()
    assert {row.seed for row in episodes.read(tmp_path / references.ROWS)} == {1_000_000, 1_000_001}
    key = f"{TINY.id} {json.dumps(TINY.arguments, sort_keys=True)}"
    results = compare.Results.of(TINY.id, made(base, "wait", [0.3, 0.3], TINY.id))
    for gap, expected, said in ((20.0, "0.50", "20.00 [20.00, 30.00] points lie between"), (1.0, "", "above 2.")):
        figures_of = {"wait": 20.0, "static": 40.0, "low": gap, "high": 30.0}
        file.write_text(json.dumps({key: figures_of}))
        assert report.normalised(results, "wait") == expected
        assert said in report.scale(results)
    file.unlink()
    assert report.scale(results).startswith("No normalised scores: `python -m benchmarks references` was not run")
    assert known["low"] <= known["static"] - known["wait"] <= known["high"]


def test_the_report_is_one_page_with_its_pictures(tmp_path, base):
    tiny = "Esper/Tiny-v0"
    grown = episodes.play(replace(planted(), controller="fixed_schedule"))
    for row in made(base, "wait", [0.5, 0.6], tiny) + made(grown, "fixed_schedule", [0.55, 0.65], tiny):
        episodes.append(tmp_path / "rows.csv", row)
    files = report.report(tmp_path)
    assert [file.name for file in files] == ["report.html", *(f"Tiny-{name}.png" for name in figures.PICTURES)]
    assert all(file.stat().st_size > 8_000 for file in files)
    page = files[0].read_text()
    assert page.count("data:image/png;base64,") == len(figures.PICTURES) and "http" not in page
    with pytest.raises(ValueError, match="run `python -m benchmarks run` first"):
        report.report(tmp_path / "nowhere")


def test_results_are_published_on_the_project_s_pages(tmp_path, base, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "PICTURES", {})
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/benchmark.md"):
        (tmp_path / page).write_text("# Before\n\n<!-- results -->\nold\n<!-- end -->\n\nAfter.\n")
    for task in ("Esper/CifarBaseline-v0", "Esper/CifarVaried-v0"):
        rows = made(base, "wait", [0.5, 0.6], task) + made(base, "learned:a", [0.53, 0.63], task, trained_on=task)
        for row in rows if "Baseline" in task else [*rows, *made(base, "random", [0.5, 0.6], task)]:
            episodes.append(tmp_path / "rows.csv", row)
    monkeypatch.setattr("sys.argv", ["benchmarks", "report", str(tmp_path), "--publish"])
    assert command.main() == 0
    readme, page = ((tmp_path / name).read_text() for name in ("README.md", "docs/benchmark.md"))
    assert readme.splitlines()[3:-3] == [
        "|  | CifarBaseline, 2 seeds | CifarVaried, 2 seeds |",
        "| --- | --- | --- |",
        "| wait | 55.00 | 55.00 |",
        "| random |  | +0.00 [+0.00, +0.00] |",
        "| learned | +3.00 [+3.00, +3.00] | +3.00 [+3.00, +3.00] |",
    ]
    assert readme.endswith("After.\n") and "### CifarVaried" in page and "learned) against wait, +3.00" in page
    assert (tmp_path / "docs" / "benchmark.png").stat().st_size > 8_000

    monkeypatch.setattr("sys.argv", ["benchmarks", "report", str(tmp_path), "--publish", "--tasks", "CifarVaried"])
    assert command.main() == 0
    assert "CifarBaseline" not in (tmp_path / "README.md").read_text() + (tmp_path / "docs/benchmark.md").read_text()
    with pytest.raises(ValueError, match="no rows of Tiny: there are some of CifarBaseline, CifarVaried"):
        report.report(tmp_path, ["Tiny"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--suite", "smoke", "--controllers", "wait,wizard"], "unknown controller 'wizard'; choose from wait"),
        (["run", "--suite", "smoke", "--controllers", "static_final"], "write static_final:CONTROLLER"),
        (["run", "--suite", "smoke", "--controllers", "static_final:wait"], "needs wait: name that controller too"),
        (["run", "--suite", "smoke", "--controllers", "wait,static_flops:wait"], "needs static_final:wait: name"),
        (["run", "--suite", "smoke", "--controllers", "wait:1"], "wait takes no argument"),
        (["run", "--suite", "smoke", "--controllers", "learned:nobody"], "there is no policy file nobody"),
        (
            ["run", "--suite", "smoke", "--controllers", "random_search"],
            "search --suite SUITE --tasks Tiny --like POLICY --out",
        ),
        (["run", "--suite", "smoke", "--seeds", "5"], "write FIRST:LAST"),
        (["run", "--suite", "smoke", "--tasks", "Huge"], "suite smoke has no task Huge; choose from Tiny"),
        (["search", "--suite", "smoke"], "--like, or a number of FLOPs"),
        (["verify", "nowhere", "--row", "0"], "has 0 rows"),
    ],
)
def test_mistakes_are_told_before_anything_is_played(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2 and message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def test_the_command_plays_and_verifies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(suites.SUITES, "smoke", (TINY,))
    options = ["--controllers", "wait", "--seeds", "0:1", "--workers", "1"]
    monkeypatch.setattr("sys.argv", ["benchmarks", "run", "--suite", "smoke", *options])
    assert command.main() == 0
    monkeypatch.setattr("sys.argv", ["benchmarks", "verify", "runs/smoke", "--row", "0"])
    assert command.main() == 0 and "the same" in capsys.readouterr().out
    rows = tmp_path / "runs" / "smoke" / "rows.csv"
    rows.write_text(rows.read_text().replace(',"[0, 0, ', ',"[1, 0, '))
    assert command.main() == 1 and "DIFFERS" in capsys.readouterr().out
