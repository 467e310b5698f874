"""Nissa: telemetry. Events in, one log and any number of sinks out, from a thread that never holds training up."""

from esper_env.nissa.detectors import Detectors
from esper_env.nissa.log import EventLog, Sink
from esper_env.nissa.records import EventError, Record, record
from esper_env.nissa.schema import json_schema
from esper_env.nissa.sinks import ConsoleSink, JsonLinesSink, is_being_written

__all__ = [
    "ConsoleSink",
    "Detectors",
    "EventError",
    "EventLog",
    "JsonLinesSink",
    "Record",
    "Sink",
    "is_being_written",
    "json_schema",
    "record",
]
