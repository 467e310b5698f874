"""Rendering: what is drawn is what the environment is in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium
import matplotlib
import numpy as np
import pytest

import esper_env
from esper_env import EsperEnv, Op, Stage
from esper_env.rendering import HEIGHT, STAGE_COLOURS, WIDTH


def tiny(render_mode: str | None, **arguments: Any) -> EsperEnv:
    env = gymnasium.make("Esper/Tiny-v0", render_mode=render_mode, **arguments).unwrapped
    assert isinstance(env, EsperEnv)
    return env


def play(env: EsperEnv, *ops: Op, slot: str = "r0c0", blueprint: str = "conv_light") -> None:
    """Execute the operations on a slot, waiting before each until it is legal."""
    for op in ops:
        index = next(
            i
            for i, a in enumerate(env.action_table)
            if a.op is op and a.slot == slot and a.blueprint in (None, blueprint)
        )
        while not env.action_masks()[index]:
            env.step(0)
        env.step(index)


BLEND = (Op.GERMINATE, Op.ADVANCE, Op.ADVANCE)


def test_text_before_the_first_epoch_says_not_measured() -> None:
    env = tiny("ansi")
    env.reset(seed=0)
    drawn = env.render()
    assert isinstance(drawn, str)
    assert "tiny on synthetic, epoch 0/150" in drawn
    assert drawn.count("not measured") == 3


def test_text_shows_the_slots_in_the_order_of_the_stream_and_the_last_numbers() -> None:
    env = tiny("ansi", slots=["r0c1", "r0c0"])
    env.reset(seed=0)
    play(env, *BLEND)
    env.step(0)
    _, _, _, _, info = env.step(0)
    drawn = env.render()
    assert isinstance(drawn, str)
    lines = drawn.splitlines()
    host = [line.split()[1] for line in lines if line.startswith(("  ├", "  │"))]
    assert host == ["r0c0", "r1c0", "r0c1", "r1c1"]
    (slot,) = [line for line in lines if "r0c0" in line]
    assert "BLENDING" in slot and "conv_light (add)" in slot and "4x12x12" in slot
    alpha = info["alphas"][1]
    assert 0 < alpha < 1 and f"{alpha:.2f} to 1.00" in slot
    assert slot.count("█") == round(10 * alpha)
    shown = {line[2:22].strip(): line[22:].strip() for line in lines[lines.index("  logits 10") + 2 :]}
    assert shown["validation loss"] == f"{info['val_loss']:.4f}"
    assert shown["validation accuracy"] == f"{100 * info['val_accuracy']:.2f} %"
    assert shown["training accuracy"] == f"{100 * info['train_accuracy']:.2f} %"
    assert shown["value"] == f"{100 * info['value']:.2f} %"
    assert shown["rent due"] == f"{100 * info['rent']:.2f} points"
    assert shown["parameters"] == f"{info['params']:,}"
    assert shown["growth"] == f"{100 * info['growth']:+.1f} %"


def test_picture_is_fixed_size_rgb_and_deterministic() -> None:
    env = tiny("rgb_array")
    env.reset(seed=0)
    play(env, Op.GERMINATE)
    first = env.render()
    assert isinstance(first, np.ndarray)
    assert first.shape == (HEIGHT, WIDTH, 3) and first.dtype == np.uint8
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "red"}):
        again = env.render()
    np.testing.assert_array_equal(first, again)
    env.step(0)
    assert (env.render() != first).any()


def test_picture_shows_the_colour_of_each_stage() -> None:
    def shows(picture: np.ndarray[Any, Any], stage: Stage) -> bool:
        rgb = np.array(matplotlib.colors.to_rgb(STAGE_COLOURS[stage])) * 255
        return bool((np.abs(picture - rgb).max(-1) < 1).sum() > 200)

    env = tiny("rgb_array")
    env.reset(seed=0)
    for op, stage in zip(BLEND, (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING), strict=True):
        assert not shows(env.render(), stage)
        play(env, op)
        assert shows(env.render(), stage)


def test_picture_has_the_whole_accuracy_curve_and_survives_a_fork() -> None:
    env = tiny("rgb_array")
    env.reset(seed=0)
    for _ in range(40):
        env.step(0)
    assert len(env.tally.accuracies) == 40
    np.testing.assert_array_equal(env.render(), env.fork().render())


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
def test_every_host_can_be_drawn_with_every_boundary_a_slot(render_mode: str) -> None:
    for id in ("Esper/CifarScale-v0", "Esper/CifarMinimal-v0", "Esper/FashionBaseline-v0"):
        task = gymnasium.spec(id).kwargs["task"]
        boundaries = esper_env.tasks.get_task(task).host(esper_env.Instance()).boundaries
        env = EsperEnv(task, render_mode=render_mode, dataset="synthetic", slots=boundaries)
        env.reset(seed=0)
        assert env.render() is not None


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
def test_the_vector_environment_renders_each(render_mode: str) -> None:
    envs = gymnasium.make_vec("Esper/Tiny-v0", num_envs=2, render_mode=render_mode)
    envs.reset(seed=0)
    drawn = envs.render()
    assert drawn is not None and len(drawn) == 2
    envs.close()


def test_without_a_render_mode_nothing_is_drawn() -> None:
    env = tiny(None)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ansi.*rgb_array"):
        EsperEnv("tiny", render_mode="human")


def test_a_failed_episode_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    env = tiny("ansi")
    env.reset(seed=0)

    def broken(*_: Any) -> None:
        raise FloatingPointError("planted")

    monkeypatch.setattr(env.episode, "step", broken)
    env.step(0)
    drawn = env.render()
    assert isinstance(drawn, str) and "the episode failed: FloatingPointError: planted" in drawn


def test_matplotlib_is_imported_only_for_a_picture() -> None:
    code = (
        "import sys, gymnasium, esper_env\n"
        "env = gymnasium.make('Esper/Tiny-v0', render_mode='ansi')\n"
        "env.reset(seed=0); env.render()\n"
        "assert 'matplotlib' not in sys.modules\n"
        "env = gymnasium.make('Esper/Tiny-v0', render_mode='rgb_array')\n"
        "env.reset(seed=0); env.render()\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
