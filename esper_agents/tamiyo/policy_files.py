"""Policies as files that run no code when loaded: safetensors with a JSON description, behind a digest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from esper_agents.tamiyo.controller import Actions, Interface, Masks, Observations
from esper_agents.tamiyo.pace import is_first, paced
from esper_agents.tamiyo.policy import TamiyoPolicy
from esper_env.leyline import Action, Op

_FORMAT = "esper policy 1"

TEMPERATURE = 0.5
"""At which policies act unless told otherwise: half as noisy as they explored, and not stuck where many actions tie."""


SHIPPED = Path(__file__).parent / "policies"
"""Trained policies that come with the package, each ``NAME.safetensors``."""


class PolicyFileError(ValueError):
    """A file that is no policy, a damaged one, or one for another environment."""


def policy_digest(policy: torch.nn.Module) -> str:
    """Return a SHA-256 over all parameters, in hexadecimal."""
    return _digest(dict(policy.named_parameters()), {})


def _digest(tensors: Mapping[str, torch.Tensor], description: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + str(tensor.dtype).encode() + str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_policy(policy: TamiyoPolicy, path: str | Path, env: Any, *, origin: Mapping[str, Any] | None = None) -> None:
    """Write `policy` to `path`.

    Args:
        policy: what is saved.
        path: the file; by convention it ends with ``.safetensors``.
        env: the environment it acts in, single, vector or a Stable-Baselines3 one: its action table is kept, so
            that the policy is never used with another.
        origin: JSON-able: the command, seed and data it came from.
    """
    interface = Interface.of(env)
    description = {
        "format": _FORMAT,
        "arguments": policy.constructor_arguments(),
        "actions": [str(action) for action in interface.actions],
        "slots": list(interface.layout.slots),
        "origin": dict(origin or {}),
    }
    tensors = {name: p.detach().cpu().contiguous() for name, p in policy.named_parameters()}
    description["digest"] = _digest(tensors, description)
    Path(path).write_bytes(safetensors.torch.save(tensors, {"esper": json.dumps(description, sort_keys=True)}))


class LearnedController:
    """A trained policy as a controller.

    Args:
        policy: decides.
        description: what the file says of it: ``actions``, ``slots``, ``origin`` and more.
        temperature: actions are drawn with probabilities in proportion to the policy's to the power 1/temperature. 1
            draws as in training, mistakes of exploration included; 0 takes the likeliest, which may be to wait, again
            and again, where many actions are as good as each other.
        seed: of the draws.

    Raises:
        ValueError: a negative temperature.
    """

    def __init__(
        self, policy: TamiyoPolicy, description: Mapping[str, Any], *, temperature: float = TEMPERATURE, seed: int = 0
    ) -> None:
        if temperature < 0.0:
            raise ValueError(f"temperature={temperature}: choose 0 or more")
        self.policy, self.description = policy, description
        self.temperature, self.seed = temperature, seed

    def __call__(
        self, obs: Observations, action_mask: Masks, info: Mapping[str, Any] | None, state: Any
    ) -> tuple[Actions, Any]:
        """Choose an action for each environment; see `esper_agents.tamiyo.Controller`."""
        size = self.policy.observation_space.shape
        if np.shape(obs)[1:] != size:
            raise PolicyFileError(
                f"the policy takes observations of shape {size}, those of an environment with the slots "
                f"{self.description['slots']}, not {np.shape(obs)[1:]}"
            )
        n = len(obs)
        layers, _, width = self.policy.lstm_hidden_state_shape
        if state is None:
            state = (torch.zeros(layers, n, width),) * 2, np.full(n, -1), np.random.default_rng(self.seed)
        (hidden, cell), epochs, rng = state[0], state[1] + 1, copy.deepcopy(state[2])
        first = is_first(obs)
        epochs[first] = 0
        wait = self.description["actions"].index(str(Action(Op.WAIT)))
        starts = torch.from_numpy(first)
        masks = torch.from_numpy(paced(action_mask, epochs, self.policy.decision_interval, wait))
        device = self.policy.device
        with torch.no_grad():
            before = (hidden.to(device), cell.to(device))
            distribution, after = self.policy.get_distribution(
                torch.as_tensor(obs, device=device), RNNStates(before, before), starts.to(device), masks.to(device)
            )
            probs: NDArray[np.float64] = distribution.probs.double().cpu().numpy()
        if self.temperature == 0.0:
            actions = probs.argmax(1)
        else:
            weights = (probs / probs.max(1, keepdims=True)) ** (1.0 / self.temperature)
            actions = np.array([rng.choice(len(row), p=row / row.sum()) for row in weights], np.int64)
        return actions, (tuple(part.cpu() for part in after.pi), epochs, rng)


def load_policy(
    path: str | Path, env: Any = None, *, temperature: float = TEMPERATURE, seed: int = 0, device: str = "cpu"
) -> LearnedController:
    """Return the policy in a file as a controller. Nothing in the file is executed.

    Args:
        path: a file that `save_policy` wrote, or the name of a policy that comes with the package.
        env: the environment it is to act in; if given, its action table is compared.
        temperature, seed: see `LearnedController`.
        device: where the policy runs.

    Raises:
        FileNotFoundError: there is no such file.
        PolicyFileError: the file is no policy, is damaged, or is a policy for another environment.
    """
    path = policy_path(path)
    description, tensors = _read(path)
    if env is not None:
        _compare(path, description, Interface.of(env))
    size = 23 + 35 * len(description["slots"])
    policy = TamiyoPolicy(
        spaces.Box(-1.0, 1.0, (size,), np.float32),
        spaces.Discrete(len(description["actions"])),
        lambda _: 0.0,
        **description["arguments"],
    )
    parameters = dict(policy.named_parameters())
    if {n: p.shape for n, p in parameters.items()} != {n: t.shape for n, t in tensors.items()}:
        raise PolicyFileError(f"{path} does not hold the parameters that its description asks for")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    policy.set_training_mode(False)
    return LearnedController(policy.to(device), description, temperature=temperature, seed=seed)


def policy_path(name: str | Path) -> Path:
    """Return the file of a policy: of one that comes with the package, by its name, or `name` itself.

    Raises:
        FileNotFoundError: there is neither.
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}
    path = shipped.get(str(name), Path(name))
    if not path.is_file():
        there = f"; shipped are {', '.join(shipped)}" if shipped else ""
        raise FileNotFoundError(f"there is no policy file {path}{there}")
    return path


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        description = json.loads(header["esper"])
        known = description["format"] == _FORMAT
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise PolicyFileError(f"{path} is no policy of Esper, or a damaged one: {error}") from error
    if not known:
        raise PolicyFileError(f"{path} has the format {description['format']!r}; this version reads {_FORMAT!r}")
    given = description.pop("digest", None)
    if _digest(tensors, description) != given:
        raise PolicyFileError(f"{path} is damaged: its digest does not match")
    return description, tensors


def _compare(path: Path, description: Mapping[str, Any], interface: Interface) -> None:
    mine, theirs = description["actions"], [str(action) for action in interface.actions]
    if mine != theirs:
        differs = next(
            (pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1]), (len(mine), len(theirs))
        )
        raise PolicyFileError(
            f"{path} is a policy for another environment: it has {len(mine)} actions, this one {len(theirs)}; the "
            f"first difference is {differs[0]!r} against {differs[1]!r}. Use the slots, blueprints, styles and "
            "tempos it was trained with"
        )
