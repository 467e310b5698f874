"""Reading a run: the reducer against the recorded log, whatever state the file is in; SQL; the metrics."""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_agents.karn.__main__ import main
from esper_agents.karn.metrics import LAYOUT, Metrics
from esper_agents.karn.reading import RunError, RunLog, parse
from esper_agents.karn.snapshot import DECISIONS, Snapshot
from esper_agents.karn.timeline import timeline
from esper_agents.ppo_config import PPOConfig
from esper_env.leyline.events import EVENTS, Anomaly, RunEnd
from esper_env.nissa import JsonLinesSink, json_schema, record

ALARMED = Path(__file__).parent / "alarmed"
GOLDEN = Path(__file__).parent / "golden" / "events.jsonl"
LINES = GOLDEN.read_text().splitlines(keepends=True)
RECORDS = [json.loads(line) for line in LINES]


UNPRIVILEGED = """
import os, sys
from esper_agents.karn.__main__ import main
import esper_agents.karn.overwatch, esper_agents.karn.sanctum, esper_agents.karn.sql
if os.getuid() == 0:
    os.seteuid(65534)
sys.exit(main(sys.argv[1:]))
"""


def of(kind, **where):
    return [r for r in RECORDS if r["kind"] == kind and all(r[k] == v for k, v in where.items())]


def fold(records=RECORDS):
    snapshot = Snapshot()
    for r in records:
        snapshot.fold(*parse(r))
    return snapshot


def test_every_recorded_line_obeys_the_schema_and_is_what_was_emitted():
    validator = jsonschema.Draft202012Validator(json_schema())
    for r in RECORDS:
        time_s, event = parse(r)
        assert record(event, time_s) == r
        validator.validate(r)
    assert not validator.is_valid(RECORDS[-1] | {"seconds": "long"})
    assert not validator.is_valid(RECORDS[-1] | {"colour": "red"})


def test_the_snapshot_is_what_the_log_says():
    snapshot, last = fold(), of("step", env=1)[-1]
    env = snapshot.envs[1]
    assert (env.step.val_accuracy, env.step.action, env.step.epoch) == (last["val_accuracy"], last["action"], 30)
    mine = of("step", env=1)[-30:]
    assert env.accuracy == [r["val_accuracy"] for r in mine] and env.rewards == [r["reward"] for r in mine]
    assert env.total_return == pytest.approx(of("episode", env=1)[-1]["total_return"])
    assert [d.probability for d in snapshot.decisions] == [r["probability"] for r in of("decision")[-DECISIONS:]]
    assert [u.approx_kl_nats for u in snapshot.updates] == [r["approx_kl_nats"] for r in of("update")]
    assert [e.end.total_return for e in snapshot.episodes] == [r["total_return"] for r in of("episode")]
    assert [e.steps for e in snapshot.episodes] == [59, 60, 119, 120, 179, 180]
    assert snapshot.steps == len(of("step")) == snapshot.header.total_steps and snapshot.progress == 1.0
    measured = of("counterfactual", env=0)[-1]
    assert [env and env[0] for env in snapshot.envs[0].contributions.values()] == measured["contribution_points"]
    assert snapshot.status(0.0, False) == "finished"


def test_a_recorded_log_with_an_alarm_and_a_rollback_is_read():
    """`alarmed/record.py` records it anew when the settings or the events are other ones."""
    log, snapshot, validator = RunLog(ALARMED), Snapshot(), jsonschema.Draft202012Validator(json_schema())
    for line in log.path.read_text().splitlines():
        validator.validate(json.loads(line))
    told = list(log.poll())
    for time_s, event in told:
        snapshot.fold(time_s, event)
    assert log.damaged == 0 and snapshot.end.status == "finished"
    alarms = [(e.detector, e.env, e.raised) for _, e in told if isinstance(e, Anomaly)]
    assert alarms == [("non_finite", 0, True), ("non_finite", 0, False)]
    assert snapshot.alarms_raised == 1 and snapshot.alarms == {} and snapshot.envs[0].rollbacks == [10]
    kinds = [line.kind for line in snapshot.lines]
    assert kinds.index("alarm") < kinds.index("rollback") < kinds.index("clear")
    config = PPOConfig.model_validate_json(json.dumps(snapshot.header.config))
    assert json.loads(config.model_dump_json()) == snapshot.header.config, "its settings are those of today"


def test_a_slot_s_lane_is_its_stages_in_order():
    for env in fold().envs.values():
        mine = of("step", env=env.env)[-30:]
        for j, slot in enumerate(RECORDS[0]["slots"]):
            drawn = [(s.stage, s.blueprint) for s in env.lanes[slot] for _ in range(s.first_epoch, s.last_epoch + 1)]
            assert drawn == [(r["stages"][j], r["blueprints"][j]) for r in mine]


