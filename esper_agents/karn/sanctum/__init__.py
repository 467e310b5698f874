"""Sanctum: a run in the terminal."""

from esper_agents.karn.sanctum.app import Sanctum, show

__all__ = ["Sanctum", "show"]
