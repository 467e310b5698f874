"""The hosts: sizes, boundaries, folded inference."""

import pytest
import torch
from rollouts import IDS

from esper_env.kasmina import ConvHost, build
from esper_env.tasks import BUILT_IN, Instance


@pytest.mark.parametrize(("env_id", "size"), IDS.items())
def test_parameter_counts_are_those_of_the_table(env_id, size):
    host = BUILT_IN[env_id].host(Instance())
    assert sum(p.numel() for p in host.parameters()) == size


@pytest.mark.parametrize("env_id", IDS)
def test_boundaries_sit_after_each_block_before_and_after_its_pool(env_id):
    host, task = BUILT_IN[env_id].host(Instance()), BUILT_IN[env_id]
    blocks = len(host.convs)
    rows = (0,) if env_id == "Esper/CifarMinimal-v0" else (0, 1)
    assert host.boundaries == tuple(f"r{row}c{i}" for i in range(blocks) for row in rows)
    assert set(task.slots) <= set(host.boundaries)
    x = torch.zeros(2, task.channels, task.size, task.size)
    size = task.size
    for position, name in enumerate(host.boundaries, 1):
        x = host.run(x, position - 1, position)
        size //= 2 if name.startswith("r1") else 1
        assert x.shape == (2, host.convs[int(name[3:])].out_channels, size, size)


def test_the_fashion_host_takes_padded_single_channel_images():
    task = BUILT_IN["Esper/FashionBaseline-v0"]
    assert (task.channels, task.size) == (1, 32)
    assert task.host(Instance())(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("pool", [True, False])
def test_folded_batch_norm_agrees_with_evaluation_mode(pool):
    host = build(lambda: ConvHost(3, [4, 8], [3, 1], pool=pool), 0).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in host.norms:
            norm.weight.uniform_(0.5, 2, generator=generator)
            norm.bias.uniform_(-1, 1, generator=generator)
        for _ in range(4):
            host(3 * torch.randn(16, 3, 12, 12, generator=generator) + 1)
        host.eval()
        x = torch.randn(16, 3, 12, 12, generator=generator)
        expected, got = host(x), host.inference().run(x, 0, len(host.boundaries) + 1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (got.argmax(1) == expected.argmax(1)).all()


def test_a_folded_host_is_the_host_as_it_was():
    host = build(lambda: ConvHost(3, [4], [3]), 0).eval()
    runner, x = host.inference(), torch.ones(1, 3, 8, 8)
    before = runner.run(x, 0, 1)
    with torch.no_grad():
        host.convs[0].weight.mul_(2)
    assert torch.equal(runner.run(x, 0, 1), before)
    assert not torch.equal(host.inference().run(x, 0, 1), before)


def test_pool_and_relu_may_change_places_without_changing_a_bit():
    host = build(lambda: ConvHost(3, [4, 8], [3, 3]), 0).train()
    x = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    end = len(host.boundaries) + 1
    losses = []
    for stops in ([end], [1, end], [1, 2, 3, 4, end]):
        y = x.clone()
        for start, stop in zip([0, *stops], stops, strict=False):
            y = host.run(y, start, stop)
        host.zero_grad()
        y.square().sum().backward()
        losses.append([y.detach(), *(p.grad.clone() for p in host.parameters())])
    for other in losses[1:]:
        assert all(torch.equal(a, b) for a, b in zip(losses[0], other, strict=True))
