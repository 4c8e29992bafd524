"""Read a text, encode it, cut it into windows of the model's length, and compute their losses.

Training, evaluation and log-probabilities share these functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

import numpy as np
import tiktoken

from .config import GPT2Config
from .files import read_utf8
from .model import cross_entropy, hidden_states, logits
from .tokenizer import encode_special
from .weights import Weights

# Tokens in one forward pass. The intermediate arrays of this many tokens fit into the processor's cache.
TOKENS_PER_FORWARD = 512

ROWS = 128  # rows of logits that are computed together: 26 MB in float32 with GPT-2's vocabulary

Result = TypeVar("Result")


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file, or standard input for "-". Raises OSError, or ValueError if it is empty or not UTF-8."""
    if text := read_utf8(path):
        return text
    raise ValueError(f"{'standard input' if str(path) == '-' else path} is empty; it must be a text")


def encode(text: str, tokenizer: tiktoken.Encoding) -> np.ndarray:
    """Return the token ids of a text, (n,). Special tokens in the text stand for themselves.

    `<|endoftext|>` is the token that separates documents.

    >>> from numpy_gpt2.tokenizer import byte_tokenizer
    >>> encode("abc<|endoftext|>a", byte_tokenizer()).tolist()
    [97, 98, 99, 256, 97]
    """
    return encode_special(text, tokenizer, tokenizer.special_tokens_set)


def window_starts(n_tokens: int, length: int, stride: int) -> np.ndarray:
    """Return the start of each window, `stride` tokens apart. The last window covers the end of the text.

    A text of 9 tokens has 8 targets, because the first token is not predicted. They fill two windows of 4:

    >>> window_starts(9, length=4, stride=4).tolist()
    [0, 4]
    >>> window_starts(9, length=4, stride=2).tolist()
    [0, 2, 4]

    Raises ValueError if the stride is larger than a window.
    """
    if not 1 <= stride <= length:
        raise ValueError(f"the stride is {stride}; it must be from 1 to the window's {length:,} tokens")
    return np.arange(0, max(1, n_tokens - 1 - length + stride), stride)


def windows(tokens: np.ndarray, starts: np.ndarray, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows at `starts` as a batch: inputs and targets, both (N, length).

    The target of each input token is the token after it. If the previous window already has this target, it becomes
    −1, which the loss ignores. So each token of the text, except the first, is a target exactly once. Past the end of
    the text, inputs are 0 and targets are −1.

    A text of 9 tokens in windows of 4, with stride 2:

    >>> inputs, targets = windows(np.arange(9), np.array([0, 2, 4]), length=4, stride=2)
    >>> inputs.tolist()
    [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    >>> targets.tolist()
    [[1, 2, 3, 4], [-1, -1, 5, 6], [-1, -1, 7, 8]]
    """
    positions = starts[:, None] + np.arange(length)
    inside = positions + 1 < len(tokens)
    inputs = np.where(inside, tokens[np.minimum(positions, len(tokens) - 1)], 0)
    is_new = inside & ((starts[:, None] == 0) | (np.arange(length) >= length - stride))
    targets = np.where(is_new, tokens[np.minimum(positions + 1, len(tokens) - 1)], -1)
    return inputs, targets


def map_windows(
    function: Callable[[np.ndarray, np.ndarray], Result],
    tokens: np.ndarray,
    starts: np.ndarray,
    stride: int,
    weights: Weights,
    config: GPT2Config,
    pool: Executor,
) -> Iterator[Result]:
    """Yield function(scores, targets) for the targets of the windows at `starts`, in order, a few at a time.

    `targets` (N,) are tokens of the text. `scores` (N, V) are the logits that the model computes from the tokens before
    them. N is at most `ROWS`, which bounds the memory. The pool computes several windows at the same time.
    """
    n_rows = max(1, TOKENS_PER_FORWARD // config.n_positions)

    def part(i: int) -> list[Result]:
        inputs, targets = windows(tokens, starts[i : i + n_rows], config.n_positions, stride)
        counted = targets != -1
        width = np.flatnonzero(counted.any(axis=0)).max(initial=0) + 1  # without the padding after a short text
        hidden = hidden_states(inputs[:, :width], weights, config)[counted[:, :width]]  # (N, C)
        targets = targets[counted]
        blocks = [slice(j, j + ROWS) for j in range(0, len(targets), ROWS)]
        return [function(logits(hidden[block], weights), targets[block]) for block in blocks]

    return itertools.chain.from_iterable(pool.map(part, range(0, len(starts), n_rows)))


def window_losses(
    tokens: np.ndarray, starts: np.ndarray, stride: int, weights: Weights, config: GPT2Config, pool: Executor
) -> Iterator[tuple[float, int]]:
    """Yield the sum of the losses in nats and the number of targets, for a few targets at a time; see `map_windows`.

    A model whose weights are all 0 gives each of V = 5 tokens the probability 1/5. Its loss is ln 5 per target:

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> config = GPT2Config(vocab_size=5, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> with ThreadPoolExecutor() as pool:
    ...     [(total, n)] = window_losses(np.arange(5), np.array([0]), 4, weights, config, pool)
    >>> n, round(total / n, 4), round(float(np.log(5)), 4)
    (4, 1.6094, 1.6094)
    """

    def loss(scores: np.ndarray, targets: np.ndarray) -> tuple[float, int]:
        return float(cross_entropy(scores, targets)) * len(targets), len(targets)

    return map_windows(loss, tokens, starts, stride, weights, config, pool)
