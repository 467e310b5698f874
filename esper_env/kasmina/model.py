"""The growing model: a host, its slots, and the operations that edit them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from esper_env.kasmina.alpha import Alpha
from esper_env.kasmina.flops import forward_flops
from esper_env.kasmina.hosts import Host, Runner
from esper_env.kasmina.optim import ClippedSGD
from esper_env.kasmina.seed import Seed
from esper_env.kasmina.slot import Slot, is_sound
from esper_env.leyline import Action, AlphaCurve, Op, Stage, Style
from esper_env.leyline.lifecycle import BLENDED, COOLDOWN_EPOCHS, OCCUPIED

_BUILD_LOCK = threading.Lock()


def build(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a module whose initial weights depend on `seed` alone.

    ``nn.Conv2d()`` draws from torch's global generator, so that is saved, seeded and restored under one
    process-wide lock; nothing else in Esper touches a global generator.
    """
    with _BUILD_LOCK:
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            return factory()
        finally:
            torch.set_rng_state(state)


class GrowingModel:
    """A host with slots. Pure torch: knows nothing of epochs, data or rewards.

    Args:
        host: the backbone; `Host` says what it must offer.
        slots: names of the boundaries that get a slot.
        image_shape: (C, H, W) of one input.
        seed_key: called with (slot name, germinations there before), returns the seed of a module's weights.
        host_lr: initial learning rate of the host's optimiser.
        seed_lr: learning rate of uncommitted seeds.
        alpha_curve: shape of alpha's ramps.
    """

    def __init__(
        self,
        host: nn.Module,
        slots: Sequence[str],
        image_shape: tuple[int, int, int],
        *,
        seed_key: Callable[[str, int], int],
        host_lr: float,
        seed_lr: float,
        alpha_curve: AlphaCurve = AlphaCurve.SIGMOID,
    ) -> None:
        assert isinstance(host, Host)
        self.host = host
        self.end = len(host.boundaries) + 1
        self.seed_key, self.seed_lr, self.alpha_curve = seed_key, seed_lr, alpha_curve
        self.host_optimizer = ClippedSGD(host, host_lr)
        self.host_size = sum(p.numel() for p in host.parameters())
        positions = sorted(host.boundaries.index(name) + 1 for name in slots)
        self.shapes, self.segment_flops = _probe(host, positions, image_shape)
        by_position = {p: Slot(host.boundaries[p - 1], p, self.shapes[p][0]) for p in positions}
        self.slots = {name: by_position[host.boundaries.index(name) + 1] for name in slots}
        self.stream = tuple(by_position[p] for p in positions)
        """The slots in the order of the forward pass."""
        self.seed_flops: dict[str, int] = {}
        """FLOPs of one image's forward pass through each occupied slot's seed."""
        self.repeatable: dict[Hashable, bool] = {}
        """Whether a recording of the kernels does all that a batch does, by kind of batch and `structure`."""

    # -- forward passes ------------------------------------------------------------------------------

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The training forward pass.

        Returns:
            Logits, and for each slot in TRAINING the host's activation there, detached. The logits do not
            depend on those seeds in any bit.
        """
        taps = {}
        position = 0
        for slot in self.stream:
            if slot.stage is Stage.TRAINING:
                x = self.host.run(x, position, slot.position)
                taps[slot.name] = x.detach()
                position = slot.position
            elif slot.live:
                x = compose(slot, self.host.run(x, position, slot.position))
                position = slot.position
        return self.host.run(x, position, self.end), taps

    def shadow(self, name: str, tap: torch.Tensor) -> torch.Tensor:
        """Logits with the TRAINING seed of slot `name` at alpha 1 on its tap, other TRAINING seeds absent."""
        slot = self.slots[name]
        assert slot.seed is not None
        x, position = slot.seed(tap, tap, 1.0), slot.position
        for other in self.stream:
            if other.position > slot.position and other.live:
                x = compose(other, self.host.run(x, position, other.position))
                position = other.position
        return self.host.run(x, position, self.end)

    def inference(self) -> Runner:
        """The host as it is now, in its fastest form for evaluation. The host must be in evaluation mode."""
        fold = getattr(self.host, "inference", None)
        return self.host if fold is None else fold()

    # -- operations ----------------------------------------------------------------------------------

    def apply(self, action: Action) -> None:
        """Execute a legal action; whether it is legal is `esper_env.leyline.is_legal`'s to say."""
        if action.slot is None:
            return
        slot = self.slots[action.slot]
        match action.op:
            case Op.GERMINATE:
                assert action.blueprint is not None and action.style is not None and action.tempo is not None
                self.germinate(slot, action.blueprint, action.style, action.tempo)
            case Op.ADVANCE:
                self.advance(slot)
            case Op.SET_ALPHA_TARGET:
                assert action.alpha_target is not None
                if slot.stage is Stage.HOLDING:
                    slot.enter(Stage.BLENDING)
                slot.alpha = slot.alpha.ramp_to(action.alpha_target, slot.tempo)
            case Op.FOSSILIZE:
                self.fossilize(slot)
            case Op.PRUNE:
                self.prune(slot)

    def germinate(self, slot: Slot, blueprint: str, style: Style, tempo: int) -> None:
        """Put a new seed into a dormant slot. It is the identity until it is trained and blended."""
        key = self.seed_key(slot.name, slot.germinations)
        slot.enter(Stage.GERMINATED)
        slot.germinations += 1
        self.install(slot, blueprint, style, tempo, key)

    def install(self, slot: Slot, blueprint: str, style: Style, tempo: int, key: int) -> None:
        """Build the module and the optimiser of a seed into `slot`, whatever its stage."""
        device = next(self.host.parameters()).device
        seed = build(lambda: Seed(blueprint, slot.channels, style), key).to(device)
        assert isinstance(seed, Seed)
        shape = self.shapes[slot.position]
        slot.seed, slot.blueprint, slot.tempo = seed, blueprint, tempo
        slot.alpha = Alpha(curve=self.alpha_curve)
        slot.sound = is_sound(seed, shape[0], shape[1:])
        slot.optimizer = ClippedSGD(seed, self.seed_lr)
        if slot.sound:
            probe = torch.zeros((1, *shape), device=device)
            _, self.seed_flops[slot.name] = forward_flops(partial(seed, probe, probe, 0.5))

    def advance(self, slot: Slot) -> None:
        """GERMINATED to TRAINING to BLENDING to HOLDING."""
        slot.enter(Stage(slot.stage + 1))
        if slot.stage is Stage.BLENDING:
            slot.alpha = slot.alpha.ramp_to(1.0, slot.tempo)

    @torch.no_grad()
    def fossilize(self, slot: Slot) -> None:
        """Keep the seed for good: alpha is folded into its output scale and the scale's momentum."""
        assert slot.seed is not None and slot.optimizer is not None
        slot.enter(Stage.FOSSILIZED)
        alpha = slot.alpha.value
        if slot.seed.style is not Style.MULTIPLY:
            slot.seed.scale.mul_(alpha)
            slot.optimizer.state[slot.seed.scale]["momentum_buffer"].mul_(alpha)
        slot.alpha = Alpha(1.0, 1.0, 1.0, curve=self.alpha_curve)

    def prune(self, slot: Slot) -> None:
        """Take the seed out: at once from GERMINATED or TRAINING, by a frozen fade-out once it is blended."""
        if slot.stage in BLENDED and slot.alpha.value > 0.0:
            if slot.stage is Stage.HOLDING:
                slot.enter(Stage.BLENDING)
            slot.fade()
        else:
            self.remove(slot)

    def remove(self, slot: Slot) -> None:
        """Drop an uncommitted seed now. Nothing of it is left."""
        slot.enter(Stage.PRUNED)
        slot.clear()
        self.seed_flops.pop(slot.name, None)

    def tick(self) -> None:
        """Let one epoch pass: alphas ramp, cooldowns run. Called once a step, by one caller."""
        for slot in self.stream:
            if slot.epochs_in_stage >= COOLDOWN_EPOCHS.get(slot.stage, slot.epochs_in_stage + 1):
                slot.enter(Stage.DORMANT if slot.stage is Stage.RESETTING else Stage(slot.stage + 1))
            if slot.seed is not None:
                slot.age += 1
                slot.evidence.effect_age += 1
                slot.alpha = slot.alpha.tick()
                if slot.fading and slot.alpha.at_target:
                    self.remove(slot)
            slot.epochs_in_stage += 1

    @property
    def structure(self) -> Hashable:
        """What decides which operations a batch is made of."""
        return tuple((s.stage, s.live, s.fading, s.blueprint, s.style) for s in self.stream)

    # -- what there is -------------------------------------------------------------------------------

    def in_stages(self, stages: Iterable[Stage]) -> list[Slot]:
        """The slots in any of `stages`, in the order of the forward pass."""
        wanted = frozenset(stages)
        return [slot for slot in self.stream if slot.stage in wanted]

    def modules(self) -> Mapping[str, nn.Module]:
        """The host and the seeds, by name: ``host`` and ``seed.{slot}``."""
        assert isinstance(self.host, nn.Module)
        return {"host": self.host} | {f"seed.{s.name}": s.seed for s in self.stream if s.seed is not None}

    def optimizers(self) -> Mapping[str, ClippedSGD]:
        """Their optimisers, by the same names."""
        return {"host": self.host_optimizer} | {
            f"seed.{s.name}": s.optimizer for s in self.stream if s.optimizer is not None
        }

    def train(self, mode: bool = True) -> None:
        """Set training or evaluation mode everywhere."""
        for module in self.modules().values():
            module.train(mode)

    def set_lrs(self, host_lr: float) -> None:
        """Set the host's learning rate; fossilised seeds follow it."""
        self.host_optimizer.set_lr(host_lr)
        for slot in self.in_stages({Stage.FOSSILIZED}):
            assert slot.optimizer is not None
            slot.optimizer.set_lr(host_lr)

    def is_finite(self) -> bool:
        """Whether every parameter and buffer is finite."""
        tensors = [t for m in self.modules().values() for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()]
        with torch.no_grad():
            return bool(torch.isfinite(torch.stack(torch._foreach_norm(tensors))).all())

    def flops_between(self, start: int, stop: int) -> int:
        """FLOPs of one image's forward pass through the host, from 0 or a slot to a later slot or the end."""
        return sum(flops for position, flops in self.segment_flops.items() if start < position <= stop)

    @property
    def sizes(self) -> dict[str, int]:
        """Parameters of each occupied slot's seed."""
        return {s.name: s.seed.size for s in self.in_stages(OCCUPIED) if s.seed is not None}


def compose(slot: Slot, h: torch.Tensor) -> torch.Tensor:
    """Join a live seed to the activation `h` of its slot, as its stage demands."""
    assert slot.seed is not None
    committed = slot.stage is Stage.FOSSILIZED
    out: torch.Tensor = slot.seed(h, h, 1.0) if committed else slot.seed(h, h.detach(), slot.alpha.value)
    return out


def _probe(
    host: nn.Module, positions: Sequence[int], image_shape: tuple[int, int, int]
) -> tuple[dict[int, tuple[int, int, int]], dict[int, int]]:
    """Run one blank image through the host: the shape at each slot, the FLOPs of the segment ending there."""
    assert isinstance(host, Host)
    training = host.training
    host.eval()
    x = torch.zeros((1, *image_shape), device=next(host.parameters()).device)
    shapes: dict[int, tuple[int, int, int]] = {}
    flops: dict[int, int] = {}
    start = 0
    for stop in [*positions, len(host.boundaries) + 1]:
        x, flops[stop] = forward_flops(partial(host.run, x, start, stop))
        start = stop
        if stop <= len(host.boundaries):
            _, c, h, w = x.shape
            shapes[stop] = (c, h, w)
    host.train(training)
    return shapes, flops
