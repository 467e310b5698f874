"""The training loop: rounds of one episode in every environment and one update, with checkpoints between."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure
from tqdm import tqdm

from esper_agents.ppo_config import PPOConfig
from esper_agents.simic import checkpoints
from esper_agents.simic.adapter import GymnasiumVecEnv
from esper_agents.simic.economy import Churn, rent_points
from esper_agents.simic.ppo import MaskableRecurrentPPO
from esper_agents.simic.rewards import VectorRewardWrapper
from esper_agents.tamiyo.controller import Interface
from esper_agents.tamiyo.policy import TamiyoPolicy, policy_arguments
from esper_agents.tamiyo.policy_files import policy_digest, save_policy
from esper_env.leyline import Op

LOG = "rounds.jsonl"
"""One line of figures a round, in the run's folder."""

POLICY = "policy.safetensors"
"""The policy of the last checkpoint, in the run's folder."""

MAY_CHANGE = ("rounds", "num_workers", "save_every", "save_dir", "telemetry_dir", "resume", "config_json", "preset")
"""Settings that a resumed run may have different from the run it goes on with: none changes a result."""


class RoundLog(BaseCallback):
    """Collects what the environments say during a round."""

    def __init__(self, interface: Interface, progress: tqdm[Any] | None) -> None:
        super().__init__()
        self.ops = np.array([action.op for action in interface.actions])
        self.progress = progress
        self.clear()

    def clear(self) -> None:
        """Begin a round."""
        self.finals: list[dict[str, Any]] = []
        self.operations = np.zeros(len(Op), np.int64)

    def _on_step(self) -> bool:
        actions = self.locals["actions"].cpu().numpy().reshape(-1)
        self.operations += np.bincount(self.ops[actions], minlength=len(Op))
        self.finals += [info for info in self.locals["infos"] if "episode" in info]
        if self.progress is not None:
            self.progress.update(len(actions))
        return True

    def summary(self) -> dict[str, float]:
        """Means over the round's whole episodes; failed ones are only counted."""
        sound = [info for info in self.finals if not info["error_code"]]
        churn = [Churn.of(info) for info in sound]
        germinated = sum(c.germinated for c in churn)
        out = {"episodes": float(len(sound)), "failures": float(len(self.finals) - len(sound))}
        out["flops"] = float(sum(info["flops_total"] for info in self.finals))
        for op in Op:
            out[f"operation_share/{op.name}"] = self.operations[op] / max(1, self.operations.sum())
        if sound:
            out |= {
                "return": float(np.mean([info["episode"]["r"] for info in sound])),
                "committed_accuracy": float(np.mean([info["committed_accuracy"] for info in sound])),
                "growth": float(np.mean([info["growth"] for info in sound])),
                "rent_points": float(np.mean([rent_points(info) for info in sound])),
                "fossilized": float(np.mean([c.fossilized for c in churn])),
                "reversals": float(np.mean([c.reversals for c in churn])),
                "fossilized_share": sum(c.fossilized for c in churn) / germinated if germinated else float("nan"),
                "rollbacks": float(np.mean([info["rollbacks"] for info in sound])),
            }
        return out


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
        venv = config.make(config.envs)
        self.interface = Interface.of(venv)
        self.env = GymnasiumVecEnv(VectorRewardWrapper(venv, config.reward, config.gamma))
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
            policy_kwargs=policy_arguments(
                self.env,
                critic=config.critic,
                start=config.start,
                memory=config.memory,
                critic_memory=config.critic_memory,
                memory_size=config.memory_size,
                feature_size=config.memory_size,
            ),
            seed=config.seed,
            device=config.policy_device,
        )
        self._compile()
        self.round = 0
        self.flops = 0.0
        """Spent on the networks of all episodes so far."""
        self._last: bytes | None = None

    def _compile(self) -> None:
        mode = self.config.compile_mode
        if mode == "off" or (mode == "auto" and not self.config.policy_device.startswith("cuda")):
            return
        evaluate = torch.compile(
            self.model.policy.evaluate_sequences, mode=None if mode == "auto" else mode, dynamic=False
        )
        self.model.policy.evaluate_sequences = evaluate  # type: ignore[method-assign]

    # -- checkpoints ---------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return Path(self.config.save_dir) if self.config.save_dir else self.folder / "checkpoints"

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: there is none, it is damaged, or it is of a run with other settings.
        """
        path, tensors, values = checkpoints.read(path)
        mine, theirs = self._settings(), values["run"]["config"]
        for name, value in mine.items():
            if name not in MAY_CHANGE and theirs.get(name) != value:
                raise checkpoints.CheckpointError(
                    f"{path} is of a run with --{name.replace('_', '-')} {theirs.get(name)!r}, not {value!r}: resume "
                    "with the settings the run was started with"
                )
        self.env.reset()
        self._compare_provenance(path, values["run"]["provenance"])
        checkpoints.restore(self.model, tensors, values)
        self.round, self.flops = values["run"]["round"], values["run"]["flops"]
        log = self.folder / LOG
        if log.exists():  # rounds after the checkpoint are run again
            rows = [line for line in log.read_text().splitlines() if line.endswith("}")]
            log.write_text("".join(f"{line}\n" for line in rows if json.loads(line)["round"] <= self.round))

    def _compare_provenance(self, path: Path, theirs: dict[str, Any]) -> None:
        mine = self._provenance()
        if mine["digest"] != theirs["digest"]:
            raise checkpoints.CheckpointError(
                f"{path} is of a run on the data {theirs['dataset']!r} ({theirs['digest'][:12]}), not on "
                f"{mine['dataset']!r} ({mine['digest'][:12]}): say where they are with --dataset and --data-root"
            )
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
            checkpoints.write(self.checkpoints, self.round, self._last)
            self._last = None
            origin = {"command": self.command, "round": self.round, "flops": self.flops, "config": self._settings()}
            origin["provenance"] = self._provenance()
            policy = self.model.policy
            assert isinstance(policy, TamiyoPolicy)
            save_policy(policy, self.folder / POLICY, self.env, origin=origin)

    # -- rounds --------------------------------------------------------------------------------------

    def run(self, *, progress: bool = True, report: Callable[[str], None] = print) -> None:
        """Train until `config.rounds` are done. `KeyboardInterrupt` leaves a checkpoint of the last whole round."""
        config = self.config
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        self.model.set_logger(configure(str(self.folder), ["tensorboard"]))
        total = config.rounds * config.envs * config.episode_length
        done = self.round * config.envs * config.episode_length
        with tqdm(total=total, initial=done, unit="step", desc="ppo", disable=not progress) as bar:
            log = RoundLog(self.interface, bar)
            try:
                while self.round < config.rounds:
                    self._round(log)
                    bar.set_postfix(round=self.round, mean_return=f"{log.summary().get('return', np.nan):+.4f}")
                    if self.round % config.save_every == 0 or self.round == config.rounds:
                        self._save()
            except KeyboardInterrupt:
                self._save_interrupted()
                raise
            finally:
                self.model.logger.close()
        report(f"policy {policy_digest(self.model.policy)[:16]} in {self.folder / 'policy.safetensors'}")

    def _save_interrupted(self) -> None:
        """The last whole round, if it was not saved; the policy file stays that of the last checkpoint."""
        if self._last is not None:
            checkpoints.write(self.checkpoints, self.round, self._last)

    def _round(self, log: RoundLog) -> None:
        config, model = self.config, self.model
        log.clear()
        start = time.perf_counter()
        first = config.seed + self.round * (1 if config.group_seeds else config.envs)
        self.env.seed_each([first + (0 if config.group_seeds else i) for i in range(config.envs)])
        model._last_obs = None  # so that the round begins with a reset
        steps = config.envs * config.episode_length
        model.learn(steps, callback=log, log_interval=None, reset_num_timesteps=False)
        summary = log.summary()
        done, flops = self.round + 1, self.flops + summary["flops"]
        run = {"round": done, "flops": flops, "config": self._settings(), "provenance": self._provenance()}
        data = checkpoints.capture(model, run)
        self._record(model.logger, done, summary | {"seconds": time.perf_counter() - start})
        # an interruption before this line loses the round, and nothing else
        self.round, self.flops, self._last = done, flops, data

    def _record(self, logger: Logger, number: int, summary: dict[str, float]) -> None:
        for name, value in summary.items():
            logger.record(f"round/{name}", value)
        row = {"round": number, **{k: _plain(v) for k, v in logger.name_to_value.items()}}
        logger.dump(number)
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")


def _plain(value: Any) -> float | None:
    """A number for JSON, which has no NaN."""
    number = float(value)
    return number if np.isfinite(number) else None
