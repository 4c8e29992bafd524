"""A text in windows of the model's length, and their losses: shared by training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor

import numpy as np

from .config import GPT2Config
from .model import cross_entropy, forward
from .weights import Weights

TOKENS_PER_FORWARD = (
    512  # tokens that go through the model together: what they need in between stays in the processor's cache
)


def window_starts(n_tokens: int, length: int, stride: int) -> np.ndarray:
    """Where the windows begin of which the last reaches the end of the text."""
    return np.arange(0, max(1, n_tokens - 1 - length + stride), stride)


def windows(tokens: np.ndarray, starts: np.ndarray, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Some of a text's windows, as the rows of a batch: inputs and targets, both (N, length).

    Targets are the tokens after the inputs. One that the window before predicts as well is −1, so that over all windows
    each token of the text but the first is a target once. Past the end of the text there are zeros to predict −1 from.
    """
    positions = starts[:, None] + np.arange(length)
    inside = positions + 1 < len(tokens)
    inputs = np.where(inside, tokens[np.minimum(positions, len(tokens) - 1)], 0)
    is_new = inside & ((starts[:, None] == 0) | (np.arange(length) >= length - stride))
    targets = np.where(is_new, tokens[np.minimum(positions + 1, len(tokens) - 1)], -1)
    return inputs, targets


def window_losses(
    tokens: np.ndarray, starts: np.ndarray, stride: int, weights: Weights, config: GPT2Config, pool: Executor
) -> Iterator[tuple[float, int]]:
    """A few windows at a time, in order: the sum of their targets' losses in nats, and how many targets there are."""
    length = config.n_positions
    n_rows = max(1, TOKENS_PER_FORWARD // length)

    def part(i: int) -> tuple[float, int]:
        inputs, targets = windows(tokens, starts[i : i + n_rows], length, stride)
        n = int(np.count_nonzero(targets != -1))
        return float(cross_entropy(forward(inputs, weights, config), targets)) * n, n

    return pool.map(part, range(0, len(starts), n_rows))
