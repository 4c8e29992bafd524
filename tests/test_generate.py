"""The decode loop: against transformers' greedy ids, and against the plain loop without a cache."""

import json
import re
import warnings

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2 import GPT2Config, decode, forward, generate, prefill
from numpy_gpt2.generate import generate_plainly
from numpy_gpt2.sampling import ban_repeated_ngrams, penalize_repetition, probabilities

from .reference.seeded import FOLDER, PROCESSED, VARIATIONS, seeded_tokens, seeded_weights, variation

CONFIG = variation("plain")
WEIGHTS = seeded_weights(CONFIG, 0, scale=0.4)
PROMPTS = seeded_tokens(CONFIG, 0, (2, 9))[:, :5]


def greedy(tokens, weights=WEIGHTS, config=CONFIG, **options):
    return np.array(list(generate(tokens, weights, config, temperature=0, **{"max_new_tokens": 20, **options})))


def greedy_without_cache(tokens, n, weights=WEIGHTS, config=CONFIG):
    """One full forward pass per token. When the text outgrows the window, it is cut to half a window."""
    text, start = list(tokens), 0
    for _ in range(n):
        if len(text) - start > config.n_positions:
            start = len(text) - config.n_positions // 2
        text.append(int(forward(np.array(text[start:]), weights, config)[-1].argmax()))
    return text[len(tokens) :]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", VARIATIONS)
def test_greedy_ids_equal_transformers(name, dtype):
    seed = list(VARIATIONS).index(name)
    config = variation(name)
    weights = {key: array.astype(dtype) for key, array in seeded_weights(config, seed, scale=0.4).items()}
    prompts = seeded_tokens(config, seed, (2, 9))[:, :5]
    with np.load(FOLDER / "tiny.npz") as references:
        expected = references[f"{name}/greedy"]
    np.testing.assert_array_equal(greedy(prompts, weights, config).T, expected)
    for prompt, ids in zip(prompts, expected, strict=True):
        tokens = list(generate(prompt, weights, config, max_new_tokens=20, temperature=0))
        assert tokens == ids.tolist()
        assert all(type(token) is int for token in tokens)


@pytest.mark.parametrize("length", [1, 30, 31, 32])
@pytest.mark.parametrize("name", ["plain", "odd_sizes"])
def test_a_text_that_outgrows_the_window_continues_from_its_last_half(name, length):
    config = variation(name)
    length = min(length, config.n_positions)
    weights = seeded_weights(config, 3, scale=0.4)
    prompt = seeded_tokens(config, 1, (length,))
    assert greedy(prompt, weights, config, max_new_tokens=80).tolist() == greedy_without_cache(
        prompt, 80, weights, config
    )


def test_a_window_of_one_position_is_a_bigram_model():
    config = GPT2Config(vocab_size=97, n_positions=1, n_embd=8, n_layer=1, n_head=2)
    weights = seeded_weights(config, 0, scale=0.4)
    expected, token = [], 5
    for _ in range(6):
        token = int(forward(np.array([token]), weights, config)[0].argmax())
        expected.append(token)
    assert greedy([5], weights, config, max_new_tokens=6).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_fast_loop_equals_the_plain_one(seed):
    """The same random numbers give the same tokens, with a cache, drafts and chunks as without."""
    plain = generate_plainly(
        PROMPTS[0], WEIGHTS, CONFIG, 27, np.random.default_rng(seed)
    )  # up to the end of the window
    fast = generate(PROMPTS[0], WEIGHTS, CONFIG, max_new_tokens=27, rng=np.random.default_rng(seed))
    assert list(plain) == list(fast)


def test_a_longer_prompt_is_cut_from_the_left_with_a_warning():
    prompt = seeded_tokens(CONFIG, 1, (40,))
    with pytest.warns(UserWarning, match="40 tokens; only the last 32") as record:
        tokens = generate(prompt, WEIGHTS, CONFIG, max_new_tokens=10, temperature=0)
    assert record[0].filename == __file__  # the caller's line
    assert list(tokens) == greedy(prompt[-32:], max_new_tokens=10).tolist()


def test_equal_rows_share_one_prefill(monkeypatch):
    sizes = []

    def counted(tokens, *arguments):
        sizes.append(np.shape(tokens))
        return gpt2.hidden_states(tokens, *arguments)

    monkeypatch.setattr(prefill, "hidden_states", counted)
    expected = greedy(PROMPTS[0], max_new_tokens=4)
    sizes.clear()
    batch = greedy(np.tile(PROMPTS[0], (3, 1)), max_new_tokens=4)
    assert sizes == [(1, 5), (3, 1), (3, 1), (3, 1)]  # one prefill of one row, then three rows
    np.testing.assert_array_equal(batch, np.tile(expected, (3, 1)).T)