def test_an_episode_that_failed_says_why_and_shows_no_figures():
    end = parse(of("episode")[-1])[1]
    snapshot = fold([RECORDS[0]])
    snapshot.fold(1.0, replace(end, error_code=1, error="ValueError: needle", committed_accuracy=None))
    assert snapshot.lines[-1].text == f"env {end.env} seed {end.episode_seed}, ppo: failed: ValueError: needle"
    snapshot.fold(2.0, replace(end, episode_seed=None, rollbacks=2, invalid_actions=3))
    text = snapshot.lines[-1].text
    assert "seed \N{EN DASH}, ppo: return" in text and "2 rollbacks, 3 actions not legal" in text


def test_alarms_are_kept_until_they_are_cleared():
    snapshot = fold()
    snapshot.fold(1.0, Anomaly("degraded", True, 1, 0.1, 0.2, "bad"))
    snapshot.fold(2.0, Anomaly("kl", True, None, 0.3, 0.1, "far"))
    snapshot.fold(3.0, Anomaly("degraded", False, 1, 0.5, 0.2, "good"))
    assert list(snapshot.alarms) == [("kl", None)] and snapshot.alarms_raised == 2


def test_a_resumed_run_forgets_the_rounds_that_it_runs_again():
    snapshot = fold()
    header = {**RECORDS[0], "done_steps": 120, "time_s": RECORDS[-1]["time_s"] + 100}
    snapshot.fold(*parse(header))
    assert snapshot.steps == 120 and len(snapshot.updates) == 2 and len(snapshot.episodes) == 4
    assert snapshot.end is None and snapshot.left_s is None
    for r in RECORDS:
        if r["kind"] in ("step", "update") and r["time_s"] > of("update")[1]["time_s"]:
            snapshot.fold(*parse(r))
    assert snapshot.steps == 180 and len(snapshot.updates) == 3


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_a_growing_file_is_read_as_the_whole_one_is(tmp_path_factory, seed):
    """However it is cut, also within a line, the reader folds what a reader of the whole file does."""
    path, rng = tmp_path_factory.mktemp("run") / "events.jsonl", random.Random(seed)
    data = "".join(LINES[:200]).encode()
    cuts = sorted(rng.randrange(len(LINES[0]), len(data)) for _ in range(5))
    log, seen = None, []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        with path.open("ab") as file:
            file.write(data[start:end])
        log = log or RunLog(path)
        seen += log.poll()
    assert seen == [parse(r) for r in RECORDS[:200]] and log.damaged == 0


def test_damaged_lines_are_counted_and_skipped(tmp_path):
    lines = [
        *LINES[:3],
        LINES[3][:40] + "\n",
        '{"kind": "step"}\n',
        '{"kind": "new thing", "time_s": 1}\n',
        "[1]\n",
        LINES[4],
    ]
    (tmp_path / "events.jsonl").write_text("".join(lines))
    log = RunLog(tmp_path)
    assert len(list(log.poll())) == 4 and log.damaged == 4


def test_a_last_line_that_was_cut_off_waits(tmp_path):
    (tmp_path / "events.jsonl").write_text("".join(LINES[:10]) + LINES[10][:50])
    log = RunLog(tmp_path)
    assert len(list(log.poll())) == 10 and log.damaged == 0
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(LINES[10][50:])
    assert list(log.poll()) == [parse(RECORDS[10])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run"),
        ("{}\n", "its first line is none of its events"),
        ("hello\n", "its first line is none of its events"),
        (json.dumps(RECORDS[0] | {"schema_version": 99}) + "\n", "has schema version 99"),
    ],
)
def test_what_is_no_run_is_a_clear_error(tmp_path, content, message, capsys):
    if content is not None:
        (tmp_path / "events.jsonl").write_text(content)
    with pytest.raises(RunError, match=message):
        RunLog(tmp_path)
    for command in (["sql", str(tmp_path), "select 1"], ["sanctum", str(tmp_path)], ["overwatch", str(tmp_path)]):
        assert main(command) == 2 and message in capsys.readouterr().err


def test_a_log_of_the_first_schema_is_read(tmp_path):
    """Its episodes have no error, and a seed that is not known is -1."""
    old = [r | {"schema_version": 1} if r["kind"] == "run_start" else r for r in RECORDS]
    old = [{k: v for k, v in r.items() if (r["kind"], k) != ("episode", "error")} for r in old]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(r) + "\n" for r in old))
    log = RunLog(tmp_path)
    now = [event for _, event in map(parse, RECORDS)]
    assert [event for _, event in log.poll()][1:] == now[1:] and log.damaged == 0


