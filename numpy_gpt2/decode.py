"""The fast loop: a KV cache, drafts, and a window that moves along the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from time import perf_counter

import numpy as np

from .cache import KVCache
from .config import GPT2Config
from .lookup import Lookup
from .model import logits
from .prefill import prefill
from .sampling import ban_repeated_ngrams, penalize_repetition
from .threads import single_threaded_products
from .weights import Weights

Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]  # scores (B, V), the text so far (B, T) -> tokens (B,)
Observe = Callable[[np.ndarray, np.ndarray], None]  # the model's scores (B, V), tokens (B,)

FIRST = 8  # passes before the first trial
TRIAL = 2  # passes with each number of threads
TRIAL_COST = 0.02  # part of the time that trials may cost


def decode(
    text: np.ndarray,
    n_new: int,
    weights: Weights,
    config: GPT2Config,
    choose: Choose,
    stops: np.ndarray,
    longest_draft: int,
    observe: Observe | None,
) -> Iterator[np.ndarray]:
    """Continue text (B, T) by at most `n_new` tokens: an iterator of arrays (B,).

    `choose` gets the scores (B, V) of the next tokens and the text so far, which includes the correct part of a draft.
    It returns the tokens (B,). After it, `observe` gets the scores and the tokens. `stops` (V,) is True for stop
    tokens. From the first stop token of a row on, −1 is yielded for this row. When all rows have stopped, the iteration
    ends without another array.

    The first pass reads the whole text. Each later pass reads the new tokens only: the cache has all others, in the
    dtype of the weights. If the next tokens do not fit into n_positions, the cache is emptied, and the last
    n_positions // 2 tokens of the text are read again.

    Drafts have at most `longest_draft` tokens. They change the speed only; `lookup.py` explains them. A batch has none.
    The number of threads changes the speed only, too: `thread_choices` explains it.
    """
    B, end = len(text), text.shape[1] + n_new
    running = np.ones(B, bool)
    lookup, choices = Lookup(longest_draft if B == 1 else 0), thread_choices()
    one_thread = next(choices)
    unread = text[:1] if (text == text[0]).all() else text  # equal prompts are read once
    cache = KVCache(config, len(unread), weights["wte.weight"].dtype)
    while (T := text.shape[1]) < end:
        room = config.n_positions - cache.length - unread.shape[1]
        if room < 0:  # the window is full: read the last half of it again
            cache.truncate(0)
            unread = text[:, -max(1, config.n_positions // 2) :]
        draft = lookup.draft(text[0, -config.n_positions :], max(0, min(room, end - T - 1)))
        new = np.append(unread, np.tile(draft, (len(unread), 1)), axis=1)
        one_token, start = new.shape == (1, 1), perf_counter()
        with single_threaded_products() if one_thread and one_token else nullcontext():
            hidden = prefill(new, weights, config, cache)
            scores = logits(hidden[:, -1 - len(draft) :], weights)  # (B, 1 + len(draft), V)
        seconds = perf_counter() - start
        if one_token:
            one_thread = choices.send(seconds)
        if len(scores) < B:  # the prompts were equal; from here on, each row has its own text
            scores, cache = np.repeat(scores, B, axis=0), cache.repeat(B)
        for n_right, drafted in enumerate([*draft, -1]):  # −1: after the whole draft, there is nothing to compare
            tokens = choose(scores[:, n_right], text)
            if observe:
                observe(scores[:, n_right], tokens)
            running &= ~stops[tokens]
            if not running.any():
                return
            yield np.where(running, tokens, -1)
            text = np.append(text, tokens[:, None], axis=1)
            if tokens[0] != drafted:
                break
        cache.truncate(cache.length - len(draft) + n_right)  # forget the rest of the draft
        lookup.update(len(draft), text[0, T:], seconds if unread.shape[1] == 1 else None)
        unread = text[:, -1:]


def thread_choices() -> Generator[bool, float, None]:
    """For each pass over one token: whether its products use one thread. The caller sends the seconds that it took.

    Such products wait for memory and for the slowest thread. On a quiet machine, all threads are fastest. Beside a busy
    program, one thread can be three times as fast. A trial takes TRIAL passes with each; the faster one is used until
    the next trial. The more the slower one costs, the longer it takes until then. The first passes are not measured,
    because they are slower, and a short text needs no trial.
    """
    best, n_passes = False, FIRST
    while True:
        for _ in range(n_passes):
            yield best
        seconds = {True: math.inf, False: math.inf}
        for one_thread in (best,) * TRIAL + (not best,) * TRIAL:
            seconds[one_thread] = min(seconds[one_thread], (yield one_thread))
        best = seconds[True] < seconds[False]
        lost = TRIAL * (seconds[not best] / seconds[best] - 1)  # passes
        n_passes = max(16, int(lost / TRIAL_COST))


def process(
    scores: np.ndarray, text: np.ndarray, penalty: float, no_repeat_ngram: int, banned: np.ndarray
) -> np.ndarray:
    """What the text so far and the ban of ids make of the scores: (B, V), text (B, T), banned (V,) -> (B, V).

    >>> process(np.array([[1.0, 2.0, 4.0]]), np.array([[2]]), penalty=2, no_repeat_ngram=0, banned=np.arange(3) == 0)
    array([[-inf,   2.,   2.]])
    """
    if penalty != 1:
        scores = penalize_repetition(scores, text, penalty)
    if no_repeat_ngram:
        scores = ban_repeated_ngrams(scores, text, no_repeat_ngram)
    return np.where(banned, -math.inf, scores) if banned.any() else scores
