"""The measurements of speed, without their speed."""

import importlib
import json
import subprocess
import sys

import pytest

from benchmarks.perf.__main__ import NAMES, target_table
from benchmarks.perf.measure import Target, each, in_turn, spread


def test_sides_are_called_in_turn_and_warm_ups_do_not_count():
    calls = []
    times = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert [len(t) for t in times.values()] == [3, 3]


def test_a_spread_is_the_median_with_the_extremes():
    rows = [{"x": {"y": v}} for v in (3.0, 1.0, 2.0, 10.0, 2.5)]
    assert spread(each(rows, "x", "y"), ".1f") == "2.5 [1.0, 10.0]"


def test_missed_targets_stand_out():
    table = target_table([Target("this", "<= 1", "2", False), Target("that", "<= 3", "2", True)])
    assert "| this | <= 1 | 2 | **no** |" in table and "| that | <= 3 | 2 | yes |" in table


@pytest.mark.parametrize("name", NAMES)
def test_every_measurement_has_its_two_functions(name):
    module = importlib.import_module(f"benchmarks.perf.{name}")
    assert callable(module.measure) and callable(module.report) and module.__doc__


def test_a_measurement_runs_and_reports():
    command = [sys.executable, "-m", "benchmarks.perf", "one", "facts"]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    text, (target,) = importlib.import_module("benchmarks.perf.facts").report([row, row])
    assert "Observation, mask and info of one environment" in text and target.measured.endswith(" ms")


def test_an_unknown_measurement_is_refused():
    command = [sys.executable, "-m", "benchmarks.perf", "run", "speed"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "unknown speed; choose from step, " in done.stderr
