"""One episode: a freshly initialised host trained epoch by epoch while its structure is edited."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from esper_env.kasmina import GrowingModel, build
from esper_env.leyline import Action, AlphaCurve, Style
from esper_env.leyline.lifecycle import UNCOMMITTED
from esper_env.tolaria.batches import BatchSource, evaluation_set, noisy_labels, prepare
from esper_env.tolaria.datasets import ImageData
from esper_env.tolaria.evaluation import Counterfactual, Score, counterfactual, evaluate, present
from esper_env.tolaria.governor import Governor, Panic
from esper_env.tolaria.snapshot import Snapshot, capture, restore
from esper_env.tolaria.training import TrainingReport, train_epoch


@dataclass(frozen=True)
class Structure:
    """A seed an episode starts with, already FOSSILIZED."""

    slot: str
    blueprint: str
    style: Style


@dataclass(frozen=True)
class EpisodeConfig:
    """How an episode is run. Rates are those of this episode's instance."""

    slots: tuple[str, ...]
    episode_length: int
    samples_per_epoch: int
    val_samples: int
    batch_size: int
    host_lr: float
    seed_lr: float
    label_noise: float
    alpha_curve: AlphaCurve
    bf16: bool
    device: str


@dataclass(frozen=True)
class EpochReport:
    """What one step measured."""

    training: TrainingReport
    evaluation: Counterfactual
    panic: Panic | None
    train_s: float
    """Wall-clock seconds until the epoch was trained."""


@dataclass(frozen=True)
class Settlement:
    """The committed network at the end: on the full validation split and on the test set."""

    validation: Score
    test: Score

    @classmethod
    def unmeasured(cls) -> Settlement:
        """What stands in for it when an episode failed: zeros, beside an `error_code`."""
        return cls(Score(0.0, 0.0), Score(0.0, 0.0))


@dataclass
class Flops:
    """Cumulative floating-point operations."""

    training: int = 0
    shadow: int = 0
    evaluation: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.training + self.shadow + self.evaluation


