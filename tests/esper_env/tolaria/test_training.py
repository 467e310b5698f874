"""One epoch: what a seed in training may and may not do to its host, schedules, the data stream."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rollouts import grow_to, index, steps, tiny, wait

from esper_env.kasmina import native
from esper_env.leyline import Op, Stage
from esper_env.state import unpack
from esper_env.tolaria.batches import noisy_labels
from esper_env.tolaria.evaluation import evaluate
from esper_env.tolaria.training import (
    DECAY_FROM,
    DECAY_TO,
    FINAL_SHARE,
    WARM_UP_EPOCHS,
    frozen_statistics,
    lr_factor,
)


def host_state(env):
    """Parameters, buffers and momenta of the host, as they are saved."""
    tensors, _ = unpack(env.get_state())
    return {k: v for k, v in tensors.items() if k.startswith("now/host/")}


def assert_same_host(a, b):
    a, b = host_state(a), host_state(b)
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    assert any(k.endswith("running_mean") for k in a) and any("/momentum/" in k for k in a)


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING])
@pytest.mark.parametrize("style", ["add", "gate", "multiply"])
def test_a_host_whose_seeds_were_pruned_before_blending_is_bitwise_one_that_never_had_any(stage, style):
    """Parameters, buffers and optimiser state, while the seeds live and after; shadow passes leave no trace."""
    grown, bare = tiny(styles=(style,)), tiny(styles=(style,))
    grown.reset(seed=3)
    bare.reset(seed=3)

    def both(action):
        *_, info = grown.step(action)
        *_, plain = bare.step(0)
        assert_same_host(grown, bare)
        assert (info["train_loss"], info["val_loss"]) == (plain["train_loss"], plain["val_loss"])

    both(index(grown, Op.GERMINATE, "r0c0", blueprint="conv_heavy"))
    both(index(grown, Op.GERMINATE, "r0c1", blueprint="bottleneck"))
    if stage is Stage.TRAINING:
        both(index(grown, Op.ADVANCE, "r0c0"))
        both(index(grown, Op.ADVANCE, "r0c1"))
        both(0)
        assert grown.episode.model.slots["r0c0"].seed.scale.abs().sum() > 0
        assert grown.episode.flops.shadow > 0
    while grown.slot_facts["r0c1"].age < 5:
        both(0)
    both(index(grown, Op.PRUNE, "r0c0"))
    both(index(grown, Op.PRUNE, "r0c1"))
    for _ in range(3):
        both(0)
    tensors, _ = unpack(grown.get_state())
    assert not any("/seed." in name for name in tensors)


def test_after_a_fade_names_shapes_hooks_and_optimiser_entries_are_those_of_a_bare_host():
    grown, bare = tiny(tempos=(1,)), tiny(tempos=(1,))
    grown.reset(seed=3)
    bare.reset(seed=3)
    grow_to(grown, Stage.HOLDING, "r0c0", "conv_heavy")
    steps(grown, Op.PRUNE, "r0c0")
    wait(grown, 2)
    assert grown.slot_facts["r0c0"].stage is Stage.PRUNED
    wait(bare, grown.episode.epoch)

    def anatomy(env):
        model = env.episode.model
        return (
            {k: (v.shape, v.dtype) for k, v in host_state(env).items()},
            sorted(model.modules()),
            sorted(model.optimizers()),
            [[len(g["params"]) for g in model.host_optimizer.param_groups], len(model.host_optimizer.state)],
            [len(m._forward_hooks) + len(m._backward_hooks) for m in model.host.modules()],
            sorted(name for name in unpack(env.get_state())[0] if name.startswith("now/")),
        )

    assert anatomy(grown) == anatomy(bare)


def test_shadow_training_fits_the_seed_and_counts_its_flops():
    """Lesson 4: the seed is fitted to lower the loss, behind a host that does not move."""
    env = tiny(samples_per_epoch=1_000, val_samples=512, host_lr=1e-6)
    env.reset(seed=0)
    grow_to(env, Stage.TRAINING, "r0c1", "conv_heavy")
    model, validation = env.episode.model, env.episode.validation
    losses = []
    for _ in range(6):
        *_, info = env.step(0)
        (without, with_seed), _ = evaluate(model, validation, [{}, {"r0c1": 1.0}])
        losses.append((without.loss, with_seed.loss))
    assert max(a for a, _ in losses) - min(a for a, _ in losses) < 0.05, "the host hardly moves"
    assert all(b < a - 0.05 for a, b in losses), "at birth they were equal"
    assert info["flops_shadow"] > 0


def test_frozen_statistics_put_everything_back():
    env = tiny()
    env.reset(seed=0)
    host = env.episode.model.host.train()
    before = {k: v.clone() for k, v in host.named_buffers()}
    x = torch.randn(8, 3, 12, 12)
    with frozen_statistics(host):
        frozen = host(x)
    assert all(torch.equal(v, before[k]) for k, v in host.named_buffers())
    assert torch.equal(host(x), frozen), "batch statistics are used either way"
    assert not all(torch.equal(v, before[k]) for k, v in host.named_buffers())
    with pytest.raises(KeyError), frozen_statistics(host):
        raise KeyError
    assert all(m.track_running_stats for m in host.norms)


@given(st.integers(10, 300))
def test_the_schedule_warms_up_rests_decays_and_ends_on_a_plateau(length):
    factors = [lr_factor(e / 4, length) for e in range(4 * length + 1)]
    assert 0 < factors[0] < 0.2
    assert max(factors) == lr_factor(DECAY_FROM * length, length) == 1.0
    falling = factors[math.ceil(4 * max(WARM_UP_EPOCHS, DECAY_FROM * length)) :]
    assert falling == sorted(falling, reverse=True)
    assert lr_factor((DECAY_FROM + DECAY_TO) / 2 * length, length) == pytest.approx((1 + FINAL_SHARE) / 2)
    assert factors[math.ceil(4 * DECAY_TO * length) :] == pytest.approx(
        [FINAL_SHARE] * (4 * length + 1 - math.ceil(4 * DECAY_TO * length))
    )


def test_an_uncommitted_seed_keeps_its_rate_while_the_hosts_decays():
    env = tiny(episode_length=20, tempos=(1,), host_lr=0.04, seed_lr=0.03)
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c0")
    wait(env, 6)
    steps(env, Op.GERMINATE, "r0c1", blueprint="norm")
    steps(env, Op.ADVANCE, "r0c1")
    model = env.episode.model
    host, fossil, seed = (
        o.param_groups[0]["lr"]
        for o in (model.host_optimizer, model.slots["r0c0"].optimizer, model.slots["r0c1"].optimizer)
    )
    assert seed == 0.03 and host == fossil < 0.03


def test_every_image_is_met_once_before_any_is_met_again():
    env = tiny(samples_per_epoch=500, batch_size=64)
    env.reset(seed=0)
    source = env.episode.source
    epochs = [source._next_indices() for _ in range(4)]
    assert torch.cat(epochs).sort().values.tolist() == list(range(2_000))
    again = source._next_indices()
    assert not torch.equal(again, epochs[0])


def test_batches_are_normalised_augmented_training_images():
    env = tiny(samples_per_epoch=100, batch_size=32)
    env.reset(seed=0)
    source = env.episode.source
    batches = list(source.epoch())
    assert [len(labels) for _, labels in batches] == [32, 32, 32, 4]
    images = torch.cat([images for images, _ in batches])
    assert images.shape == (100, 3, 12, 12) and images.dtype == torch.float32
    assert abs(images.mean()) < 0.3 and 0.6 < images.std() < 1.4
    indices = source.permutation[:100]
    assert torch.equal(torch.cat([labels for _, labels in batches]), source.labels[indices])
    plain = source.prepared.normalise(env.episode.data.train.images[indices])
    assert not torch.equal(images, plain)
    kept = (images == plain).flatten(1).all(1).float().mean()
    assert kept < 0.2, "most images are shifted or mirrored"


@pytest.mark.skipif(native.in_use() is None, reason="torch's own layers are in use")
def test_kernels_and_torch_cut_the_same_batches():
    env, twin = tiny(samples_per_epoch=100), tiny(samples_per_epoch=100)
    env.reset(seed=0)
    twin.reset(seed=0)
    ours = list(env.episode.source.epoch())
    with native.torch_kernels():
        theirs = list(twin.episode.source.epoch())
    for (images, labels), (others, their_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, their_labels)


def test_weights_learn_on_after_taking_part_in_a_shadow_pass():
    env = tiny(tempos=(1,))
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c0")
    grow_to(env, Stage.TRAINING, "r0c1")
    before = {name: [p.detach().clone() for p in m.parameters()] for name, m in env.episode.model.modules().items()}
    wait(env)
    for name, module in env.episode.model.modules().items():
        for p, old in zip(module.parameters(), before[name], strict=True):
            assert p.requires_grad and not torch.equal(p, old)


@given(share=st.sampled_from([0.0, 0.2, 0.6, 1.0]))
def test_label_noise_replaces_its_share_by_any_class(share):
    labels = torch.arange(10).repeat(500)
    noisy = noisy_labels(labels, share, 10, torch.Generator().manual_seed(0))
    assert (noisy != labels).float().mean() == pytest.approx(0.9 * share, abs=0.03)
    assert noisy.min() >= 0 and noisy.max() <= 9
    assert labels.tolist() == torch.arange(10).repeat(500).tolist()


def test_bf16_learns_as_float32_does():
    """Weights that were cast once must not outlive the batch: the environment's own autocast is around them all."""
    losses = {}
    for precision in ("fp32", "bf16"):
        env = tiny(precision=precision, samples_per_epoch=512, batch_size=16)
        env.reset(seed=0)
        losses[precision] = [float(env.step(0)[4]["train_loss"]) for _ in range(3)]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.06)
    assert losses["fp32"][-1] < 0.9 * losses["fp32"][0]


def test_bf16_trains_and_keeps_its_weights_in_float32():
    env = tiny(precision="bf16", tempos=(1,))
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c1")
    *_, info = wait(env)
    assert info["error_code"] == 0 and not info["rollback"]
    assert all(p.dtype == torch.float32 for m in env.episode.model.modules().values() for p in m.parameters())
