"""The demonstration, from end to end and small."""

from __future__ import annotations

from esper_agents import demo


def test_the_demonstration_prints_a_table_and_writes_a_picture(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    hosts = {"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16}
    small = {"env_json": hosts, "episode_length": 12, "rounds": 2, "envs": 2, "memory_size": 8}
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS | small)
    assert demo.main() == 0
    out = capsys.readouterr().out
    assert "not a benchmark" in out and "episode_length=12" in out and "seeds from 2000000" in out
    table = out[out.index("controller ") :].splitlines()
    assert [line[:15].strip() for line in table[1:6]] == [
        "wait",
        "random",
        "heuristic",
        "cifar_baseline",
        "newly trained",
    ]
    assert all(len(line[15:].split()) == 6 for line in table[1:6])
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000
    assert list((tmp_path / "demo").glob("cifar_baseline-seed0-*/policy.safetensors"))
