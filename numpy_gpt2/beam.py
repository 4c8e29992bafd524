"""Beam search, the next step after greedy decoding: it looks for a probable text, not only for a probable next token.

Greedy decoding keeps one text. Its best token may lead to a worse text than the second best. Beam search keeps the B
best unfinished texts, the beams. Each step extends each beam by each token, and keeps the B best of these B · V texts.

Scores, and the rule when to end, are those of transformers (`num_beams`, with `early_stopping=False`). Sutskever et
al. 2014, "Sequence to Sequence Learning with Neural Networks", section 3.2. Length penalty: Wu et al. 2016, section 7.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arguments import POSITIVE, banned_ids, check, check_scores, check_settings, checked_prompt, ids_in
from .cache import KVCache
from .config import GPT2Config
from .decode import process
from .logprobs import largest, log_softmax
from .model import logits
from .prefill import prefill
from .weights import Weights


class Beam(NamedTuple):
    """A finished text: its score, and its new tokens without the stop token."""

    score: float
    tokens: list[int]


def beam_search(
    tokens: ArrayLike,
    weights: Weights,
    config: GPT2Config,
    *,
    max_new_tokens: int,
    beams: int,
    length_penalty: float = 1.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    stop_tokens: Collection[int] = (),
    n_vocab: int | None = None,
    excluded: Collection[int] = (),
) -> list[Beam]:
    """Continue `tokens` (T,) with B = `beams` beams. Returns the B best texts that were found, the best first.

        score = (ln p(token 1) + … + ln p(token n)) / n^length_penalty      each p given the prompt and earlier tokens

    n counts the new tokens, and the stop token at the end if there is one. Each ln p is negative, so without a penalty
    (0) short texts win. With a penalty of 1, the score is a mean. A larger penalty prefers longer texts.

    In each step, the texts among the B best that end with a stop token are finished. The B best of the others go on, so
    a stop token never leaves fewer beams. The search ends after `max_new_tokens`. It ends earlier when B texts are
    finished, and the best beam's score at its present length is not above the worst of theirs. Ties go to the first.

    Greedy decoding would take token 0, as 0.6 > 0.4. The best text of three tokens begins with token 1:

    >>> config = GPT2Config(vocab_size=2, n_embd=2, n_layer=1, n_head=1, tie_word_embeddings=False)
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> weights["wte.weight"] += [[1, -1], [-1, 1]]
    >>> weights["ln_f.weight"] += 0.5  # so the hidden state is (1, 0) after token 0, and (0, 1) after token 1
    >>> weights["ln_f.bias"] += 0.5
    >>> weights["lm_head.weight"] += np.log([[0.6, 0.2], [0.4, 0.8]])  # p is (0.6, 0.4) after 0, and (0.2, 0.8) after 1
    >>> for score, tokens in beam_search([0], weights, config, max_new_tokens=3, beams=2, length_penalty=0):
    ...     print(tokens, round(math.exp(score), 3))  # 0.4 · 0.8 · 0.8 and 0.6 · 0.6 · 0.6
    [1, 1, 1] 0.256
    [0, 0, 0] 0.216

    `repetition_penalty` and `no_repeat_ngram` are those of `sampling.py`, applied to ln p as in transformers' beam
    search. Greedy decoding applies the penalty to the logits, so one beam with a penalty is not greedy decoding. Ids in
    `excluded`, and from `n_vocab` on, are never chosen; ln p of the other ids stays. A full window moves as in
    `generate`. Raises ValueError or TypeError for bad arguments, and ValueError when every token would repeat an n-gram
    before a text is finished.
    """
    prompt, B, V = checked_prompt(tokens, config), beams, config.vocab_size
    if prompt.ndim > 1:
        raise ValueError(f"the prompt is {prompt.shape}; it must be one row of token ids, (T,)")
    check("max_new_tokens", max_new_tokens, POSITIVE)
    check_settings(beams=beams, length_penalty=length_penalty)
    check_settings(repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram)
    banned, stops = banned_ids(V, n_vocab, excluded), ids_in("stop_tokens", stop_tokens, V)
    text = np.tile(prompt, (B, 1))  # (B, T): the beams, the best first
    sums = np.where(np.arange(B) == 0, 0, -math.inf)  # Σ ln p of each beam; all are the prompt, so only one counts
    finished: list[Beam] = []  # at most B, the best first
    cache, unread = KVCache(config, 1, weights["wte.weight"].dtype), text[:1]  # the prompt is read once
    for n in range(1, max_new_tokens + 1):
        if cache.length + unread.shape[1] > config.n_positions:  # the window is full: read the last half of it again
            cache.truncate(0)
            unread = text[:, -max(1, config.n_positions // 2) :]
        log_p = log_softmax(logits(prefill(unread, weights, config, cache)[:, -1], weights))  # (B, V)
        if len(log_p) < B:
            log_p, cache = np.repeat(log_p, B, axis=0), cache.repeat(B)
        log_p = process(log_p, text, repetition_penalty, no_repeat_ngram, banned)
        candidates = sums[:, None] + log_p  # (B, V): Σ ln p of each beam with each token

        finished += ended(candidates, text[:, len(prompt) :], stops, n == max_new_tokens, length_penalty)
        finished = sorted(finished, key=lambda beam: -beam.score)[:B]
        if not finished:
            check_scores(candidates.ravel(), no_repeat_ngram)

        candidates[:, stops] = -math.inf
        rows, new_tokens = np.transpose(best(candidates, B))  # those that go on
        sums = candidates[rows, new_tokens]
        worst = finished[-1].score if len(finished) == B else -math.inf
        if sums[0] / n**length_penalty <= worst:
            break
        select_rows(cache, text, rows)
        text = np.append(text[rows], new_tokens[:, None], axis=1)
        unread = text[:, -1:]
    return finished


def ended(
    candidates: np.ndarray, new: np.ndarray, stops: np.ndarray, is_last: bool, length_penalty: float
) -> list[Beam]:
    """The texts that end in a step: those among the B best that end with a stop token, or all B in the last step.

    `candidates` (B, V) are the sums of ln p, `new` (B, n − 1) the new tokens of the beams, and `stops` (V,) the stop
    tokens.
    """
    beams, n = [], new.shape[1] + 1
    for row, token in best(candidates, len(candidates)):
        if (stops[token] or is_last) and candidates[row, token] > -math.inf:
            tokens = new[row].tolist() + ([] if stops[token] else [token])
            beams.append(Beam(float(candidates[row, token]) / n**length_penalty, tokens))
    return beams


def best(scores: np.ndarray, n: int) -> list[tuple[int, int]]:
    """The rows and columns of the n largest numbers of (B, V), the largest first. Of equal ones, the first comes first.

    >>> best(np.array([[1, 4, 2], [0, 3, 4]]), n=3)
    [(0, 1), (1, 2), (1, 1)]
    """
    return [divmod(i, scores.shape[1]) for i in largest(scores.ravel(), n).tolist()]


def select_rows(cache: KVCache, text: np.ndarray, rows: np.ndarray) -> None:
    """Make row i of the cache a copy of its row rows[i]. `text` (B, T) ends with the tokens that the cache holds.

    Where two texts begin with the same tokens, their keys and values are equal. Only later positions are copied.
    """
    window = text[:, -cache.length :]
    changed = np.flatnonzero(rows != np.arange(len(rows)))
    same = (window[changed] == window[rows[changed]]).all(axis=0)
    n_same = int(np.logical_and.accumulate(same).sum())
    for layer in (*cache.keys, *cache.values):  # (B, H, S, D)
        layer[changed, :, n_same : cache.length] = layer[rows[changed], :, n_same : cache.length]
