"""The application: reads the log, twice a second where that costs little, and draws what it tells."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final

from rich.cells import cell_len
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.events import Resize
from textual.widgets import Footer, Static

from esper_agents.karn.reading import RunError, RunLog
from esper_agents.karn.sanctum.environments import detail_fits, environments
from esper_agents.karn.sanctum.figures import moment
from esper_agents.karn.sanctum.head import Reading, alarms, head
from esper_agents.karn.sanctum.learning import learning, learning_panel
from esper_agents.karn.sanctum.lines import log_lines
from esper_agents.karn.sanctum.policy import decisions, policy
from esper_agents.karn.sanctum.times import time_line, time_panel
from esper_agents.karn.sanctum.view import View
from esper_agents.karn.snapshot import Snapshot, Status
from esper_env.leyline.events import Event

POLL_S: Final = 0.5
SHARE: Final = 0.01
"""Of a core that reading and drawing may take; where they would take more, they are done less often."""
LONGEST_S: Final = 4.0
"""From one look at the log to the next."""
SLICE: Final = 1000
"""Events that are taken in before keys are answered again."""
ALARM_LINES: Final = 4
WIDE: Final = (150, 40)
"""Columns and lines from which on all panels are shown at once."""

PANELS: Final[dict[str, tuple[str, str, Callable[[View], Text]]]] = {
    "environments": ("e", "Environments", environments),
    "policy": ("p", "Policy", policy),
    "decisions": ("d", "Decisions, newest first", decisions),
    "log": ("l", "Log, newest first", log_lines),
    "time": ("t", "Time", time_panel),
}
"""Key, title and what draws it."""


class Drawing(Static):
    """A text that is laid out anew only if it may need another height."""

    DEFAULT_CSS = "Drawing { width: 1fr; height: auto; }"

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._text = Text()

    def show(self, text: Text) -> None:
        """Show `text`."""
        if text != self._text:
            before, self._text = self._text, text
            self.update(text, layout=self._wraps(before) != self._wraps(text))

    def _wraps(self, text: Text) -> list[int]:
        """By lines, the cells of those that do not fit, 0 of others."""
        cells = (cell_len(line) for line in text.plain.split("\n"))
        return [count if count > self.content_size.width else 0 for count in cells]


class Panel(VerticalScroll):
    """A panel that scrolls, and redraws only what has changed."""

    def __init__(self, id: str, title: str, key: str) -> None:
        super().__init__(id=id)
        self.border_title = title
        self.border_subtitle = key
        self._body = Drawing()
        self._drawn: object = None

    def compose(self) -> ComposeResult:
        """Hold one text."""
        yield self._body

    def draw(self, make: Callable[[View], Text], view: View, state: object) -> None:
        """Show what `make` draws of `view`, unless it was drawn in the same `state`."""
        if self._drawn != state:
            self._drawn = state
            self._body.show(make(view))


class Sanctum(App[None]):
    """Shows a run in the terminal.

    Args:
        log: of the run.
        clock: Unix time.
    """

    TITLE = "Sanctum"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, #alarms, #strip { height: auto; padding: 0 1; }
    Panel, #learning { border: round #6a6a6a; padding: 0 1; }
    Panel { scrollbar-size: 0 1; scrollbar-gutter: stable; height: 1fr; }
    Panel:focus { border: heavy $accent; }
    Panel > Drawing { height: auto; }
    #upper { height: 10; }
    #upper > * { width: 1fr; height: 100%; }
    #environments { height: auto; max-height: 45%; }
    #lower { height: 1fr; }
    #lower > * { width: 35%; height: 100%; }
    #policy { width: 1fr; }
    .one #lower > * { width: 100%; }
    .one #upper, .one #lower, .one #environments { height: 1fr; max-height: 100%; }
    .compact Panel { border: none; border-top: solid #6a6a6a; padding: 0 0 0 1; }
    .compact Panel:focus { border-top: heavy $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(key, f"enlarge('{name}')", {"environments": "Envs"}.get(name, name.capitalize()))
            for name, (key, _, _) in PANELS.items()
        ),
        Binding("tab,right", "go(1)", "Next", key_display="tab", priority=True),
        Binding("shift+tab,left", "go(-1)", "Back", show=False, priority=True),
        Binding("escape", "enlarge(None)", "All panels", show=False),
        Binding("f", "freeze", "Freeze/follow"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, log: RunLog, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.snapshot = Snapshot()
        self._source = log
        self._clock = clock
        self._poll: Iterator[tuple[float, Event]] = iter(())
        self._reading = Reading(log.run.resolve().name, "waiting", 0, 0, behind=True)
        self._still: Snapshot | None = None
        """What the panels show while they are frozen."""
        self._shown: str | None = None
        """The panel that has the screen; ``None``: all that fit."""
        self._detail: bool | None = None
        """Whether environments are shown as blocks; ``None``: if they fit."""
        self._draw_after = 0.0
        self._spent_s = time.process_time()
        self._strips = {name: Drawing(name) for name in ("head", "alarms", "strip", "learning")}
        self._panels = {name: Panel(name, title, key) for name, (key, title, _) in PANELS.items()}

    # -- reading -------------------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether the log held more than was read yet."""
        return self._reading.behind

    def tick(self) -> None:
        """Read on, by a slice at most, and draw."""
        self._take_slice()
        self.draw()

    def _take_slice(self) -> None:
        if self._reading.error is None:
            try:
                self._read()
            except (RunError, OSError) as error:
                self._reading = replace(self._reading, behind=False, error=f"the log cannot be read: {error}")

    def _read(self) -> None:
        if not self.behind:
            self._poll = self._source.poll()
        count = 0
        for time_s, event in islice(self._poll, SLICE):
            self.snapshot.fold(time_s, event)
            count += 1
        self._reading = replace(
            self._reading,
            status=self._status(),
            events=self._reading.events + count,
            damaged=self._source.damaged,
            behind=count == SLICE,
        )

    def _status(self) -> Status:
        return self.snapshot.status(self._clock(), self._source.is_being_written)

    def _follow(self) -> None:
        self._take_slice()
        if not self.behind or time.monotonic() >= self._draw_after:
            self._draw_after = time.monotonic() + POLL_S
            self.draw()
        self.set_timer(0.001 if self.behind else self._rest(), self._follow)

    def _rest(self) -> float:
        """Seconds until the next look, by what came since the last one has cost."""
        before, self._spent_s = self._spent_s, time.process_time()
        return min(max(POLL_S, (self._spent_s - before) / SHARE), LONGEST_S)

    # -- drawing -------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """The strips at the top, the panels, and the keys."""
        panels, strips = self._panels, self._strips
        strips["learning"].border_title = "Learning"
        yield from (strips["head"], strips["alarms"], strips["strip"])
        yield Horizontal(strips["learning"], panels["time"], id="upper")
        yield panels["environments"]
        yield Horizontal(panels["policy"], panels["decisions"], panels["log"], id="lower")
        yield Footer()

    def on_mount(self) -> None:
        """Read the log from now on."""
        self._poll = self._source.poll()
        self._arrange()
        self._panels["environments"].focus()
        self.call_after_refresh(self._follow)

    def on_resize(self, event: Resize) -> None:
        """Choose what fits, once the new size is known."""
        self.call_after_refresh(self._rearrange)

    def _rearrange(self) -> None:
        self._arrange()
        self.call_after_refresh(self.draw)

    @property
    def is_compact(self) -> bool:
        """Whether there is room for one panel only."""
        return self.size.width < WIDE[0] or self.size.height < WIDE[1]

    def _arrange(self) -> None:
        one = self._shown or ("environments" if self.is_compact else None)
        self.screen.set_class(self.is_compact, "compact")
        self.screen.set_class(one is not None, "one")
        for name, panel in self._panels.items():
            panel.display = one in (None, name)
        self._strips["strip"].display = one is not None
        self._strips["learning"].display = one is None
        self.query_one("#upper").display = one in (None, "time")
        self.query_one("#lower").display = one in (None, "policy", "decisions", "log")
        if one is not None:
            self._panels[one].focus()

    def draw(self) -> None:
        """Show the snapshot, unless the screen is being closed."""
        if not self._strips["head"].is_attached:
            return
        now, width = self._clock(), self.size.width - 2
        top = View(self.snapshot, now, width)
        self._strips["head"].show(head(top, self._reading))
        self._strips["alarms"].show(alarms(top, self.behind, ALARM_LINES))
        snapshot = self.snapshot if self._still is None else self._still
        strip = View(snapshot, now, width)
        self._strips["strip"].show(Text("\n").join([*learning(strip), *time_line(strip)]))
        learned = self._strips["learning"]
        learned.show(learning_panel(View(snapshot, now, learned.content_size.width)))
        for name, (_, title, make) in PANELS.items():
            panel = self._panels[name]
            if not panel.display:
                continue
            room = panel.scrollable_content_region.size
            view = View(snapshot, now, max(20, room.width), self._is_detailed(name, room.height))
            state = (self._reading.frozen_s, self._reading.events, room.width, view.detail)
            panel.draw(make, view, state)
            frozen = self._reading.frozen_s
            heading = title if frozen is None else f"{title}, frozen at {moment(frozen, now)}"
            if panel.border_title != heading:  # else the whole panel would be drawn
                panel.border_title = heading

    def _is_detailed(self, name: str, height: int) -> bool:
        if not self.is_compact:
            return self._shown == name
        return detail_fits(self.snapshot, height) if self._detail is None else self._detail

    # -- keys ----------------------------------------------------------------------------------------

    def action_enlarge(self, name: str | None) -> None:
        """Give a panel the screen; again: show all, or where only one fits, more or less of the environments."""
        if self.is_compact and name == "environments" and self._shown in (None, name):
            room = self._panels["environments"].scrollable_content_region.height
            self._detail = not self._is_detailed(name, room)
        self._shown = None if name == self._shown and not self.is_compact else name
        self._rearrange()

    def action_go(self, step: int) -> None:
        """Move to the next panel, or to the one before."""
        names = list(PANELS)
        focused = next((i for i, name in enumerate(names) if self._panels[name].has_focus), 0)
        name = names[(focused + step) % len(names)]
        if self.screen.has_class("one"):
            self._shown = name
            self._rearrange()
        else:
            self._panels[name].focus()

    def action_freeze(self) -> None:
        """Let the panels stand still, or follow the run again; status and alarms always follow."""
        self._still = _copied(self.snapshot) if self._still is None else None
        self._reading = replace(self._reading, frozen_s=None if self._still is None else self._clock())
        self.draw()


def _copied(snapshot: Snapshot) -> Snapshot:
    """A snapshot that no further event changes."""
    still = copy.copy(snapshot)
    for name in ("episodes", "updates", "decisions", "lines", "alarms"):
        setattr(still, name, copy.copy(getattr(snapshot, name)))
    still.envs = copy.deepcopy(snapshot.envs)
    return still


def show(run: Path) -> None:
    """Show a run until the user leaves.

    Args:
        run: its folder.

    Raises:
        RunError: it holds no run.
    """
    Sanctum(RunLog(run)).run()
