"""The alarms: what raises them, what clears them, and what leaves them alone."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_env.leyline.events import EpisodeEnd, RunStart, Step, Update
from esper_env.nissa import Detectors
from esper_env.nissa.detectors import DEGRADED, KL, PATIENCE_EPOCHS, STALLED_S

STEP = Step(
    env=0,
    episode_seed=0,
    epoch=1,
    action="WAIT",
    executed=True,
    reward=0.0,
    value=0.5,
    train_loss_nats=1.0,
    train_accuracy=0.5,
    val_loss_nats=1.0,
    val_accuracy=0.5,
    params=10,
    growth=0.0,
    rent=0.0,
    stages=("DORMANT",),
    alphas=(0.0,),
    blueprints=(None,),
    train_s=0.1,
    evaluate_s=0.1,
    observe_s=0.0,
)
UPDATE = Update(
    round=1,
    done_steps=100,
    policy_loss=0.0,
    value_loss=1.0,
    entropy_nats=1.0,
    entropy_by_operation_nats={"WAIT": 0.4, "PRUNE": None},
    approx_kl_nats=0.01,
    clip_share=0.1,
    ratio_error=1e-7,
    explained_variance=None,
    learning_rate=1e-3,
    q_by_operation={},
    time_s_by_part={},
)
END = EpisodeEnd(
    env=0,
    controller="wait",
    episode_seed=0,
    total_return=0.0,
    committed_accuracy=0.5,
    params=10,
    growth=0.0,
    germinated=0,
    fossilized=0,
    pruned=0,
    rollbacks=0,
    invalid_actions=0,
    flops_total=1,
    error_code=0,
)
HEADER = RunStart(
    controller="wait",
    task="Esper/Tiny-v0",
    command="",
    config={},
    config_sha256="",
    provenance={},
    versions={},
    commit=None,
    seed=0,
    devices=("cpu",),
    threads=1,
    process=1,
    host="",
    envs=1,
    episode_epochs=10,
    total_steps=None,
    done_steps=0,
    slots=("r0c0",),
    blueprints=(),
    operations=(),
)


def told(detectors, *events, now=0.0):
    """(detector, raised) of what the events bring about."""
    return [(a.detector, a.raised) for e in events for a in detectors.see(e, now)]


@pytest.mark.parametrize(
    ("detector", "change"),
    [
        ("non_finite", {"value_loss": math.nan}),
        ("non_finite", {"q_by_operation": {"WAIT": math.inf, "PRUNE": None}}),
        ("kl", {"approx_kl_nats": 0.2}),
        ("clipped", {"clip_share": 0.6}),
        ("ratio", {"ratio_error": 0.01}),
        ("entropy PRUNE", {"entropy_by_operation_nats": {"PRUNE": 1e-5}}),
    ],
)
def test_an_update_raises_an_alarm_once_and_a_healthy_one_clears_it(detector, change):
    detectors = Detectors()
    well = replace(UPDATE, entropy_by_operation_nats={"PRUNE": 0.1})
    assert told(detectors, well) == []
    ill = replace(well, **change)
    assert told(detectors, ill, ill) == [(detector, True)]
    assert told(detectors, well, well) == [(detector, False)]


@pytest.mark.parametrize(
    "change", [{"train_loss_nats": math.nan}, {"val_loss_nats": math.inf}, {"alphas": (math.nan,)}]
)
def test_a_step_that_is_not_finite_is_an_alarm_of_its_environment(change):
    detectors = Detectors()
    ill, other = replace(STEP, **change), replace(STEP, env=1)
    (alarm,) = [a for step in (ill, ill, other) for a in detectors.see(step, 0.0)]
    assert (alarm.detector, alarm.env, alarm.raised) == ("non_finite", 0, True)
    (field,) = change
    assert f"{field}{' 0' if field == 'alphas' else ''} of step 1 of environment 0 not finite" in alarm.message
    assert told(detectors, STEP, STEP) == [("non_finite", False)]


def test_between_the_thresholds_an_alarm_stays_what_it_is():
    detectors = Detectors()
    between = replace(UPDATE, approx_kl_nats=sum(KL) / 2)
    assert told(detectors, between) == []
    assert told(detectors, replace(UPDATE, approx_kl_nats=2 * KL[0]), between, between) == [("kl", True)]


def test_an_operation_that_was_never_taken_has_no_entropy_to_lose():
    """As SET_ALPHA_TARGET, which an untrained policy leaves to learning."""
    detectors = Detectors()
    rounds = [replace(UPDATE, entropy_by_operation_nats={"PRUNE": e}) for e in (7e-4, 5e-3, 8e-4, 0.1, 5e-4)]
    assert told(detectors, *rounds[:3]) == []
    assert told(detectors, *rounds[3:]) == [("entropy PRUNE", True)]


def test_a_value_loss_is_measured_by_those_before():
    detectors = Detectors()
    few = [replace(UPDATE, value_loss=v) for v in (1.0, 100.0)]
    assert told(detectors, *few) == [], "too few to know what is usual"
    assert told(detectors, *[UPDATE] * 6, replace(UPDATE, value_loss=20.0)) == [("value_loss", True)]


def epochs(*accuracies, env=0):
    return [replace(STEP, env=env, epoch=i + 1, val_accuracy=a) for i, a in enumerate(accuracies)]


def test_an_environment_that_lost_what_it_had_is_degraded_after_some_epochs():
    detectors, bad = Detectors(), 0.8 * DEGRADED[0] * 0.8
    assert told(detectors, *epochs(0.8, *[bad] * (PATIENCE_EPOCHS - 1), 0.8)) == []
    (alarm,) = [a for e in epochs(0.8, *[bad] * PATIENCE_EPOCHS, env=3) for a in detectors.see(e, 0.0)]
    assert (alarm.detector, alarm.env, alarm.raised) == ("degraded", 3, True) and "80.0%" in alarm.message
    assert told(detectors, replace(STEP, env=3, val_accuracy=0.8)) == [("degraded", False)]


def test_a_new_episode_starts_without_the_best_of_the_one_before():
    detectors = Detectors()
    assert told(detectors, *epochs(0.9, 0.9), END, *epochs(*[0.1] * 20)) == []
    assert told(detectors, *epochs(0.9, 0.9), *epochs(*[0.1] * 20)) == [], "a truncated one has no end"


def test_an_episode_that_failed_is_an_alarm_until_one_ends_well():
    detectors = Detectors()
    assert told(detectors, replace(END, error_code=1), replace(END, error_code=1)) == [("failed", True)]
    assert told(detectors, replace(END, env=1)) == []
    assert told(detectors, END) == [("failed", False)]
    (alarm,) = detectors.see(replace(END, error_code=1, error="ValueError: needle"), 0.0)
    assert alarm.message == "an episode of environment 0 ended in an error: ValueError: needle"


def test_what_was_raised_in_another_part_of_a_run_is_raised_again():
    detectors = Detectors()
    failed = replace(END, error_code=1)
    assert told(detectors, failed, HEADER, failed, failed) == [("failed", True), ("failed", True)]


def test_silence_is_an_alarm_and_the_next_step_ends_it():
    detectors = Detectors()
    assert detectors.tick(1e9) == [], "nothing has begun"
    told(detectors, STEP, now=1000.0)
    told(detectors, STEP, now=1001.0)
    assert detectors.tick(1001.0 + STALLED_S - 1) == []
    (alarm,) = detectors.tick(1001.0 + STALLED_S + 1)
    assert alarm.detector == "stalled" and alarm.raised and detectors.tick(2000.0) == []
    assert told(detectors, STEP, now=2000.0) == [("stalled", False)]


def alarms(detectors, *steps):
    """What is told at these times by these environments."""
    return [(a.detector, a.env, a.raised) for env, now in steps for a in detectors.see(replace(STEP, env=env), now)]


def test_an_environment_that_is_silent_while_others_step_is_named():
    detectors = Detectors()
    assert alarms(detectors, (0, 0.0), (1, 0.0), (2, 0.0), *[(0, float(t)) for t in range(1, 61)]) == []
    detectors.see(replace(END, env=2), 60.0)
    assert alarms(detectors, (0, STALLED_S + 1)) == [("stalled", 1, True)], "2 has nothing to do"
    assert alarms(detectors, (0, STALLED_S + 2), (1, 70.0), (0, 71.0)) == [("stalled", 1, False)]
    later = [(0, float(t)) for t in range(72, 361, 12)]
    assert alarms(detectors, *later) == [], "one that took a minute may take five"
    assert [(a.env, a.raised) for a in detectors.tick(371.0)] == [(1, True)]
    assert told(detectors, replace(END, env=1, error_code=1), now=372.0) == [("failed", True), ("stalled", False)]


def test_when_all_were_silent_none_is_named():
    detectors = Detectors()
    assert alarms(detectors, (0, 0.0), (1, 0.0)) == []
    assert [(a.env, a.raised) for a in detectors.tick(1000.0)] == [(None, True)]
    assert alarms(detectors, (0, 1000.0), (1, 1001.0)) == [("stalled", None, False)]


def test_of_environments_that_wait_for_each_other_those_in_a_step_are_named():
    detectors = Detectors()
    detectors.together = True
    assert alarms(detectors, (0, 0.0), (1, 0.0), (2, 0.0)) == []
    late = detectors.tick(STALLED_S + 1, stepping=(1,))
    assert [(a.detector, a.env, a.raised) for a in late] == [("stalled", None, True), ("stalled", 1, True)]
    assert "environment 1 has not come back" in late[1].message
    assert detectors.tick(STALLED_S + 2, stepping=(1,)) == []
    after = [("stalled", None, False), ("stalled", 1, False)]
    assert alarms(detectors, (0, 99.0), (1, 99.0), (2, 99.0)) == after


def test_slow_environments_are_not_stalled():
    detectors = Detectors()
    for i in range(5):
        told(detectors, STEP, now=50.0 * i)
    assert detectors.tick(200.0 + 4 * 50) == []
    assert len(detectors.tick(200.0 + 6 * 50)) == 1


@given(st.lists(st.floats(0.0, 1.0), max_size=60))
def test_alarms_are_raised_and_cleared_in_turn(kls):
    detectors = Detectors()
    states = [raised for kl in kls for _, raised in told(detectors, replace(UPDATE, approx_kl_nats=kl))]
    assert states == [i % 2 == 0 for i in range(len(states))]