def test_a_stop_token_ends_the_text_and_is_not_yielded():
    tokens = greedy(PROMPTS[0]).tolist()
    stop = tokens[7]
    assert greedy(PROMPTS[0], stop_tokens=[stop]).tolist() == tokens[: tokens.index(stop)]
    assert greedy(PROMPTS[0], stop_tokens={tokens[0]}).tolist() == []


def test_a_finished_row_yields_minus_1_until_all_have_finished():
    prompts = seeded_tokens(CONFIG, 2, (2, 5))
    a, b = (greedy(prompt).tolist() for prompt in prompts)
    only_a, only_b = 63, 91
    assert (a.index(only_a), b.index(only_b)) == (2, 18)
    assert only_a not in b
    assert only_b not in a
    rows = greedy(prompts, stop_tokens=[only_a])
    assert rows[:, 0].tolist() == a[:2] + [-1] * 18
    assert rows[:, 1].tolist() == b
    rows = greedy(prompts, stop_tokens=[only_a, only_b])
    assert rows[:, 0].tolist() == a[:2] + [-1] * 16
    assert rows[:, 1].tolist() == b[:18]


def test_ids_of_n_vocab_and_above_are_never_chosen():
    unlimited = list(generate(PROMPTS[0], WEIGHTS, CONFIG, max_new_tokens=200, rng=np.random.default_rng(0)))
    assert max(unlimited) >= 10
    for temperature in (0, 1.0, 50.0):
        tokens = generate(
            PROMPTS[0],
            WEIGHTS,
            CONFIG,
            max_new_tokens=200,
            temperature=temperature,
            n_vocab=10,
            rng=np.random.default_rng(0),
        )
        assert set(tokens) <= set(range(10))


def test_samples_follow_the_models_distribution():
    """A chi-square test as in test_sampling.py: the first token of many equal rows, then the second given the first."""
    n = 20_000
    options = {"temperature": 0.8, "top_k": 12, "top_p": 0.95}
    rows = list(
        generate(
            np.tile(PROMPTS[0], (n, 1)), WEIGHTS, CONFIG, max_new_tokens=2, rng=np.random.default_rng(0), **options
        )
    )
    most_common = np.bincount(rows[0]).argmax()
    for prompt, sampled in [(PROMPTS[0], rows[0]), ([*PROMPTS[0], most_common], rows[1][rows[0] == most_common])]:
        p = probabilities(forward(np.array(prompt), WEIGHTS, CONFIG)[-1], **options).astype(float)
        counts = np.bincount(sampled, minlength=len(p))
        assert (counts[p == 0] == 0).all()
        expected = len(sampled) * p[p > 0]
        chi_square = ((counts[p > 0] - expected) ** 2 / expected).sum()
        assert chi_square < len(expected) - 1 + 4 * np.sqrt(2 * (len(expected) - 1))


def test_the_same_seed_gives_the_same_tokens():
    def run(seed):
        return list(generate(PROMPTS[0], WEIGHTS, CONFIG, max_new_tokens=20, rng=np.random.default_rng(seed)))

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": []}, r"\(0,\)"),
        ({"tokens": [[]]}, r"\(1, 0\)"),
        ({"tokens": [[[1]]]}, r"\(1, 1, 1\)"),
        ({"tokens": [1.5]}, "float64"),
        ({"tokens": 3}, r"\(\)"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": 0}, "min_p is 0"),
        ({"min_p": 1.1}, "min_p is 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"repetition_penalty": -1.2}, "repetition_penalty is -1.2"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
        ({"repetition_penalty": 1e7}, "repetition_penalty is 10000000"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        ({"excluded": range(97)}, "excluded has all 97 ids"),
        ({"excluded": [1, 0], "n_vocab": 2}, "excluded has all 2 ids"),
        ({"n_vocab": 0}, "n_vocab is 0"),
        ({"n_vocab": 98}, "n_vocab is 98.*97"),
        ({"tokens": [1, 97]}, "token id 97 does not exist; ids must be from 0 to 96"),
        ({"tokens": [[1], [-1]]}, "token id -1 does not exist"),
        ({"stop_tokens": "ab"}, "stop_tokens is 'ab'; it must be token ids, such as"),
        ({"stop_tokens": [1.5]}, r"stop_tokens is \[1.5\]"),
    ],
)
def test_impossible_arguments_are_errors_before_the_first_token(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**{"tokens": [1], "weights": WEIGHTS, "config": CONFIG, "max_new_tokens": 1, **arguments})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", None),
        ("temperature", "hot"),
        ("top_k", 2.5),
        ("top_p", "x"),
        ("min_p", []),
        ("repetition_penalty", None),
        ("no_repeat_ngram", "2"),
        ("lookup", None),
        ("n_vocab", 2.5),
        ("stop_tokens", 5),
        ("excluded", 5),
    ],
)
def test_an_argument_of_a_wrong_type_is_an_error_that_names_it(name, value):
    with pytest.raises(TypeError, match=re.escape(f"{name} is {value!r}; it must be ")):
        generate(**{"tokens": [1], "weights": WEIGHTS, "config": CONFIG, "max_new_tokens": 1, name: value})


