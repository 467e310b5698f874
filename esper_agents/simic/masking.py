"""The masked action distribution: the one source of samples, log-probabilities, entropies and probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces


def action_sizes(space: spaces.Space[object]) -> tuple[int, ...]:
    """Number of choices of each action dimension.

    Raises:
        ValueError: the space is neither `Discrete` nor `MultiDiscrete`, or does not start at 0.
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return tuple(int(n) for n in space.nvec)
    raise ValueError(f"masks need a Discrete or a flat MultiDiscrete action space that starts at 0, not {space}")


class MaskedCategorical:
    """Independent categorical distributions, each over the legal choices of one action dimension.

    Illegal logits are taken out before the softmax, so they have probability 0, no share in the entropy and
    a gradient of exactly zero. Everything is computed in float32 at least. Nothing is validated on the way:
    saturated logits are legitimate (Huang & Ontanon, 2020, "A Closer Look at Invalid Action Masking").

    Args:
        logits: (B, sum of sizes).
        masks: bool, of the shape of `logits`; ``None`` makes everything legal. Every dimension of every row
            needs a legal choice: see `check_masks`.
        sizes: choices of each action dimension.
    """

    def __init__(self, logits: torch.Tensor, masks: torch.Tensor | None, sizes: Sequence[int]) -> None:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if masks is not None:
            logits = torch.where(masks, logits, torch.finfo(logits.dtype).min)
        self.log_probs = [part.log_softmax(-1) for part in torch.split(logits, list(sizes), -1)]

    @property
    def probs(self) -> torch.Tensor:
        """(B, sum of sizes); each dimension's sum to 1."""
        return torch.cat([part.exp() for part in self.log_probs], -1)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log-probability, (B,), of int64 actions, (B, D)."""
        parts = zip(self.log_probs, actions.unbind(-1), strict=True)
        return torch.stack([p.gather(-1, a[:, None]).squeeze(-1) for p, a in parts]).sum(0)

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, (B,)."""
        return torch.stack([-(p.exp() * p).sum(-1) for p in self.log_probs]).sum(0)

    def actions(self, deterministic: bool = False) -> torch.Tensor:
        """Draw from torch's generator, or take the likeliest: int64 (B, D)."""
        if deterministic:
            return torch.stack([p.argmax(-1) for p in self.log_probs], -1)
        return torch.cat([p.exp().multinomial(1) for p in self.log_probs], -1)


def leave_a_choice(masks: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Say which rows of `masks`, (B, sum of sizes), leave more than one action: bool (B,)."""
    starts = np.cumsum([0, *sizes[:-1]])
    return np.asarray((np.add.reduceat(masks, starts, axis=1, dtype=np.int64) > 1).any(axis=1))


def check_masks(masks: np.ndarray, sizes: Sequence[int], rows: int) -> np.ndarray:
    """Return `masks` as bool (rows, sum of sizes).

    Raises:
        ValueError: the shape is wrong, or some dimension of some row has no legal choice.
    """
    masks = np.asarray(masks, np.bool_)
    if masks.size != rows * sum(sizes):
        raise ValueError(f"action masks of shape {masks.shape} for {rows} environments with {sum(sizes)} choices")
    masks = masks.reshape(rows, sum(sizes))
    starts = np.cumsum([0, *sizes[:-1]])
    stuck = ~np.logical_or.reduceat(masks, starts, axis=1).all(axis=1)
    if stuck.any():
        raise ValueError(f"no legal action in environments {np.flatnonzero(stuck).tolist()}: a mask must allow one")
    return masks
