"""Drafts from the text so far: what is guessed, that it changes no token, and that it never costs much."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2 import GPT2Config, forward, generate, init_weights
from numpy_gpt2.lookup import INCOME, LONGEST_MATCH, MATCH, Lookup, continuation, price
from numpy_gpt2.sampling import probabilities

from .reference.seeded import VARIATIONS, seeded_tokens, seeded_weights, variation

MODULE = sys.modules["numpy_gpt2.generate"]
CONFIG = variation("plain")
WEIGHTS = seeded_weights(CONFIG, 0, scale=0.4)


def described_continuation(text, n):
    """The same by its description, place by place."""
    best, start = 0, None
    for end in range(len(text) - 1):
        match = 0
        while match < min(LONGEST_MATCH, end + 1) and text[end - match] == text[len(text) - 1 - match]:
            match += 1
        if match and match >= best:
            best, start = match, end + 1
    return (best, [text[start + i % (len(text) - start)] for i in range(n)]) if best else (0, [])


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 40))
def test_the_longest_and_latest_match_goes_on(text, n):
    match, guess = continuation(np.array(text), n)
    assert (match, guess.tolist()) == described_continuation(text, n)


def test_what_is_guessed_of_some_texts():
    assert continuation(np.array([1, 2, 3, 9, 1, 2, 3]), 4)[1].tolist() == [9, 1, 2, 3]
    assert continuation(np.array([5, 5, 5]), 6)[1].tolist() == [5] * 6
    assert continuation(np.array([1, 2, 1, 2, 1]), 5)[1].tolist() == [2, 1, 2, 1, 2]
    assert continuation(np.array([1, 2, 3]), 5)[0] == 0


def passes(monkeypatch):
    """The numbers of tokens that go into each pass of the model from here on."""
    sizes = []

    def counting(tokens, *arguments, hidden_states=MODULE.hidden_states):
        sizes.append(tokens.shape[1])
        return hidden_states(tokens, *arguments)

    monkeypatch.setattr(MODULE, "hidden_states", counting)
    return sizes


@pytest.mark.parametrize("lookup", [1, 3, 7, 31, 200])
@pytest.mark.parametrize("name", VARIATIONS)
def test_greedy_tokens_are_the_same(name, lookup):
    """Through several windows, so that drafts meet their ends too."""
    config = variation(name)
    weights = seeded_weights(config, 5, scale=0.4)
    for prompt in (seeded_tokens(config, 1, (9,)), np.tile(seeded_tokens(config, 2, (3,)), 5)):
        options = {"max_new_tokens": 90, "temperature": 0}
        plain = list(generate(prompt, weights, config, lookup=0, **options))
        assert list(generate(prompt, weights, config, lookup=lookup, **options)) == plain
        for n in (1, 2, 17):
            options["max_new_tokens"] = n
            assert list(generate(prompt, weights, config, lookup=lookup, **options)) == plain[:n]
        stop = plain[40]
        tokens = generate(prompt, weights, config, lookup=lookup, stop_tokens=[stop], max_new_tokens=90, temperature=0)
        assert list(tokens) == plain[: plain.index(stop)]


def test_text_that_repeats_takes_a_fraction_of_the_passes(monkeypatch):
    """Weights of zero but for the head: every token is the same, and all drafts are right."""
    config = GPT2Config(vocab_size=20, n_positions=500, n_embd=8, n_layer=1, n_head=1)
    weights = {name: np.zeros_like(array) for name, array in init_weights(config, np.random.default_rng(0)).items()}
    sizes = passes(monkeypatch)
    assert list(generate([3, 4], weights, config, max_new_tokens=400, temperature=0)) == [0] * 400
    assert sizes[:5] == [2, 1, 1, 1, 8]  # a draft once MATCH tokens have been there before
    assert max(sizes) == 32
    assert len(sizes) < 30
    sizes.clear()
    assert list(generate([3, 4], weights, config, max_new_tokens=400, temperature=0, lookup=0)) == [0] * 400
    assert len(sizes) == 400


def test_drafts_that_fail_are_given_up():
    """Guesses that are always wrong cost a few passes, and then hardly any."""
    lookup = Lookup(31)
    text, spent = np.tile(np.arange(10), 20), 0.0
    for step in range(1, 2001):
        draft = lookup.draft(text, 100)
        spent += price(len(draft)) - 1 if len(draft) else 0
        lookup.update(len(draft), np.array([99]))
        assert spent <= price(7) + INCOME * step
    assert spent > 10  # the income of 2,000 tokens


def test_drafts_stay_in_their_room():
    text = np.tile(np.arange(10), 20)
    for room in (0, 1, 5, 7, 50):
        assert len(Lookup(31).draft(text, room)) == min(room, 7)
    assert len(Lookup(4).draft(text, 50)) == 4
    assert len(Lookup(0).draft(text, 50)) == 0
    assert len(Lookup(31).draft(np.array([1, 2, 9, 1, 2]), 50)) == 0  # two tokens are no match
    assert len(Lookup(31).draft(np.arange(MATCH).repeat(2)[:-1], 50)) == 0


def test_sampling_follows_the_model(monkeypatch):
    """Three tokens after a prompt that repeats, of which two are drafted, against exact probabilities."""
    config = GPT2Config(vocab_size=6, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    rng = np.random.default_rng(3)
    weights = {name: array * 12 for name, array in init_weights(config, rng).items()}

    def distribution(text):
        return probabilities(forward(text, weights, config)[-1], 1.3)

    prompts = [[1, 2, 3, token, 5, 1, 2, 3] for token in range(6)]
    prompt = max(prompts, key=lambda prompt: distribution(prompt)[prompt[3]])  # whose draft is the most probable
    assert 0.2 < distribution(prompt)[prompt[3]] < 0.8
    expected = np.zeros((6, 6, 6))
    for a, b in np.ndindex(6, 6):
        first, second, third = (distribution([*prompt, a, b][:n]) for n in (8, 9, 10))
        expected[a, b] = first[a] * second[b] * third
    sizes = passes(monkeypatch)
    n = 20_000
    counts = np.zeros_like(expected)
    for _ in range(n):
        options = {"max_new_tokens": 3, "temperature": 1.3, "rng": rng}
        counts[tuple(generate(prompt, weights, config, **options))] += 1
    assert 2.1 * n < len(sizes) < 2.8 * n  # drafts were accepted and refused
    likely = expected * n >= 5
    statistic = ((counts - n * expected)[likely] ** 2 / (n * expected[likely])).sum()
    freedom = likely.sum() - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_the_same_seed_gives_the_same_tokens():
    """Each token takes one random number, whether it was drafted or not."""
    weights = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    prompt = np.tile(seeded_tokens(CONFIG, 2, (3,)), 5)
    for seed in range(20):
        options = {"max_new_tokens": 60, "temperature": 0.3, "rng": seed}
        plain = list(generate(prompt, weights, CONFIG, lookup=0, **options))
        assert list(generate(prompt, weights, CONFIG, **options)) == plain


def test_a_batch_goes_without(monkeypatch):
    prompts = np.tile(seeded_tokens(CONFIG, 2, (2, 3)), (1, 4))
    sizes = passes(monkeypatch)
    assert len(list(generate(prompts, WEIGHTS, CONFIG, max_new_tokens=9, temperature=0))) == 9
    assert sizes == [12] + [1] * 8


def test_an_impossible_length_is_refused():
    with pytest.raises(ValueError, match="lookup is -1"):
        generate([1], WEIGHTS, CONFIG, max_new_tokens=1, lookup=-1)
    with pytest.raises(TypeError):
        generate([1], WEIGHTS, CONFIG, max_new_tokens=1, lookup=1.5)


def test_the_command_line_turns_it_off(tiny, capsys, monkeypatch):
    from numpy_gpt2.__main__ import main

    seen = []
    monkeypatch.setattr(
        sys.modules["numpy_gpt2.__main__"], "generate", lambda *_, lookup, **__: seen.append(lookup) or iter(())
    )
    for flags in ([], ["--lookup"], ["--no-lookup"]):
        assert main(["-m", str(tiny), *flags, "x"]) == 0
    assert seen == [MODULE.LOOKUP, MODULE.LOOKUP, 0]
