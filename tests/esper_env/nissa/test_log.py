"""The event log: what is refused, what is kept, what is counted."""

import fcntl
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import fields, replace

import pytest

from esper_env.leyline.events import EVENTS, Anomaly, Checkpoint, Event, Rollback, RunEnd
from esper_env.nissa import ConsoleSink, EventError, EventLog, JsonLinesSink, is_being_written, json_schema, record

END = RunEnd(status="finished", error=None, seconds=1.0)


class Memory:
    name = "memory"

    def __init__(self):
        self.records, self.closed = [], False

    def write(self, records):
        self.records += records

    def close(self):
        self.closed = True


class Broken(Memory):
    name = "broken"

    def write(self, records):
        raise OSError(28, "No space left on device")


class Slow(Memory):
    name = "slow"

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def write(self, records):
        self.go.wait(20)
        super().write(records)


def checkpoint(n=0):
    return Checkpoint(round=n, file="checkpoints/round-1.safetensors", size_bytes=10, seconds=0.5)


def test_every_event_is_a_frozen_dataclass_of_its_own_kind():
    assert len({event.kind for event in EVENTS.values()}) == len(EVENTS) == 12
    for kind, event in EVENTS.items():
        assert issubclass(event, Event) and event.kind == kind and fields(event)
        assert event.__dataclass_params__.frozen and event.__doc__


@pytest.mark.parametrize(
    ("field", "value"),
    [("round", 1.5), ("round", True), ("round", "1"), ("file", None), ("seconds", "fast"), ("seconds", None)],
)
def test_an_ill_typed_field_is_an_error_where_it_is_emitted(field, value):
    log = EventLog([Memory()])
    values = {"round": 1, "file": "f", "size_bytes": 1, "seconds": 1.0} | {field: value}
    with pytest.raises(EventError, match=f"Checkpoint.{field} must be"):
        log.emit(Checkpoint(**values))
    with pytest.raises(TypeError):
        Checkpoint(**values, colour="red")
    log.end(END)


def test_not_measured_and_not_finite_are_told_apart():
    def anomaly(value):
        return record(Anomaly("kl", True, None, value, 0.1, "high"), 5.0)

    assert [anomaly(v)["value"] for v in (None, 0.0, 1, math.nan, math.inf, -math.inf)] == [
        None,
        0.0,
        1.0,
        "NaN",
        "Infinity",
        "-Infinity",
    ]
    assert json.loads(json.dumps(anomaly(math.nan), allow_nan=False))["value"] == "NaN"


def test_events_arrive_in_order_whole_and_closed():
    memory = Memory()
    log = EventLog([memory])
    for n in range(1_000):
        log.emit(checkpoint(n))
    assert log.flush()
    assert [r["round"] for r in memory.records] == list(range(1_000))
    log.end(END)
    assert memory.closed and memory.records[-1]["kind"] == "run_end" and memory.records[-1]["dropped"] == {}
    with pytest.raises(RuntimeError, match="closed"):
        log.emit(checkpoint())


def test_the_log_lingers_until_somebody_waits_for_it(monkeypatch):
    monkeypatch.setattr("esper_env.nissa.log.LINGER_S", 60.0)
    memory, sizes = Memory(), []
    monkeypatch.setattr(memory, "write", lambda records: sizes.append(len(records)))
    log = EventLog([memory])
    for n in range(5):
        log.emit(checkpoint(n))
    assert log.flush() and sizes == [5]
    log.end(END)
    assert sizes == [5, 1]


def test_what_does_not_fit_is_dropped_and_counted_and_nobody_waits():
    slow = Slow()
    log = EventLog([slow], capacity=100)
    for n in range(1_000):
        log.emit(checkpoint(n))
    assert 800 <= log.dropped["queue"] < 1_000
    slow.go.set()
    log.end(END)
    assert len(slow.records) - 1 + log.dropped["queue"] == 1_000
    assert slow.records[-1]["dropped"] == {"queue": log.dropped["queue"]}


def test_a_sink_that_hangs_is_given_up_and_counted():
    slow = Slow()
    log = EventLog([slow], capacity=100)
    for n in range(50):
        log.emit(checkpoint(n))
    log.end(END, timeout=0.2)
    assert log.errors == {"queue": "a sink hangs"} and 0 < log.dropped["queue"] <= 51
    full = EventLog([slow], capacity=2)
    for n in range(50):
        full.emit(checkpoint(n))
    assert full.dropped["queue"] > 40 and not full.flush(0.1)
    full.end(END, timeout=0.2)
    slow.go.set()


