"""Agents that grow networks: `load_policy` gives a trained one back as a controller."""

from esper_agents.tamiyo.policy_files import PolicyFileError, load_policy, save_policy

__all__ = ["PolicyFileError", "load_policy", "save_policy"]
