"""What a network is worth: its accuracy less the rent of what was added to it."""

from __future__ import annotations

from esper_env.kasmina import GrowingModel, Slot
from esper_env.leyline import Stage
from esper_env.settings import Settings
from esper_env.tasks import Instance

ROLLBACK_PENALTY = 0.1


def occupied_weight(slot: Slot) -> float:
    """Share of a seed's size that counts as added: alpha while uncommitted, all once FOSSILIZED."""
    return 1.0 if slot.stage is Stage.FOSSILIZED else slot.alpha.value


class Rent:
    """The price of growth in one episode, on parameters or on forward FLOPs."""

    def __init__(self, settings: Settings, instance: Instance) -> None:
        self.on_flops = settings.rent_on == "flops"
        self.price = settings.rent * instance.rent_factor
        """Accuracy (0..1) that adding as much as the reference costs."""
        task = settings.task
        self.reference = task.reference_flops if self.on_flops else task.reference_params

    def seed(self, model: GrowingModel, slot: Slot) -> float:
        """Rent of the slot's seed at full weight, in accuracy."""
        if slot.seed is None:
            return 0.0
        # an unsound seed has no FLOPs: G1 keeps it out of every forward pass
        size = model.seed_flops.get(slot.name, 0) if self.on_flops else slot.seed.size
        return self.price * size / self.reference

    def total(self, model: GrowingModel) -> float:
        """Rent due now, in accuracy."""
        return sum(occupied_weight(slot) * self.seed(model, slot) for slot in model.stream)


def added_params(model: GrowingModel) -> float:
    """Parameters added to the host, each seed's weighted by `occupied_weight`."""
    return sum(occupied_weight(slot) * slot.seed.size for slot in model.stream if slot.seed is not None)