def test_a_sink_that_fails_is_counted_and_the_others_go_on():
    broken, memory = Broken(), Memory()
    log = EventLog([broken, memory])
    for n in range(10):
        log.emit(checkpoint(n))
    log.end(END)
    assert len(memory.records) == 11
    assert log.dropped["broken"] == 11 and "No space left" in log.errors["broken"]
    assert memory.records[-1]["dropped"]["broken"] == 10


def test_a_tick_that_fails_is_counted_and_the_log_goes_on(monkeypatch):
    monkeypatch.setattr("esper_env.nissa.log.TICK_S", 0.01)
    asked, memory = threading.Semaphore(0), Memory()

    def tick(now):
        asked.release()
        raise RuntimeError("needle")

    log = EventLog([memory], tick=tick)
    assert asked.acquire(timeout=20) and asked.acquire(timeout=20), "it is asked again"
    for n in range(10):
        log.emit(checkpoint(n))
    log.end(END)
    assert len(memory.records) == 11 and log.errors == {"tick": "RuntimeError: needle"}
    assert log.dropped["tick"] >= memory.records[-1]["dropped"]["tick"] >= 1


def test_what_was_lost_elsewhere_is_told_with_it():
    memory = Memory()
    EventLog([memory, broken := Broken()]).end(replace(END, dropped={"checkpoint": 2}))
    assert memory.records[-1]["dropped"] == {"checkpoint": 2} and broken.closed


def test_a_reader_that_looks_at_the_lock_does_not_keep_a_writer_away(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("")
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)  # as `is_being_written` does for an instant
        threading.Timer(0.1, fcntl.flock, (reader, fcntl.LOCK_UN)).start()
        sink = JsonLinesSink(path)
        assert is_being_written(path)
        sink.close()


def test_a_file_goes_on_behind_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "run" / "events.jsonl"
    for _ in range(2):
        log = EventLog([JsonLinesSink(path)])
        log.emit(checkpoint())
        log.end(END)
        with path.open("a") as file:
            file.write('{"kind": "step", "ti')
    lines = path.read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines if line.endswith("}")]
    assert kinds == ["checkpoint", "run_end"] * 2 and len(lines) == 6


def test_the_console_says_what_must_not_be_missed():
    stream = io.StringIO()
    log = EventLog([ConsoleSink(stream)])
    log.emit(checkpoint())
    log.emit(Rollback(env=3, epoch=17))
    log.emit(Anomaly("kl", True, None, 0.5, 0.1, "the policy moved too far"))
    log.end(RunEnd(status="failed", error="ValueError: no", seconds=1.0))
    assert stream.getvalue().splitlines() == [
        "rollback of environment 3 at epoch 17",
        "ALARM: kl: the policy moved too far",
        "run failed: ValueError: no",
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
from esper_env.leyline.events import Checkpoint
from esper_env.nissa import EventLog, JsonLinesSink
log = EventLog([JsonLinesSink(Path(sys.argv[1]))])
for n in range(100_000):
    log.emit(Checkpoint(round=n, file="f", size_bytes=1, seconds=0.0))
    if n % 10_000 == 9_999:
        log.flush()
print(sum(log.dropped.values()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_acknowledged_outlives_sigkill(tmp_path):
    path = tmp_path / "events.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == -9 and done.stdout == "0\n", done.stderr
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == list(range(100_000))


def test_another_schema_has_another_version():
    """Whoever changes a field raises SCHEMA_VERSION, and adds a line here."""
    known = {1: "d31f20158a20e486", 2: "ba48d45586126fa3"}
    schema = json_schema()
    fields = [{k: v for k, v in event.items() if k != "description"} for event in schema["oneOf"]]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == known[schema["version"]]


def test_the_schema_describes_every_line():
    schema = json_schema()
    by_kind = {s["title"]: s for s in schema["oneOf"]}
    assert set(by_kind) == set(EVENTS)
    line = record(checkpoint(), 1.0)
    described = by_kind["checkpoint"]
    assert set(line) == set(described["properties"]) == set(described["required"])
    assert described["properties"]["round"] == {"type": "integer"}
    assert by_kind["counterfactual"]["properties"]["shapley_points"]["items"]["anyOf"][1] == {"type": "null"}
