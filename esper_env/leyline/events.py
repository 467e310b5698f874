"""The events of a run: what a log may hold. Units are in the names of the fields; ``None`` means not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Final

SCHEMA_VERSION: Final = 2
"""Changes whenever a reader of older logs would misread a newer one."""

Plain = Mapping[str, Any]
"""JSON-able."""


@dataclass(frozen=True)
class Event:
    """Something that happened. The log adds ``time_s``, the Unix time at which it was emitted."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class RunStart(Event):
    """The header: what is run, with what, where. Always the first line."""

    kind = "run_start"
    controller: str
    """Who decides: "ppo", "heuristic" or another controller's name."""
    task: str
    """Environment id."""
    command: str
    config: Plain
    config_sha256: str
    provenance: Plain
    versions: Plain
    commit: str
    seed: int
    devices: tuple[str, ...]
    threads: int
    """Environments that are stepped at the same time."""
    process: int
    """Process id of the run."""
    host: str
    envs: int
    episode_epochs: int
    total_steps: int | None
    """Environment steps of the whole run, all environments together."""
    done_steps: int
    """Of them, what an earlier part of the run has done."""
    slots: tuple[str, ...]
    blueprints: tuple[str, ...]
    operations: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Step(Event):
    """One epoch of one environment, as it stands after it."""

    kind = "step"
    env: int
    episode_seed: int | None
    """Not known of an episode that the environment began by itself."""
    epoch: int
    action: str
    executed: bool
    """False: the action was not legal, and WAIT was executed."""
    reward: float
    """The environment's own, not a shaped one."""
    value: float
    """Accuracy less rent."""
    train_loss_nats: float
    train_accuracy: float
    val_loss_nats: float
    val_accuracy: float
    params: int
    growth: float
    """Added parameters over the host's."""
    rent: float
    stages: tuple[str, ...]
    """By slot, in the header's order."""
    alphas: tuple[float, ...]
    blueprints: tuple[str | None, ...]
    train_s: float
    """Seconds of the environment's thread."""
    evaluate_s: float
    observe_s: float


@dataclass(frozen=True)
class Decision(Event):
    """Why a policy took an action."""

    kind = "decision"
    env: int
    epoch: int
    """Epochs done when it was taken."""
    action: str
    probability: float
    expected_return: float | None
    """V(s), in the environment's unit."""
    q_by_operation: Mapping[str, float | None]
    """Of operations that are not legal, or without such a critic: not measured."""
    entropy_nats: float
    alternatives: Mapping[str, float]
    """Probabilities of the most likely other actions."""


@dataclass(frozen=True)
class Lifecycle(Event):
    """A slot changed its stage."""

    kind = "lifecycle"
    env: int
    epoch: int
    slot: str
    blueprint: str | None
    before: str
    after: str


@dataclass(frozen=True)
class Gate(Event):
    """A gate of a slot opened or closed: an operation that carries a seed on became legal, or no longer is."""

    kind = "gate"
    env: int
    epoch: int
    slot: str
    operation: str
    open: bool


@dataclass(frozen=True)
class Counterfactual(Event):
    """What each uncommitted seed is worth by ablation, by slot; not measured where there is none."""

    kind = "counterfactual"
    env: int
    epoch: int
    contribution_points: tuple[float | None, ...]
    shapley_points: tuple[float | None, ...]


@dataclass(frozen=True)
class Update(Event):
    """An update of the policy."""

    kind = "update"
    round: int
    done_steps: int
    """Environment steps of the whole run so far."""
    policy_loss: float
    value_loss: float
    entropy_nats: float
    entropy_by_operation_nats: Mapping[str, float | None]
    approx_kl_nats: float
    clip_share: float
    ratio_error: float | None
    """Largest |ratio - 1| before the first gradient step: rollout and update must agree."""
    explained_variance: float | None
    learning_rate: float
    q_by_operation: Mapping[str, float | None]
    time_s_by_part: Mapping[str, float]
    """Seconds of the round, which add up to all of it: train, evaluate and observe in the environments, policy,
    update, telemetry and checkpoint."""


@dataclass(frozen=True)
class EpisodeEnd(Event):
    """An episode ended. One that ran to its end was settled; one that failed was not."""

    kind = "episode"
    env: int
    controller: str
    """Who decided in it."""
    episode_seed: int | None
    total_return: float
    committed_accuracy: float | None
    """Of the settlement; not measured if the episode failed."""
    params: int
    growth: float
    germinated: int
    fossilized: int
    pruned: int
    rollbacks: int
    invalid_actions: int
    flops_total: int
    error_code: int
    error: str | None = None
    """What made it fail."""


@dataclass(frozen=True)
class Anomaly(Event):
    """A detector raised or cleared its alarm."""

    kind = "anomaly"
    detector: str
    raised: bool
    env: int | None
    """``None``: it is about the policy or the run."""
    value: float | None
    threshold: float | None
    message: str


@dataclass(frozen=True)
class Rollback(Event):
    """The governor took an environment back to its last healthy state."""

    kind = "rollback"
    env: int
    epoch: int


@dataclass(frozen=True)
class Checkpoint(Event):
    """The run can be resumed from here."""

    kind = "checkpoint"
    round: int
    file: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class RunEnd(Event):
    """The last line of a run that could write one."""

    kind = "run_end"
    status: str
    """ "finished", "interrupted" or "failed"."""
    error: str | None
    seconds: float
    dropped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """What was lost, by where it should have gone: events of a sink, or times that a file was not written."""


EVENTS: Final[dict[str, type[Event]]] = {
    kind.kind: kind
    for kind in (
        RunStart,
        Step,
        Decision,
        Lifecycle,
        Gate,
        Counterfactual,
        Update,
        EpisodeEnd,
        Anomaly,
        Rollback,
        Checkpoint,
        RunEnd,
    )
}
"""Every event by its kind."""


def field_names(kind: type[Event]) -> tuple[str, ...]:
    """The fields of an event, in order."""
    return tuple(f.name for f in fields(kind))
