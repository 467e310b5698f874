"""The event log: takes events from any thread and writes them to its sinks from one of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from queue import Empty, Full, Queue
from typing import Protocol

from esper_env.leyline.events import Event, RunEnd
from esper_env.nissa.records import Record, record

CAPACITY = 20_000
"""Events that may wait; what comes beyond is dropped and counted."""

BATCH = 512
"""Most events that are handed to a sink at once."""

LINGER_S = 0.1
"""How long the log waits for more once an event came, so that it works while networks train and not between steps."""

TICK_S = 1.0
"""How long nothing may come before the log looks up by itself."""


class Sink(Protocol):
    """Somewhere that records go. Called from the log's thread only."""

    name: str

    def write(self, records: Sequence[Record]) -> None:
        """Take records, in order."""

    def close(self) -> None:
        """No more will come."""


class EventLog:
    """Writes events to sinks without holding up whoever emits them.

    `emit` checks an event and puts it into a bounded queue; it never waits. What a sink did not take because it raised
    is counted in `dropped` under its name, what did not fit the queue under "queue"; the sink is asked again with the
    next events, and training goes on.

    Args:
        sinks: where records go.
        capacity: of the queue.
        tick: asked for events about once a second while none come, with the Unix time.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        capacity: int = CAPACITY,
        tick: Callable[[float], Iterable[Event]] = lambda now: (),
    ) -> None:
        self.sinks = list(sinks)
        self.dropped: Counter[str] = Counter()
        """Events lost so far, by sink or "queue"; under "tick", how often that raised."""
        self.errors: dict[str, str] = {}
        """What a sink or `tick` raised last."""
        self._tick = tick
        self._queue: Queue[Record | threading.Event | None] = Queue(capacity)
        self._hurry = threading.Event()
        """Somebody waits for the log."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="nissa", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Log an event.

        Raises:
            EventError: a field of it is of the wrong type.
            RuntimeError: the log is closed.
        """
        if self._closed:
            raise RuntimeError("the event log is closed")
        try:
            self._queue.put_nowait(record(event, time.time()))
        except Full:
            self.dropped["queue"] += 1

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything emitted before was given to the sinks; return whether it was in time."""
        done = threading.Event()
        try:
            self._queue.put(done, timeout=timeout)
        except Full:
            return False
        self._hurry.set()
        return done.wait(timeout)

    def end(self, event: RunEnd | None, timeout: float = 30.0) -> None:
        """Write the last event, if any, with what was lost until then added, and close the sinks.

        A sink that does not come back within `timeout` seconds is given up, and what waits for it is counted as lost.
        """
        if self._closed:
            return
        self.flush(timeout)
        self._closed = True
        if event is not None:
            self._last(record(replace(event, dropped={**event.dropped, **self.dropped}), time.time()))
        self._last(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.errors["queue"] = "a sink hangs"
            self.dropped["queue"] += sum(isinstance(item, dict) for item in tuple(self._queue.queue))

    def _last(self, item: Record | None) -> None:
        try:
            self._queue.put(item, timeout=1.0)
        except Full:
            self.dropped["queue"] += item is not None
        self._hurry.set()

    def _run(self) -> None:
        batch: list[Record] = []
        while True:
            try:
                item = self._queue.get(timeout=TICK_S)
            except Empty:
                if late := self._late():
                    self._give(late)
                continue
            waiting = None
            if isinstance(item, dict):
                if not batch and self._queue.qsize() < BATCH:
                    self._hurry.wait(LINGER_S)
                batch.append(item)
                if len(batch) < BATCH and not self._queue.empty():
                    continue
            elif item is not None:
                waiting = item
            self._hurry.clear()
            if batch:
                self._give(batch)
                batch = []
            if waiting is not None:
                waiting.set()
            if item is None:
                break
        for sink in self.sinks:
            self._guarded(sink, sink.close, 0)

    def _late(self) -> list[Record]:
        """What `tick` has to say."""
        now = time.time()
        try:
            return [record(event, now) for event in self._tick(now)]
        except Exception as error:  # the log goes on
            self._lose("tick", error, 1)
            return []

    def _give(self, batch: list[Record]) -> None:
        for sink in self.sinks:
            self._guarded(sink, partial(sink.write, batch), len(batch))

    def _guarded(self, sink: Sink, call: Callable[[], None], count: int) -> None:
        try:
            call()
        except Exception as error:  # a sink that fails never stops training
            self._lose(sink.name, error, count)

    def _lose(self, name: str, error: Exception, count: int) -> None:
        self.errors[name] = f"{type(error).__name__}: {error}"
        self.dropped[name] += count
