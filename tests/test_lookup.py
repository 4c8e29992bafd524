"""Drafts from the text so far: they are the expected ones, change no token, and cost little."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2 import GPT2Config, KVCache, forward, generate, init_weights, samples
from numpy_gpt2.lookup import (
    BUDGET_PER_TOKEN,
    INITIAL_BUDGET,
    LONGEST_DRAFT,
    MAX_MATCH,
    MIN_MATCH,
    Lookup,
    continuation,
    estimated_cost,
)
from numpy_gpt2.sampling import probabilities

from .reference.seeded import VARIATIONS, seeded_tokens, seeded_weights, variation

CONFIG = variation("plain")
WEIGHTS = seeded_weights(CONFIG, 0, scale=0.4)


def slow_continuation(text, n):
    """The same as `continuation`, but it compares token by token at every position."""
    best, start = 0, None
    for end in range(len(text) - 1):
        match = 0
        while match < min(MAX_MATCH, end + 1) and text[end - match] == text[len(text) - 1 - match]:
            match += 1
        if match and match >= best:
            best, start = match, end + 1
    return (best, [text[start + i % (len(text) - start)] for i in range(n)]) if best else (0, [])


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 40))
def test_the_latest_of_the_longest_matches_is_found(text, n):
    match, guess = continuation(np.array(text), n)
    assert (match, guess.tolist()) == slow_continuation(text, n)


def test_a_continuation_starts_after_the_match_and_repeats_if_the_text_ends():
    assert continuation(np.array([1, 2, 3, 9, 1, 2, 3]), 4)[1].tolist() == [9, 1, 2, 3]
    assert continuation(np.array([5, 5, 5]), 6)[1].tolist() == [5] * 6
    assert continuation(np.array([1, 2, 1, 2, 1]), 5)[1].tolist() == [2, 1, 2, 1, 2]
    assert continuation(np.array([1, 2, 3]), 5)[0] == 0


def record_passes(monkeypatch):
    """A list that receives the number of tokens of each forward pass from now on."""
    lengths = []
    update = KVCache.update

    def recording_update(cache, layer, k, v):
        if layer == 0:
            lengths.append(k.shape[2])
        return update(cache, layer, k, v)

    monkeypatch.setattr(KVCache, "update", recording_update)
    return lengths


@pytest.mark.parametrize("name", VARIATIONS)
def test_drafts_do_not_change_greedy_tokens(name):
    """The text is longer than several windows, so drafts also reach the end of a window."""
    config = variation(name)
    weights = seeded_weights(config, 5, scale=0.4)
    for prompt in (seeded_tokens(config, 1, (9,)), np.tile(seeded_tokens(config, 2, (3,)), 5)):

        def tokens(lookup, n, prompt=prompt, **options):
            options = {"max_new_tokens": n, "temperature": 0, "lookup": lookup, **options}
            return list(generate(prompt, weights, config, **options))

        plain = tokens(0, 60)
        stop = plain[40]
        for lookup in (1, 3, 7, 31, 200):
            for n in (1, 2, 17, 60):
                assert tokens(lookup, n) == plain[:n]
            assert tokens(lookup, 60, stop_tokens=[stop]) == plain[: plain.index(stop)]


def test_text_that_repeats_takes_few_forward_passes(monkeypatch):
    """All weights are zero, so every token is the same and every draft is right."""
    config = GPT2Config(vocab_size=20, n_positions=500, n_embd=8, n_layer=1, n_head=1)
    weights = {name: np.zeros_like(array) for name, array in init_weights(config, np.random.default_rng(0)).items()}
    lengths = record_passes(monkeypatch)
    assert list(generate([3, 4], weights, config, max_new_tokens=400, temperature=0)) == [0] * 400
    assert lengths[:5] == [2, 1, 1, 1, 8]  # the first draft comes after MIN_MATCH repeated tokens
    assert max(lengths) == 32
    assert len(lengths) < 30
    lengths.clear()
    assert list(generate([3, 4], weights, config, max_new_tokens=400, temperature=0, lookup=0)) == [0] * 400
    assert len(lengths) == 400


def assert_bounded(lookup, text, next_token, n, price=1):
    """Let the function `next_token(predicted, drafted)` be the model for n passes, and check the bound after each.

    A draft costs `price` times the estimate. Returns the cost of all passes per token.
    """
    text, spent, n_new = [*text], 0.0, 0
    for _ in range(n):
        draft = lookup.draft(np.array(text), 100)
        seconds = price * estimated_cost(len(draft)) if len(draft) else 1
        spent += seconds
        tokens = []
        for drafted in [*draft.tolist(), None]:
            predicted = lookup.guess[len(tokens)] if len(tokens) < len(lookup.guess) else 0
            tokens.append(int(next_token(predicted, drafted is not None)))
            if tokens[-1] != drafted:
                break
        lookup.update(len(draft), np.array(tokens), seconds)
        text += tokens
        n_new += len(tokens)
        before_measured = 2 * max(price - 1, 0) * estimated_cost(31)  # the first two drafts
        assert spent <= (1 + BUDGET_PER_TOKEN) * n_new + INITIAL_BUDGET + before_measured + 1e-9
    return spent / n_new


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(0, 40), st.data())
def test_drafts_cost_at_most_2_percent_and_a_constant(text, longest, data):
    """Whatever the text is, and whatever the model answers. An answer of None is the token that was predicted."""
    answers = iter(data.draw(st.lists(st.none() | st.integers(0, 2), max_size=300)))

    def next_token(predicted, drafted):
        answer = next(answers, 3 if drafted else None)
        return predicted if answer is None else answer

    assert_bounded(Lookup(longest), text, next_token, 60)


@pytest.mark.parametrize("price", [0.5, 3])
@pytest.mark.parametrize("n_right", range(0, 9, 2))
def test_a_model_that_rejects_what_is_drafted_and_says_what_is_not_costs_2_percent(n_right, price):
    """It accepts n_right tokens of each draft. If no draft is made, its tokens are those that were predicted."""
    accepted = 0

    def next_token(predicted, drafted):
        nonlocal accepted
        accepted = accepted + 1 if drafted else 0
        return predicted if accepted <= n_right else (predicted + 1) % 10

    per_token = assert_bounded(Lookup(31), np.tile(np.arange(10), 20), next_token, 1000, price)
    assert per_token > 1.01 or n_right > 1 or price < 1  # the budget is spent


def test_the_cost_of_drafts_is_measured_and_one_slow_pass_does_not_count():
    lookup = Lookup(31)
    lookup.update(7, np.array([1]), 30)  # no pass over one token was measured before it
    lookup.update(0, np.array([1]), 10)
    for seconds, cost in ((1000, 2.8), (56, 5.6), (14, 5.6), (14, 1.4)):
        lookup.update(7, np.array([1]), seconds)
        assert lookup.cost(7) == pytest.approx(cost)


def test_drafts_are_no_longer_than_allowed():
    text = np.tile(np.arange(10), 20)
    for room in (0, 1, 5, 7, 50):
        assert len(Lookup(31).draft(text, room)) == min(room, 31)
        assert len(Lookup(31).draft(text[:20], room)) == min(room, 15)  # a match of 10 tokens
    assert len(Lookup(4).draft(text, 50)) == 4
    assert len(Lookup(0).draft(text, 50)) == 0
    assert len(Lookup(31).draft(np.array([1, 2, 9, 1, 2]), 50)) == 0  # a match of two tokens is too short
    assert len(Lookup(31).draft(np.arange(MIN_MATCH).repeat(2)[:-1], 50)) == 0


class Sequence(np.random.Generator):
    """A random generator that draws these numbers in turn."""

    def __init__(self, numbers):
        super().__init__(np.random.PCG64(0))
        self.numbers = iter(numbers)

    def random(self, shape):
        return np.array([next(self.numbers) for _ in range(math.prod(shape))]).reshape(shape)


def test_drafts_do_not_change_the_distribution_of_samples(monkeypatch):
    """Three tokens after a repeating prompt, two of them drafted, are compared with their exact probabilities.

    The triples of random numbers fill the unit cube evenly: each is the one before plus the same step, modulo 1. So the
    counts have far less noise than those of random triples.
    """
    config = GPT2Config(vocab_size=6, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    rng = np.random.default_rng(3)
    weights = {name: array * 12 for name, array in init_weights(config, rng).items()}

    def distribution(text):
        return probabilities(forward(text, weights, config)[-1], 1.3)

    prompts = [[1, 2, 3, token, 5, 1, 2, 3] for token in range(6)]
    prompt = max(prompts, key=lambda prompt: distribution(prompt)[prompt[3]])  # the one with the most probable draft
    assert 0.2 < distribution(prompt)[prompt[3]] < 0.8
    expected = np.zeros((6, 6, 6))
    for a, b in np.ndindex(6, 6):
        first, second, third = (distribution([*prompt, a, b][:n]) for n in (8, 9, 10))
        expected[a, b] = first[a] * second[b] * third
    lengths = record_passes(monkeypatch)
    n = 2_000
    counts = np.zeros_like(expected)
    for triple in np.arange(n)[:, None] * [0.8191725134, 0.6710436067, 0.5497004779] % 1:
        options = {"max_new_tokens": 3, "temperature": 1.3, "rng": Sequence(triple)}
        counts[tuple(generate(prompt, weights, config, **options))] += 1
    assert 2.1 * n < len(lengths) < 2.8 * n  # some drafts were accepted and some rejected
    frequent = expected * n >= 5
    statistic = ((counts - n * expected)[frequent] ** 2 / (n * expected[frequent])).sum()
    assert statistic < 3  # of random triples it would be about 5, one less than the number of frequent texts


def test_drafts_do_not_change_the_tokens_of_a_seed():
    """Each token uses one random number, whether it was drafted or not."""
    weights = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    prompt = np.tile(seeded_tokens(CONFIG, 2, (3,)), 5)
    for seed in range(20):
        options = {"max_new_tokens": 60, "temperature": 0.3, "rng": seed}
        plain = list(generate(prompt, weights, CONFIG, lookup=0, **options))
        assert list(generate(prompt, weights, CONFIG, **options)) == plain


def test_drafts_are_checked_against_the_processed_scores(monkeypatch):
    """The text of each position includes the drafted tokens that were accepted before it."""
    config, n = dataclasses.replace(CONFIG, vocab_size=24), 40
    settings = {"repetition_penalty": 0.5, "no_repeat_ngram": 12, "top_k": 9, "top_p": 0.95, "min_p": 0.05}
    lengths = record_passes(monkeypatch)
    for seed in range(10):
        weights = {name: a.astype(np.float64) for name, a in seeded_weights(config, seed, scale=0.8).items()}
        prompt = np.tile(seeded_tokens(config, seed, (4,)), 4)
        options = {"max_new_tokens": n, "temperature": 0.3 * (seed % 2), "rng": seed, **settings}
        plain = list(generate(prompt, weights, config, lookup=0, **options))
        assert list(generate(prompt, weights, config, **options)) == plain
    assert len(lengths) < 10 * 2 * n - 30  # drafts were accepted


@pytest.mark.parametrize("temperature", [0, 0.1])
def test_the_observer_gets_the_raw_logits_of_each_token_in_order(temperature, monkeypatch):
    """Drafts are accepted. Excluded ids keep their logits, and so do ids from `n_vocab` on."""
    scale = {name: 0.1 if name == "wpe.weight" else "attn.c_proj" not in name for name in WEIGHTS}
    weights = {name: array * np.float32(scale[name]) for name, array in WEIGHTS.items()}
    lengths, seen = record_passes(monkeypatch), []
    options = {"n_vocab": 90, "excluded": [3, 4], "max_new_tokens": 31, "temperature": temperature, "rng": 0}
    tokens = list(generate([5], weights, CONFIG, observe=lambda *step: seen.append(step), **options))
    assert len(lengths) < 20
    scores, chosen = zip(*seen, strict=True)
    assert np.concatenate(chosen).tolist() == tokens
    expected = forward(np.array([5, *tokens[:-1]]), weights, CONFIG)
    assert np.abs(np.diff(expected, axis=0)).max(axis=1).min() > 0.1  # each step has its own logits
    np.testing.assert_allclose(np.concatenate(scores), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_has_no_drafts(monkeypatch):
    prompts = np.tile(seeded_tokens(CONFIG, 2, (2, 3)), (1, 4))
    lengths = record_passes(monkeypatch)
    assert len(list(generate(prompts, WEIGHTS, CONFIG, max_new_tokens=9, temperature=0))) == 9
    assert lengths == [12] + [1] * 8


def test_a_negative_or_fractional_draft_length_is_an_error():
    with pytest.raises(ValueError, match="lookup is -1"):
        generate([1], WEIGHTS, CONFIG, max_new_tokens=1, lookup=-1)
    with pytest.raises(TypeError):
        generate([1], WEIGHTS, CONFIG, max_new_tokens=1, lookup=1.5)


def test_the_flag_no_lookup_turns_drafts_off(tiny, capsys, monkeypatch):
    from numpy_gpt2.__main__ import main

    seen = []
    monkeypatch.setattr(samples, "generate", lambda *_, lookup, **__: seen.append(lookup) or iter(()))
    for flags in ([], ["--lookup"], ["--no-lookup"]):
        assert main(["-m", str(tiny), *flags, "x"]) == 0
    assert seen == [LONGEST_DRAFT, LONGEST_DRAFT, 0]


def test_after_a_wrong_draft_two_correct_predictions_lead_to_the_next():
    lookup, text = Lookup(31), np.tile(np.arange(10), 2)
    lookup.update(len(lookup.draft(text, 100)), np.array([99]), None)
    for predicted in (0, 1):
        assert len(lookup.draft(np.append(text, np.arange(predicted)), 100)) == 0
        lookup.update(0, np.array([predicted]), None)
    assert len(lookup.draft(np.append(text, [0, 1]), 100)) == 7
