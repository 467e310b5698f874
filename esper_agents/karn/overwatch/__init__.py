"""Overwatch: a run in the browser."""

from esper_agents.karn.overwatch.server import serve

__all__ = ["serve"]
