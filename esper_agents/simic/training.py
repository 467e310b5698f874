"""The training loop: rounds of one episode in every environment and one update, with checkpoints between."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import FloatSchedule
from tqdm import tqdm

from esper_agents.ppo_config import PPOConfig
from esper_agents.recording import PARTS, RecordedVectorEnv
from esper_agents.simic import checkpoints
from esper_agents.simic.adapter import GymnasiumVecEnv
from esper_agents.simic.ppo import MaskableRecurrentPPO
from esper_agents.simic.rewards import VectorRewardWrapper
from esper_agents.simic.round_log import RoundLog
from esper_agents.tamiyo.pace import PacedVectorEnv
from esper_agents.tamiyo.policy import TamiyoPolicy, policy_arguments
from esper_agents.tamiyo.policy_files import PolicyFileError, load_policy, policy_digest, save_policy
from esper_agents.telemetry import EVENTS, Telemetry, run_start
from esper_env.leyline.events import Checkpoint, RunStart, Update
from esper_env.nissa import is_being_written

LOG = "rounds.jsonl"
"""One line of figures a round, in the run's folder."""

POLICY = "policy.safetensors"
"""The policy of the last checkpoint, in the run's folder."""

UNTRAINED = ("prompt", "uniform")
"""Values of `PPOConfig.start` that are no trained policy."""

WATCHING = ("sanctum", "overwatch", "wandb")
"""Settings that say how a run is watched."""

MAY_CHANGE = (
    *("rounds", "num_workers", "save_every", "save_dir", "telemetry_dir", "resume", "config_json", "preset"),
    *("dataset", "data_root", "gpu_preload", "force_compile"),
    *WATCHING,
)
"""Settings that a resumed run may have different from the run it goes on with. The data are compared by their digest.
None changes a result, but two: the number of rounds where the learning rate declines with it, and, to rounding, screens
beside which nothing is compiled."""


