"""Predict the next token, append it, repeat."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .arguments import banned_ids, check_scores, check_settings, checked_prompt, ids_in
from .config import GPT2Config
from .decode import decode, process
from .lookup import LONGEST_DRAFT
from .model import forward
from .sampling import probabilities, sample
from .weights import Weights


def generate_plainly(
    tokens: ArrayLike, weights: Weights, config: GPT2Config, max_new_tokens: int, rng: "np.random.Generator"
) -> Iterator[int]:
    """The whole idea, in up to `n_positions` tokens: predict, `sample`, yield, append, just `max_new_tokens` times."""
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
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    stop_tokens: Collection[int] = (),
    n_vocab: int | None = None,
    excluded: Collection[int] = (),
    lookup: int = LONGEST_DRAFT,
    rng: "np.random.Generator | int | None" = None,
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Iterator[Any]:
    """Continue `tokens`, one token at a time: (T,) gives an iterator of ints, (B, T) an iterator of (B,) int arrays.

    `temperature=0` is greedy; `sampling.py` explains the rest. `repetition_penalty` and `no_repeat_ngram` look at the
    whole text: the prompt and all tokens after it. A stop token ends the iteration and is not yielded. In a batch, a
    finished row yields −1 until all have finished. Ids in `excluded`, and from `n_vocab` on, are never chosen. At most
    `lookup` tokens are guessed ahead, which is faster and gives the same tokens (`lookup.py`). `observe` is called at
    every step with the model's raw logits (B, V) and the tokens (B,) chosen from them.

    The model sees a window of `n_positions` tokens. When it is full, its last half becomes the start of a new window.
    A longer prompt is cut from the left, with a warning. Raises ValueError or TypeError for bad arguments, and
    ValueError if no token is left.
    """
    prompt, V = checked_prompt(tokens, config), config.vocab_size
    check_settings(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    check_settings(repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram, lookup=lookup)
    banned, stops = banned_ids(V, n_vocab, excluded), ids_in("stop_tokens", stop_tokens, V)
    rng = np.random.default_rng(rng)

    def choose(scores: np.ndarray, text: np.ndarray) -> np.ndarray:
        scores = process(scores, text, repetition_penalty, no_repeat_ngram, banned)
        check_scores(scores, no_repeat_ngram)
        if temperature == 0:
            return scores.argmax(axis=-1)
        return sample(probabilities(scores, temperature, top_k, top_p, min_p), rng)

    rows = decode(np.atleast_2d(prompt), max_new_tokens, weights, config, choose, stops, lookup, observe)
    return (int(row[0]) for row in rows) if prompt.ndim == 1 else rows
