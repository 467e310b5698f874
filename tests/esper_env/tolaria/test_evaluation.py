"""Counterfactual evaluation: many variants over shared prefixes, and the numbers that follow from them."""

from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rollouts import grow_to, index, steps, tiny, wait

from esper_env.kasmina.model import compose
from esper_env.leyline import Op, Stage
from esper_env.tolaria.evaluation import counterfactual, evaluate, present, shapley_values

FOUR = ("r0c0", "r1c0", "r0c1", "r1c1")


def blended(slots, styles=("add", "gate", "multiply")):
    """An environment with a seed that has learned in each of these slots, all blended; one of them TRAINING."""
    env = tiny(slots=FOUR, styles=styles, tempos=(4,), val_samples=300, episode_length=100)
    env.reset(seed=2)
    for i, slot in enumerate(slots):
        style = styles[i % len(styles)]
        steps(env, Op.GERMINATE, slot, blueprint="conv_light", style=style)
        steps(env, Op.ADVANCE, slot)
    wait(env, 4)
    for slot in slots:
        steps(env, Op.ADVANCE, slot)
    wait(env, 2)
    with torch.no_grad():  # large enough effects to tell every subset from every other
        for i, slot in enumerate(slots):
            seed = env.episode.model.slots[slot].seed
            seed.scale.copy_(torch.randn(len(seed.scale), generator=torch.Generator().manual_seed(i)))
    return env


@pytest.fixture(scope="module")
def three():
    return blended(FOUR[:3])


@pytest.fixture(scope="module")
def four():
    return blended(FOUR)


def separately(env, variant):
    """Score one variant alone, without shared prefixes and without folding."""
    model, data = env.episode.model, env.episode.validation
    model.train(False)
    loss, hits = 0.0, 0
    with torch.no_grad():
        for images, labels in zip(data.images, data.labels, strict=True):
            x, position = images.clone(), 0
            for slot in model.stream:
                if variant.get(slot.name, 0.0) > 0:
                    x, position = model.host.run(x, position, slot.position), slot.position
                    x = slot.seed(x, x, variant[slot.name])
            logits = model.host.run(x, position, model.end)
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            hits += (logits.argmax(1) == labels).sum().item()
    return loss / data.size, hits / data.size


def subsets(names):
    return [frozenset(c) for n in range(len(names) + 1) for c in combinations(names, n)]


def test_the_tree_of_subsets_agrees_with_separate_evaluations(three):
    model = three.episode.model
    now = present(model)
    assert set(now) == set(FOUR[:3]) and all(0 < alpha <= 1 for alpha in now.values())
    variants = [{k: now[k] for k in subset} for subset in subsets(FOUR[:3])]
    scores, flops = evaluate(model, three.episode.validation, variants)
    expected = [separately(three, variant) for variant in variants]
    for score, (loss, accuracy) in zip(scores, expected, strict=True):
        assert score.loss == pytest.approx(loss, rel=1e-4)
        assert score.accuracy == accuracy
    assert len({round(loss, 6) for loss, _ in expected}) == 8
    alone = sum(evaluate(model, three.episode.validation, [v])[1] for v in variants)
    assert flops < 0.8 * alone, "prefixes are shared"


def test_the_order_of_the_variants_and_repeats_do_not_matter(three):
    model, data = three.episode.model, three.episode.validation
    variants = [{"r0c0": 0.3}, {}, {"r1c0": 1.0, "r0c0": 0.3}, {"r0c0": 0.6}, {}, {"r0c1": 0.5}]
    forward, flops = evaluate(model, data, variants)
    backward, same_flops = evaluate(model, data, variants[::-1])
    assert forward == backward[::-1] and flops == same_flops
    assert forward[1] == forward[4] != forward[0] != forward[3]


def test_the_present_network_is_the_forward_pass_of_the_model(three):
    model, data = three.episode.model, three.episode.validation
    loss, accuracy = separately(three, present(model))
    score = counterfactual(model, data).score
    assert score.accuracy == accuracy and score.loss == pytest.approx(loss, rel=1e-4)
    model.train(False)
    with torch.no_grad():
        hits = sum(
            (model.forward(x)[0].argmax(1) == y).sum().item() for x, y in zip(data.images, data.labels, strict=True)
        )
    assert accuracy == hits / data.size


