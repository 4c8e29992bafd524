"""Logits -> the next token. Pure functions over the last axis, for one row or a batch of them."""

from __future__ import annotations

import math

import numpy as np

from .model import softmax

SAMPLE_BLOCK = 256  # tokens that `sample` chooses among at once: about the square root of GPT-2's 50,257


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Set all but the k largest to −inf; what ties with the k-th stays. (..., V) -> (..., V).

    Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.4.
    """
    if k >= logits.shape[-1]:
        return logits
    kth_largest = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits < kth_largest, -math.inf, logits)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Set all but the fewest most probable, which together reach probability p, to −inf. (..., V) -> (..., V).

    A token stays if those before it have not reached p, so one always does. Holtzman et al. 2020, "The Curious Case of
    Neural Text Degeneration", section 3.1.
    """
    V, p = logits.shape[-1], float(p)
    kept = np.zeros(logits.shape, bool)
    for row, keep in zip(softmax(logits).reshape(-1, V), kept.reshape(-1, V), strict=True):
        candidates = np.flatnonzero(row >= (1 - p) / V)  # the others together stay below 1 − p: none comes before p
        order = candidates[np.argsort(-row[candidates])]
        before = np.cumsum(row[order], dtype=np.float64) - row[order]
        keep[order[before < p]] = True
    return np.where(kept, logits, -math.inf)


def probabilities(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """softmax(logits / temperature), of the k largest, and of those the nucleus: what the next token is drawn from.

    (..., V) -> (..., V), which sums to 1 after both cuts. (The order of temperature and top-k makes no difference.)
    Temperature 0 is the limit: all on the largest logit, the first of them in a tie.
    """
    if temperature == 0:
        return np.asarray(np.arange(logits.shape[-1]) == logits.argmax(axis=-1, keepdims=True), logits.dtype)
    if top_k:
        logits = keep_top_k(logits, top_k)
    logits = logits - logits.max(axis=-1, keepdims=True)  # so that a tiny temperature sends the others to −inf
    with np.errstate(over="ignore"):
        logits /= max(temperature, float(np.finfo(logits.dtype).tiny))
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    return softmax(logits)


def sample(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw from each row by inverting its cumulative distribution. (..., V) -> (...) ints.

    The uniform number is in (0, 1], so that a token of probability 0 is never the first to reach it. It chooses a run
    of tokens by their sum, and how far it reaches into that chooses one of them: to add up all tokens one by one, as
    the definition has it, would take as long as all else together.
    """
    *shape, V = probabilities.shape
    uniform = 1 - rng.random(shape)
    starts = np.arange(0, V, SAMPLE_BLOCK)
    tokens = np.empty(shape, np.int64)
    for i, u in np.ndenumerate(uniform):
        run, rest = first_to_reach(u, np.add.reduceat(probabilities[i], starts))
        token, _ = first_to_reach(rest, probabilities[i][starts[run] : starts[run] + SAMPLE_BLOCK])
        tokens[i] = starts[run] + token
    return tokens


def first_to_reach(u: float, weights: np.ndarray) -> tuple[int, float]:
    """Where the sum of weights first reaches u of the whole, and which part of that last weight it takes, in (0, 1].

    Sums are taken in float64: over 50,257 float32 terms the last ones would be lost.
    """
    cumulative = np.cumsum(weights, dtype=np.float64)
    i = int(np.searchsorted(cumulative, u * cumulative[-1]))
    part = 1 - (cumulative[i] - u * cumulative[-1]) / weights[i]
    return i, min(max(part, 2.0**-53), 1.0)  # above 0, as u is
