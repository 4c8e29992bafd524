"""Log-probabilities: how probable the model finds each token of a text, given the tokens before it.

    ln p(token) = x[token] − ln Σⱼ exp(xⱼ)

x is the row of logits (V,) at the position before the token. Temperature and top-k do not change these numbers. In a
list for `--json`, each token is an object with these fields:

    id, text    the token. Bytes that are not a complete character are U+FFFD in the text
    logprob     ln p of the token, in nats
    rank        1 + the number of tokens with a larger logit. 1 is the best; equal logits have equal ranks
    top         the most probable tokens, [id, logprob] each

Nothing precedes the first token of a text: its `logprob` and `rank` are None, and its `top` is empty.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import ArrayLike

from .arguments import check_ids
from .checkpoint import Model
from .config import GPT2Config
from .threads import thread_pool
from .weights import Weights
from .windows import Result, map_windows, window_starts


def token_log_probabilities(tokens: ArrayLike, weights: Weights, config: GPT2Config) -> np.ndarray:
    """ln p of each token given those before it, without the first: (T,) ints -> (T − 1,), in the weights' dtype.

    A text longer than `n_positions` is read in the windows of `evaluate`, so the mean of the result is minus its loss.
    One token gives an empty array. Raises ValueError for an empty text, and for ids that do not exist.

    >>> config = GPT2Config(vocab_size=5, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> np.exp(token_log_probabilities([3, 1, 4], weights, config))  # weights of 0 give each of 5 tokens 1/5
    array([0.2, 0.2])
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"the text is {tokens.dtype} {tokens.shape}; it must be token ids, (T,) with T ≥ 1")
    check_ids(tokens, config.vocab_size)

    def of_targets(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return log_softmax(logits)[np.arange(len(targets)), targets]

    parts = map_text(of_targets, tokens.astype(np.int64), weights, config)
    return np.concatenate([np.empty(0, weights["wte.weight"].dtype), *parts])


def prompt_logprobs(tokens: np.ndarray, model: Model, n_top: int) -> list[dict[str, Any]]:
    """The objects of a prompt's tokens (T,), with `n_top` tokens in each `top`. A long prompt is read in windows."""
    of_targets = partial(token_logprobs, tokenizer=model.tokenizer, n_top=n_top)
    parts = map_text(of_targets, tokens, model.weights, model.config)
    return [token_object(int(tokens[0]), model.tokenizer), *itertools.chain.from_iterable(parts)]


def map_text(
    function: Callable[[np.ndarray, np.ndarray], Result], tokens: np.ndarray, weights: Weights, config: GPT2Config
) -> list[Result]:
    """The results of `map_windows` for a text, in windows one after another."""
    starts = window_starts(len(tokens), config.n_positions, config.n_positions)
    with thread_pool() as pool:
        return list(map_windows(function, tokens, starts, config.n_positions, weights, config, pool))


def token_logprobs(
    logits: np.ndarray, tokens: np.ndarray, tokenizer: tiktoken.Encoding, n_top: int
) -> list[dict[str, Any]]:
    """The objects of N tokens: logits (N, V) and the token of each row (N,) -> N objects.

    >>> from numpy_gpt2.tokenizer import byte_tokenizer
    >>> logits = np.log([[*range(1, 258)]])  # byte b has the probability (b + 1) / (1 + 2 + … + 257)
    >>> [token] = token_logprobs(logits, np.array([ord("a")]), byte_tokenizer(), n_top=1)
    >>> token["text"], round(257 * 258 / 2 * math.exp(token["logprob"])), token["rank"], token["top"][0][0]
    ('a', 98, 160, 256)
    """
    all_logprobs = log_softmax(logits)
    objects = []
    for id, x, logprobs in zip(tokens.tolist(), logits, all_logprobs, strict=True):
        token = token_object(id, tokenizer)
        token["logprob"] = shortest_float(logprobs[id])
        token["rank"] = 1 + int(np.count_nonzero(x > x[id]))
        token["top"] = [[i, shortest_float(logprobs[i])] for i in largest(x, n_top).tolist()]
        objects.append(token)
    return objects


def token_object(id: int, tokenizer: tiktoken.Encoding) -> dict[str, Any]:
    """The object of a token without its log-probability: the first token of a text has none."""
    text = tokenizer.decode_single_token_bytes(id).decode("utf-8", "replace")
    return {"id": id, "text": text, "logprob": None, "rank": None, "top": []}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """xᵢ − ln Σⱼ exp(xⱼ) over the last axis. (..., V) -> (..., V). Raises ValueError if a result is not finite.

    Subtracting the maximum keeps exp from overflowing.

    >>> np.exp(log_softmax(np.log([1, 2, 5]))) * 8  # 1/8, 2/8 and 5/8
    array([1., 2., 5.])
    """
    y = logits - logits.max(axis=-1, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=-1, keepdims=True))
    if not math.isfinite(least := y.min()):
        raise ValueError(f"a log-probability is {least}; it must be finite. The model's weights are damaged")
    return y


def largest(logits: np.ndarray, n: int) -> np.ndarray:
    """The ids of the n largest logits (V,), the largest first. Of equal ones, the lower id comes first.

    >>> largest(np.array([2.0, 7.0, 5.0, 5.0, 5.0]), n=3)
    array([1, 2, 3])
    """
    n = min(n, len(logits))
    if n == 0:
        return np.empty(0, np.int64)
    candidates = np.flatnonzero(logits >= np.partition(logits, -n)[-n])
    return candidates[np.argsort(-logits[candidates], kind="stable")][:n]


def shortest_float(x: np.floating) -> float:
    """The number with the fewest decimal digits that rounds to x in its own precision.

    >>> float(np.float32(-0.1)), shortest_float(np.float32(-0.1))
    (-0.10000000149011612, -0.1)
    """
    return float(str(x))
