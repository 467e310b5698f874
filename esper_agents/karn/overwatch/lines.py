"""The log for people, and what is run with what."""

from __future__ import annotations

import json
from typing import Final

from esper_agents.karn.overwatch.markup import Html, cell, join, note, table, tag
from esper_agents.karn.overwatch.words import moment
from esper_agents.karn.snapshot import Snapshot

KINDS: Final = ("all", "alarm", "clear", "episode", "seed", "gate", "update", "rollback", "checkpoint", "step", "run")
"""Kinds of lines."""
SHOWN: Final = 100
"""Lines that are shown, at most."""


def log_lines(snapshot: Snapshot, kind: str) -> Html:
    """The last lines of the log, the newest first."""
    chosen = [line for line in reversed(snapshot.lines) if kind in ("all", line.kind)]
    if not chosen:
        return note("There is no such line among the last of the log." if snapshot.lines else "No event yet.")
    now = chosen[0].time_s
    rows = [
        tag(
            "tr",
            cell(moment(line.time_s, now), class_="number quiet"),
            cell(tag("b", line.kind)),
            cell(line.text),
            class_=f"line-{line.kind}",
        )
        for line in chosen[:SHOWN]
    ]
    return table(("time", "kind", "what"), rows, class_="slim log")


def details(snapshot: Snapshot) -> Html:
    """The header of the log: what is run, with what, where."""
    header = snapshot.header
    if header is None:
        return note("The run has not started yet.")
    pairs = [
        ("command", tag("code", header.command)),
        ("data", f"{header.provenance.get('dataset')} from {header.provenance.get('source')}"),
        ("environments", f"{header.envs} on {', '.join(header.devices)}, {header.threads} at the same time"),
        ("episodes", f"{header.episode_epochs} epochs; slots {', '.join(header.slots)}"),
        ("blueprints", ", ".join(header.blueprints)),
        ("operations", ", ".join(header.operations)),
        ("versions", ", ".join(f"{name} {version}" for name, version in header.versions.items())),
        ("commit", header.commit),
        ("process", f"{header.process} on {header.host}"),
        ("configuration", tag("code", json.dumps(header.config))),
        ("its SHA-256", tag("code", header.config_sha256)),
    ]
    if snapshot.checkpoint is not None:
        time_s, checkpoint = snapshot.checkpoint
        pairs.insert(1, ("last checkpoint", f"round {checkpoint.round}, {moment(time_s, 0.0)}: {checkpoint.file}"))
    return tag("dl", [join(tag("dt", name), tag("dd", value)) for name, value in pairs])
