"""Logits -> the next token. Pure functions over the last axis, for one row or a batch of them.

`penalize_repetition` and `ban_repeated_ngrams` come first, then `probabilities`, then `sample`.
"""

import math

import numpy as np

from .model import softmax

SAMPLE_BLOCK = 256  # tokens; about √V


def penalize_repetition(logits: np.ndarray, text: np.ndarray, penalty: float) -> np.ndarray:
    """z / θ if z > 0, else z · θ, for the logit z of each token that is in the text. (..., V), (..., T) -> (..., V).

    A penalty θ above 1 makes these tokens less probable, however often they occur. Keskar et al. 2019, section 4.1.

    >>> penalize_repetition(np.array([2.0, -2.0, 3.0]), text=np.array([1, 0, 1]), penalty=2)
    array([ 1., -4.,  3.])
    """
    z = np.take_along_axis(logits, text, axis=-1)
    logits = logits.copy()
    np.put_along_axis(logits, text, np.where(z > 0, z / penalty, z * penalty), axis=-1)
    return logits


def ban_repeated_ngrams(logits: np.ndarray, text: np.ndarray, n: int) -> np.ndarray:
    """Set to −∞ each token that would repeat n tokens of the text in a row. (..., V), (..., T) -> (..., V).

    These are the tokens that followed earlier occurrences of the last n − 1 tokens. Paulus et al. 2017, section 2.5.

    >>> ban_repeated_ngrams(np.array([1.0, 2.0, 3.0]), text=np.array([0, 2, 1, 0]), n=2)  # "0 2" is in the text
    array([  1.,   2., -inf])
    """
    if n > text.shape[-1]:
        return logits
    candidates = text[..., n - 1 :]  # (..., T − n + 1): n − 1 tokens come before each of them
    repeated = np.ones(candidates.shape, bool)
    for i in range(1, n):
        repeated &= text[..., n - 1 - i : -i] == text[..., -i, None]  # the token i places before, and the i-th last one
    logits = logits.copy()
    logits[(*np.nonzero(repeated)[:-1], candidates[repeated])] = -math.inf
    return logits


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


def keep_min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the tokens with at least p times the largest probability; set the rest to −∞. (..., V) -> (..., V).

    For logits, this is z ≥ max z + ln p. Nguyen et al. 2024, "Turning Up the Heat", section 3.

    >>> softmax(keep_min_p(np.log([0.2, 0.4, 0.1, 0.3]), p=0.6)) * 7  # 0.6 · 0.4 is 0.24
    array([0., 4., 0., 3.])
    """
    return np.where(logits < logits.max(axis=-1, keepdims=True) + math.log(p), -math.inf, logits)


def probabilities(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> np.ndarray:
    """softmax(logits / temperature), cut to the top k, to the nucleus, then by min-p. (..., V) -> (..., V).

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
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
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
