"""The growing model's operations: clocks, gates, removal without a trace."""

import gc

import pytest
import torch
from torch import nn

from esper_env.kasmina import BLUEPRINTS, DEFAULT_BLUEPRINTS, ConvHost, GrowingModel, build
from esper_env.leyline import Stage, Style


def model():
    return GrowingModel(
        build(lambda: ConvHost(3, [4, 8], [3, 3]), 0),
        ("r0c1", "r0c0"),
        (3, 12, 12),
        seed_key=lambda slot, count: 17 * count + len(slot),
        host_lr=0.05,
        seed_lr=0.01,
    )


def hooks(module):
    return [
        h
        for m in module.modules()
        for h in (*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks, *m._backward_pre_hooks)
    ]


def test_slots_keep_the_asked_order_and_the_stream_that_of_the_forward_pass():
    grown = model()
    assert list(grown.slots) == ["r0c1", "r0c0"]
    assert [slot.name for slot in grown.stream] == ["r0c0", "r0c1"]
    assert [slot.channels for slot in grown.stream] == [4, 8]


def test_a_thousand_germinate_prune_cycles_leak_nothing():
    grown = model()
    place = grown.slots["r0c0"]

    def cycles(n):
        for i in range(n):
            grown.germinate(place, DEFAULT_BLUEPRINTS[i % 7], list(Style)[i % 3], 5)
            grown.advance(place)
            grown.prune(place)
            while place.stage is not Stage.DORMANT:
                grown.tick()

    def census():
        gc.collect()
        kinds = [type(o) for o in gc.get_objects()]
        return {
            "tensors": sum(issubclass(kind, torch.Tensor) for kind in kinds),
            "modules": sum(issubclass(kind, nn.Module) for kind in kinds),
            "optimisers": sum(issubclass(kind, torch.optim.Optimizer) for kind in kinds),
        }

    cycles(21)
    before = census()
    cycles(1_000)
    assert census() == before
    assert place.germinations == 1_021
    assert set(grown.modules()) == set(grown.optimizers()) == {"host"}
    assert grown.seed_flops == {} and hooks(grown.host) == []
    assert len(grown.host_optimizer.state) == len(grown.host_optimizer.parameters)


def test_optimisers_appear_and_vanish_with_their_seeds():
    grown = model()
    assert set(grown.optimizers()) == {"host"}
    place = grown.slots["r0c0"]
    grown.germinate(place, "conv_heavy", Style.GATE, 5)
    assert set(grown.optimizers()) == {"host", "seed.r0c0"}
    held = {id(p) for group in place.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in place.seed.parameters()}, "lesson 3: the gate is among them"
    decays = {g["weight_decay"]: {p.ndim for p in g["params"]} for g in place.optimizer.param_groups}
    assert decays == {5e-4: {4}, 0.0: {1}}
    grown.remove(place)
    assert set(grown.optimizers()) == {"host"}


def test_fossils_follow_the_hosts_learning_rate_and_uncommitted_seeds_do_not():
    grown = model()
    for name in ("r0c0", "r0c1"):
        grown.germinate(grown.slots[name], "norm", Style.ADD, 1)
    place = grown.slots["r0c0"]
    for _ in range(3):
        grown.advance(place)
        grown.tick()
    grown.fossilize(place)
    grown.set_lrs(0.123)

    def rates(optimizer):
        return {g["lr"] for g in optimizer.param_groups}

    assert rates(grown.host_optimizer) == rates(place.optimizer) == {0.123}
    assert rates(grown.slots["r0c1"].optimizer) == {0.01}


def test_one_tick_is_one_epoch_for_every_clock():
    """Lesson 6: one tick a step, whatever happens elsewhere."""
    grown = model()
    place = grown.slots["r0c0"]
    grown.germinate(place, "norm", Style.ADD, 1)
    grown.prune(place)
    stages = []
    for _ in range(9):
        stages.append(place.stage.name)
        grown.tick()
    assert stages == ["PRUNED"] * 2 + ["EMBARGOED"] * 5 + ["RESETTING", "DORMANT"]


def test_impossible_transitions_raise():
    grown = model()
    place = grown.slots["r0c0"]
    with pytest.raises(ValueError, match=r"r0c0.*DORMANT to PRUNED"):
        grown.prune(place)
    grown.germinate(place, "norm", Style.ADD, 1)
    with pytest.raises(ValueError, match="GERMINATED to GERMINATED"):
        grown.germinate(place, "norm", Style.ADD, 1)
    with pytest.raises(ValueError, match="GERMINATED to FOSSILIZED"):
        grown.fossilize(place)


class Poisoned(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), float("nan")))

    def forward(self, x):
        return x * self.weight


@pytest.mark.parametrize(
    "factory",
    [lambda c: nn.Conv2d(c, c + 1, 1), lambda c: nn.Conv2d(c, c, 3), lambda c: nn.Conv2d(c + 1, c, 1), Poisoned],
)
def test_gate_one_finds_wrong_shapes_and_numbers_that_are_not_finite(factory, monkeypatch):
    monkeypatch.setitem(BLUEPRINTS, "bad", factory)
    grown = model()
    place = grown.slots["r0c0"]
    grown.germinate(place, "bad", Style.ADD, 1)
    assert not place.facts().sound
    grown.remove(place)
    grown.tick()
    assert place.seed is None


def test_building_leaves_torchs_generator_alone_and_depends_on_the_seed_only():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    a = build(lambda: nn.Linear(3, 3), 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    b, c = build(lambda: nn.Linear(3, 3), 5), build(lambda: nn.Linear(3, 3), 6)
    assert torch.equal(a.weight, b.weight) and not torch.equal(a.weight, c.weight)


def test_a_factory_that_raises_leaves_torchs_generator_alone():
    state = torch.get_rng_state()

    def broken():
        torch.rand(3)
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        build(broken, 0)
    assert torch.equal(torch.get_rng_state(), state)
