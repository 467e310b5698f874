"""A slot: the place in the host where one seed can live, with its clock and its evidence."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import nn

from esper_env.kasmina.alpha import Alpha
from esper_env.kasmina.optim import ClippedSGD
from esper_env.kasmina.seed import Seed
from esper_env.leyline import SlotFacts, Stage, Style
from esper_env.leyline.lifecycle import BLENDED, EVIDENCE_WINDOW, FADE_EPOCHS, TRANSITIONS

HEALTH_BATCHES = 8
"""Batches over which gradient health is taken."""

VANISHING, EXPLODING = 1e-7, 10.0
"""Gradient norms of a parameter tensor below and above which it counts as ill."""


@dataclass
class Evidence:
    """What has been measured of a seed. ``None`` or empty means not measured."""

    norms: deque[torch.Tensor] = field(default_factory=lambda: deque(maxlen=HEALTH_BATCHES))
    """Gradient norm of each parameter tensor, one (P,) tensor a batch, of the last batches."""
    health: float | None = None
    previous_health: float | None = None
    gradient_norm: float | None = None
    """Norm of the whole gradient, mean of the last batches."""
    vanishing: float = 0.0
    """Share of parameter tensors whose gradient vanishes."""
    exploding: float = 0.0
    """Share whose gradient explodes or is not finite."""
    shadow_gains: deque[float] = field(default_factory=lambda: deque(maxlen=EVIDENCE_WINDOW))
    contributions: deque[float] = field(default_factory=lambda: deque(maxlen=EVIDENCE_WINDOW))
    effect: float | None = None
    """Last measured effect: the shadow gain, later the contribution (fraction of accuracy)."""
    effect_trend: float = 0.0
    """Smoothed change of the effect from one measurement to the next."""
    effect_age: int = 0
    """Epochs since the effect was measured."""

    def record_shadow_gain(self, gain: float) -> None:
        """Note the gain in accuracy of a TRAINING seed at alpha 1, alone."""
        self.shadow_gains.append(gain)
        self._record_effect(gain)

    def record_contribution(self, contribution: float) -> None:
        """Note the loss in accuracy when a blended seed is ablated."""
        self.contributions.append(contribution)
        self._record_effect(contribution)

    def _record_effect(self, effect: float) -> None:
        if self.effect is not None:
            self.effect_trend = 0.5 * (self.effect_trend + effect - self.effect)
        self.effect, self.effect_age = effect, 0

    def judge_gradients(self) -> None:
        """Turn the gradient norms of the last batches into health.

        health = clip(1 - 0.5 * share vanishing - 0.8 * share exploding), over parameter tensors.
        """
        if not self.norms:
            return
        norms = torch.stack(list(self.norms))  # (batches, P)
        mean = norms.mean(0)
        self.vanishing = float((mean < VANISHING).float().mean())
        self.exploding = float((~(mean <= EXPLODING)).float().mean())
        self.previous_health = self.health
        self.health = min(1.0, max(0.0, 1.0 - 0.5 * self.vanishing - 0.8 * self.exploding))
        self.gradient_norm = float(norms.square().sum(1).sqrt().mean())


def _window_mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if len(values) == values.maxlen else None


@dataclass
class Slot:
    """The state of one slot. `seed`, `optimizer` and the fields after them are set while it is occupied."""

    name: str
    position: int
    """Index of its boundary in the host, counted from 1."""
    channels: int
    stage: Stage = Stage.DORMANT
    epochs_in_stage: int = 0
    age: int = 0
    germinations: int = 0
    """Seeds ever germinated here; never goes back, not even when a snapshot is restored."""
    alpha: Alpha = field(default_factory=Alpha)
    seed: Seed | None = None
    optimizer: ClippedSGD | None = None
    blueprint: str | None = None
    tempo: int = 0
    fading: bool = False
    sound: bool = False
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def live(self) -> bool:
        """The seed is in the forward pass for what it is worth: blended at alpha > 0, or fossilised."""
        return self.stage is Stage.FOSSILIZED or (self.stage in BLENDED and self.alpha.value > 0.0)

    @property
    def style(self) -> Style | None:
        """Style of the seed, if there is one."""
        return None if self.seed is None else self.seed.style

    def enter(self, stage: Stage) -> None:
        """Move to `stage`.

        Raises:
            ValueError: no such transition.
        """
        if stage not in TRANSITIONS[self.stage]:
            raise ValueError(f"slot {self.name}: no transition from {self.stage.name} to {stage.name}")
        self.stage, self.epochs_in_stage = stage, 0

    def fade(self) -> None:
        """Begin to fade out: the seed is frozen, and its alpha on its way to 0."""
        assert self.seed is not None
        self.seed.requires_grad_(False)
        self.fading, self.alpha = True, self.alpha.ramp_to(0.0, FADE_EPOCHS)

    def clear(self) -> None:
        """Drop the seed and everything that came with it; the clock of the stage goes on."""
        self.alpha, self.seed, self.optimizer, self.blueprint = Alpha(), None, None, None
        self.tempo, self.fading, self.sound, self.age = 0, False, False, 0
        self.evidence = Evidence()

    def facts(self) -> SlotFacts:
        """What legality may depend on."""
        return SlotFacts(
            stage=self.stage,
            epochs_in_stage=self.epochs_in_stage,
            age=self.age,
            fading=self.fading,
            alpha=self.alpha.value,
            alpha_target=self.alpha.target,
            at_target=self.alpha.at_target,
            style=self.style,
            sound=self.sound,
            health=self.evidence.health,
            shadow_gain=_window_mean(self.evidence.shadow_gains),
            contribution_measured=bool(self.evidence.contributions),
            contribution=_window_mean(self.evidence.contributions),
        )


def is_sound(seed: nn.Module, channels: int, size: tuple[int, int]) -> bool:
    """G1: every parameter is finite and the module keeps the shape of its boundary."""
    if not all(bool(torch.isfinite(p).all()) for p in seed.parameters()):
        return False
    with torch.no_grad():
        probe = next(seed.parameters()).new_ones((1, channels, *size))
        try:
            out = seed(probe, probe, 1.0)
        except RuntimeError:  # torch's shape errors
            return False
    return out.shape == probe.shape and bool(torch.isfinite(out).all())
