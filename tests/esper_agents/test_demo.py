"""The demonstration, from end to end and small."""

from __future__ import annotations

from esper_agents import demo


def test_the_demonstration_prints_a_table_and_writes_a_picture(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    small = {"episode_length": 12, "samples_per_epoch": 16, "val_samples": 256, "batch_size": 16}
    for name, value in {"ENV_ID": "Esper/Tiny-v0", "SETTINGS": small, "TRAINING_ROUNDS": 1, "TRAINING_ENVS": 2}.items():
        monkeypatch.setattr(demo, name, value)
    assert demo.main() == 0
    out = capsys.readouterr().out
    assert "not a benchmark" in out and "episode_length=12" in out and "seeds from 2000000" in out
    table = out[out.index("controller ") :].splitlines()
    assert [line.split()[0] for line in table[1:5]] == ["wait", "random", "heuristic", "ppo"]
    assert all(len(line.split()) == 7 for line in table[1:5])
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000
