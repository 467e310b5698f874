"""Agents that grow networks: `load_policy` gives a trained one back as a controller."""

from esper_agents.tamiyo.policy_files import PolicyFileError, load_policy, save_policy
from esper_env import __version__

__all__ = ["PolicyFileError", "__version__", "load_policy", "save_policy"]