def test_arguments_may_be_numbers_of_numpy():
    options = {"max_new_tokens": 3, "top_k": 2, "no_repeat_ngram": 2, "n_vocab": 90, "lookup": 1}
    numbers = {name: np.int16(value) for name, value in options.items()} | {"temperature": np.float32(0.5)}
    tokens = generate([1], WEIGHTS, CONFIG, rng=0, stop_tokens=np.array([5], np.uint8), **numbers)
    assert list(tokens) == list(generate([1], WEIGHTS, CONFIG, rng=0, stop_tokens=[5], temperature=0.5, **options))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint64, np.int32])
def test_prompts_may_have_any_integer_type(dtype):
    expected = greedy(PROMPTS[0], max_new_tokens=40)
    np.testing.assert_array_equal(greedy(PROMPTS[0].astype(dtype), max_new_tokens=40), expected)


def test_nan_in_the_weights_is_an_error():
    weights = {**WEIGHTS, "ln_f.bias": np.full(CONFIG.n_embd, np.nan, np.float32)}
    with pytest.raises(ValueError, match="not numbers"):
        list(generate([1], weights, CONFIG, max_new_tokens=1))


def test_nan_in_a_row_that_no_token_stands_for_is_ignored():
    weights = {
        **WEIGHTS,
        "wte.weight": np.concatenate([WEIGHTS["wte.weight"][:-1], np.full((1, 24), np.nan, np.float32)]),
    }
    tokens = list(generate([1], weights, CONFIG, max_new_tokens=20, temperature=0, n_vocab=96))
    assert tokens == greedy([1], n_vocab=96).tolist()


def test_max_new_tokens_of_0_gives_no_tokens():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(generate([1], WEIGHTS, CONFIG, max_new_tokens=0)) == []


# Penalties for repetition, and min-p

SMALL = PROCESSED  # the model of processors.npz
SMALL_WEIGHTS = {name: array.astype(np.float64) for name, array in seeded_weights(SMALL, 0, scale=0.4).items()}
SMALL_PROMPTS = seeded_tokens(SMALL, 1, (2, 8))


def test_greedy_texts_with_penalties_equal_transformers():
    with np.load(FOLDER / "processors.npz") as references:
        cases = [name.removesuffix("/greedy") for name in references if name.endswith("/greedy")]
        assert len(cases) == 5
        for i in cases:
            settings, texts = json.loads(references[f"{i}/settings"].item()), references[f"{i}/greedy"]
            options = {"max_new_tokens": 24, "temperature": 0, "stop_tokens": [20], **settings}
            rows = np.array(list(generate(SMALL_PROMPTS, SMALL_WEIGHTS, SMALL, **options))).T
            np.testing.assert_array_equal(rows, texts[:, : rows.shape[1]])
            assert (texts[:, rows.shape[1] :] == -1).all()
            for prompt, text in zip(SMALL_PROMPTS, texts, strict=True):
                assert list(generate(prompt, SMALL_WEIGHTS, SMALL, **options)) == text[text >= 0].tolist()


def plain_tokens(prompt, n, rng, *, temperature, repetition_penalty, no_repeat_ngram, **settings):
    """One full forward pass per token, without a cache or drafts. When the window is full, its last half is kept."""
    text, start = prompt, 0
    for _ in range(n):
        if len(text) - start > SMALL.n_positions:
            start = len(text) - SMALL.n_positions // 2
        scores = penalize_repetition(forward(text[start:], SMALL_WEIGHTS, SMALL)[-1], text, repetition_penalty)
        scores = ban_repeated_ngrams(scores, text, no_repeat_ngram)
        cumulative = np.cumsum(probabilities(scores, temperature, **settings))
        u = 1 - rng.random() if temperature else 0.5
        text = np.append(text, np.searchsorted(cumulative, u * cumulative[-1]))
    return text[len(prompt) :].tolist()


