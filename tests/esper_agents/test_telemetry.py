"""Telemetry under faults, as a user meets them: what is lost is said, training goes on, the log stays readable."""

import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper_agents import monitoring
from esper_agents.flight import FlightRecorder, Recording, RecordingError
from esper_agents.karn.__main__ import main as karn
from esper_agents.karn.reading import RunLog
from esper_agents.karn.snapshot import Snapshot
from esper_agents.ppo_config import PPOConfig
from esper_agents.recording import RecordedVectorEnv
from esper_agents.runner import run_episodes
from esper_agents.simic.checkpoints import CheckpointError
from esper_agents.simic.training import Trainer
from esper_agents.tamiyo import make_controller
from esper_agents.telemetry import Telemetry, run_start
from esper_agents.train import main as train
from esper_env.leyline.events import Anomaly, Checkpoint, Rollback, Step
from esper_env.nissa import EventLog, JsonLinesSink, detectors
from esper_env.nissa.detectors import ENTROPY_NATS

EXAMPLE = Path(__file__).parent / "karn" / "golden" / "events.jsonl"
HOSTS = {"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16, "host_lr": 0.05, "seed_lr": 0.05}
HEURISTIC = [
    *("heuristic", "--task", "tiny", "--episode-length", "24", "--envs", "2", "--num-workers", "1"),
    *("--env-json", json.dumps(HOSTS)),
]


def command(folder, *more):
    return [sys.executable, "-m", "esper_agents.train", *HEURISTIC, "--telemetry-dir", str(folder), *more]


def folded(run):
    log, snapshot = RunLog(run), Snapshot()
    for time_s, event in log.poll():
        snapshot.fold(time_s, event)
    return log, snapshot


def config(**more):
    small = {"task": "tiny", "envs": 2, "episode_length": 12, "memory_size": 8, "rounds": 2, "critic_warmup": 0}
    return PPOConfig(**small | {"env_json": HOSTS | {"tempos": [1]}, "num_workers": 1} | more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training run under telemetry."""
    folder = tmp_path_factory.mktemp("run")
    trainer = Trainer(config(), folder, command="a test")
    with Telemetry(folder) as telemetry:
        trainer.run(progress=False, report=lambda _: None, telemetry=telemetry)
    trainer.env.close()
    assert telemetry.losses == {}
    return folder


def test_the_log_of_a_training_run_is_whole(run):
    log, snapshot = folded(run)
    kinds = [json.loads(line)["kind"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert kinds[0] == "run_start" and kinds[-1] == "run_end" and log.damaged == 0
    assert snapshot.steps == kinds.count("step") == kinds.count("decision") == 48
    assert len(snapshot.episodes) == 4 and [u.done_steps for u in snapshot.updates] == [24, 48]
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [u.approx_kl_nats for u in snapshot.updates] == [row["train/approx_kl"] for row in rows]
    returns = [e.end.total_return for e in snapshot.episodes]
    assert [sum(returns[:2]) / 2, sum(returns[2:]) / 2] == pytest.approx([row["round/return"] for row in rows])
    assert snapshot.checkpoint[1].round == 2 and snapshot.end.status == "finished"


def test_the_parts_of_a_round_are_all_of_it(run):
    _, snapshot = folded(run)
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for update, row in zip(snapshot.updates, rows, strict=True):
        assert all(seconds >= 0 for seconds in update.time_s_by_part.values())
        assert sum(update.time_s_by_part.values()) == pytest.approx(row["round/seconds"], rel=1e-6)


def test_decisions_are_what_the_policy_had_in_mind(run):
    records = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    steps = {}
    for r in records:
        if r["kind"] == "step":
            steps[r["env"]] = r
        if r["kind"] != "decision":
            continue
        shown = r["probability"] + sum(r["alternatives"].values())
        assert 0 < r["probability"] <= 1 and shown <= 1 + 1e-6 and r["action"] not in r["alternatives"]
        step = steps[r["env"]]
        assert (step["action"], step["epoch"]) == (r["action"], r["epoch"] + 1), "a decision follows its step"
        assert r["q_by_operation"]["WAIT"] is not None and r["expected_return"] is not None
    first = next(r for r in records if r["kind"] == "decision")
    assert first["q_by_operation"]["FOSSILIZE"] is None, "nothing can be fossilised at first: not measured"


def test_watching_changes_nothing(tmp_path):
    """The same policy comes of a run with and without telemetry."""
    digests = []
    for name in ("watched", "alone"):
        trainer = Trainer(config(), tmp_path / name)
        said = []
        if name == "watched":
            with Telemetry(tmp_path / name) as telemetry:
                trainer.run(progress=False, report=said.append, telemetry=telemetry)
        else:
            trainer.run(progress=False, report=said.append)
        trainer.env.close()
        digests.append(said[0].split()[1])
    assert digests[0] == digests[1]


def test_a_full_disk_stops_nothing_and_the_status_tells(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    done = subprocess.run(
        command(tmp_path, "--episodes", "20"), capture_output=True, text=True, check=False, preexec_fn=limit
    )
    assert done.returncode == 3, done.stderr
    assert "episode with seed 19: 24 epochs" in done.stdout, "the run itself is whole"
    assert "telemetry: jsonl: " in done.stderr and "File too large" in done.stderr
    (run,) = tmp_path.iterdir()
    log, snapshot = folded(run)
    assert log.damaged == 0 and 0 < snapshot.steps < 480, "what is there is whole lines"


def test_a_full_disk_does_not_stop_a_training(tmp_path, monkeypatch):
    """Rounds and checkpoints between are counted as lost; without its policy at the end a run has failed."""

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    trainer = Trainer(config(), tmp_path / "run", command="a test")
    monkeypatch.setattr("esper_agents.simic.checkpoints.write", full)
    (tmp_path / "run" / "rounds.jsonl").mkdir(parents=True)
    with pytest.raises(OSError, match="No space left"), Telemetry(tmp_path / "run") as telemetry:
        trainer.run(progress=False, report=lambda _: None, telemetry=telemetry)
    trainer.env.close()
    assert trainer.round == 2, "it has come to its end"
    assert sorted(telemetry.losses) == ["checkpoint", "rounds.jsonl"]
    assert telemetry.losses["checkpoint"] == "1 lost (OSError: [Errno 28] No space left on device)"
    assert folded(tmp_path / "run")[1].end.dropped == {"checkpoint": 1, "rounds.jsonl": 2}, "the log tells"


def test_a_run_that_failed_before_it_began_says_so(tmp_path):
    with pytest.raises(ValueError, match="before"), Telemetry(tmp_path):
        raise ValueError("before anything began")
    log, snapshot = folded(tmp_path)
    assert snapshot.status(0.0, log.is_being_written) == "failed" and "before anything began" in snapshot.end.error
    assert not (tmp_path / "flight").exists(), "there is nothing to record"
    with Telemetry(tmp_path / "nothing"):
        pass
    assert (tmp_path / "nothing" / "events.jsonl").read_text() == ""


def test_a_detector_that_fails_stops_nothing_and_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("esper_env.nissa.Detectors.see", lambda *_: 1 / 0)
    with Telemetry(tmp_path) as telemetry:
        telemetry.emit(Checkpoint(1, "f", 1, 0.0))
    assert telemetry.losses == {"detectors": "1 lost (ZeroDivisionError: division by zero)"}
    assert folded(tmp_path)[1].end.dropped == {"detectors": 1}


def test_a_flight_that_cannot_be_written_is_counted(tmp_path):
    (tmp_path / "flight").write_text("in the way")
    with Telemetry(tmp_path) as telemetry:
        telemetry.emit(Rollback(0, 3))
    assert "1 lost" in telemetry.losses["flight"] and folded(tmp_path)[1].end.dropped == {"flight": 1}


def test_an_interrupted_run_says_what_was_lost(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("esper_agents.train.run_episodes", interrupted)
    monkeypatch.setattr("esper_agents.karn.sinks.TensorBoardSink.write", lambda *_: 1 / 0)
    assert train([*HEURISTIC, "--telemetry-dir", str(tmp_path), "--episodes", "1"]) == 130
    assert re.search(r"telemetry: tensorboard: \d lost \(ZeroDivisionError", capsys.readouterr().err)
    (run,) = tmp_path.iterdir()
    assert folded(run)[1].end.status == "interrupted"


def test_bad_arguments_are_refused_before_a_training_writes_anything(tmp_path, refused):
    few = ["ppo", "--task", "tiny", "--env-json", '{"val_samples": 9999}', "--telemetry-dir", str(tmp_path)]
    assert refused(few, "the validation split has 512 images") and not list(tmp_path.iterdir())


def test_a_run_that_goes_on_is_not_resumed(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = (folder / "rounds.jsonl").read_text()
    trainer = Trainer(config(rounds=3), folder)
    with Telemetry(folder), pytest.raises(CheckpointError, match="a run that goes on: stop it first"):
        trainer.resume(folder)
    trainer.env.close()
    assert (folder / "rounds.jsonl").read_text() == before


def test_the_screens_stay_until_the_end_is_logged(tmp_path, monkeypatch):
    """What a screen finds in the log when it is closed."""
    found = []

    @contextmanager
    def beside(screen, folder):
        yield
        found.append((screen, folded(folder)[1].end.status))

    monkeypatch.setattr(monitoring, "_beside", beside)
    assert train([*HEURISTIC, "--telemetry-dir", str(tmp_path), "--episodes", "1", "--envs", "1", "--overwatch"]) == 0
    assert found == [("overwatch", "finished")]


def test_an_error_of_a_run_that_began_is_no_bad_argument(tmp_path, monkeypatch):
    def broken(*arguments, **more):
        raise ValueError("impossible")

    monkeypatch.setattr("esper_agents.train.run_episodes", broken)
    with pytest.raises(RuntimeError, match="the run failed: impossible"):
        train([*HEURISTIC, "--telemetry-dir", str(tmp_path), "--episodes", "1"])
    (folder,) = tmp_path.iterdir()
    assert folded(folder)[1].end.status == "failed"


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, refused):
    (tmp_path / "file").write_text("")
    assert refused(
        [*HEURISTIC, "--telemetry-dir", str(tmp_path / "file")], "choose another folder with --telemetry-dir"
    )


def test_two_processes_cannot_log_to_one_run(tmp_path):
    with Telemetry(tmp_path), pytest.raises(BlockingIOError, match="another process writes"):
        Telemetry(tmp_path)


def test_a_killed_run_is_dead_and_what_it_told_is_there(tmp_path):
    process = subprocess.Popen(
        command(tmp_path, "--episodes", "2000"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and not list(tmp_path.glob("*/events.jsonl")):
        time.sleep(0.05)
    (run,) = tmp_path.iterdir()
    while time.monotonic() < end and (run / "events.jsonl").stat().st_size < 50_000:
        time.sleep(0.05)
    log, snapshot = folded(run)
    assert log.is_being_written and snapshot.status(time.time(), log.is_being_written) in ("live", "slow")
    process.send_signal(signal.SIGKILL)
    process.wait()
    for time_s, event in log.poll():
        snapshot.fold(time_s, event)
    assert not log.is_being_written and snapshot.status(time.time(), log.is_being_written) == "dead"
    assert snapshot.steps > 20 and log.damaged == 0


def test_two_readers_follow_a_growing_log(tmp_path):
    path, count = tmp_path / "events.jsonl", 3000
    header = json.loads(EXAMPLE.read_text().splitlines()[0])
    path.write_text(json.dumps(header) + "\n")
    seen = [[], []]

    def follow(mine):
        log, until = RunLog(tmp_path), time.monotonic() + 60
        while len(mine) < count + 1 and time.monotonic() < until:
            mine += [event for _, event in log.poll()]

    readers = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
    for reader in readers:
        reader.start()
    events = EventLog([JsonLinesSink(path)])
    for n in range(count):
        events.emit(Checkpoint(n, "f", 1, 0.0))
        if n % 500 == 0:
            events.flush()
    events.flush()
    for reader in readers:
        reader.join()
    assert seen[0] == seen[1] and [e.round for e in seen[0][1:]] == list(range(count))


def test_a_burst_is_written_or_counted(tmp_path):
    events = EventLog([JsonLinesSink(tmp_path / "events.jsonl")])
    for n in range(100_000):
        events.emit(Checkpoint(n, "f", 1, 0.0))
    events.flush(60.0)
    written = (tmp_path / "events.jsonl").read_text().count("\n")
    assert written + events.dropped["queue"] == 100_000 and written >= 20_000


def test_a_failing_run_says_so_last_and_keeps_its_flight(tmp_path):
    trainer = Trainer(config(), tmp_path)
    trainer.model.train = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError), Telemetry(tmp_path) as telemetry:
        trainer.run(progress=False, telemetry=telemetry)
    trainer.env.close()
    _, snapshot = folded(tmp_path)
    assert snapshot.end.status == "failed" and "ZeroDivisionError" in snapshot.end.error
    (flight,) = (tmp_path / "flight").iterdir()
    recording = Recording(flight)
    assert recording.reason == "crash" and recording.num_envs == 2 and len(recording.events) > 24
    assert recording.events[-1]["kind"] == "decision"


def test_a_flight_is_opened_and_continued(tmp_path, make_tiny, capsys):
    venv = make_tiny(2)
    venv.reset(seed=3)
    for _ in range(5):
        venv.step([0, 0])
    recorder = FlightRecorder(tmp_path / "flight")
    recorder.envs = venv
    recorder.dump("kl")
    assert recorder.errors == {}
    expected = [venv.step([0, 0])[1][1] for _ in range(3)]
    (flight,) = (tmp_path / "flight").iterdir()
    env = Recording(flight).open(1)
    assert [float(env.step(0)[1]) for _ in range(3)] == expected, "it goes on bit for bit"
    assert karn(["replay", str(flight)]) == 0
    told = capsys.readouterr().out
    assert "recorded because of: kl" in told and "environment 1:" in told
    assert karn(["replay", str(flight), "--env", "1", "--epochs", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "environment 1 at epoch 5"
    assert [float(line.split("reward")[1].split(",")[0]) for line in lines[1:]] == pytest.approx(expected, abs=1e-4)
    assert karn(["replay", str(flight), "--env", "2"]) == 2 and karn(["replay", str(tmp_path)]) == 2
    with pytest.raises(RecordingError, match=r"flight/0001-kl"):
        Recording(tmp_path)


def test_a_rollback_is_recorded(tmp_path):
    """With one broken host, what led to the rollback is kept."""
    trainer = Trainer(config(rounds=1), tmp_path)
    env = trainer.recorded.unwrapped.envs[1]
    step = env.step

    def break_host(action):
        if env.episode.epoch == 3:
            with torch.no_grad():
                next(env.episode.model.host.parameters()).fill_(float("nan"))
        return step(action)

    env.step = break_host
    with Telemetry(tmp_path) as telemetry:
        trainer.run(progress=False, report=lambda _: None, telemetry=telemetry)
    trainer.env.close()
    log, snapshot = folded(tmp_path)
    assert any(line.kind == "rollback" and "env 1 epoch 4" in line.text for line in snapshot.lines)
    events = [event for _, event in RunLog(log.path).poll()]
    losses = [e.train_loss_nats for e in events if isinstance(e, Step) and e.env == 1]
    assert [i for i, loss in enumerate(losses, 1) if math.isnan(loss)] == [4] and max(losses[:3]) < 100
    assert [(a.env, a.raised) for a in events if isinstance(a, Anomaly) and a.detector == "non_finite"] == [
        (1, True),
        (1, False),
    ]
    assert "rollback of environment 1" in [Recording(f).reason for f in (tmp_path / "flight").iterdir()]


def test_an_environment_that_hangs_is_named_and_the_flight_recorded_when_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "STALLED_S", 0.5)
    trainer = Trainer(config(rounds=1), tmp_path)
    env = trainer.recorded.unwrapped.envs[1]
    step, named = env.step, []

    def hang(action):
        until = time.monotonic() + 60
        while env.episode.epoch == 5 and not named and time.monotonic() < until:
            named.extend(a for a in folded(tmp_path)[1].alarms if a[0] == "stalled")
            time.sleep(0.05)
        return step(action)

    env.step = hang
    with Telemetry(tmp_path) as telemetry:
        trainer.run(progress=False, report=lambda _: None, telemetry=telemetry)
    trainer.env.close()
    assert set(named) == {("stalled", None), ("stalled", 1)}
    snapshot = folded(tmp_path)[1]
    assert not [a for a in snapshot.alarms if a[0] == "stalled"] and snapshot.end.status == "finished"
    (folder,) = (tmp_path / "flight").glob("*-stalled")
    assert Recording(folder).open(1).episode.epoch == 6
    alarms = [(e["env"], e["raised"]) for e in Recording(folder).events if e["kind"] == "anomaly"]
    assert alarms[:3] == [(None, True), (1, True), (None, False)], "also what was raised while nothing came"


def test_sanctum_asks_for_a_terminal(tmp_path, refused):
    assert refused([*HEURISTIC, "--sanctum", "--telemetry-dir", str(tmp_path)], "--sanctum needs a terminal")
    assert not list(tmp_path.iterdir())


def test_weights_and_biases_get_the_scalars_offline(tmp_path):
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run(
        command(tmp_path, "--episodes", "2", "--wandb"), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    (data,) = tmp_path.glob("*/wandb/offline-run-*/*.wandb")
    assert b"env/return" in data.read_bytes()


def test_weights_and_biases_without_a_key_are_refused(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"NETRC": str(tmp_path / "none")}
    done = subprocess.run(
        command(tmp_path / "runs", "--wandb"), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "error: --wandb: " in done.stderr and "WANDB_MODE=offline does without" in done.stderr


def test_waiting_alarms_nobody(tmp_path, make_tiny):
    """What a run can be alarmed by that trains no policy; of a training, see below."""
    env = RecordedVectorEnv(make_tiny(2, samples_per_epoch=64, episode_length=150), "wait")
    env.reset(seed=0)
    told = {"command": "", "config": {}, "seed": 0, "devices": ["cpu"], "episode_epochs": 150, "total_steps": 300}
    with Telemetry(tmp_path) as telemetry:
        telemetry.watch(env)
        telemetry.emit(run_start(env, controller="wait", **told))
        run_episodes(make_controller("wait", env), env, 2, seed=0)
    _, snapshot = folded(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [r["action"] for r in records if r["kind"] == "step"] == ["WAIT"] * 300
    assert snapshot.alarms_raised == 0 and not (tmp_path / "flight").exists()


def test_a_training_that_has_only_begun_alarms_nobody(run):
    records = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    entropies = [r["entropy_by_operation_nats"]["SET_ALPHA_TARGET"] for r in records if r["kind"] == "update"]
    assert any(e is not None and e < ENTROPY_NATS[0] for e in entropies), "it begins with what it hardly ever takes"
    assert [r for r in records if r["kind"] == "anomaly"] == []


def test_tensorboard_holds_the_figures_of_the_log(tmp_path):
    assert train([*HEURISTIC, "--episodes", "2", "--telemetry-dir", str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    _, snapshot = folded(run)
    events = EventAccumulator(str(run)).Reload()
    (value,) = events.Scalars("env/return")
    assert value.step == 48 and value.value == pytest.approx(
        sum(e.end.total_return for e in snapshot.episodes) / 2, abs=1e-6
    )
    groups = {tag.split("/")[0] for tag in events.Tags()["scalars"]}
    assert {"env", "seed", "policy"} <= groups <= {"env", "seed", "policy", "value", "time"}
    assert events.Tags()["images"] == ["seed/timelines"]
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    assert any("hparams" in tag for tag in events.summary_metadata), "hyperparameters in the same run"
