"""Configuration of ``train ppo``: a preset, then ``--config-json`` or the run that is resumed, then flags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from tyro.conf import arg

from esper_agents.config import FIRST_RESERVED_SEED, EnvironmentConfig, check_device, usual_device

_SMALL: dict[str, Any] = {
    "envs": 8,
    "memory_size": 128,
    "learning_rate": 1e-3,
    "ent_coef": 0.003,
    "clip_range": 0.3,
}
"""A memory that learns from hundreds of episodes, little reward for doing what is worth nothing, and room for what is
rarely drawn to become likely in a few rounds."""

PRESETS: dict[str, dict[str, Any]] = {
    name: {"task": name, **_SMALL} for name in ("cifar_baseline", "cifar_varied", "fashion_baseline", "tiny")
}
"""Hyperparameters by name; what a preset does not say is the default."""
PRESETS["cifar_varied"]["group_size"] = 4  # its seeds are different tasks: more of them a round

_PRESET_HELP = "Hyperparameters to start from; --help shows as defaults what it says. One of"

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class PPOConfig(EnvironmentConfig):
    """Train Tamiyo's policy with PPO."""

    preset: Annotated[str, arg(help=f"{_PRESET_HELP} {', '.join(PRESETS)}.")] = "cifar_baseline"
    """Hyperparameters to start from."""
    config_json: str | None = None
    """JSON file of settings, which take precedence over the preset; flags take precedence over both."""
    rounds: Annotated[int, Field(ge=1)] = 100
    """Rounds of one episode in every environment and one update."""
    ppo_epochs: Annotated[int, Field(ge=1)] = 8
    """Passes over a round."""
    minibatches: Annotated[int, Field(ge=1)] = 2
    """Minibatches of whole episodes a pass."""
    learning_rate: Positive = 3e-4
    """Step size of Adam."""
    learning_rate_decline: Share = 0.0
    """Share of the rounds, the last ones, over which the learning rate declines linearly towards zero."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount. The objective is undiscounted; less than 1 turns interim accuracy into income."""
    gae_lambda: Share = 1.0
    """Trade-off of bias and variance in the advantages; at 1 nothing hangs on the critic's guesses."""
    clip_range: Positive = 0.2
    """How far the probability ratio may move in an update."""
    ent_coef: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the entropy bonus."""
    vf_coef: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: Positive = 0.5
    """Gradient clipping."""
    reward_scale: Positive = 20.0
    """What rewards are multiplied by for the learner; with 20, one is five points of accuracy."""
    critic_warmup: Annotated[int, Field(ge=0)] = 0
    """Rounds at the start in which only the critic learns; of use with --group-size 1."""
    start: str = "prompt"
    """What learning begins with. An untrained policy: prompt plants empty slots soon, with anything, and brings seeds
    on without delay, uniform draws any legal action. Or a trained one, as from a cheaper version of the task: its file,
    or the name of a shipped one."""
    decision_interval: Annotated[int, Field(ge=1)] = 2
    """Epochs from one decision to the next; between them the policy waits."""
    memory_size: Annotated[int, Field(ge=1)] = 512
    """Width of the LSTM and of the features before it."""
    memory: Literal["lstm", "none"] = "lstm"
    """What the policy remembers with."""
    critic: Literal["q", "v"] = "q"
    """Q(s, op) or V(s)."""
    critic_memory: bool = False
    """The critic has an LSTM of its own."""
    reward: Literal["net", "sparse", "shaped", "escrow"] = "net"
    """What the policy is rewarded by."""
    group_size: Annotated[int | None, Field(ge=1)] = None
    """Environments that share a seed in a round, so that like is compared with like; None is all of them."""
    device: str = "auto"
    """Device of the policy; auto is cuda:0 if it is there, else cpu."""
    compile_mode: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = "auto"
    """torch.compile of the policy update; auto is on with CUDA and off on a CPU."""
    force_compile: bool = False
    """Compile under a screen too, where auto does not."""
    save_dir: str | None = None
    """Folder of the checkpoints; None is the run's."""
    save_every: Annotated[int, Field(ge=1)] = 1
    """Rounds between checkpoints."""
    resume: Annotated[str | None, arg(metavar="PATH")] = None
    """Run, checkpoint, or folder of checkpoints to go on from, with the run's settings."""

    @model_validator(mode="after")
    def _possible(self) -> PPOConfig:
        if self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if self.envs % self.grouped:
            raise ValueError(f"{self.envs} --envs make no groups of --group-size {self.grouped}: choose a divisor")
        needed = self.rounds * self.groups
        if self.seed + needed > FIRST_RESERVED_SEED:
            raise ValueError(
                f"{self.rounds} rounds from --seed {self.seed} on need the seeds up to {self.seed + needed - 1}; "
                f"training has those below {FIRST_RESERVED_SEED}"
            )
        if self.minibatches > self.envs:
            raise ValueError(
                f"{self.minibatches} minibatches of whole episodes need as many --envs, not {self.envs}: set --envs "
                "higher or --minibatches lower"
            )
        check_device(self.policy_device)
        return self

    @property
    def grouped(self) -> int:
        """Environments of a round with the same seed."""
        return self.group_size or self.envs

    @property
    def groups(self) -> int:
        """Seeds of a round."""
        return self.envs // self.grouped

    def learning_rate_of(self, number: int) -> float:
        """Step size in a round, the first of which is number 0."""
        declining = round(self.learning_rate_decline * self.rounds)
        return self.learning_rate * min(1.0, (self.rounds - number) / (declining + 1))

    @property
    def policy_device(self) -> str:
        """Where the policy runs."""
        return usual_device() if self.device == "auto" else self.device

    @property
    def env_devices(self) -> tuple[str, ...]:
        """Where the environments run, in turn."""
        return self.devices or (self.policy_device,)

    @property
    def compiled(self) -> str:
        """Mode in which the policy update is compiled, or "off"."""
        if self.compile_mode != "auto":
            return self.compile_mode
        screen = (self.sanctum or self.overwatch) and not self.force_compile
        return "default" if self.policy_device.startswith("cuda") and not screen else "off"

    @property
    def batch_size(self) -> int:
        """Transitions of a minibatch."""
        return -(-self.envs * self.episode_length // self.minibatches)


def base_config(arguments: Sequence[str]) -> PPOConfig:
    """Return what the flags start from: the preset of `arguments`, then their JSON file, which is the configuration of
    the run that they resume unless they name a preset or a file.

    Raises:
        ValueError: an unknown preset, a file that is not there or no JSON object, or an unknown setting.
    """
    file = _value(arguments, "--config-json")
    resumed = _value(arguments, "--resume")
    if resumed is not None and file is None and _value(arguments, "--preset") is None:
        run = run_of(Path(resumed))
        file = None if run is None else str(run / "config.json")
    settings = {} if file is None else _read(Path(file))
    preset = _value(arguments, "--preset") or settings.get("preset", "cifar_baseline")
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    merged = PRESETS[preset] | settings | {"preset": preset}
    if file is not None:
        merged["config_json"] = file
    try:
        return PPOConfig.model_validate_json(json.dumps(merged))
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"]))
        raise ValueError(f"{file or preset}: {where + ': ' if where else ''}{first['msg']}") from error


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint, or a folder of checkpoints, belongs to; None if it lies elsewhere."""
    folders = (checkpoint, *checkpoint.parents[:2])
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _value(arguments: Sequence[str], flag: str) -> str | None:
    for spelling in (flag, flag.replace("-", "_").replace("__", "--", 1)):
        for i, word in enumerate(arguments):
            if word == spelling and i + 1 < len(arguments):
                return arguments[i + 1]
            if word.startswith(f"{spelling}="):
                return word.partition("=")[2]
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no JSON object")
    return settings