@pytest.mark.parametrize("end", [4, 60, -2])
def test_a_log_whose_first_line_was_cut_off_is_read_once_a_writer_went_on(tmp_path, end):
    (tmp_path / "events.jsonl").write_text(LINES[0][:end])
    RunLog(tmp_path)
    JsonLinesSink(tmp_path / "events.jsonl").close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.writelines(LINES[:20])
    log = RunLog(tmp_path)
    assert list(log.poll()) == [parse(r) for r in RECORDS[:20]] and log.damaged == 1


@pytest.mark.parametrize("where", ["events.jsonl", "."])
def test_a_log_that_may_not_be_read_is_a_clear_error(tmp_path, where):
    """Asked by a user that the files are closed to, whoever runs the tests."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(GOLDEN, run)
    (run / where).chmod(0)
    for command in (["sql", str(run), "select 1"], ["sanctum", str(run)], ["overwatch", str(run), "--port", "0"]):
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and "cannot be read: Permission denied" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    (run / where).chmod(0o700)


def test_a_folder_of_runs_says_where_they_are(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "events.jsonl").write_text(LINES[0])
    with pytest.raises(RunError, match=r"there is one in .*one"):
        RunLog(tmp_path)


def test_statuses(tmp_path):
    snapshot = Snapshot()
    assert [snapshot.status(0.0, written) for written in (True, False)] == ["waiting", "dead"]
    for r in RECORDS[:-1]:
        snapshot.fold(*parse(r))
    now = RECORDS[-2]["time_s"]
    statuses = [snapshot.status(now + age, True) for age in (0.0, 5.0, 60.0)]
    assert statuses == ["live", "slow", "stale"] and snapshot.status(now, False) == "dead"
    snapshot.fold(now + 60, Anomaly("stalled", True, None, 60.0, 50.0, "no environment stepped"))
    assert snapshot.status(now + 61, True) == "stale", "an alarm about silence does not end it"
    snapshot.fold(now, RunEnd("failed", "ValueError: no", 1.0))
    assert snapshot.status(now, False) == "failed"


def test_a_machine_that_slept_is_no_slow_run():
    snapshot, step = fold(), parse(next(r for r in RECORDS if r["kind"] == "step"))[1]
    snapshot.end = None
    now = RECORDS[-1]["time_s"] + 8 * 3600
    snapshot.fold(now, step)
    assert [snapshot.status(now + age, True) for age in (0.0, 300.0)] == ["live", "stale"]


def test_a_log_whose_header_a_full_disk_did_not_take_is_read(tmp_path):
    (tmp_path / "events.jsonl").write_text("".join(LINES[1:20]))
    assert list(RunLog(tmp_path).poll()) == [parse(r) for r in RECORDS[1:20]]


def test_a_log_is_being_written_while_its_writer_lives(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(LINES[:5]))
    sink = JsonLinesSink(path)
    assert RunLog(path).is_being_written
    sink.close()
    assert not RunLog(path).is_being_written


def test_metrics_are_means_over_a_round():
    metrics, seen = Metrics(), []
    for r in RECORDS:
        seen += [(tag, value, metrics.snapshot.steps) for tag, value in metrics.fold(*parse(r))]
    returns = [r["total_return"] for r in of("episode")]
    assert [v for t, v, _ in seen if t == "env/return"] == pytest.approx(
        [sum(returns[i : i + 2]) / 2 for i in (0, 2, 4)]
    )
    assert [s for t, _, s in seen if t == "policy/approx_kl_nats"] == [60, 120, 180]
    shares = [v for t, v, s in seen if t.startswith("policy/share/") and s == 60]
    counted = Counter(r["action"].split()[0] for r in of("step")[:60])
    assert sum(shares) == pytest.approx(1.0) and max(shares) == pytest.approx(max(counted.values()) / 60)
    tags = {t for t, *_ in seen}
    drawn = {t for charts in LAYOUT.values() for group in charts.values() for t in group}
    assert drawn <= tags, "the layout shows what is there"
    assert {t.split("/")[0] for t in tags} == {"env", "seed", "policy", "value", "time"}


def test_the_timeline_has_a_row_for_every_slot():
    picture = timeline(fold())
    assert picture.shape[2] == 3 and picture.dtype == "uint8" and len({tuple(p) for p in picture[30:-8, 500]}) > 2


def test_sql_knows_every_kind_of_event(tmp_path, capsys):
    for kind in EVENTS:
        assert main(["sql", str(GOLDEN), f'select count(*) from "{kind}"']) == 0
        assert f" {len(of(kind))} " in capsys.readouterr().out
    query = "select round(time_s_by_part['train'], 4), done_steps from update where round = 2"
    assert main(["sql", str(GOLDEN), query]) == 0
    assert str(round(of("update", round=2)[0]["time_s_by_part"]["train"], 4)) in capsys.readouterr().out
    assert main(["sql", str(GOLDEN), "select colour from step"]) == 2
    assert "the query failed" in capsys.readouterr().err
