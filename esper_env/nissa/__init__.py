"""Nissa: telemetry. Events in, one log and any number of sinks out, from a thread that never holds training up."""

from esper_env.nissa.log import EventLog, Sink
from esper_env.nissa.records import EventError, Record, record
from esper_env.nissa.schema import json_schema
from esper_env.nissa.sinks import ConsoleSink, JsonLinesSink

__all__ = [
    "ConsoleSink",
    "EventError",
    "EventLog",
    "JsonLinesSink",
    "Record",
    "Sink",
    "json_schema",
    "record",
]
