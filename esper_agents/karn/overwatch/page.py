"""The page: its panels and what can be chosen on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from esper_agents.karn.overwatch.environments import environments
from esper_agents.karn.overwatch.feed import Feed, Runs
from esper_agents.karn.overwatch.frontier import COSTS, frontier
from esper_agents.karn.overwatch.head import SIGNS, alarms, badge, meaning, pace, status, title
from esper_agents.karn.overwatch.lanes import lanes
from esper_agents.karn.overwatch.learning import comparison, learning
from esper_agents.karn.overwatch.lines import KINDS, details, log_lines
from esper_agents.karn.overwatch.markup import Html, note
from esper_agents.karn.overwatch.policy import decisions, policy
from esper_agents.karn.overwatch.times import times
from esper_agents.karn.overwatch.worth import worth
from esper_agents.karn.reading import RunError
from esper_agents.karn.snapshot import Snapshot
from esper_env.rendering import STAGE_COLOURS

DRAW_S: Final = 0.2
"""How often a page looks whether there is something new."""


def style_sheet() -> str:
    """The page's style, with the colours that stages have everywhere."""
    colours = "".join(
        f".stage-{stage.name},.track>.stage-{stage.name}{{background:{colour}}}"
        for stage, colour in STAGE_COLOURS.items()
    )
    return Path(__file__).with_name("overwatch.css").read_text(encoding="utf-8") + colours


class Page:
    """What one browser shows. It draws the snapshot whenever that has changed.

    Args:
        runs: the run that is shown, and the others.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._feed = runs.shown
        self._head: list[tuple[ui.html, Callable[..., Html]]] = []
        self._panels: list[tuple[ui.html, Callable[[Snapshot], Html]]] = []
        self._drawn: object = None
        self._title = ""
        self._others: dict[str, Feed] = {}
        ui.add_css(style_sheet())
        with ui.element("main").classes("overwatch"):
            self._build()
        self.draw()
        ui.timer(DRAW_S, self.draw)

    # -- its parts -----------------------------------------------------------------------------------

    def _build(self) -> None:
        with ui.element("header"):
            self._line(badge, "badge", "h1", "role=status")
            self._line(lambda feed, now: title(feed), "title")
            self._line(meaning, "meaning")
            self._line(pace, "pace")
        self._line(alarms, "alarms", "section", 'aria-label="alarms" aria-live=polite')
        self._panel("Does it learn?", "two-thirds", learning)
        self._panel("Where does the time go?", "third", times)
        self._panel("Environments", "whole scrolls", environments)
        self._panel("Lives of the slots", "two-thirds scrolls", lanes)
        with self._panel("One environment", "third", lambda s: worth(s, self._env.value)):
            self._env = ui.select({}, label="environment", on_change=self._redraw)
        self._panel("Policy", "two-thirds", policy)
        self._panel("Decisions, newest first", "third short scrolls", decisions)
        with self._panel("Frontier of the finished episodes", "half", lambda s: frontier(s, self._cost.value)):
            costs = {key: name for key, (name, _) in COSTS.items()}
            self._cost = ui.select(costs, value="params", label="by", on_change=self._redraw)
        with self._panel("Compared with other runs", "half", lambda s: comparison(self._feed, self._others)):
            offered = self._runs.others()
            ui.select(offered, multiple=True, label="other runs", on_change=self._compare)
        with self._panel("Log, newest first", "whole scrolls", lambda s: log_lines(s, self._kind.value)):
            self._kind = ui.select(list(KINDS), value=KINDS[0], label="kind", on_change=self._redraw)
        self._panel("What is run", "whole", details)

    def _line(self, make: Callable[..., Html], css: str, name: str = "div", props: str = "") -> None:
        self._head.append((ui.html(sanitize=False, tag=name).classes(css).props(props), make))

    def _panel(self, name: str, css: str, make: Callable[[Snapshot], Html]) -> ui.element:
        """A panel; what is put into the element that is returned stands beside its name."""
        with ui.element("section").classes(f"panel {css}").props(f'aria-label="{name}"'):
            with ui.element("div").classes("panel-head") as head:
                ui.html(name, sanitize=False, tag="h2")
            body = ui.html(sanitize=False).classes("panel-body")
            if "scrolls" in css:
                body.props(f'tabindex=0 role=region aria-label="{name}"')
        self._panels.append((body, make))
        return head

    # -- what is chosen ------------------------------------------------------------------------------

    def _redraw(self) -> None:
        self._drawn = None
        self.draw()

    def _compare(self, event: ValueChangeEventArguments[list[str] | None]) -> None:
        self._others = {}
        for name in event.value or ():
            try:
                self._others[name] = self._runs.other(name)
            except (RunError, OSError) as error:  # it went away since the page was opened
                ui.notify(str(error))
        self._redraw()

    # -- drawing -------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Show what is new."""
        feed, now = self._feed, time.time()
        for element, make in self._head:
            element.content = make(feed, now)
        self._name(status(feed, now))
        state = (feed.state, [other.state for other in self._others.values()])
        if state == self._drawn:
            return
        self._drawn = state
        if feed.behind:
            for element, _ in self._panels:
                element.content = element.content or note("Reading the log …")
            return
        envs = {env: f"environment {env}" for env in feed.snapshot.envs}
        if self._env.options != envs:
            wrong = [env for _, env in feed.snapshot.alarms if env in envs]
            chosen = self._env.value if self._env.value in envs else next(iter([*wrong, *envs]), None)
            self._env.set_options(envs, value=chosen)
        for element, make in self._panels:
            try:
                element.content = make(feed.snapshot)
            except Exception as error:  # the log's events may contradict each other; the other panels do not
                element.content = note(f"This cannot be drawn: {type(error).__name__}: {error}")

    def _name(self, word: str) -> None:
        name = f"{SIGNS[word][0]} {word}: {self._feed.name}"
        if name != self._title:
            self._title = name
            ui.page_title(name)
