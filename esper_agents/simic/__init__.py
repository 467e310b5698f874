"""Simic: learning. `GymnasiumVecEnv` lets Stable-Baselines3 train on a Gymnasium vector environment."""

from esper_agents.simic.adapter import GymnasiumVecEnv

__all__ = ["GymnasiumVecEnv"]