@pytest.mark.parametrize("temperature", [0, 0.5])
def test_the_text_for_the_options_is_the_whole_text_not_the_window(temperature):
    """The drafts of `generate` do not change the tokens either."""
    for seed, prompt in enumerate([SMALL_PROMPTS[0], np.tile(SMALL_PROMPTS[1], 6)]):
        settings = {"repetition_penalty": 1.2, "no_repeat_ngram": 4, "top_k": 9, "top_p": 0.95, "min_p": 0.05}
        settings["temperature"] = temperature
        expected = plain_tokens(prompt, 120, np.random.default_rng(seed), **settings)
        options = {"max_new_tokens": 120, "rng": seed, **settings}
        assert list(generate(prompt, SMALL_WEIGHTS, SMALL, **options)) == expected
        assert list(generate(prompt, SMALL_WEIGHTS, SMALL, lookup=0, **options)) == expected


def test_rows_of_a_batch_have_their_own_texts():
    options = {"max_new_tokens": 20, "temperature": 0, "repetition_penalty": 1.3, "no_repeat_ngram": 2}
    prompts = np.concatenate([SMALL_PROMPTS, SMALL_PROMPTS[:1]])
    rows = np.array(list(generate(prompts, SMALL_WEIGHTS, SMALL, **options))).T
    for prompt, row in zip(prompts, rows, strict=True):
        assert list(generate(prompt, SMALL_WEIGHTS, SMALL, **options)) == row.tolist()


def test_what_is_excluded_stays_excluded():
    options = {"max_new_tokens": 150, "temperature": 50.0, "rng": 0, "n_vocab": 20, "excluded": [3, 4, 99]}
    prompt = np.array([3, 4, 22, 23])  # ids that are never chosen may be in the prompt
    tokens = set(generate(prompt, SMALL_WEIGHTS, SMALL, repetition_penalty=0.5, no_repeat_ngram=3, **options))
    assert tokens == set(range(20)) - {3, 4}


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_the_text_ends_with_an_error_when_no_token_is_left(temperature):
    options = {"max_new_tokens": 30, "temperature": temperature, "rng": 0, "excluded": [5], "n_vocab": 23}
    tokens = generate([1, 2, 5], SMALL_WEIGHTS, SMALL, no_repeat_ngram=1, **options)
    assert sorted(next(tokens) for _ in range(20)) == sorted({*range(23)} - {1, 2, 5})
    with pytest.raises(ValueError, match="no_repeat_ngram is 1; it must be larger"):
        next(tokens)


def test_options_at_their_defaults_compute_nothing(monkeypatch):
    for name in ("penalize_repetition", "ban_repeated_ngrams"):
        monkeypatch.setattr(decode, name, pytest.fail)
    monkeypatch.setattr("numpy_gpt2.sampling.keep_min_p", pytest.fail)
    assert len(list(generate([1], SMALL_WEIGHTS, SMALL, max_new_tokens=3))) == 3


@pytest.mark.parametrize(("one", "all_threads", "best"), [(1, 3, True), (1.7, 1, False), (1, 1.01, True)])
def test_decode_takes_the_faster_number_of_threads(one, all_threads, best):
    """All passes together cost at most 3 % more than if each used that number, after 200 passes."""
    choices = decode.thread_choices()
    one_thread, chosen, total = next(choices), [], 0
    for _ in range(2_000):
        chosen.append(one_thread)
        seconds = one if one_thread else all_threads
        total += seconds
        one_thread = choices.send(seconds)
    assert chosen.count(best) > 1_700
    assert total <= 1.03 * 2_000 * min(one, all_threads) + 12 * abs(one - all_threads)
    assert set(chosen[-500:]) == {True, False}  # each one is tried again


def test_decode_notices_that_another_program_has_ended():
    choices = decode.thread_choices()
    one_thread, chosen = next(choices), []
    for i in range(600):
        chosen.append(one_thread)
        one_thread = choices.send(1.7 if one_thread else (3 if i < 200 else 1))
    assert chosen[50:100].count(True) >= 46
    assert chosen[-150:].count(True) <= 6