def derive_seed(episode_seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose of an episode, the same in every process."""
    text = "/".join(map(str, (episode_seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Episode:
    """A growing model in training.

    Args:
        make_host: builds the host.
        data: the images.
        config: how it is run.
        seed: everything random follows from it.
        structure: seeds that are there, FOSSILIZED, from the start.
    """

    def __init__(
        self,
        make_host: Any,
        data: ImageData,
        config: EpisodeConfig,
        seed: int,
        structure: Sequence[Structure] = (),
    ) -> None:
        self.config, self.data, self.seed = config, data, seed
        self.generators = {
            name: torch.Generator().manual_seed(derive_seed(seed, name)) for name in ("order", "augmentation")
        }
        labels = noisy_labels(
            data.train.labels,
            config.label_noise,
            data.num_classes,
            torch.Generator().manual_seed(derive_seed(seed, "label noise")),
        )
        self.model = GrowingModel(
            build(make_host, derive_seed(seed, "host")).to(config.device),
            config.slots,
            data.shape,
            seed_key=lambda slot, germinations: derive_seed(seed, "seed", slot, germinations),
            host_lr=config.host_lr,
            seed_lr=config.seed_lr,
            alpha_curve=config.alpha_curve,
        )
        for s in structure:
            self._plant(s)
        self.source = BatchSource(
            prepare(data, config.device),
            labels,
            config.samples_per_epoch,
            config.batch_size,
            order=self.generators["order"],
            augmentation=self.generators["augmentation"],
        )
        self.validation = evaluation_set(data, "validation", config.val_samples, config.device)
        self.governor = Governor(data.num_classes)
        self.flops = Flops()
        self.epoch = 0
        self.rollbacks = 0
        self.healthy: Snapshot = capture(self.model)

    def _plant(self, structure: Structure) -> None:
        slot = self.model.slots[structure.slot]
        self.model.germinate(slot, structure.blueprint, structure.style, 1)
        for _ in range(3):
            self.model.advance(slot)
        slot.alpha = replace(slot.alpha, value=1.0)
        self.model.fossilize(slot)

    # -- steps ---------------------------------------------------------------------------------------

    def step(self, action: Action) -> EpochReport:
        """Apply a legal action, let an epoch pass, train, evaluate, and let the governor judge."""
        config, model = self.config, self.model
        start = time.perf_counter()
        model.apply(action)
        model.tick()
        training = train_epoch(
            model,
            self.source,
            host_lr=config.host_lr,
            epoch=self.epoch,
            episode_length=config.episode_length,
            bf16=config.bf16,
        )
        train_s = time.perf_counter() - start
        self.epoch += 1
        self.flops.training += training.flops
        self.flops.shadow += training.shadow_flops
        evaluation = self._evaluate()
        finite = model.is_finite() and training.loss - training.loss == 0.0
        panic, self.governor = self.governor.judge(evaluation.score.loss, evaluation.score.accuracy, finite)
        if panic is not None:
            self._roll_back()
            evaluation = self._evaluate()
        else:
            self._record(evaluation)
            if not self.governor.pending:
                self.healthy = capture(model)
        return EpochReport(training, evaluation, panic, train_s)

    def settle(self) -> Settlement:
        """Remove all that is not fossilised and measure the committed network."""
        self._remove_uncommitted()
        now = present(self.model)
        scores = []
        for split in ("validation", "test"):
            images = evaluation_set(self.data, split, None, self.config.device)
            (score,), flops = evaluate(self.model, images, [now])
            self.flops.evaluation += flops
            scores.append(score)
        return Settlement(*scores)

    def _evaluate(self) -> Counterfactual:
        evaluation = counterfactual(self.model, self.validation)
        self.flops.evaluation += evaluation.flops
        return evaluation

    def _record(self, evaluation: Counterfactual) -> None:
        for name, gain in evaluation.shadow_gains.items():
            self.model.slots[name].evidence.record_shadow_gain(gain)
        for name, contribution in evaluation.contributions.items():
            self.model.slots[name].evidence.record_contribution(contribution)

    def _roll_back(self) -> None:
        """Back to the last healthy state, without the seeds that were not committed and without momentum."""
        germinations = {slot.name: slot.germinations for slot in self.model.stream}
        restore(self.model, self.healthy)
        for slot in self.model.stream:
            slot.germinations = germinations[slot.name]
        self._remove_uncommitted()
        for optimizer in self.model.optimizers().values():
            optimizer.clear_momentum()
        self.healthy = capture(self.model)
        self.rollbacks += 1

    def _remove_uncommitted(self) -> None:
        for slot in self.model.in_stages(UNCOMMITTED):
            self.model.remove(slot)

    # -- state ---------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the whole state: named tensors, and JSON-able values."""
        now = capture(self.model)
        tensors = {f"now/{k}": v for k, v in now.tensors.items()}
        tensors |= {f"healthy/{k}": v for k, v in self.healthy.tensors.items()}
        tensors |= {f"generator/{k}": g.get_state() for k, g in self.generators.items()}
        tensors["permutation"] = self.source.permutation
        governor = asdict(self.governor)
        if governor["best_loss"] == float("inf"):
            governor["best_loss"] = None
        values = {
            "seed": self.seed,
            "cursor": self.source.cursor,
            "epoch": self.epoch,
            "rollbacks": self.rollbacks,
            "governor": governor,
            "flops": asdict(self.flops),
            "now": dict(now.slots),
            "healthy": dict(self.healthy.slots),
        }
        return tensors, values

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Restore what `state` returned, from an episode of the same seed and configuration."""

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        restore(self.model, Snapshot(part("now/"), values["now"]))
        self.healthy = Snapshot(part("healthy/"), values["healthy"])
        for name, generator in self.generators.items():
            generator.set_state(tensors[f"generator/{name}"])
        self.source.permutation, self.source.cursor = tensors["permutation"], values["cursor"]
        best = values["governor"]["best_loss"]
        self.governor = Governor(**{**values["governor"], "best_loss": float("inf") if best is None else best})
        self.flops = Flops(**values["flops"])
        self.epoch, self.rollbacks = values["epoch"], values["rollbacks"]
