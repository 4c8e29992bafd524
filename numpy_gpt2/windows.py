"""Read a text, encode it, cut it into windows of the model's length, and compute their losses.

Training and evaluation share these functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import tiktoken

from .config import GPT2Config
from .files import read_utf8
from .model import cross_entropy, forward
from .tokenizer import encode_special
from .weights import Weights

# Tokens in one forward pass. The intermediate arrays of this many tokens fit into the processor's cache.
TOKENS_PER_FORWARD = 512


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
    """
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


def window_losses(
    tokens: np.ndarray, starts: np.ndarray, stride: int, weights: Weights, config: GPT2Config, pool: Executor
) -> Iterator[tuple[float, int]]:
    """Yield the sum of the losses in nats and the number of targets, for a few windows at a time, in order.

    A model whose weights are all 0 gives each of V = 5 tokens the probability 1/5. Its loss is ln 5 per target:

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> config = GPT2Config(vocab_size=5, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> with ThreadPoolExecutor() as pool:
    ...     [(total, n)] = window_losses(np.arange(5), np.array([0]), 4, weights, config, pool)
    >>> n, round(total / n, 4), round(float(np.log(5)), 4)
    (4, 1.6094, 1.6094)
    """
    length = config.n_positions
    n_rows = max(1, TOKENS_PER_FORWARD // length)

    def part(i: int) -> tuple[float, int]:
        inputs, targets = windows(tokens, starts[i : i + n_rows], length, stride)
        n = int(np.count_nonzero(targets != -1))
        return float(cross_entropy(forward(inputs, weights, config), targets)) * n, n

    return pool.map(part, range(0, len(starts), n_rows))
