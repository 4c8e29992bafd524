"""Checks for `generate` and for beam search: of their arguments, and of the scores at each step."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike


def check(conditions: dict[str, bool]) -> None:
    """Raise ValueError with the first message whose condition does not hold."""
    for message, holds in conditions.items():
        if not holds:
            raise ValueError(message)


def checked_prompt(tokens: ArrayLike, n_positions: int) -> np.ndarray:
    """The prompt as int64 ids, (T,) or (B, T). Raises ValueError if `tokens` are not token ids.

    A prompt that is longer than the window is cut from the left, with a warning.
    """
    prompt = np.asarray(tokens)
    is_prompt = prompt.ndim in (1, 2) and prompt.size > 0 and np.issubdtype(prompt.dtype, np.integer)
    check({f"the prompt is {prompt.dtype} {prompt.shape}; it must be token ids, (T,) or (B, T) with T ≥ 1": is_prompt})
    if (T := prompt.shape[-1]) > n_positions:
        message = f"the prompt has {T:,} tokens; only the last {n_positions:,} fit the window and are read"
        warnings.warn(message, stacklevel=3)
    return prompt[..., -n_positions:].astype(np.int64)  # np.append of unsigned and signed ids would give floats


def check_settings(
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    lookup: int = 0,
) -> None:
    """Raise ValueError for an impossible value, and TypeError for a count that is not an int.

    >>> check_settings(max_new_tokens=9, min_p=1.5)
    Traceback (most recent call last):
    ValueError: min_p is 1.5; it must be above 0 and at most 1
    """
    penalty, n = repetition_penalty, no_repeat_ngram
    check(
        {
            f"max_new_tokens is {max_new_tokens}; it must be 0 or more": operator.index(max_new_tokens) >= 0,
            f"temperature is {temperature}; it must be above 0, or 0 for greedy": 0 <= temperature < math.inf,
            f"top_k is {top_k}; it must be 1 or more, or 0 or None for all": operator.index(top_k or 0) >= 0,
            f"top_p is {top_p}; it must be above 0 and at most 1": top_p is None or 0 < top_p <= 1,
            f"min_p is {min_p}; it must be above 0 and at most 1": min_p is None or 0 < min_p <= 1,
            f"repetition_penalty is {penalty}; it must be from 1e-6 to 1e6, or 1 for none": 1e-6 <= penalty <= 1e6,
            f"no_repeat_ngram is {n}; it must be 1 or more, or 0 for none": operator.index(n) >= 0,
            f"lookup is {lookup}; it must be the longest draft, or 0 for none": operator.index(lookup) >= 0,
        }
    )


def banned_ids(vocab_size: int, n_vocab: int | None, excluded: Collection[int]) -> np.ndarray:
    """Which ids are never chosen: those in `excluded`, and those from `n_vocab` on. Boolean (V,).

    Raises ValueError if `n_vocab` is impossible, or if no id is left.

    >>> banned_ids(vocab_size=5, n_vocab=4, excluded=[1]).astype(int)
    array([0, 1, 0, 0, 1])
    """
    wanted = f"n_vocab is {n_vocab}; it must be from 1 to the vocabulary's {vocab_size}"
    check({wanted: n_vocab is None or 1 <= n_vocab <= vocab_size})
    ids = np.arange(vocab_size)
    banned = np.isin(ids, [*excluded]) | (ids >= (n_vocab or vocab_size))
    check({f"excluded has all {n_vocab or vocab_size} ids; it must leave at least one": not banned.all()})
    return banned


def check_scores(scores: np.ndarray, no_repeat_ngram: int) -> None:
    """Raise ValueError unless each row of the processed scores (B, V) has a token that can be chosen."""
    largest = scores.max(axis=-1)
    if np.isnan(largest).any():
        raise ValueError("the model's scores are not numbers; its weights are damaged")
    if np.isneginf(largest).any():
        raise ValueError(
            f"no_repeat_ngram is {no_repeat_ngram}; it must be larger, because every next token would repeat an n-gram"
        )
