"""Options that depend on the text so far, and min-p: against transformers, and against a loop over all n-grams."""

import json
import sys

import numpy as np
import pytest

from numpy_gpt2 import forward, generate
from numpy_gpt2.model import softmax
from numpy_gpt2.sampling import ban_repeated_ngrams, keep_min_p, penalize_repetition, probabilities

from .reference.seeded import FOLDER, PROCESSED, seeded_tokens, seeded_weights

WEIGHTS = {name: array.astype(np.float64) for name, array in seeded_weights(PROCESSED, 0, scale=0.4).items()}
PROMPTS = seeded_tokens(PROCESSED, 1, (2, 8))
ALL = {"repetition_penalty": 1.2, "no_repeat_ngram": 4, "top_k": 9, "top_p": 0.95, "min_p": 0.05}
STOP = 20  # of the greedy texts in processors.npz


@pytest.fixture(scope="module")
def references():
    with np.load(FOLDER / "processors.npz") as file:
        arrays = dict(file)
    cases = {name.split("/")[0] for name in arrays}
    return [{k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{i}/")} for i in range(len(cases))]


def distribution(logits, text, *, repetition_penalty=1.0, no_repeat_ngram=0, **settings):
    """All steps before the draw, each one always computed."""
    logits = penalize_repetition(logits, text, repetition_penalty)
    return probabilities(ban_repeated_ngrams(logits, text, no_repeat_ngram or 1000), **settings)


def test_distributions_equal_transformers(references):
    assert len(references) == 8
    for case in references:
        settings, tokens = json.loads(case["settings"].item()), case["tokens"]
        first = tokens.shape[1] - len(case["logits"])
        for i, (logits, scores) in enumerate(zip(case["logits"], case["scores"], strict=True), start=first):
            expected = softmax(scores.astype(np.float64))
            actual = distribution(logits.astype(np.float64), tokens[:, :i], **settings)
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
            np.testing.assert_array_equal(actual > 0, expected > 0)
            np.testing.assert_allclose(distribution(logits, tokens[:, :i], **settings), expected, rtol=0, atol=1e-6)


def test_greedy_texts_equal_transformers(references):
    cases = [case for case in references if "greedy" in case]
    assert len(cases) == 5
    for case in cases:
        options = {"max_new_tokens": 24, "temperature": 0, "stop_tokens": [STOP]} | json.loads(case["settings"].item())
        rows = np.array(list(generate(PROMPTS, WEIGHTS, PROCESSED, **options)))
        np.testing.assert_array_equal(rows.T, case["greedy"][:, : len(rows)])
        assert (case["greedy"][:, len(rows) :] == -1).all()
        for prompt, expected in zip(PROMPTS, case["greedy"], strict=True):
            tokens = list(generate(prompt, WEIGHTS, PROCESSED, **options))
            assert tokens == expected[expected >= 0].tolist()


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


def plain_tokens(prompt, n, rng, temperature, repetition_penalty, no_repeat_ngram, **settings):
    """One full forward pass per token, without a cache or drafts. When the window is full, its last half is kept."""
    text, start = prompt, 0
    for _ in range(n):
        if len(text) - start > PROCESSED.n_positions:
            start = len(text) - PROCESSED.n_positions // 2
        scores = penalize_repetition(forward(text[start:], WEIGHTS, PROCESSED)[-1], text, repetition_penalty)
        scores = ban_repeated_ngrams(scores, text, no_repeat_ngram)
        cumulative = np.cumsum(probabilities(scores, temperature, **settings))
        u = 1 - rng.random() if temperature else 0.5
        text = np.append(text, np.searchsorted(cumulative, u * cumulative[-1]))
    return text[len(prompt) :].tolist()


@pytest.mark.parametrize("temperature", [0, 0.5])
def test_the_text_for_the_options_is_the_whole_text_not_the_window(temperature):
    """The drafts of `generate` do not change the tokens either."""
    for seed, prompt in enumerate([PROMPTS[0], np.tile(PROMPTS[1], 6)]):
        expected = plain_tokens(prompt, 120, np.random.default_rng(seed), temperature, **ALL)
        options = {"max_new_tokens": 120, "temperature": temperature, "rng": seed, **ALL}
        assert list(generate(prompt, WEIGHTS, PROCESSED, **options)) == expected
        assert list(generate(prompt, WEIGHTS, PROCESSED, lookup=0, **options)) == expected


def test_rows_of_a_batch_have_their_own_texts():
    options = {"max_new_tokens": 20, "temperature": 0, "repetition_penalty": 1.3, "no_repeat_ngram": 2}
    prompts = np.concatenate([PROMPTS, PROMPTS[:1]])
    rows = np.array(list(generate(prompts, WEIGHTS, PROCESSED, **options))).T
    for prompt, row in zip(prompts, rows, strict=True):
        assert list(generate(prompt, WEIGHTS, PROCESSED, **options)) == row.tolist()


def test_what_is_excluded_stays_excluded():
    options = {"max_new_tokens": 150, "temperature": 50.0, "rng": 0, "n_vocab": 20, "excluded": [3, 4, 99]}
    prompt = np.array([3, 4, 22, 23])  # ids that are never chosen may be in the prompt
    tokens = set(generate(prompt, WEIGHTS, PROCESSED, repetition_penalty=0.5, no_repeat_ngram=3, **options))
    assert tokens == set(range(20)) - {3, 4}


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_the_text_ends_with_an_error_when_no_token_is_left(temperature):
    options = {"max_new_tokens": 30, "temperature": temperature, "rng": 0, "excluded": [5], "n_vocab": 23}
    tokens = generate([1, 2, 5], WEIGHTS, PROCESSED, no_repeat_ngram=1, **options)
    assert sorted(next(tokens) for _ in range(20)) == sorted({*range(23)} - {1, 2, 5})
    with pytest.raises(ValueError, match="no_repeat_ngram is 1; it must be larger"):
        next(tokens)


def test_options_at_their_defaults_compute_nothing(monkeypatch):
    for name in ("penalize_repetition", "ban_repeated_ngrams"):
        monkeypatch.setattr(sys.modules["numpy_gpt2.generate"], name, pytest.fail)
    monkeypatch.setattr("numpy_gpt2.sampling.keep_min_p", pytest.fail)
    assert len(list(generate([1], WEIGHTS, PROCESSED, max_new_tokens=3))) == 3
