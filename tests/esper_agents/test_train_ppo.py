"""``train ppo`` as a user runs it: files, settings, interruption, exact resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import esper_agents
from benchmarks.resume import begin_in, killed_and_resumed, policy_of, train
from esper_agents.ppo_config import PRESETS, PPOConfig, base_config
from esper_agents.runner import run_episodes
from esper_agents.simic.checkpoints import CheckpointError
from esper_agents.simic.training import POLICY, Trainer
from esper_agents.tamiyo.policy_files import PolicyFileError, load_policy, policy_digest
from esper_agents.train import main
from esper_env.state import pack, unpack

HOSTS = {"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16, "host_lr": 0.05, "seed_lr": 0.05}
SMALL = {
    "task": "tiny",
    "env_json": HOSTS,
    "envs": 2,
    "episode_length": 8,
    "memory_size": 8,
    "rounds": 1,
    "num_workers": 1,
    "learning_rate": 0.03,
    "minibatches": 1,
    "critic_warmup": 0,
}
FLAGS = [
    *("--task", "tiny", "--env-json", json.dumps(HOSTS), "--envs", "2", "--episode-length", "8"),
    *("--memory-size", "8", "--num-workers", "1"),
]


def trained(folder, **changes):
    """The digest of the policy that a run with `SMALL` and these changes ends with."""
    trainer = Trainer(PPOConfig(**SMALL | changes), folder)
    trainer.run(progress=False, report=lambda _: None)
    trainer.env.close()
    return policy_digest(trainer.model.policy)


def command(folder, *more):
    return [sys.executable, "-m", "esper_agents.train", "ppo", *FLAGS, "--telemetry-dir", str(folder), *more]


def run(folder, *more):
    done = subprocess.run(command(folder, *more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def only(folder):
    (path,) = Path(folder).iterdir()
    return path


def test_a_run_leaves_what_it_learned_and_how(tmp_path):
    done = run(tmp_path, "--rounds", "5", "--save-every", "1")
    for word in ("round=5", "mean_return=", "80/80", "step/s"):
        assert word in done.stderr
    folder = only(tmp_path)
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5]
    shares = [v for k, v in rows[-1].items() if "operation_share" in k]
    assert len(shares) == 6 and sum(shares) == pytest.approx(1.0) and rows[-1]["round/episodes"] == 2
    assert json.loads((folder / "config.json").read_text())["envs"] == 2
    names = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert names == [f"round-00000{i}.checkpoint" for i in (3, 4, 5)]
    events = EventAccumulator(str(folder)).Reload()
    returns = [(e.step, e.value) for e in events.Scalars("env/return")]
    assert returns == [(16 * row["round"], pytest.approx(row["round/return"], rel=1e-5)) for row in rows]
    controller = esper_agents.load_policy(folder / "policy.safetensors")
    assert "--rounds 5" in controller.description["origin"]["command"]
    venv = PPOConfig(**SMALL).make(2)
    (record,) = run_episodes(controller, venv, 1, seed=0)
    assert record.final["invalid_actions"] == 0
    venv.close()


def test_a_run_killed_anywhere_and_resumed_ends_as_if_it_had_not_been(tmp_path):
    """One run of `python -m benchmarks.resume`, which does it with many."""
    whole = policy_of(train(*begin_in(tmp_path / "whole")))
    assert killed_and_resumed(tmp_path / "killed", np.random.default_rng(), kills=1) == whole
    (log,) = (tmp_path / "killed").rglob("rounds.jsonl")
    assert [json.loads(line)["round"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_an_interrupted_run_saves_its_last_round_and_says_so_by_its_status(tmp_path):
    process = subprocess.Popen(
        command(tmp_path, "--rounds", "5000", "--save-every", "1000"),
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a background shell ignores it
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and len(logged(tmp_path)) < 2:
        time.sleep(0.05)
    assert not list(tmp_path.rglob("*.checkpoint"))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    (saved,) = tmp_path.rglob("*.checkpoint")
    last = len(logged(tmp_path))  # whose line may be there before the round counts
    assert saved.name in {f"round-{number:06d}.checkpoint" for number in (last - 1, last)}


def logged(folder):
    return [line for log in folder.rglob("rounds.jsonl") for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("size", "seeds"), [("2", [5, 5, 6, 6, 7, 7, 8, 8]), ("1", [*range(5, 13)]), (None, [5] * 4 + [6] * 4)]
)
def test_the_environments_of_a_group_share_their_seeds(tmp_path, size, seeds):
    more = [] if size is None else ["--group-size", size]
    arguments = ["--envs", "4", "--rounds", "2", "--seed", "5", "--telemetry-dir", str(tmp_path)]
    assert main(["ppo", *FLAGS, *arguments, *more]) == 0
    events = [json.loads(line) for line in (only(tmp_path) / "events.jsonl").read_text().splitlines()]
    episodes = [e for e in events if e["kind"] == "episode"]
    assert sorted(e["episode_seed"] for e in episodes) == seeds


def test_bad_checkpoints_are_clear_errors_before_any_work(tmp_path, capsys):
    trained(tmp_path / "run", rounds=2)
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())
    good = saved[-1].read_bytes()
    bad = tmp_path / "bad.checkpoint"
    for data in (good[:-3], good[:200], b"", b"foreign", bytes([*good[:5000], good[5000] ^ 1, *good[5001:]])):
        bad.write_bytes(data)
        assert main(["ppo", *FLAGS, "--telemetry-dir", str(tmp_path / "none"), "--resume", str(bad)]) == 2
        assert "is no checkpoint, or a damaged one" in capsys.readouterr().err
    for path, message in ((tmp_path / "gone", "cannot read"), (tmp_path / "empty", "there is no checkpoint")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["ppo", *FLAGS, "--resume", str(path)]) == 2
        assert message in capsys.readouterr().err
    saved[-1].write_bytes(good[:-3])
    assert main(["ppo", *FLAGS, "--resume", str(tmp_path / "run")]) == 2
    assert "others beside it: round-000001.checkpoint" in capsys.readouterr().err
    assert main(["ppo", "--seed", "1", "--resume", str(saved[0])]) == 2
    assert "is of a run with --seed 0, not 1" in capsys.readouterr().err
    assert main(["ppo", *FLAGS, "--rounds", "2", "--seed", "1", "--resume", str(saved[0])]) == 2
    assert "run with --seed 0, not 1" in capsys.readouterr().err


def test_a_run_goes_on_with_the_data_it_was_started_with_and_says_what_else_changed(tmp_path):
    def resumed(**changes):
        tensors, values = unpack(saved)
        values["run"]["provenance"] |= changes
        path.write_bytes(pack(tensors, values))
        trainer = Trainer(PPOConfig(**SMALL | {"rounds": 2}), tmp_path / "run")
        try:
            trainer.resume(path)
        finally:
            trainer.env.close()

    trained(tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    saved = path.read_bytes()
    resumed()
    with pytest.raises(CheckpointError, match=r"on the data 'synthetic' \(0000.*, not on 'synthetic'.*--data-root"):
        resumed(digest="0" * 64)
    with pytest.warns(UserWarning, match="in place of abacus: it will not end bit for bit"):
        resumed(kernels="abacus")


def test_a_run_goes_on_however_it_is_watched(tmp_path, monkeypatch):
    """Where that changes what is compiled, as beside a screen on a GPU, it says so."""
    trained(tmp_path)
    whole = trained(tmp_path / "whole", rounds=2)
    data = {"dataset": "synthetic", "data_root": str(tmp_path), "force_compile": True}
    for changes in ({"sanctum": True}, {"overwatch": True}, {"wandb": True}, data):
        trainer = Trainer(PPOConfig(**SMALL | {"rounds": 2} | changes), tmp_path / "resumed")
        trainer.resume(tmp_path)
        trainer.run(progress=False, report=lambda _: None)
        trainer.env.close()
        assert policy_digest(trainer.model.policy) == whole
    monkeypatch.setattr(PPOConfig, "compiled", property(lambda config: "off" if config.sanctum else "default"))
    trainer = Trainer(PPOConfig(**SMALL | {"rounds": 2, "sanctum": True}), tmp_path / "resumed")
    with pytest.warns(UserWarning, match="compilation off in place of default: it will not end bit for bit"):
        trainer.resume(tmp_path)
    trainer.env.close()


def test_auto_compiles_on_a_gpu_but_not_beside_a_screen():
    def compiled(**settings):
        return PPOConfig.model_construct(**settings).compiled

    assert compiled(device="cuda:0") == compiled(device="cuda:0", overwatch=True, force_compile=True) == "default"
    assert compiled(device="cpu") == compiled(device="cuda:0", overwatch=True) == "off"
    assert compiled(device="cuda:0", sanctum=True) == "off"
    assert compiled(device="cpu", sanctum=True, compile_mode="max-autotune") == "max-autotune"


CHANGES = {
    "seed": 1,
    "envs": 3,
    "episode_length": 9,
    "rounds": 2,
    "ppo_epochs": 2,
    "minibatches": 2,
    "gae_lambda": 0.5,
    "clip_range": 0.01,
    "ent_coef": 0.2,
    "vf_coef": 0.1,
    "max_grad_norm": 0.01,
    "reward_scale": 1.0,
    "critic_warmup": 1,
    "start": "uniform",
    "memory_size": 12,
    "memory": "none",
    "critic": "v",
    "critic_memory": True,
    "reward": "shaped",
    "group_size": 1,
    "precision": "bf16",
    "learning_rate": 0.01,
    "learning_rate_decline": 1.0,
    "env_json": HOSTS | {"rent": 0.5},
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("setting", CHANGES)
def test_every_setting_changes_what_is_learned(tmp_path, usual, setting):
    assert trained(tmp_path, **{setting: CHANGES[setting]}) != usual


@pytest.mark.parametrize("setting", [{"num_workers": 2}, {"devices": ("cpu", "cpu")}, {"save_every": 3}])
def test_settings_that_change_no_result(tmp_path, usual, setting):
    assert trained(tmp_path, **setting) == usual


def test_the_learning_rate_declines_in_the_last_rounds_of_a_run_of_known_length(tmp_path):
    settings = {"rounds": 4, "learning_rate_decline": 0.5}
    whole = trained(tmp_path, **settings)
    rates = [json.loads(line)["train/learning_rate"] for line in logged(tmp_path)]
    assert rates == pytest.approx([0.03, 0.03, 0.02, 0.01])
    saved = tmp_path / "checkpoints" / "round-000002.checkpoint"
    trainer = Trainer(PPOConfig(**SMALL | settings), tmp_path / "resumed")
    trainer.resume(saved)
    trainer.run(progress=False, report=lambda _: None)
    trainer.env.close()
    assert policy_digest(trainer.model.policy) == whole
    longer = Trainer(PPOConfig(**SMALL | settings | {"rounds": 5}), tmp_path / "longer")
    with pytest.raises(CheckpointError, match="of a run with --rounds 4, not 5"):
        longer.resume(saved)
    longer.env.close()


def test_while_the_critic_warms_up_the_actor_learns_nothing_from_the_rewards(tmp_path):
    def actor(rounds):
        trainer = Trainer(PPOConfig(**SMALL | {"critic_warmup": 2, "rounds": rounds}), tmp_path)
        before = [p.detach().clone() for p in trainer.model.policy.action_net.parameters()]
        trainer.run(progress=False, report=lambda _: None)
        trainer.env.close()
        after = [p.detach() for p in trainer.model.policy.action_net.parameters()]
        return [float((a - b).abs().max()) for a, b in zip(after, before, strict=True)]

    assert max(actor(2)) == 0.0
    assert min(actor(3)) > 0.0


def test_training_begins_with_the_policy_it_is_given_and_says_so(tmp_path):
    first = trained(tmp_path / "cheap", env_json=HOSTS | {"samples_per_epoch": 64})
    file = tmp_path / "cheap" / POLICY
    spent = load_policy(file).description["origin"]["flops"]
    trainer = Trainer(PPOConfig(**SMALL | {"start": str(file)}), tmp_path / "dear")
    assert policy_digest(trainer.model.policy) == first
    trainer.run(progress=False, report=lambda _: None)
    trainer.env.close()
    origin = load_policy(tmp_path / "dear" / POLICY).description["origin"]
    (row,) = [json.loads(line) for line in (tmp_path / "dear" / "rounds.jsonl").read_text().splitlines()]
    assert policy_digest(trainer.model.policy) != first
    assert origin["started_from"] == load_policy(file).description["origin"]
    assert origin["flops"] == pytest.approx(spent + row["round/flops"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"start": "patent"}, "--start is one of prompt, uniform, or a policy: there is no policy file patent"),
        ({"memory_size": 12}, "is a policy with feature_size 8, not 12: give --memory-size"),
        ({"env_json": {"tempos": [1]}}, "is a policy for another environment"),
    ],
)
def test_a_policy_that_training_cannot_begin_with_is_refused(tmp_path, setting, message):
    trained(tmp_path)
    with pytest.raises(PolicyFileError, match=message):
        Trainer(PPOConfig(**SMALL | {"start": str(tmp_path / POLICY)} | setting), tmp_path)


def test_the_learner_sees_rewards_in_its_own_unit_and_the_log_shows_the_environments(tmp_path):
    trainer = Trainer(PPOConfig(**SMALL | {"reward_scale": 50.0}), tmp_path)
    trainer.run(progress=False, report=lambda _: None)
    trainer.env.close()
    (row,) = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert trainer.model.rollout_buffer.rewards.sum(0).mean() == pytest.approx(50.0 * row["round/return"], rel=1e-4)


def test_a_discount_warns(tmp_path):
    with pytest.warns(UserWarning, match="undiscounted"):
        trained(tmp_path, gamma=0.99)


def test_compiling_gives_the_same_update(tmp_path, usual, monkeypatch):
    """`torch.compile` is asked for with the mode and wraps the evaluation of sequences."""
    asked = []
    monkeypatch.setattr("torch.compile", lambda f, **kwargs: asked.append((f.__name__, kwargs["mode"])) or f)
    assert trained(tmp_path, compile_mode="reduce-overhead") == usual
    assert asked == [("evaluate_sequences", "reduce-overhead")]


def test_checkpoints_go_where_they_are_asked(tmp_path):
    trained(tmp_path / "run", save_dir=str(tmp_path / "there"))
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["round-000001.checkpoint"]


@pytest.mark.parametrize("words", [[], ["--preset", "cifar_varied"], ["--preset=tiny", "--envs", "6"]])
def test_help_names_the_presets_and_the_defaults_there_are(words, capsys):
    with pytest.raises(SystemExit):
        main(["ppo", *words, "--help"])
    text = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert all(preset in text for preset in PRESETS)
    for name, value in base_config(words).model_dump().items():
        if name not in ("env_json", "resume") and isinstance(value, str | int | float) and value is not False:
            flag = text.rindex(f" --{name.replace('_', '-')} ")
            assert text[text.index("(default:", flag) :].startswith(f"(default: {value})"), name


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_loads(preset):
    config = base_config(["ppo", "--preset", preset])
    assert config.preset == preset and config.gamma == 1.0
    for key, value in PRESETS[preset].items():
        assert getattr(config, key) == value


def test_a_preset_then_a_file_then_flags(tmp_path):
    file = tmp_path / "my.json"
    file.write_text(json.dumps({"preset": "tiny", "envs": 3, "devices": ["cpu"], "learning_rate": 0.5}))
    config = base_config(["ppo", "--config-json", str(file)])
    assert (config.task, config.envs, config.devices, config.learning_rate) == ("tiny", 3, ("cpu",), 0.5)
    assert base_config(["ppo", f"--config-json={file}", "--preset", "fashion_baseline"]).task == "fashion_baseline"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "tny"], "unknown preset 'tny'; choose one of cifar_baseline"),
        (["--memory-sise", "3"], "--memory-size"),
        (["--reward", "gross"], "net"),
        (["--rounds", "0"], "greater than or equal to 1"),
        (["--devices", "cuda:7", "cuda:8"], "there is no device 'cuda:7'; choose from cpu"),
        (["--device", "gpu"], "there is no device 'gpu'"),
        (["--seed", "999999"], "training has those below 1000000"),
        (["--minibatches", "9"], "need as many --envs"),
        (["--group-size", "3"], "make no groups of --group-size 3"),
        (["--gpu-preload"], "--gpu-preload: environments run on the CPU"),
        (["--config-json", "/nowhere.json"], "cannot read /nowhere.json"),
    ],
)
def test_bad_settings_say_what_to_choose(arguments, message, refused):
    assert refused(["ppo", "--task", "tiny", *arguments], message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no JSON object"),
        ('{"memory_sise": 3}', "there is no setting 'memory_sise'; did you mean 'memory_size'?"),
        ('{"rounds": "3"}', "rounds: Input should be a valid integer"),
        ('{"env_json": {"val_sample": 3}}', "did you mean 'val_samples'?"),
    ],
)
def test_bad_files_say_what_to_choose(text, message, tmp_path, refused):
    (tmp_path / "my.json").write_text(text)
    assert refused(["ppo", "--config-json", str(tmp_path / "my.json")], message)


def test_the_console_script_is_the_same(tmp_path):
    script = Path(sys.executable).with_name("esper")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0 and "ppo" in done.stdout and "heuristic" in done.stdout


def test_lesson_12_the_horizon_is_an_end_that_nothing_is_added_to(tmp_path):
    """With lambda = 1 the returns are the rewards to go, whatever the critic says."""
    trainer = Trainer(PPOConfig(**SMALL | {"gae_lambda": 1.0}), tmp_path)
    critic = trainer.model.policy.value_net
    with torch.no_grad():
        critic.bias += 100.0
    trainer.run(progress=False, report=lambda _: None)
    trainer.env.close()
    buffer = trainer.model.rollout_buffer
    to_go = np.cumsum(buffer.rewards[::-1], 0)[::-1]
    assert buffer.values.min() > 50.0
    np.testing.assert_allclose(buffer.returns, to_go, atol=1e-4)


def test_lesson_13_updates_leave_the_policy_that_acted(tmp_path):
    """Several passes by default; the ratio is to the policy that acted, so KL and clipping are not 0."""
    trained(tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert row["train/approx_kl"] > 1e-3
    assert row["train/clip_fraction"] > 0.0
    assert abs(row["train/ratio_mean"] - 1.0) > 1e-6
    trained(tmp_path / "one", ppo_epochs=1)  # which is what must not be mistaken for learning
    (row,) = [json.loads(line) for line in (tmp_path / "one" / "rounds.jsonl").read_text().splitlines()]
    assert row["train/approx_kl"] < 1e-6 and row["train/clip_fraction"] == 0.0