class Trainer:
    """A training run.

    Args:
        config: what is trained, and how.
        folder: where its files go: ``config.json``, TensorBoard's events, ``rounds.jsonl``, checkpoints and
            the policy.
        command: the command line, kept as the policy's origin.
    """

    def __init__(self, config: PPOConfig, folder: Path, *, command: str = "") -> None:
        if config.gamma < 1.0:
            warnings.warn(
                f"gamma={config.gamma:g}: the objective of this environment is undiscounted; a discount turns interim "
                "accuracy into income",
                stacklevel=2,
            )
        self.config, self.folder, self.command = config, folder, command
        self.recorded = RecordedVectorEnv(config.make(config.envs), "ppo")
        self.interface = self.recorded.interface
        rewarded = VectorRewardWrapper(self.recorded, config.reward, config.gamma)
        self.env = GymnasiumVecEnv(PacedVectorEnv(rewarded, config.decision_interval))
        self.model = MaskableRecurrentPPO(
            TamiyoPolicy,
            self.env,
            learning_rate=config.learning_rate,
            n_steps=config.episode_length,
            batch_size=config.batch_size,
            n_epochs=config.ppo_epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip_range,
            ent_coef=config.ent_coef,
            vf_coef=config.vf_coef,
            max_grad_norm=config.max_grad_norm,
            normalize_over="rollout",
            reward_scale=config.reward_scale,
            critic_warmup=config.critic_warmup * config.envs * config.episode_length,
            group_size=config.grouped,
            policy_kwargs=policy_arguments(
                self.env,
                critic=config.critic,
                start="uniform" if config.start == "uniform" else "prompt",
                memory=config.memory,
                critic_memory=config.critic_memory,
                memory_size=config.memory_size,
                feature_size=config.memory_size,
                decision_interval=config.decision_interval,
            ),
            seed=config.seed,
            device=config.policy_device,
        )
        self.round = 0
        self.flops = 0.0
        """Spent on the networks of all episodes so far, those of the policy it started from included."""
        self._started_from: dict[str, Any] | None = None
        if config.start not in UNTRAINED:
            self._start_from(config.start)
        self._compile()
        self._telemetry: Telemetry | None = None
        self._last: bytes | None = None

    def _start_from(self, name: str) -> None:
        try:
            trained = load_policy(name, self.env)
        except FileNotFoundError as error:
            raise PolicyFileError(f"--start is one of {', '.join(UNTRAINED)}, or a policy: {error}") from error
        policy = self.model.policy
        assert isinstance(policy, TamiyoPolicy)
        mine, theirs = policy.constructor_arguments(), trained.policy.constructor_arguments()
        for key in mine:
            if key != "initial_logits" and mine[key] != theirs[key]:
                raise PolicyFileError(
                    f"--start {name} is a policy with {key} {theirs[key]!r}, not {mine[key]!r}: give --memory-size, "
                    "--memory, --critic, --critic-memory and --decision-interval as it was trained with"
                )
        policy.load_state_dict(trained.policy.state_dict())
        self._started_from = trained.description["origin"]
        self.flops = float(self._started_from.get("flops", 0.0))

    def _compile(self) -> None:
        mode = self.config.compiled
        if mode == "off":
            return
        evaluate = torch.compile(self.model.policy.evaluate_sequences, mode=mode, dynamic=False)
        self.model.policy.evaluate_sequences = evaluate  # type: ignore[method-assign]

    # -- checkpoints ---------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return Path(self.config.save_dir) if self.config.save_dir else self.folder / "checkpoints"

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: there is none, it is damaged, or it is of a run with other settings or one that goes on.
        """
        events = self.folder / EVENTS
        if events.exists() and is_being_written(events):
            raise checkpoints.CheckpointError(f"{self.folder} is of a run that goes on: stop it first")
        path, tensors, values = checkpoints.read(path)
        mine, theirs = self._settings(), values["run"]["config"]
        matters = {"rounds"} if self.config.learning_rate_decline else set()
        for name, value in mine.items():
            if (name not in MAY_CHANGE or name in matters) and theirs.get(name) != value:
                raise checkpoints.CheckpointError(
                    f"{path} is of a run with --{name.replace('_', '-')} {theirs.get(name)!r}, not {value!r}: resume "
                    "with the settings the run was started with"
                )
        self.env.reset()
        self._compare_provenance(path, values["run"])
        checkpoints.restore(self.model, tensors, values)
        self.round, self.flops = values["run"]["round"], values["run"]["flops"]
        log = self.folder / LOG
        if log.exists():  # rounds after the checkpoint are run again
            rows = [line for line in log.read_text().splitlines() if line.endswith("}")]
            log.write_text("".join(f"{line}\n" for line in rows if json.loads(line)["round"] <= self.round))

    def _compare_provenance(self, path: Path, run: dict[str, Any]) -> None:
        mine, theirs = self._provenance(), run["provenance"]
        if mine["digest"] != theirs["digest"]:
            raise checkpoints.CheckpointError(
                f"{path} is of a run on the data {theirs['dataset']!r} ({theirs['digest'][:12]}), not on "
                f"{mine['dataset']!r} ({mine['digest'][:12]}): say where they are with --dataset and --data-root"
            )
        watched = {name: run["config"].get(name) for name in ("force_compile", *WATCHING)}
        mine["compilation"] = self.config.compiled
        theirs = theirs | {"compilation": self.config.model_copy(update=watched).compiled}
        differs = [f"{name} {mine[name]} in place of {theirs[name]}" for name in mine if mine[name] != theirs[name]]
        if differs:
            warnings.warn(
                f"the run goes on with {', '.join(differs)}: it will not end bit for bit as if it had not stopped",
                stacklevel=2,
            )

    def _provenance(self) -> dict[str, Any]:
        """What the environments' numbers come from, once they were reset."""
        provenance = self.env.get_attr("provenance", 0)[0]
        return {name: provenance[name] for name in ("dataset", "digest", "torch", "kernels")}

    def _settings(self) -> dict[str, Any]:
        return json.loads(self.config.model_dump_json())  # type: ignore[no-any-return]

    def _save(self) -> None:
        if self._last is not None:
            self._write_checkpoint(self._last)
            self._last = None
            origin = {"command": self.command, "round": self.round, "flops": self.flops, "config": self._settings()}
            origin["provenance"] = self._provenance()
            origin["started_from"] = self._started_from
            policy = self.model.policy
            assert isinstance(policy, TamiyoPolicy)
            save_policy(policy, self.folder / POLICY, self.env, origin=origin)

    def _write_checkpoint(self, data: bytes) -> None:
        start = time.perf_counter()
        path = checkpoints.write(self.checkpoints, self.round, data)
        if self._telemetry is not None:
            self._telemetry.emit(Checkpoint(self.round, str(path), len(data), time.perf_counter() - start))

    # -- rounds --------------------------------------------------------------------------------------

    def run(
        self,
        *,
        progress: bool = True,
        report: Callable[[str], None] = print,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Train until `config.rounds` are done. `KeyboardInterrupt` leaves a checkpoint of the last whole round.

        Args:
            progress: show a progress bar.
            report: is told where the policy is, at the end.
            telemetry: is told everything.
        """
        config = self.config
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        self.model.set_logger(Logger(None, []))
        emit = None
        if telemetry is not None:
            self._telemetry, emit = telemetry, telemetry.emit
            telemetry.watch(self.recorded)
            emit(self._header())
        total = config.rounds * config.envs * config.episode_length
        done = self.round * config.envs * config.episode_length
        with tqdm(total=total, initial=done, unit="step", desc="ppo", disable=not progress) as bar:
            log = RoundLog(self.interface, config.reward_scale, bar, emit)
            try:
                while self.round < config.rounds:
                    self._round(log)
                    bar.set_postfix(round=self.round, mean_return=f"{log.summary().get('return', np.nan):+.4f}")
                    if self.round == config.rounds:
                        self._save()
                    elif self.round % config.save_every == 0:
                        with self._unless_full("checkpoint"):
                            self._save()
            except KeyboardInterrupt:
                self._save_interrupted()
                raise
        report(f"policy {policy_digest(self.model.policy)[:16]} in {self.folder / 'policy.safetensors'}")

    @contextmanager
    def _unless_full(self, what: str) -> Iterator[None]:
        """Go on without a file that cannot be written, where telemetry keeps account of that."""
        try:
            yield
        except OSError as error:
            if self._telemetry is None:
                raise
            self._telemetry.failed_to_write(what, error)

    def _save_interrupted(self) -> None:
        """The last whole round, if it was not saved; the policy file stays that of the last checkpoint."""
        if self._last is not None:
            self._write_checkpoint(self._last)

    def _header(self) -> RunStart:
        config = self.config
        self.env.reset()  # the data's digest is known only then
        per_round = config.envs * config.episode_length
        return run_start(
            self.recorded,
            controller="ppo",
            command=self.command,
            config=self._settings(),
            seed=config.seed,
            devices=config.env_devices,
            episode_epochs=config.episode_length,
            total_steps=config.rounds * per_round,
            done_steps=self.round * per_round,
        )

    def _round(self, log: RoundLog) -> None:
        config, model = self.config, self.model
        log.clear()
        start, before = time.perf_counter(), dict(self.recorded.spent_s)
        first = config.seed + self.round * config.groups
        self.env.seed_each([first + i // config.grouped for i in range(config.envs)])
        model._last_obs = None  # so that the round begins with a reset
        model.lr_schedule = FloatSchedule(config.learning_rate_of(self.round))
        steps = config.envs * config.episode_length
        model.learn(steps, callback=log, log_interval=None, reset_num_timesteps=False)
        learned = time.perf_counter()
        summary = log.summary()
        done, flops = self.round + 1, self.flops + summary["flops"]
        run = {"round": done, "flops": flops, "config": self._settings(), "provenance": self._provenance()}
        data = checkpoints.capture(model, run)
        end = time.perf_counter()
        if self._telemetry is not None:
            parts: dict[str, float] = {
                part: self.recorded.spent_s[part] - before[part] for part in (*PARTS, "telemetry")
            }
            parts["telemetry"] += log.telemetry_s
            parts["policy"] = log.collected_at - start - sum(parts.values())
            parts["update"], parts["checkpoint"] = learned - log.collected_at, end - learned
            self._telemetry.emit(self._update(done, log, parts))
        self._record(model.logger, done, summary | {"seconds": end - start})
        # an interruption before this line loses the round, and nothing else
        self.round, self.flops, self._last = done, flops, data

    def _update(self, number: int, log: RoundLog, parts: Mapping[str, float]) -> Update:
        values = self.model.logger.name_to_value
        variance = float(values["train/explained_variance"])
        return Update(
            round=number,
            done_steps=number * self.config.envs * self.config.episode_length,
            policy_loss=float(values["train/policy_gradient_loss"]),
            value_loss=float(values["train/value_loss"]),
            entropy_nats=-float(values["train/entropy_loss"]),
            entropy_by_operation_nats=log.decisions.entropy_by_operation(),
            approx_kl_nats=float(values["train/approx_kl"]),
            clip_share=float(values["train/clip_fraction"]),
            ratio_error=float(values["train/ratio_error"]),
            explained_variance=variance if np.isfinite(variance) else None,
            learning_rate=float(values["train/learning_rate"]),
            q_by_operation=log.decisions.q_by_operation(),
            time_s_by_part=parts,
        )

    def _record(self, logger: Logger, number: int, summary: dict[str, float]) -> None:
        for name, value in summary.items():
            logger.record(f"round/{name}", value)
        row = {"round": number, **{k: _plain(v) for k, v in logger.name_to_value.items()}}
        logger.dump(number)
        with self._unless_full(LOG), (self.folder / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")


def _plain(value: Any) -> float | None:
    """A number for JSON, which has no NaN."""
    number = float(value)
    return number if np.isfinite(number) else None
