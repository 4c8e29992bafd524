"""Beam search: against transformers' texts and scores, against searches that compute everything, and its edges."""

import itertools
import json

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2 import GPT2Config, KVCache, forward, generate, init_weights, prefill
from numpy_gpt2.beam import beam_search, select_rows
from numpy_gpt2.logprobs import log_softmax

from .reference.seeded import FOLDER, seeded_tokens, seeded_weights, variation

CONFIG = variation("plain")
WEIGHTS = {name: array.astype(float) for name, array in seeded_weights(CONFIG, 0, scale=0.4).items()}
PROMPT = seeded_tokens(CONFIG, 0, (5,))
SMALL = GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2)
SMALL_WEIGHTS = {name: array.astype(float) for name, array in seeded_weights(SMALL, 1, scale=0.4).items()}
SEARCHES = json.loads((FOLDER / "beams.json").read_text())


def search(tokens=PROMPT, weights=WEIGHTS, config=CONFIG, **options):
    return beam_search(tokens, weights, config, **{"max_new_tokens": 10, "beams": 4, **options})


def log_probabilities(prompt, new, weights, config):
    """ln p of each new token, from one pass without a cache."""
    log_p = log_softmax(forward(np.array([*prompt, *new]), weights, config))[len(prompt) - 1 : -1]
    return log_p[np.arange(len(new)), new]


def search_without_cache(prompt, n, beams, weights, config):
    """Each text is read again for each token. When it outgrows the window, it is cut to half a window."""
    texts, start = [(0.0, [*prompt])], 0
    for _ in range(n):
        if len(texts[0][1]) - start > config.n_positions:
            start = len(texts[0][1]) - config.n_positions // 2
        longer = []
        for total, text in texts:
            log_p = log_softmax(forward(np.array(text[start:]), weights, config)[-1])
            longer += [(total + log_p[token], [*text, token]) for token in range(config.vocab_size)]
        texts = sorted(longer, key=lambda one: -one[0])[:beams]
    return [(total, text[len(prompt) :]) for total, text in texts]


def assert_same(found, expected, **tolerance):
    assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], **tolerance)


@pytest.mark.parametrize("one", SEARCHES, ids=[f"{one['name']}-{one['seed']}" for one in SEARCHES])
def test_texts_and_scores_equal_transformers(one):
    config = variation(one["name"])
    weights = {name: array.astype(float) for name, array in seeded_weights(config, one["seed"], scale=0.4).items()}
    found = beam_search(one["prompt"], weights, config, **one["settings"])
    assert_same(found, one["results"], rtol=1e-5)
    assert all(type(token) is int for beam in found for token in beam.tokens)


@pytest.mark.parametrize("length_penalty", [-1, 0, 1, 2.5])
def test_one_beam_is_greedy_decoding(length_penalty):
    greedy = list(generate(PROMPT, WEIGHTS, CONFIG, max_new_tokens=40, temperature=0))
    for stop in ([], greedy[20:21], greedy[:1]):
        expected = list(generate(PROMPT, WEIGHTS, CONFIG, max_new_tokens=40, temperature=0, stop_tokens=stop))
        [beam] = search(max_new_tokens=40, beams=1, length_penalty=length_penalty, stop_tokens=stop)
        assert beam.tokens == expected


def test_enough_beams_find_the_best_of_all_texts():
    """With 25 beams and 5 tokens, no text of 2 tokens is dropped."""
    texts = [[*text] for text in itertools.product(range(5), repeat=3)]
    scores = [log_probabilities([1, 2], text, SMALL_WEIGHTS, SMALL).sum() for text in texts]
    expected = sorted(zip(scores, texts, strict=True), reverse=True)[:25]
    found = search([1, 2], SMALL_WEIGHTS, SMALL, max_new_tokens=3, beams=25, length_penalty=0)
    assert_same(found, expected, rtol=1e-9)
    assert found[0].tokens != list(generate([1, 2], SMALL_WEIGHTS, SMALL, max_new_tokens=3, temperature=0))


@pytest.mark.parametrize(("length_penalty", "n_complete"), [(-1, 0), (0, 0), (1, 4), (2, 5)])
def test_a_score_is_the_sum_of_log_probabilities_over_a_power_of_the_length(length_penalty, n_complete):
    """A stop token counts in both, and is not in the text. A larger penalty prefers longer texts."""
    [greedy] = search(beams=1)
    stop = greedy.tokens[3]
    found = search(beams=5, length_penalty=length_penalty, stop_tokens=[stop])
    assert [len(beam.tokens) for beam in found].count(10) == n_complete
    for score, tokens in found:
        counted = tokens if len(tokens) == 10 else [*tokens, stop]
        total = log_probabilities(PROMPT, counted, WEIGHTS, CONFIG).sum()
        assert stop not in tokens
        assert score == pytest.approx(total / len(counted) ** length_penalty, rel=1e-9)


@pytest.mark.parametrize("name", ["plain", "odd_sizes"])
def test_a_full_window_moves_for_all_beams(name):
    config = variation(name)
    weights = {key: array.astype(float) for key, array in seeded_weights(config, 3, scale=0.4).items()}
    prompt = seeded_tokens(config, 1, (config.n_positions - 2,))
    found = search(prompt, weights, config, max_new_tokens=24, beams=3, length_penalty=0)
    assert_same(found, search_without_cache(prompt, 24, 3, weights, config), rtol=1e-9)


