"""Sanctum, by what is on its screen."""

import asyncio
import fcntl
import html
import json
import math
import re
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import pytest
from textual.widget import Widget

from esper_agents.karn.reading import RunError, RunLog
from esper_agents.karn.sanctum import Sanctum, show
from esper_agents.karn.sanctum.app import SLICE
from esper_agents.karn.sanctum.figures import bar, curve, flow, tall_curve
from esper_agents.karn.words import duration, number

GOLDEN = Path(__file__).parent / "golden" / "events.jsonl"
SMALL, LARGE = (80, 24), (200, 50)
DASH = "\N{EN DASH}"


@pytest.fixture(scope="module")
def golden():
    return [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def of(records, kind):
    return [r for r in records if r["kind"] == kind]


def write(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def add(run, text):
    with (run / "events.jsonl").open("a") as file:
        file.write(text)


@contextmanager
def writer_of(run):
    """Hold the log as the process that writes it does."""
    with (run / "events.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def picture(app):
    """The lines on the screen."""
    lines = defaultdict(dict)
    for x, line, text in re.findall(
        r'<text [^>]*?x="([\d.]+)" [^>]*?clip-path="url\(#[\w-]*-line-(\d+)\)">(.*?)</text>', app.export_screenshot()
    ):
        lines[int(line)][float(x)] = html.unescape(text).replace("\xa0", " ")
    return [_joined(lines[i]) for i in sorted(lines)]


def _joined(parts):
    joined = ""
    for x, text in sorted(parts.items()):
        joined = joined.ljust(round(x / 12.2)) + text
    return joined


class Screen:
    """A running Sanctum, its pilot and its clock."""

    def __init__(self, app, pilot, clock):
        self.app, self.pilot, self.clock = app, pilot, clock

    async def see(self, *keys):
        """Press keys, read the log to its end, and return the screen once it is at rest."""
        if keys:
            await self.pilot.press(*keys)
        self.app.tick()
        while self.app.behind:
            self.app.tick()
        before, rests = None, 0
        while rests < 2:  # on a busy machine a layout may come a pause late
            now = [(w.region, str(w.render())) for w in self.app.query("Static")]
            rests = rests + 1 if now == before else 0
            before = now
            await self.pilot.pause()
            self.app.tick()
        return "\n".join(picture(self.app))


def watch(run, story, size=SMALL, now=None):
    """Open `run` at Unix time `now` or else a second after its last event, and let `story` use the screen."""
    last = max(
        (json.loads(x)["time_s"] for x in (run / "events.jsonl").read_text().splitlines() if x[-1] == "}"), default=0
    )
    clock = {"now": last + 1 if now is None else now}

    async def main():
        app = Sanctum(RunLog(run), clock=lambda: clock["now"])
        app.animation_level = "none"
        async with app.run_test(size=size) as pilot:
            return await story(Screen(app, pilot, clock))

    return asyncio.run(main())


def look(run, *keys, size=SMALL, now=None):
    """The screen after `keys`."""
    return watch(run, lambda screen: screen.see(*keys), size, now)


def row_of(text, start):
    return next(line for line in text.splitlines() if re.match(start, line.strip(" ┃│")))


# -- values ------------------------------------------------------------------------------------------


def test_the_large_screen_shows_the_log_s_values(golden):
    text = look(GOLDEN.parent, size=LARGE)
    header, update = golden[0], of(golden, "update")[-1]
    assert "✓ FINISHED" in text and f"ppo on {header['task']}  seed 0  commit {header['commit']}" in text
    assert "180 of 180 steps" in text and "100.0%" in text and "✓ no alarms" in text and "took 3.7 s" in text
    for i in (0, 1):
        steps = [s for s in of(golden, "step") if s["env"] == i][-30:]
        row = row_of(text, f"{i} +2 +30/30")
        assert f"{sum(s['reward'] for s in steps):+.4f}" in row
        assert f"{steps[-1]['val_accuracy']:.1%}" in row and f"{steps[-1]['growth']:+.0%}" in row
        for stage, blueprint in zip(steps[-1]["stages"], steps[-1]["blueprints"], strict=True):
            assert re.search(rf"{stage[0]} {stage} +{blueprint or DASH}", row)
        assert row.rstrip(" ┃")[-1] == "█", "the accuracy ends at its greatest"
    assert re.search(rf"KL +{update['approx_kl_nats']:.3g} nats", text)
    assert re.search(rf"explained variance +{update['explained_variance']:.3f}", text)
    assert re.search(rf"clip share +{update['clip_share']:.1%}", text)
    for name, entropy in update["entropy_by_operation_nats"].items():
        assert re.search(rf"{name} +{entropy:.3f} +\{update['q_by_operation'][name]:+.3f}", text)
    parts = update["time_s_by_part"]
    for name, seconds in parts.items():
        assert re.search(rf"{name} .* {seconds / sum(parts.values()):.1%} +{seconds:.3f} s", text)
    returns = [e["total_return"] for e in of(golden, "episode")]
    assert re.search(rf"return +\{sum(returns[:3]) / 3:+.4f} +\{sum(returns[3:]) / 3:+.4f} +≈ no clear change", text)
    decision = of(golden, "decision")[-2]
    assert re.search(
        rf"env 0 after epoch  29 WAIT +{decision['probability']:.1%} +V \{decision['expected_return']:+.3f}", text
    )
    other, probability = next(iter(decision["alternatives"].items()))
    assert f"else  {other} {probability:.1%}" in text
    assert "run        finished after 4 s" in text


def test_a_block_tells_the_losses_and_which_gates_are_open(golden, tmp_path):
    """From the middle of the first episode, where some gates are open and some are not yet."""
    ends = [i for i, r in enumerate(golden) if r["kind"] == "step" and r["env"] == 1 and r["epoch"] == 12]
    records = golden[: ends[0] + 10]
    text = look(write(tmp_path, records), "e", size=LARGE)
    seen = set()
    for i in (0, 1):
        step = [s for s in of(records, "step") if s["env"] == i][-1]
        open_gates = {}
        for r in of(records, "gate"):
            if r["env"] == i:
                open_gates[r["slot"], r["operation"]] = r["open"]
        block = text[text.index(f"   {i}  epoch {step['epoch']}/30") :]
        assert f"training: loss {step['train_loss_nats']:.3f}, accuracy {step['train_accuracy']:.1%}; " in block
        assert f"validation: loss {step['val_loss_nats']:.3f} nats" in block
        for slot, stage in zip(golden[0]["slots"], step["stages"], strict=True):
            line = next(line for line in block.splitlines() if line.strip(" ┃│").startswith(slot))
            onward = {"HOLDING": "FOSSILIZE"}.get(stage, "ADVANCE")
            expected = f"{onward} {'open' if open_gates.get((slot, onward)) else 'not yet'}"
            growing = stage in ("GERMINATED", "TRAINING", "BLENDING", "HOLDING")
            assert (expected in line) == growing and ("not yet" in line or " open" in line) == growing
            seen |= {expected.split(" ", 1)[1]} if growing else set()
    assert seen == {"open", "not yet"}


def test_the_small_screen_shows_the_essential_things_uncut(golden):
    text = look(GOLDEN.parent)
    top = text.split("Environments")[0]
    assert "…" not in top
    header = golden[0]
    for word in ("FINISHED", header["task"], "seed 0", header["commit"], "180 of 180", "steps/s", "no alarms"):
        assert word in top
    for word in ("first 3: +0.4023", "last 3: +0.4559", "no clear change", "train 64%", "evaluate 14%"):
        assert word in top
    steps = [[s for s in of(golden, "step") if s["env"] == i][-1] for i in (0, 1)]
    for step in steps:
        assert f"acc. {step['val_accuracy']:.1%}" in text
    assert "F FOSSILIZED  conv_heavy alpha 1.00" in text
    assert max(map(len, text.splitlines())) <= 80
    table = look(GOLDEN.parent, "e")
    assert re.search(rf"1 +30/30 \+0.5346 +68.8% +\+40% P▁ +{DASH} F█ +{DASH} F█ \+0.0 WAIT", table)
    assert "F fossilized" in table, "the letters are explained"


@pytest.mark.parametrize("size", [SMALL, (150, 40)])
def test_no_line_is_wrapped_or_cut_in_the_middle(size):
    """Every line of the environments and of the policy fits its panel."""

    async def story(screen):
        for key, name in (
            ("e", "environments"),
            ("e", "environments"),
            ("p", "policy"),
            ("d", "decisions"),
            ("t", "time"),
        ):
            await screen.see(key)
            panel = screen.app.query_one(f"#{name}")
            lines = str(panel.query_one("Static").render()).split("\n")
            assert panel.display and max(len(line.rstrip()) for line in lines) <= panel.scrollable_content_region.width
            assert panel.query_one("Static").size.height == len(lines)

    watch(GOLDEN.parent, story, size)


# -- status ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_s", "sign", "words"),
    [(0.5, "● LIVE", "last event 0.5 s ago"), (5, "◐ SLOW", "5.0 s ago"), (90, "○ STALE", "1 min 30 s ago")],
)
def test_a_run_that_is_written_is_live_slow_or_stale(golden, tmp_path, after_s, sign, words):
    run = write(tmp_path, golden[:-100])
    with writer_of(run):
        text = look(run, now=golden[-101]["time_s"] + after_s)
    assert sign in text and words in text
    assert ("was " in text.split("steps/s")[0]) == (sign != "● LIVE")


def test_a_run_whose_process_is_gone_is_dead(golden, tmp_path):
    run = write(tmp_path, golden[:-100])

    async def story(screen):
        with writer_of(run):
            assert "● LIVE" in await screen.see()
        text = await screen.see()
        assert "✗ DEAD" in text and "no process writes its log" in text and f"{DASH} left" in text

    watch(run, story)


@pytest.mark.parametrize(("status", "sign"), [("interrupted", "■ INTERRUPTED"), ("failed", "✗ FAILED")])
def test_a_run_that_was_ended_says_how_and_when(golden, tmp_path, status, sign):
    end = {**golden[-1], "status": status, "error": "ValueError: too bad", "dropped": {"wandb": 7}}
    text = look(write(tmp_path, [*golden[:-1], end]), now=end["time_s"] + 30 * 86400)
    assert sign in text and "30 d ago" in text and "ValueError: too bad" in text and "lost: wandb 7" in text


def test_a_run_that_has_logged_nothing_is_waited_for(tmp_path):
    run = write(tmp_path, [])
    with writer_of(run):
        text = look(run)
    assert "… WAITING" in text and "no event yet" in text and "no environment has stepped yet" in text
    text = look(run)
    assert "✗ DEAD" in text and "the log is empty" in text and "no process writes it" in text


def test_a_folder_without_a_run_is_refused_before_the_screen_opens(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        show(tmp_path)
    (tmp_path / "events.jsonl").write_text('{"kind": "something else"}\n')
    with pytest.raises(RunError, match="no event log of Esper"):
        show(tmp_path)


# -- following ---------------------------------------------------------------------------------------


def test_a_growing_log_is_followed_and_a_line_that_is_not_whole_waits(golden, tmp_path):
    last = max(i for i, r in enumerate(golden) if r["kind"] == "step" and r["env"] == 1)
    run = write(tmp_path, golden[:last])
    line = json.dumps(golden[last])

    async def story(screen):
        assert re.search(r"1 +29/30", await screen.see())
        add(run, line[:100])
        text = await screen.see()
        assert re.search(r"1 +29/30", text) and "damaged" not in text
        add(run, line[100:] + "\n")
        text = await screen.see()
        assert re.search(r"1 +30/30 +return \+0.5346 +acc. 68.8%", text) and "damaged" not in text
        add(run, "{nonsense\n")
        assert "1 damaged line in the log" in await screen.see()

    watch(run, story)


def test_a_long_log_is_read_in_slices_between_which_keys_are_answered(golden, tmp_path):
    run = write(tmp_path, golden[:1] + golden[1:-1] * 6 + golden[-1:])

    async def story(screen):
        screen.app._follow = lambda: None  # only the slices that are asked for below
        screen.app.tick()
        await screen.pilot.press("l")
        screen.app.draw()
        await screen.pilot.pause()
        text = "\n".join(picture(screen.app))
        assert screen.app.behind and re.search(r"… READING .*\d,000 events so far", text, re.DOTALL)
        assert "alarms: reading the log" in text and "no alarms" not in text and "Log, newest first" in text
        text = await screen.see()
        assert "✓ FINISHED" in text and "READING" not in text
        assert len(screen.app.snapshot.episodes) == 36

    assert len(golden) * 6 > 3 * SLICE
    watch(run, story)


@pytest.mark.parametrize("broken", ["shorter", "gone"])
def test_a_log_that_cannot_be_read_any_more_is_told_and_keeps_the_screen(golden, tmp_path, broken):
    run = write(tmp_path, golden)

    async def story(screen):
        await screen.see()
        if broken == "shorter":
            write(run, golden[:5])
        else:
            (run / "events.jsonl").unlink()
        text = await screen.see()
        assert "✗ UNREADABLE" in text and "the log cannot be read" in text
        assert ("has become shorter" in " ".join(text.split())) == (broken == "shorter")
        assert "acc. 68.8%" in text, "what was read stays"
        assert "KL" in await screen.see("p")

    watch(run, story)


# -- alarms ------------------------------------------------------------------------------------------


def alarm(time_s, detector, env, raised=True, message="something is wrong"):
    values = {"value": 1.0, "threshold": 0.5, "message": message}
    return {"kind": "anomaly", "time_s": time_s, "detector": detector, "raised": raised, "env": env, **values}


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_alarm_is_in_the_strip_and_in_its_environment_s_row(golden, tmp_path, size):
    at = golden[-1]["time_s"]
    run = write(tmp_path, [*golden[:-1], alarm(at, "degraded", 1)])

    async def story(screen):
        text = await screen.see()
        assert re.search(r"▲ ALARM degraded, env 1, since .* \(1\.0 s\): something is wrong", text)
        lines = text.splitlines()
        marked = next(i for i, line in enumerate(lines) if re.match(r"[┃ ]*▲  1 ", line))
        other = next(i for i, line in enumerate(lines) if re.match(r"[┃ ]*   0 .*30/30", line))
        assert marked < other, "what is wrong comes first"
        assert any("▲ degraded since" in line for line in lines[marked:other])
        add(run, json.dumps(alarm(at + 1, "degraded", 1, raised=False)) + "\n")
        text = await screen.see()
        assert "✓ no alarms now; 1 raised before" in text and "▲" not in text

    watch(run, story, size)


def test_a_rollback_is_told_in_its_environment():
    text = look(GOLDEN.parents[1] / "alarmed")
    assert "↺ rolled back at epoch 10" in text and "✓ no alarms now; 1 raised before" in text


def test_an_alarm_about_the_policy_marks_its_figure_and_many_alarms_are_counted(golden, tmp_path):
    at = golden[-1]["time_s"]
    names = ["kl", "entropy WAIT", "value_loss", "clipped", "ratio", "stalled"]
    run = write(tmp_path, [*golden[:-1], *(alarm(at + i, name, None) for i, name in enumerate(names))])
    text = look(run, "p")
    assert text.count("▲ ALARM") == 3 and "▲ ALARM stalled, run" in text and "▲ and 3 more" in text
    for label in ("KL", "WAIT", "value loss", "clip share", "ratio error"):
        assert f"▲{label}" in text
    assert "▲entropy" not in text and "▲ADVANCE" not in text


# -- what is not measured ----------------------------------------------------------------------------


def test_what_was_not_measured_is_a_dash_and_nan_is_said(golden, tmp_path):
    records = json.loads(json.dumps(golden))
    update = of(records, "update")[-1]
    update["ratio_error"] = update["explained_variance"] = update["q_by_operation"]["PRUNE"] = None
    update["value_loss"] = math.nan
    text = look(write(tmp_path, records), "p")
    assert re.search(rf"ratio error +{DASH} ", text) and re.search(rf"explained variance +{DASH} ", text)
    assert re.search(rf"PRUNE +0.137 +{DASH}", text) and re.search(r"value loss +NaN", text)
    assert f"{DASH} not measured" in text


def test_an_unknown_length_has_no_progress_and_no_time_left(golden, tmp_path):
    run = write(tmp_path, [{**golden[0], "total_steps": None}, *golden[1:-100]])
    with writer_of(run):
        top = look(run).split("Environments")[0]
    assert (
        re.search(rf"{DASH}  \d+ of {DASH} steps", top) and f"{DASH} left" in top and "%  " not in top.split("steps")[0]
    )


@pytest.mark.parametrize("planted", [False, True])
def test_a_contribution_belongs_to_the_seed_that_it_was_measured_of(golden, tmp_path, planted):
    """Environment 0's last counterfactual tells of a seed in r1c0 that was pruned since."""
    records = json.loads(json.dumps(golden))
    last = [c for c in of(records, "counterfactual") if c["env"] == 0][-1]
    assert last["contribution_points"] == [None, 0.0, None] and last["epoch"] == 27
    if planted:
        step = [s for s in of(records, "step") if s["env"] == 0][-1]
        step["stages"][1], step["blueprints"][1] = "GERMINATED", "norm"
    text = look(write(tmp_path, records))
    slot = next(line for line in text.splitlines() if ("G GERMINATED  norm" if planted else "E EMBARGOED") in line)
    assert re.search(rf"r1c0 .* contribution +{DASH}$", slot.rstrip())
    assert re.search(r"r0c1 .* depthwise .* contribution +\+0.0 points", text), "of a seed that is still there"


@pytest.mark.parametrize(
    ("controller", "words"),
    [("ppo", "no update yet"), ("heuristic", "no policy is trained here: the controller is heuristic")],
)
def test_a_run_without_updates_says_why(golden, tmp_path, controller, words):
    records = [r for r in golden if r["kind"] not in ("update", "checkpoint", "decision")]
    run = write(tmp_path, [{**records[0], "controller": controller}, *records[1:]])

    async def story(screen):
        assert words in await screen.see("p")
        text = await screen.see("d")
        assert ("no decision yet" if controller == "ppo" else "tells no probabilities") in text
        steps = [[s for s in of(golden, "step") if s["env"] == i][-1] for i in (0, 1)]
        train = sum(s["train_s"] for s in steps)
        total = sum(s[f"{part}_s"] for s in steps for part in ("train", "evaluate", "observe"))
        text = await screen.see("t")
        assert re.search(rf"train .* {train / total:.1%} +{train:.3f} s", text) and "of the last steps" in text
        assert ("nothing is trained here" in text) == (controller == "heuristic")

    watch(run, story)


def test_a_policy_that_got_better_or_worse_is_told(golden, tmp_path):
    end = of(golden, "episode")[0]

    def run(name, returns):
        episodes = [{**end, "total_return": r} for r in returns]
        return write(tmp_path / name, [golden[0], *episodes, *of(golden, "update")])

    rising = [0.1, 0.11, 0.1, 0.11, 0.5, 0.51, 0.5, 0.51]
    assert "↑ better" in look(run("better", rising))
    assert "↓ worse" in look(run("worse", rising[::-1]))
    assert "first 1: +0.1000  last 1: +0.5000  too few episodes to tell" in look(run("few", [0.1, 0.5]))


# -- keys --------------------------------------------------------------------------------------------


TITLES = {"e": "Environments", "p": "Policy", "d": "Decisions, newest first", "l": "Log, newest first", "t": "Time"}


def test_the_keys_of_the_footer_do_what_it_says_where_one_panel_fits():
    async def story(screen):
        footer = (await screen.see()).splitlines()[-1]
        for words in ("tab Next", "e Envs", "p Policy", "d Decisions", "l Log", "t Time", "f Freeze/follow", "q Quit"):
            assert words in footer
        for key in ("p", "d", "l", "t"):
            text = await screen.see(key)
            assert [k for k, title in TITLES.items() if f"\n━{title}━" in text] == [key]
        assert f"━{TITLES['e']}━" in await screen.see("tab")
        assert f"━{TITLES['t']}━" in await screen.see("left")
        assert f"━{TITLES['p']}━" in await screen.see("right", "right")
        assert f"━{TITLES['e']}━" in await screen.see("shift+tab")
        await screen.pilot.press("q")
        assert not screen.app.is_running

    watch(GOLDEN.parent, story)


def test_the_keys_of_the_footer_do_what_it_says_where_all_panels_fit():
    async def story(screen):
        text = await screen.see()
        assert all(f"─ {t} ─" in text or f"━ {t} ━" in text for t in TITLES.values())
        text = await screen.see("d")
        assert f"━ {TITLES['d']} ━" in text and "─ Policy ─" not in text and "entropy 0.65 nats" in text
        assert "return  first 3" in text, "the strip stands for the panels at the top"
        assert "─ Policy ─" in await screen.see("d")
        assert "Shapley value" in await screen.see("e")
        assert "─ Policy ─" in await screen.see("escape")
        assert "━ Policy ━" in await screen.see("tab"), "the panel that has the focus"

    watch(GOLDEN.parent, story, (150, 40))


def test_a_terminal_that_grows_or_shrinks_shows_what_fits():
    async def story(screen):
        await screen.see()
        await screen.pilot.resize_terminal(*LARGE)
        text = await screen.see()
        assert "─ Policy ─" in text and "─ Time ─" in text and re.search(r"1 +2 +30/30 \+0.5346", text)
        await screen.pilot.resize_terminal(*SMALL)
        text = await screen.see()
        assert "Policy ━" not in text and "acc. 68.8%" in text and max(map(len, text.splitlines())) <= 80

    watch(GOLDEN.parent, story)


def test_arrows_scroll_the_panel():
    async def story(screen):
        first = await screen.see("l")
        assert "finished after 4 s" in first
        down = await screen.see(*["down"] * 3)
        assert "finished after 4 s" not in down
        assert "finished after 4 s" in await screen.see("home")

    watch(GOLDEN.parent, story)


def test_only_what_changed_is_drawn(golden, tmp_path, monkeypatch):
    run = write(tmp_path, golden[:-1])
    drawn = []

    async def story(screen):
        before = await screen.see()
        screen.app._follow = lambda: None  # no drawing but those below
        await screen.pilot.pause(1)
        refresh = Widget.refresh
        monkeypatch.setattr(
            Widget,
            "refresh",
            lambda self, *a, **k: (drawn.append((self.id, k.get("layout"))), refresh(self, *a, **k))[1],
        )
        screen.clock["now"] += 5  # only the time since the last event is another one
        screen.app.tick()
        assert drawn == [("head", False)]
        assert await screen.see() != before

    watch(run, story, LARGE)


def test_frozen_panels_stand_still_while_status_and_alarms_follow(golden, tmp_path):
    last = max(i for i, r in enumerate(golden) if r["kind"] == "step" and r["env"] == 1)
    run = write(tmp_path / "run", golden[:last])

    async def story(screen):
        await screen.see()
        await screen.see("f")
        add(run, json.dumps(golden[last]) + "\n" + json.dumps(alarm(golden[last]["time_s"], "degraded", 1)) + "\n")
        text = await screen.see()
        assert "FROZEN at" in text and "Environments, frozen at" in text
        assert re.search(r"1 +29/30", text) and "▲ ALARM degraded, env 1" in text
        assert "alarm " not in await screen.see("l"), "other panels are as old"
        text = await screen.see("f", "e")
        assert re.search(r"▲  1 +30/30", text) and "FROZEN" not in text and "frozen" not in text

    watch(run, story)


# -- without colour ----------------------------------------------------------------------------------


def test_without_colour_stages_status_and_alarms_are_told(golden, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    run = write(tmp_path, [*golden[:-1], alarm(golden[-1]["time_s"], "degraded", 1)])

    async def story(screen):
        text = await screen.see()
        assert "P PRUNED" in text and "F FOSSILIZED" in text and "✗ DEAD" in text and "▲ ALARM" in text
        assert re.search(r"▲  1 .* P▁ .* F█ .* F█", await screen.see("e"))
        inside = screen.app.export_screenshot().split("<g ", 1)[1].split("<g transform", 2)[-1]
        colours = re.findall(r'fill="#(\w\w)(\w\w)(\w\w)"', inside)
        assert colours and all(len(set(c)) == 1 for c in colours)

    watch(run, story)


# -- figures -----------------------------------------------------------------------------------------


def test_numbers_say_what_they_are():
    assert [number(v, ".1%") for v in (None, math.nan, math.inf, -math.inf, 0.0)] == [DASH, "NaN", "∞", "-∞", "0.0%"]
    spans = {
        0.04: "0.0 s",
        9.9: "9.9 s",
        43: "43 s",
        60: "1 min",
        125: "2 min 5 s",
        11520: "3 h 12 min",
        90000: "1 d 1 h",
    }
    assert {s: duration(s) for s in spans} == spans


def test_bars_and_curves_are_as_long_as_what_they_show():
    assert [bar(share, 4, "#ffffff").plain for share in (0.0, 0.25, 0.5625, 1.0, 3.0)] == [
        "    ",
        "█   ",
        "██▎ ",
        "████",
        "████",
    ]
    assert bar(None, 4, "#ffffff").plain == f"{DASH}   "
    assert curve([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert curve([0, 0, 7, 7], 2) == "▁█" and curve([1.0], 9) == "▅" and curve([], 9) == ""
    assert curve([0.0, math.nan, 1.0], 3) == "▁?█"
    assert tall_curve([0, 1, 4], 3, 2) == ["  █", "▁▅█"]


def test_pieces_flow_onto_as_many_lines_as_they_need():
    assert [line.plain for line in flow(["aaaa", "bbbb", "cccc"], 10, indent=1)] == ["aaaa  bbbb", " cccc"]
