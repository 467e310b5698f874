"""Whether a policy learns: one finding for both screens, from the episodes that did not fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper_agents.karn.overwatch.learning import learning as page
from esper_agents.karn.reading import RunLog
from esper_agents.karn.sanctum.learning import learning as line
from esper_agents.karn.sanctum.learning import learning_panel, round_means
from esper_agents.karn.sanctum.view import View
from esper_agents.karn.snapshot import Snapshot
from esper_agents.karn.trend import change, ends
from esper_env.leyline.events import EpisodeEnd

EVENTS = [event for _, event in RunLog(Path(__file__).parent / "golden").poll()]
END = next(e for e in EVENTS if isinstance(e, EpisodeEnd))
FAILED = replace(END, total_return=-0.1, error_code=1, committed_accuracy=None)


def folded(returns, failures=0):
    snapshot = Snapshot()
    snapshot.fold(0.0, EVENTS[0])
    for i, value in enumerate(returns):
        snapshot.fold(float(i), replace(END, total_return=value))
    for i in range(failures):
        snapshot.fold(float(i), FAILED)
    return snapshot


def test_a_change_counts_only_beyond_chance():
    assert change([0.0, 0.1], [0.9, 1.0]).verdict[0] == "↑ better"
    assert change([0.9, 1.0], [0.0, 0.1]).verdict[0] == "↓ worse"
    assert change([0.0, 1.0], [0.2, 1.1]).verdict[0] == "≈ no clear change"
    assert change([0.0], [1.0]).verdict[0] == "too few episodes to tell"


@pytest.mark.parametrize("failures", [0, 6])
@pytest.mark.parametrize(
    ("returns", "verdict"),
    [
        ([0.1, 0.11, 0.1, 0.5, 0.51, 0.5], "↑ better"),
        ([0.5, 0.51, 0.5, 0.1, 0.11, 0.1], "↓ worse"),
        ([0.1, 0.5, 0.1, 0.5], "≈ no clear change"),
        ([0.1], "too few episodes to tell"),
        ([], "o episode has ended yet"),
    ],
)
def test_both_screens_find_the_same_and_leave_out_what_failed(returns, verdict, failures):
    snapshot = folded(returns, failures)
    view = View(snapshot, 100.0, 120)
    shown = page(snapshot)
    told = " ".join(text.plain for text in line(view))
    for text in (shown, told, learning_panel(view).plain):
        assert verdict in text
        assert ("in an error" in text) == bool(failures)
    assert round_means(snapshot) == returns


def test_an_episode_that_failed_counts_the_step_that_ended_it():
    """The step itself has no event; without it the run would never be done."""
    snapshot = folded([], failures=2)
    assert snapshot.steps == 2 and ends(snapshot) == ([], [])
