"""Tokens to text: incomplete characters, stop strings, and `generate_text`."""

import shlex

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from numpy_gpt2 import load, load_tokenizer
from numpy_gpt2.__main__ import main
from numpy_gpt2.stream import TextStream, end_of_text, generate_text

from .conftest import write_model
from .main.conftest import EOT, SMILE, generated, write_scripted_model

LETTERS = f"the é→{SMILE}"


@pytest.fixture(scope="session")
def tokenizer(tiny):
    return load_tokenizer(tiny)


# TextStream


@given(tokens=st.lists(st.integers(0, EOT), max_size=12))
def test_the_streamed_text_equals_the_decoded_tokens(tokenizer, tokens):
    stream = TextStream(tokenizer, [])
    text = ""
    for token in tokens:
        stream.append(token)
        text += stream.new_text()
    stream.finish("length")
    text += stream.new_text()
    assert text == stream.text == tokenizer.decode(tokens)
    assert (stream.tokens, stream.finish_reason) == (tokens, "length")


@given(
    text=st.text(LETTERS, max_size=12),
    stops=st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3),
    merged=st.booleans(),
)
@example("e the", [" the", "h"], True)  # one token holds both
@example("tété", ["é"], False)
def test_stop_strings_end_the_text_wherever_tokens_cut_them(tokenizer, text, stops, merged):
    """The text ends before the stop string that is complete first, and only the start of a stop string is held back."""
    tokens = tokenizer.encode_ordinary(text) if merged else [*text.encode()]
    ends = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    end, expected = (min(ends)[0], text[: min(ends)[1]]) if ends else (len(text), text)

    stream = TextStream(tokenizer, stops)
    streamed = ""
    for n, token in enumerate(tokens, start=1):
        stream.append(token)
        streamed += stream.new_text()
        whole = tokenizer.decode_bytes(tokens[:n]).decode("utf-8", "ignore")  # without half a character
        if len(whole) < end or not ends:
            beginnings = (stop[:i] for stop in stops for i in range(1, len(stop)))
            n_held = max((len(beginning) for beginning in beginnings if whole.endswith(beginning)), default=0)
            assert streamed == whole[: len(whole) - n_held]
    stream.finish("length")
    streamed += stream.new_text()

    assert streamed == stream.text == expected
    assert stream.finish_reason == ("stop" if ends else "length")
    prefixes = (tokens[:n] for n in range(len(tokens) + 1))
    assert stream.tokens == next(ids for ids in prefixes if tokenizer.decode(ids).startswith(expected))


def test_a_stream_that_has_ended_ignores_tokens(tokenizer):
    stream = TextStream(tokenizer, [])
    for token in (97, -1, 98):
        stream.append(token)
    stream.finish("length")
    assert (stream.text, stream.tokens, stream.finish_reason) == ("a", [97], "stop")


def test_an_interrupted_stream_keeps_held_back_text_but_not_half_a_character(tokenizer):
    stream = TextStream(tokenizer, ["ab"])
    for token in (98, 97, 0xC3):
        stream.append(token)
    assert stream.text == "b"
    stream.finish("interrupted")
    assert (stream.text, stream.finish_reason) == ("ba", "interrupted")


# generate_text


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--greedy", {"temperature": 0}),
        ("-k 0 -t 1 -s 7", {"rng": 7}),
        ("-t 1.5 -k 5 -p 0.9 -s 3 --no-lookup", {"temperature": 1.5, "top_k": 5, "top_p": 0.9, "rng": 3, "lookup": 0}),
        (
            "-t 2 -k 0 --min-p 0.1 --repetition-penalty 1.2 --no-repeat-ngram 2 -s 3",
            {"temperature": 2, "min_p": 0.1, "repetition_penalty": 1.2, "no_repeat_ngram": 2, "rng": 3},
        ),
        ("-t 2 -k 0 -s 11 -n 300", {"temperature": 2, "rng": 11, "max_new_tokens": 300}),
        ("-t 2 -k 0 -s 11 --stop th --stop e", {"temperature": 2, "rng": 11, "stop": ("th", "e")}),
        ("-t 2 -k 0 -s 11 --stop e", {"temperature": 2, "rng": 11, "stop": "e"}),
    ],
)
@pytest.mark.parametrize("prompt", ["you", "", "the the you, the the"])
def test_generate_text_equals_the_command(tiny, capsys, flags, options, prompt):
    assert main(["-m", str(tiny), *shlex.split(flags), prompt]) == 0
    pieces = list(generate_text(prompt, load(tiny), **options))
    assert "".join(pieces) + "\n" == capsys.readouterr().out
    assert all(pieces)


def test_generate_text_yields_each_character_once_it_is_complete(tmp_path):
    tokens = [*f"a{SMILE}b".encode(), 255, *"é".encode(), 0xE2, 0x86]
    model = load(write_scripted_model(tmp_path / "model", tokens))
    pieces = list(generate_text("x", model, max_new_tokens=len(tokens), temperature=0))
    assert pieces == ["a", SMILE, "b", "\ufffd", "é", "\ufffd"]


def test_generate_text_holds_back_the_start_of_a_stop_string(tmp_path):
    model = load(write_scripted_model(tmp_path / "model", [*b"a, b. c"]))
    options = {"max_new_tokens": 7, "temperature": 0}
    assert list(generate_text("x", model, stop=", c", **options)) == ["a", ", b", ".", " ", "c"]
    assert list(generate_text("x", model, stop=[". c", "z"], **options)) == ["a", ",", " ", "b"]
    assert list(generate_text("x", model, stop=" c", max_new_tokens=6, temperature=0))[-2:] == [".", " "]


def test_generate_text_ends_at_the_end_of_text(tmp_path):
    model = load(write_scripted_model(tmp_path / "model", [*b"ab", EOT, *b"cd"]))
    assert "".join(generate_text("x", model, temperature=0)) == "ab"


def test_generate_text_makes_100_tokens_by_default(tmp_path):
    folder = write_model(tmp_path, eos_token_id=None)
    text = generated(folder, [97], 100)[1]
    assert "".join(generate_text("a", load(folder), temperature=0)) == text


def test_a_generator_is_used_as_it_is(tiny):
    model, rng = load(tiny), np.random.default_rng(4)
    first, second = ("".join(generate_text("a", model, temperature=2, rng=rng)) for _ in range(2))
    assert first != second
    assert first == "".join(generate_text("a", model, temperature=2, rng=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ""}, "a stop string is empty"),
        ({"stop": ["a", ""]}, "a stop string is empty"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"prompt": 5}, "prompt is 5; it must be a string"),
        ({"prompt": b"a"}, "prompt is b'a'"),
        ({"model": "shakespeare"}, "model is 'shakespeare'; it must be a Model"),
        ({"stop": 5}, "stop is 5; it must be one or more strings"),
        ({"stop": [5]}, r"stop is \[5\]"),
    ],
)
def test_generate_text_checks_its_arguments_at_once(tiny, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        generate_text(**{"prompt": "a", "model": load(tiny), **options})


def test_endoftext_ends_a_text_only_where_the_config_names_no_other_token(tmp_path):
    for eos, expected in [(99, {99}), ([33, 100], {33, 100}), (None, {EOT}), ([], {EOT}), (10**6, {EOT})]:
        assert end_of_text(load(write_model(tmp_path, eos_token_id=eos))) == expected