def test_contributions_interactions_and_shapley_come_from_the_same_numbers(three):
    model, data = three.episode.model, three.episode.validation
    result, now = counterfactual(model, data), present(model)
    worth = {s: separately(three, {k: now[k] for k in s})[1] for s in subsets(FOUR[:3])}
    everyone = frozenset(FOUR[:3])
    for name in everyone:
        assert result.contributions[name] == pytest.approx(worth[everyone] - worth[everyone - {name}], abs=1e-12)
        others = sum(
            worth[everyone] - worth[everyone - {name}] - worth[everyone - {o}] + worth[everyone - {name, o}]
            for o in everyone - {name}
        )
        assert result.interactions[name] == pytest.approx(others, abs=1e-12)
    assert sum(result.shapley.values()) == pytest.approx(worth[everyone] - worth[frozenset()], abs=1e-12)


def test_beyond_three_seeds_only_leave_one_out(four):
    model, data = four.episode.model, four.episode.validation
    result, now = counterfactual(model, data), present(model)
    assert result.shapley == {} and result.interactions == {}
    full = separately(four, now)[1]
    for name in FOUR:
        without = separately(four, {k: v for k, v in now.items() if k != name})[1]
        assert result.contributions[name] == pytest.approx(full - without, abs=1e-12)
    *_, info = four.fork().step(0)
    assert info["contributions_measured"].all() and not info["shapley_measured"].any()


def test_fossils_are_part_of_every_variant_and_seeds_in_training_of_none():
    env = tiny(tempos=(1,), val_samples=200)
    env.reset(seed=2)
    grow_to(env, Stage.FOSSILIZED, "r0c0")
    learning = ("r1c0", "r0c1")
    for i, slot in enumerate(learning):
        grow_to(env, Stage.TRAINING, slot)
        scale = env.episode.model.slots[slot].seed.scale
        with torch.no_grad():
            scale.copy_(torch.randn(len(scale), generator=torch.Generator().manual_seed(i)))
    model, data = env.episode.model, env.episode.validation
    result = counterfactual(model, data)
    assert result.contributions == {} and set(result.shadow_gains) == set(learning)
    assert result.score.accuracy == separately(env, {"r0c0": 1.0})[1]
    for slot in learning:
        shadow = separately(env, {"r0c0": 1.0, slot: 1.0})[1]
        assert result.shadow_gains[slot] == pytest.approx(shadow - result.score.accuracy, abs=1e-12)


def test_evaluation_changes_nothing(three):
    before = three.get_state()
    counterfactual(three.episode.model, three.episode.validation)
    assert three.get_state() == before
    data = three.episode.validation
    assert not any(x.is_inference() for x in data.images)


def test_a_seed_that_does_nothing_contributes_exactly_nothing():
    """Lesson 19: paired differences on one fixed subset have no sampling noise."""
    env = tiny(tempos=(1,))
    env.reset(seed=0)
    grow_to(env, Stage.HOLDING, "r0c0", "conv_heavy")
    with torch.no_grad():
        env.episode.model.slots["r0c0"].seed.scale.zero_()
    result = counterfactual(env.episode.model, env.episode.validation)
    assert result.contributions == result.shapley == {"r0c0": 0.0}


@given(st.data(), st.integers(1, 4))
def test_shapley_values_are_the_mean_over_all_orders(data, players):
    names = [f"p{i}" for i in range(players)]
    worth = {s: data.draw(st.floats(-1, 1)) for s in subsets(names)}
    values = shapley_values(worth, names)
    orders = list(permutations(names))
    for name in names:
        marginal = [
            worth[frozenset(order[: order.index(name) + 1])] - worth[frozenset(order[: order.index(name)])]
            for order in orders
        ]
        assert values[name] == pytest.approx(sum(marginal) / len(orders), abs=1e-9)
    assert sum(values.values()) == pytest.approx(worth[frozenset(names)] - worth[frozenset()], abs=1e-9)


def test_fading_seeds_are_frozen_in_training_and_count_at_their_alpha():
    env = tiny(tempos=(1,))
    env.reset(seed=0)
    grow_to(env, Stage.HOLDING, "r0c0")
    steps(env, Op.PRUNE, "r0c0")
    model = env.episode.model
    slot = model.slots["r0c0"]
    assert slot.fading and present(model) == {"r0c0": slot.alpha.value}
    h = torch.randn(2, 4, 12, 12, requires_grad=True)
    out = compose(slot, h)
    assert torch.equal(torch.autograd.grad(out.sum(), h)[0], torch.ones_like(h))
    assert not env.action_masks()[index(env, Op.PRUNE, "r0c0")]
