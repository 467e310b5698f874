"""Simic: selection pressure. The learning algorithm, and what lets it learn on Gymnasium vector environments."""

from esper_agents.simic.adapter import GymnasiumVecEnv
from esper_agents.simic.evaluation import evaluate_policy
from esper_agents.simic.ppo import MaskableRecurrentPPO

__all__ = ["GymnasiumVecEnv", "MaskableRecurrentPPO", "evaluate_policy"]
