"""Sampling, compared with exact probabilities that this file computes in plain Python."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from numpy_gpt2.model import softmax
from numpy_gpt2.sampling import ban_repeated_ngrams, keep_min_p, penalize_repetition, probabilities, sample

from .reference.seeded import FOLDER

finite_logits = arrays(np.float64, st.integers(1, 30), elements=st.floats(-30, 30))


def expected_probabilities(logits, temperature, top_k, top_p):
    """The definition, computed token by token."""
    weights = [math.exp((z - max(logits)) / temperature) for z in logits]
    if top_k:
        threshold = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        weights = [w if z >= threshold else 0.0 for w, z in zip(weights, logits, strict=True)]
    if top_p:
        total, reached = sum(weights), 0.0
        for i in sorted(range(len(logits)), key=lambda i: -logits[i]):
            weights[i], reached = (0.0 if reached >= top_p else weights[i]), reached + weights[i] / total
    return np.array(weights) / sum(weights)


@given(
    finite_logits,
    st.floats(0.05, 5),
    st.none() | st.integers(1, 35),
    st.none() | st.sampled_from([0.01, 0.3, 0.513, 0.9, 0.9999]),
)
def test_probabilities_equal_the_definition(logits, temperature, top_k, top_p):
    actual = probabilities(logits, temperature, top_k, top_p)
    expected = expected_probabilities(logits.tolist(), temperature, top_k, top_p)
    if top_p:  # where a partial sum equals P except for rounding, both results are right
        assert actual.sum() == pytest.approx(1)
        borderline = (actual > 0) != (expected > 0)
        assert borderline.sum() <= 1 or len(set(np.round(logits, 9))) < len(logits)
        if borderline.any():
            return
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (None, None, [0, 1, 2, 3]),
        (0, 1.0, [0, 1, 2, 3]),
        (1, None, [1]),
        (2, None, [1, 3]),
        (9, None, [0, 1, 2, 3]),
        (None, 0.3, [1]),
        (None, 0.4, [1]),
        (None, 0.41, [1, 3]),
        (None, 0.71, [1, 3, 0]),
        (3, 0.9, [1, 3, 0]),  # after top-k: 0.4 / 0.9, 0.3 / 0.9, 0.2 / 0.9
        (3, 0.7, [1, 3]),
    ],
)
def test_top_k_and_top_p_keep_these_tokens(top_k, top_p, kept):
    p = np.array([0.2, 0.4, 0.1, 0.3])
    expected = np.where(np.isin(np.arange(4), kept), p, 0)
    actual = probabilities(np.log(p).astype(np.float32), 1.0, top_k, top_p)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected / expected.sum(), rtol=1e-6)


def test_temperature_0_and_tiny_ones_are_greedy():
    logits = np.array([[1.0, 3.0, 3.0, -5.0], [9.0, 0.0, 1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(probabilities(logits, 0), [[0, 1, 0, 0], [1, 0, 0, 0]])
    for temperature in (1e-8, 1e-30, 1e-300):
        np.testing.assert_array_equal(probabilities(logits, temperature), [[0, 0.5, 0.5, 0], [1, 0, 0, 0]])


def test_rows_of_a_batch_are_independent():
    logits = np.random.default_rng(0).normal(size=(5, 100))
    batch = probabilities(logits, 0.7, 20, 0.8)
    for row, p in zip(logits, batch, strict=True):
        np.testing.assert_allclose(probabilities(row, 0.7, 20, 0.8), p, rtol=1e-12)


class Fixed:
    """A random generator that always draws the same numbers."""

    def __init__(self, value):
        self.value = value

    def random(self, shape):
        return np.full(shape, self.value)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.5, None, None), (1.5, 4, None), (1.0, None, 0.8), (2.0, 6, 0.9)],
)
def test_samples_follow_the_distribution(temperature, top_k, top_p):
    """The random numbers are spread evenly over their range, so the counts have no noise."""
    logits = np.random.default_rng(1).normal(size=9)
    p = expected_probabilities(logits.tolist(), temperature, top_k, top_p)
    n = 10_000
    rows = np.broadcast_to(probabilities(logits, temperature, top_k, top_p), (n, 9))
    counts = np.bincount(sample(rows, Fixed((np.arange(n) + 0.5) / n)), minlength=9)
    assert (counts[p == 0] == 0).all()
    assert np.abs(counts - n * p).max() <= 1.01


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_the_ends_of_the_random_range_choose_possible_tokens(u):
    p = np.array([[0, 0.25, 0, 0.5, 0.25, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
    chosen = sample(p, Fixed(u))
    assert (p[np.arange(3), chosen] > 0).all()
    assert chosen[0] == {0.0: 4, 0.5: 3, 1 - 2**-53: 1}[u]


@given(st.integers(1, 1500), st.integers(0, 2**32 - 1), st.floats(0, 1, exclude_max=True))
def test_a_sample_is_where_the_cumulative_sum_reaches_u(n, seed, u):
    """There may be several blocks, and some probabilities are 0. Rounding may shift u by 1e-6."""
    rng = np.random.default_rng(seed)
    p = rng.random(n) * (rng.random(n) < 0.3)
    p[rng.integers(n)] = 1
    p = (p / p.sum()).astype(np.float32)
    token = int(sample(p, Fixed(u)))
    cumulative = np.cumsum(p, dtype=np.float64) / p.sum(dtype=np.float64)
    assert p[token] > 0
    assert cumulative[token] >= 1 - u - 1e-6
    assert (cumulative[token - 1] if token else 0) <= 1 - u + 1e-6


def test_a_nucleus_of_a_large_vocabulary_equals_the_definition():
    logits = np.random.default_rng(5).normal(size=3000) * 3
    for top_p in (0.01, 0.5, 0.9, 0.99):
        expected = expected_probabilities(logits.tolist(), 1.0, None, top_p)
        np.testing.assert_allclose(probabilities(logits, 1.0, None, top_p), expected, rtol=1e-9)


def test_random_numbers_at_the_ends_of_blocks_choose_possible_tokens():
    """The random numbers are the cumulative sum at each block's end, and the 20 floats on either side of it."""
    rng = np.random.default_rng(0)
    p = rng.random(1500).astype(np.float32) * (rng.random(1500) < 0.2)
    p[::256] = 0  # the first token of each block is impossible
    p /= p.sum()
    ends = np.cumsum(np.add.reduceat(p, np.arange(0, 1500, 256)), dtype=np.float64)
    for end in ends / ends[-1]:
        u = 1 - end
        for _ in range(20):
            u = np.nextafter(u, 0)
        for _ in range(40):
            if 0 <= u < 1:
                assert p[sample(p, Fixed(u))] > 0
            u = np.nextafter(u, 1)


