"""Checks for `generate` and for beam search: of their arguments, and of the scores at each step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .config import GPT2Config


class Limit(NamedTuple):
    """What an argument must be: its type, which values are accepted, and this in words."""

    type: type
    accepts: Callable[[Any], bool]
    wanted: str


NON_NEGATIVE = Limit(Integral, lambda n: n >= 0, "a whole number, 0 or more")
POSITIVE = Limit(Integral, lambda n: n >= 1, "a whole number, 1 or more")
PROBABILITY = Limit(Real, lambda p: 0 < p <= 1, "a number above 0 and at most 1")
TOKEN_IDS = Limit(Collection, lambda ids: all(isinstance(id, Integral) for id in ids), "token ids, such as [50256]")

LIMITS = {
    "max_new_tokens": NON_NEGATIVE,
    "temperature": Limit(Real, lambda x: 0 <= x < math.inf, "a finite number above 0, or 0 for greedy"),
    "top_k": NON_NEGATIVE,
    "top_p": PROBABILITY,
    "min_p": PROBABILITY,
    "repetition_penalty": Limit(Real, lambda x: 1e-6 <= x <= 1e6, "a number from 1e-6 to 1e6, or 1 to turn this off"),
    "no_repeat_ngram": NON_NEGATIVE,
    "lookup": NON_NEGATIVE,
    "beams": POSITIVE,
    "length_penalty": Limit(Real, lambda x: -10 <= x <= 10, "a number from -10 to 10"),
}
OPTIONAL = {"top_k", "top_p", "min_p"}  # None turns them off


def check(name: str, value: object, limit: Limit) -> None:
    """Raise TypeError or ValueError if an argument is not what it must be.

    >>> check("min_p", 1.5, PROBABILITY)
    Traceback (most recent call last):
    ValueError: min_p is 1.5; it must be a number above 0 and at most 1
    """
    has_type = isinstance(value, limit.type)
    if not (has_type and limit.accepts(value)):
        raise (ValueError if has_type else TypeError)(f"{name} is {value!r:.60}; it must be {limit.wanted}")


def check_settings(**settings: object) -> None:
    """`check` each of these arguments by its entry in LIMITS."""
    for name, value in settings.items():
        if value is not None or name not in OPTIONAL:
            check(name, value, LIMITS[name])


def checked_prompt(tokens: ArrayLike, config: GPT2Config) -> np.ndarray:
    """The prompt as int64 ids, (T,) or (B, T). Raises ValueError if `tokens` are not token ids.

    A prompt that is longer than the window is cut from the left, with a warning.
    """
    prompt = np.asarray(tokens)
    if prompt.ndim not in (1, 2) or not prompt.size or not np.issubdtype(prompt.dtype, np.integer):
        problem = f"the prompt is {prompt.dtype} {prompt.shape}"
        raise ValueError(f"{problem}; it must be token ids, (T,) or (B, T) with T ≥ 1")
    check_ids(prompt, config.vocab_size)
    warn_of_cut(prompt.shape[-1], config.n_positions)
    return prompt[..., -config.n_positions :].astype(np.int64)  # np.append of unsigned and signed ids gives floats


def warn_of_cut(n_tokens: int, window: int, place: str = "") -> None:
    """Warn if a prompt is longer than the window. `place` says which of several prompts it is."""
    if n_tokens > window:
        message = f"{place}the prompt has {n_tokens:,} tokens; only the last {window:,} fit the window and are read"
        warnings.warn(message, stacklevel=4)  # at the line that called `generate`


def check_ids(tokens: np.ndarray, vocab_size: int) -> None:
    """Raise ValueError if a token id does not exist.

    >>> check_ids(np.array([3, 5]), vocab_size=5)
    Traceback (most recent call last):
    ValueError: token id 5 does not exist; ids must be from 0 to 4
    """
    for id in (tokens.min(), tokens.max()):
        if not 0 <= id < vocab_size:
            raise ValueError(f"token id {id} does not exist; ids must be from 0 to {vocab_size - 1:,}")


def ids_in(name: str, ids: Collection[int], vocab_size: int) -> np.ndarray:
    """Which ids are in the argument `name`. Boolean (V,). Raises TypeError or ValueError if it has no token ids.

    >>> ids_in("stop_tokens", [1, 3], vocab_size=5).astype(int)
    array([0, 1, 0, 1, 0])
    """
    check(name, ids, TOKEN_IDS)
    return np.isin(np.arange(vocab_size), [*ids])


def banned_ids(vocab_size: int, n_vocab: int | None, excluded: Collection[int]) -> np.ndarray:
    """Which ids are never chosen: those in `excluded`, and those from `n_vocab` on. Boolean (V,).

    Raises ValueError if `n_vocab` is impossible, or if no id is left.

    >>> banned_ids(vocab_size=5, n_vocab=4, excluded=[1]).astype(int)
    array([0, 1, 0, 0, 1])
    """
    n = vocab_size if n_vocab is None else n_vocab
    wanted = f"a whole number from 1 to {vocab_size}, the size of the vocabulary"
    check("n_vocab", n, Limit(Integral, lambda n: 1 <= n <= vocab_size, wanted))
    banned = ids_in("excluded", excluded, vocab_size) | (np.arange(vocab_size) >= n)
    if banned.all():
        raise ValueError(f"excluded has all {n} ids; it must leave at least one")
    return banned


def check_scores(scores: np.ndarray, no_repeat_ngram: int) -> None:
    """Raise ValueError unless each row of the processed scores (..., V) has a token that can be chosen."""
    largest = scores.max(axis=-1)
    if np.isnan(largest).any():
        raise ValueError("the model's scores are not numbers; its weights are damaged")
    if np.isneginf(largest).any():
        raise ValueError(
            f"no_repeat_ngram is {no_repeat_ngram}; it must be larger, because every next token would repeat an n-gram"
        )
