"""The decode loop: predict the next token, append it, repeat."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Collection, Iterator

import numpy as np
from numpy.typing import ArrayLike

from .cache import KVCache
from .config import GPT2Config
from .lookup import Lookup
from .model import logits
from .prefill import prefill
from .sampling import probabilities, sample
from .weights import Weights

LOOKUP = 31  # tokens of a draft, at most


def generate(
    tokens: ArrayLike,
    weights: Weights,
    config: GPT2Config,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: Collection[int] = (),
    n_vocab: int | None = None,
    lookup: int = LOOKUP,
    rng: np.random.Generator | int | None = None,
) -> Iterator:
    """Continue `tokens`, one token a step: from (T,) an iterator of ints, from (B, T) an iterator of (B,) int arrays.

    `temperature=0` is greedy; see `sampling.probabilities` for the rest. A stop token ends the iteration and is not
    yielded; in a batch, a finished row yields −1 until all have finished. Ids of `n_vocab` and above are never chosen.

    Where a text repeats itself, up to `lookup` tokens are taken from its earlier part and checked in one pass, which
    changes how soon the tokens come, not which; 0 turns it off. A batch of several rows goes without.

    Past the window of `n_positions` there are no position embeddings, so there the last half of the window is read anew
    and the text goes on. A longer prompt is cut from the left, with a warning. ValueError for impossible arguments.
    """
    prompt = np.asarray(tokens)
    if prompt.ndim not in (1, 2) or prompt.size == 0 or not np.issubdtype(prompt.dtype, np.integer):
        raise ValueError(
            f"the prompt is {prompt.dtype} {prompt.shape}; it must be token ids, (T,) or (B, T), T at least 1"
        )
    if operator.index(max_new_tokens) < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 0 or more")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be above 0, or 0 for greedy")
    if top_k is not None and operator.index(top_k) < 0:
        raise ValueError(f"top_k is {top_k}; it must be 1 or more, or 0 or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")
    if operator.index(lookup) < 0:
        raise ValueError(f"lookup is {lookup}; it must be the tokens of a draft, 1 or more, or 0 for none")
    if n_vocab is not None and not 1 <= n_vocab <= config.vocab_size:
        raise ValueError(f"n_vocab is {n_vocab}; it must be between 1 and the vocabulary's {config.vocab_size}")
    if prompt.shape[-1] > config.n_positions:
        warnings.warn(
            f"the prompt has {prompt.shape[-1]:,} tokens, the window {config.n_positions:,}: only the last"
            f" {config.n_positions:,} are read",
            stacklevel=2,
        )
        prompt = prompt[..., -config.n_positions :]
    prompt = prompt.astype(np.int64)  # unsigned ids and the signed ones that are added would make floats
    rng = np.random.default_rng(rng)

    def choose(scores: np.ndarray) -> np.ndarray:
        scores = scores[:, :n_vocab]
        if np.isnan(scores).any():
            raise ValueError("the model's scores are not numbers; its weights are damaged")
        if temperature == 0:
            return scores.argmax(axis=-1)
        return sample(probabilities(scores, temperature, top_k, top_p), rng)

    text, stops = np.atleast_2d(prompt), np.array([*stop_tokens], int)
    rows = decode(text, weights, config, max_new_tokens, choose, stops, Lookup(lookup if len(text) == 1 else 0))
    return (int(row[0]) for row in rows) if prompt.ndim == 1 else rows


def decode(
    text: np.ndarray,
    weights: Weights,
    config: GPT2Config,
    max_new_tokens: int,
    choose: Callable[[np.ndarray], np.ndarray],
    stop_tokens: np.ndarray,
    lookup: Lookup,
) -> Iterator[np.ndarray]:
    """The loop itself. `text` is (B, T) and grows to the right; `choose` maps scores (B, V) to ids (B,)."""
    B = len(text)
    rows_are_equal = (text == text[0]).all()
    cache = KVCache(config, 1 if rows_are_equal else B, weights["wte.weight"].dtype)
    unread = text[:1] if rows_are_equal else text
    running = np.ones(B, bool)
    end = text.shape[1] + max_new_tokens
    while (T := text.shape[1]) < end:
        room = config.n_positions - cache.length - unread.shape[1]
        if room < 0:
            cache.truncate(0)
            unread = text[:, -max(1, config.n_positions // 2) :]
        draft = lookup.draft(text[0, -config.n_positions :], max(0, min(room, end - T - 1)))
        hidden = prefill(np.append(unread, np.tile(draft, (len(unread), 1)), axis=1), weights, config, cache)
        scores = logits(hidden[:, -1 - len(draft) :], weights)  # (B, 1 + draft, V)
        if len(scores) < B:  # equal prompts have been read once; from here on each row has a text of its own
            scores, cache = np.repeat(scores, B, axis=0), cache.repeat(B)
        for n_right, drafted in enumerate([*draft, -1]):
            tokens = choose(scores[:, n_right])
            running &= ~np.isin(tokens, stop_tokens)
            if not running.any():
                return
            yield np.where(running, tokens, -1)
            text = np.append(text, tokens[:, None], axis=1)
            if tokens[0] != drafted:
                break
        cache.truncate(cache.length - len(draft) + n_right)
        lookup.update(len(draft), text[0, T:])
        unread = text[:, -1:]