# Penalties for repetition, and min-p


def distribution(logits, text, *, repetition_penalty=1.0, no_repeat_ngram=0, **settings):
    """All steps before the draw."""
    logits = penalize_repetition(logits, text, repetition_penalty)
    return probabilities(ban_repeated_ngrams(logits, text, no_repeat_ngram or 1000), **settings)


def test_distributions_equal_transformers():
    with np.load(FOLDER / "processors.npz") as references:
        n_cases = sum(name.endswith("/settings") for name in references)
        assert n_cases == 8
        for i in range(n_cases):
            names = ("settings", "tokens", "logits", "scores")
            settings, tokens, logits, scores = (references[f"{i}/{name}"] for name in names)
            settings, first = json.loads(settings.item()), tokens.shape[1] - len(logits)
            for T, (z, score) in enumerate(zip(logits, scores, strict=True), start=first):
                expected = softmax(score.astype(np.float64))
                for dtype in (np.float32, np.float64):
                    actual = distribution(z.astype(dtype), tokens[:, :T], **settings)
                    assert actual.dtype == dtype
                    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
                    np.testing.assert_array_equal(actual > 0, expected > 0)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 29, 30, 31, 10**9])
def test_a_ban_forbids_exactly_the_tokens_that_repeat_an_ngram(n):
    rng = np.random.default_rng(n)
    logits, text = rng.normal(size=(3, 4, 6)), rng.integers(0, 5, (3, 4, 30)) // 2  # ids 0, 1 and 2
    before = logits.copy()
    banned = np.isneginf(ban_repeated_ngrams(logits, text, n))
    np.testing.assert_array_equal(logits, before)
    for i in np.ndindex(3, 4):
        ngrams = [(*text[i], token)[-n:] for token in range(6)]
        seen = {tuple(text[i][j : j + n]) for j in range(30 - n + 1)}
        assert banned[i].tolist() == [len(ngram) == n and ngram in seen for ngram in ngrams]
        np.testing.assert_array_equal(np.isneginf(ban_repeated_ngrams(logits[i], text[i], n)), banned[i])


def test_a_text_of_one_repeated_token_bans_this_token():
    logits, text = np.zeros(2), np.array([1, 1, 1])
    for n, banned in [(1, True), (2, True), (3, True), (4, False)]:
        assert np.isneginf(ban_repeated_ngrams(logits, text, n)).tolist() == [False, banned]


def test_a_penalty_counts_each_token_once_and_changes_no_other():
    logits = np.array([[2.0, -2.0, 0.0, 3.0], [2.0, -2.0, 0.0, -np.inf]], np.float32)
    before = logits.copy()
    penalized = penalize_repetition(logits, np.array([[0, 0, 1, 2], [3, 2, 3, 2]]), 1.25)
    np.testing.assert_array_equal(penalized, np.array([[1.6, -2.5, 0, 3], [2, -2, 0, -np.inf]], np.float32))
    assert penalized.dtype == np.float32
    np.testing.assert_array_equal(logits, before)


def test_min_p_keeps_the_most_probable_tokens_and_ties_with_them():
    logits = np.array([[1.0, 3.0, 3.0, -np.inf], [9.0, 0.0, 1.0, 2.0]], np.float32)
    kept = keep_min_p(logits, 1)
    np.testing.assert_array_equal(kept, [[-np.inf, 3, 3, -np.inf], [9, -np.inf, -np.inf, -np.inf]])
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(keep_min_p(logits, 1e-30), logits)
    np.testing.assert_array_equal(probabilities(logits, 0, min_p=0.5), probabilities(logits, 0))