def test_equal_scores_are_in_the_order_of_the_ids():
    weights = {name: np.zeros_like(array) for name, array in SMALL_WEIGHTS.items()}
    found = search([1], weights, SMALL, max_new_tokens=2, beams=3)
    assert [beam.tokens for beam in found] == [[0, 0], [0, 1], [0, 2]]
    found = search([1], weights, SMALL, max_new_tokens=2, beams=3, stop_tokens=[1])  # the means are equal, too
    assert [beam.tokens for beam in found] == [[], [0, 0], [0]]


def test_more_beams_than_tokens_and_only_stop_tokens():
    found = search([1], SMALL_WEIGHTS, SMALL, max_new_tokens=1, beams=9)
    assert sorted(beam.tokens for beam in found) == [[0], [1], [2], [3], [4]]
    found = search([1], SMALL_WEIGHTS, SMALL, beams=9, stop_tokens=range(5), length_penalty=0)
    assert [beam.tokens for beam in found] == [[]] * 5
    assert np.exp([beam.score for beam in found]).sum() == pytest.approx(1)


def test_excluded_ids_are_never_chosen_and_the_scores_of_others_stay():
    likely = search(beams=1)[0].tokens
    found = search(excluded=likely, n_vocab=20, length_penalty=0)
    for score, tokens in found:
        assert not {*tokens} & {*likely, *range(20, 97)}
        assert score == pytest.approx(log_probabilities(PROMPT, tokens, WEIGHTS, CONFIG).sum(), rel=1e-9)


def test_float32_weights_give_the_same_texts():
    weights = {name: array.astype(np.float32) for name, array in WEIGHTS.items()}
    assert_same(search(weights=weights), search(), rtol=1e-5)


@pytest.fixture
def passes(monkeypatch):
    """The shapes of the tokens in each forward pass."""
    shapes = []

    def counted(tokens, *arguments):
        shapes.append(np.shape(tokens))
        return gpt2.hidden_states(tokens, *arguments)

    monkeypatch.setattr(prefill, "hidden_states", counted)
    return shapes


def test_the_prompt_is_read_once(passes):
    search(max_new_tokens=3, beams=4)
    assert passes == [(1, 5), (4, 1), (4, 1)]


def test_the_search_ends_when_the_best_beam_is_only_as_good_as_the_worst_finished_text(passes):
    """All tokens have p = 1/5, so all means are equal."""
    weights = {name: np.zeros_like(array) for name, array in SMALL_WEIGHTS.items()}
    found = search([1], weights, SMALL, beams=2, stop_tokens=[0])
    assert [beam.tokens for beam in found] == [[], [1]]
    assert len(passes) == 2


def test_rows_of_the_cache_are_copied_from_the_first_difference_on():
    text, rows = np.array([[1, 2, 3, 4], [1, 2, 4, 4], [1, 2, 3, 0]]), np.array([1, 1, 0])
    config = GPT2Config(vocab_size=5, n_positions=8, n_embd=4, n_layer=2, n_head=2)
    cache = KVCache(config, 3)
    forward(text[:, 1:], init_weights(config, np.random.default_rng(0)), config, cache)  # three tokens in the cache
    cache.keys[:, 0, :, 0] = 7  # "2" is in all texts
    keys, values = cache.keys[:, rows].copy(), cache.values[:, rows].copy()
    keys[:, :, :, 0] = cache.keys[:, :, :, 0]
    select_rows(cache, text, rows)
    np.testing.assert_array_equal(cache.keys[:, :, :, :3], keys[:, :, :, :3])
    np.testing.assert_array_equal(cache.values[:, :, :, :3], values[:, :, :, :3])


def test_a_longer_prompt_is_cut_from_the_left_with_a_warning():
    prompt = seeded_tokens(CONFIG, 1, (40,))
    with pytest.warns(UserWarning, match="40 tokens; only the last 32") as warnings:
        found = search(prompt)
    assert warnings[0].filename == __file__
    assert_same(found, search(prompt[-32:]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": []}, r"\(0,\)"),
        ({"tokens": [[1], [2]]}, r"the prompt is \(2, 1\)"),
        ({"tokens": [97]}, "token id 97 does not exist"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be a whole number, 1 or more"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1; it must be a whole number, 1 or more"),
        ({"beams": 0}, "beams is 0; it must be a whole number, 1 or more"),
        ({"beams": "2"}, "beams is '2'; it must be a whole number, 1 or more"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; it must be a number from -10 to 10"),
        ({"stop_tokens": 5}, "stop_tokens is 5; it must be token ids"),
        ({"length_penalty": 11}, "length_penalty is 11"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        ({"n_vocab": 98}, "n_vocab is 98.*97"),
        ({"excluded": range(97)}, "excluded has all 97 ids"),
        ({"excluded": range(2, 97), "no_repeat_ngram": 1}, "no_repeat_ngram is 1; it must be larger"),
        ({"weights": {**WEIGHTS, "ln_f.bias": np.full(CONFIG.n_embd, np.nan)}}, "weights are damaged"),
    ],
)
def test_impossible_arguments_are_errors(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        search(**arguments)
