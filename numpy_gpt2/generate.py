"""The decode loop: predict the next token, append it, repeat."""

import math
import operator
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .cache import KVCache
from .config import GPT2Config
from .lookup import LONGEST_DRAFT, Lookup
from .model import forward, logits
from .prefill import prefill
from .sampling import probabilities, sample
from .weights import Weights

Choose = Callable[[np.ndarray], np.ndarray]  # scores (B, V) -> tokens (B,)


def generate_plainly(
    tokens: ArrayLike, weights: Weights, config: GPT2Config, max_new_tokens: int, rng: "np.random.Generator"
) -> Iterator[int]:
    """The whole idea, for a text of up to `n_positions` tokens. `generate` gives the same tokens, but faster."""
    for _ in range(max_new_tokens):
        scores = forward(tokens, weights, config)[-1]
        token = int(sample(probabilities(scores), rng))
        yield token
        tokens = np.append(tokens, token)


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
    excluded: Collection[int] = (),
    lookup: int = LONGEST_DRAFT,
    rng: "np.random.Generator | int | None" = None,
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Iterator[Any]:
    """Continue `tokens`, one token at a time: (T,) gives an iterator of ints, (B, T) an iterator of (B,) int arrays.

    `temperature=0` is greedy; `sampling.probabilities` explains the rest. A stop token ends the iteration and is not
    yielded. In a batch, a finished row yields −1 until all have finished. Ids in `excluded`, and from `n_vocab` on, are
    never chosen. `lookup` tokens at most are guessed ahead, which is faster and gives the same tokens (`lookup.py`).
    `observe` is called at every step with the model's raw logits (B, V) and the tokens (B,) chosen from them.

    The model sees a window of `n_positions` tokens. When it is full, its last half becomes the start of a new window.
    A prompt that is longer is cut from the left, with a warning. Raises ValueError for impossible arguments.
    """
    prompt, P, V = np.asarray(tokens), config.n_positions, config.vocab_size
    is_prompt = prompt.ndim in (1, 2) and prompt.size > 0 and np.issubdtype(prompt.dtype, np.integer)
    must_hold = {
        f"the prompt is {prompt.dtype} {prompt.shape}; it must be token ids, (T,) or (B, T) with T ≥ 1": is_prompt,
        f"max_new_tokens is {max_new_tokens}; it must be 0 or more": operator.index(max_new_tokens) >= 0,
        f"temperature is {temperature}; it must be above 0, or 0 for greedy": 0 <= temperature < math.inf,
        f"top_k is {top_k}; it must be 1 or more, or 0 or None for all": operator.index(top_k or 0) >= 0,
        f"top_p is {top_p}; it must be above 0 and at most 1": top_p is None or 0 < top_p <= 1,
        f"lookup is {lookup}; it must be the longest draft, or 0 for none": operator.index(lookup) >= 0,
        f"n_vocab is {n_vocab}; it must be from 1 to the vocabulary's {V}": n_vocab is None or 1 <= n_vocab <= V,
    }
    if broken := [message for message, holds in must_hold.items() if not holds]:
        raise ValueError(broken[0])
    if (T := prompt.shape[-1]) > P:
        warnings.warn(f"the prompt has {T:,} tokens; only the last {P:,} fit the window and are read", stacklevel=2)
        prompt = prompt[..., -P:]
    rng = np.random.default_rng(rng)

    def choose(raw: np.ndarray) -> np.ndarray:
        scores = raw.copy() if len(excluded) else raw
        scores[:, [*excluded]] = -math.inf
        if np.isnan(scores := scores[:, :n_vocab]).any():
            raise ValueError("the model's scores are not numbers; its weights are damaged")
        greedy = temperature == 0
        tokens = scores.argmax(axis=-1) if greedy else sample(probabilities(scores, temperature, top_k, top_p), rng)
        if observe:
            observe(raw, tokens)
        return tokens

    text = np.atleast_2d(prompt).astype(np.int64)  # np.append of unsigned and signed ids would give floats
    drafts = Lookup(lookup if len(text) == 1 else 0)
    rows = until_stopped(decode(text, max_new_tokens, weights, config, choose, drafts), [*stop_tokens])
    return (int(row[0]) for row in rows) if prompt.ndim == 1 else rows


def until_stopped(rows: Iterator[np.ndarray], stop_tokens: list[int]) -> Iterator[np.ndarray]:
    """Yield each array of tokens (B,), with −1 from a text's first stop token on. End when all texts have stopped."""
    running: np.ndarray | bool = True
    for tokens in rows:
        running = running & ~np.isin(tokens, stop_tokens)
        if not running.any():
            return
        yield np.where(running, tokens, -1)


def decode(
    text: np.ndarray, n_new: int, weights: Weights, config: GPT2Config, choose: Choose, lookup: Lookup
) -> Iterator[np.ndarray]:
    """The fast loop, with a KV cache and drafts (guessed tokens): text (B, T) -> n_new arrays of next tokens (B,)."""
    B, end = len(text), text.shape[1] + n_new
    unread = text[:1] if (text == text[0]).all() else text  # equal prompts are read once
    cache = KVCache(config, len(unread), weights["wte.weight"].dtype)
    while (T := text.shape[1]) < end:
        room = config.n_positions - cache.length - unread.shape[1]
        if room < 0:  # the window is full: read the last half of it again
            cache.truncate(0)
            unread = text[:, -max(1, config.n_positions // 2) :]
        draft = lookup.draft(text[0, -config.n_positions :], max(0, min(room, end - T - 1)))
        hidden = prefill(np.append(unread, np.tile(draft, (len(unread), 1)), axis=1), weights, config, cache)
        scores = logits(hidden[:, -1 - len(draft) :], weights)  # (B, 1 + len(draft), V)
        if len(scores) < B:  # the prompts were equal; from here on, each row has its own text
            scores, cache = np.repeat(scores, B, axis=0), cache.repeat(B)
        for n_right, drafted in enumerate([*draft, -1]):  # −1: after the whole draft, there is nothing to compare
            tokens = choose(scores[:, n_right])
            yield tokens
            text = np.append(text, tokens[:, None], axis=1)
            if tokens[0] != drafted:
                break
        cache.truncate(cache.length - len(draft) + n_right)  # forget the rest of the draft
        lookup.update(len(draft), text[0, T:])
        unread = text[:, -1:]
