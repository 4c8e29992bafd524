"""The text on standard output: where the prompt comes from, streaming, and where the text ends."""

import io
import itertools
import os
import re
import sys
import tracemalloc

import pytest

from numpy_gpt2 import __main__ as command
from numpy_gpt2 import load_tokenizer

from ..conftest import assert_one_error, write_model_without_endoftext
from .conftest import EOT, SEPARATED, SMILE, generated, json_samples, write_scripted_model

# Greedy text


@pytest.mark.parametrize("prompt", ["you", f"naïve e\u0301 {SMILE}", "the the you, you a", " ", "x\ny\n"])
def test_stdout_is_exactly_the_greedy_continuation(cli, tiny, prompt):
    tokens, text = generated(tiny, load_tokenizer(tiny).encode_ordinary(prompt), 30)
    assert len(set(tokens)) > 3
    result = cli("-m", tiny, "--greedy", "-n", 30, prompt)
    assert (result.status, result.out, result.err) == (0, text + "\n", "")


@pytest.mark.parametrize("flags", ["-t 0", "-t 0 -k 5 -p 0.5", "--greedy -t 0 -k 0 -p 1", "--greedy -k 1 -s 3"])
def test_greedy_and_temperature_0_take_the_most_probable_token(cli, tiny, flags):
    assert cli("-m", tiny, *flags.split(), "-n", 20, "a").out == generated(tiny, [97], 20)[1] + "\n"


@pytest.mark.parametrize(
    "flags", ["-t 2", "--temperature 0.8", "-k 40", "--top-k 2", "-p 0.9", "-t 1 -p 0.9", "--min-p 1"]
)
def test_greedy_with_an_option_that_samples_is_an_error(cli, tiny, flags):
    assert_one_error(
        cli("-m", tiny, "--greedy", *flags.split(), "a"), 2, "--greedy does not sample, so it contradicts -"
    )


def test_an_empty_prompt_starts_from_endoftext(cli, tiny):
    assert cli("-m", tiny, "--greedy", "-n", 20, "").out == generated(tiny, [EOT], 20)[1] + "\n"


def test_endoftext_in_a_prompt_is_ordinary_text(cli, tiny):
    prompt = "<|endoftext|>"
    assert cli("-m", tiny, "--greedy", "-n", 20, prompt).out == generated(tiny, [*prompt.encode()], 20)[1] + "\n"


def test_a_tokenizer_without_endoftext_needs_a_prompt(cli, tmp_path):
    folder = write_model_without_endoftext(tmp_path / "model")
    assert_one_error(cli("-m", folder, ""), 1, "<|endoftext|>")
    assert cli("-m", folder, "-n", 3, "a").status == 0


def test_generation_continues_past_the_window(cli, tiny):
    tokens, text = generated(tiny, [97, 98], 150)
    assert len(tokens) == 150
    assert cli("-m", tiny, "--greedy", "-n", 150, "ab").out == text + "\n"


def test_a_prompt_longer_than_the_window_is_cut_from_the_left_with_a_warning(cli, tiny):
    result = cli("-m", tiny, "--greedy", "-n", 5, "y" * 10 + "x" * 63 + "z")
    assert (result.status, result.out) == (0, generated(tiny, [120] * 63 + [122], 5)[1] + "\n")
    assert re.fullmatch(r"warning: .*\b74 tokens.*\b64\b.*\n", result.err)


def test_a_word_of_100_000_letters_is_cut_to_the_window(cli, tiny):
    result = cli("-m", tiny, "--greedy", "-n", 5, "-", stdin=b"x" * 100_000)
    assert (result.status, result.out) == (0, generated(tiny, [120] * 64, 5)[1] + "\n")
    assert re.fullmatch(r"warning: .*\b100,000 tokens.*\n", result.err)


# The prompt


@pytest.mark.parametrize("dash", [["-"], []])
@pytest.mark.parametrize(
    ("pipe", "prompt"),
    [(b"\n", ""), (b"the\n", "the"), (b"the\r\n", "the"), (b" a\n\n", " a\n"), ("\tnaïve ".encode(), "\tnaïve ")],
)
def test_a_prompt_from_a_pipe_loses_one_line_end(cli, tiny, dash, pipe, prompt):
    [result] = json_samples(cli("-m", tiny, "-n", 3, "--greedy", "--json", *dash, stdin=pipe).out)
    assert result["prompt"] == prompt
    assert result["tokens"] == generated(tiny, load_tokenizer(tiny).encode_ordinary(prompt) or [EOT], 3)[0]


def test_a_pipe_is_not_read_if_there_is_a_prompt(cli, tiny):
    [result] = json_samples(cli("-m", tiny, "-n", 3, "--json", "you", stdin=b"the").out)
    assert result["prompt"] == "you"
    assert sys.stdin.buffer.read() == b"the"


def test_a_pipe_that_is_not_utf8_is_an_error(cli, tiny):
    assert_one_error(cli("-m", tiny, stdin=b"caf\xe9 noir"), 1, "not UTF-8", "0xe9 in position 3")


@pytest.mark.parametrize("arguments", [[b"caf\xe9"], ["a", "--stop", b"\xff"]])
def test_an_argument_that_is_not_utf8_is_an_error(cli, tiny, arguments):
    assert_one_error(cli("-m", tiny, *map(os.fsdecode, arguments)), 2, "is not UTF-8")


@pytest.mark.parametrize("prompt", [[], ["-"]])
def test_no_prompt_with_closed_stdin_is_an_error(cli, tiny, prompt):
    assert_one_error(cli("-m", tiny, *prompt, stdin=None), 2, "there is no prompt")


# Streaming


def test_a_character_is_printed_once_it_is_complete(cli, tmp_path, monkeypatch):
    tokens = [*f"a{SMILE}b".encode(), 255, *"é".encode(), 0xE2, 0x86]
    model = write_scripted_model(tmp_path / "model", tokens)
    written = []
    monkeypatch.setattr(command, "write", written.append)
    cli("-m", model, "--greedy", "-n", len(tokens), "x")
    assert written == ["a", "", "", "", SMILE, "b", "\ufffd", "", "é", "", "", "\ufffd\n"]


def test_text_is_printed_before_the_next_token_is_computed(tiny, monkeypatch, replace_generate):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
    seen = []

    def rows():
        for token in b"abc":
            yield [token]
            seen.append(pipe.getvalue())

    replace_generate(rows())
    command.main(["-m", str(tiny), "x"])
    assert seen == [b"a", b"ab", b"abc"]


# The end of the text


def test_finish_reason_tells_why_text_and_tokens_end(cli, tmp_path):
    model = write_scripted_model(tmp_path / "model", [*b"ab", EOT, *b"cd"])

    def sample(*arguments):
        [result] = json_samples(cli("-m", model, "--greedy", "--json", *arguments, "x").out)
        return result["text"], result["tokens"], result["finish_reason"]

    assert sample() == ("ab", [97, 98], "stop")
    assert sample("-n", 2) == ("ab", [97, 98], "length")
    assert sample("-n", 3) == ("ab", [97, 98], "stop")
    assert sample("-n", 4, "--ignore-eos") == ("ab<|endoftext|>c", [97, 98, EOT, 99], "length")
    assert sample("--stop", "b") == ("a", [97], "stop")
    assert sample("--stop", "a") == ("", [], "stop")
    assert sample("--stop", "bd", "-n", 2) == ("ab", [97, 98], "length")  # "b" was held back until the end
    assert sample("--stop", "bd") == ("ab", [97, 98], "stop")


def test_a_sample_may_be_empty(cli, tmp_path):
    model = write_scripted_model(tmp_path / "model", [EOT, 97])
    result = cli("-m", model, "--greedy", "--stats", "x")
    assert (result.status, result.out) == (0, "\n")
    [sample] = json_samples(cli("-m", model, "--greedy", "--json", "x").out)
    assert (sample["text"], sample["tokens"], sample["finish_reason"]) == ("", [], "stop")
    assert sample["timings"]["first_token"] is None


def test_eos_token_id_of_the_config_ends_the_text(cli, tmp_path):
    model = write_scripted_model(tmp_path / "one", [*b"abcd", EOT], eos_token_id=99)
    assert cli("-m", model, "--greedy", "x").out == "ab\n"
    model = write_scripted_model(tmp_path / "several", [*b"abcd", EOT], eos_token_id=[33, 100])
    assert cli("-m", model, "--greedy", "x").out == "abc\n"
    assert cli("-m", model, "--greedy", "-n", 4, "--ignore-eos", "x").out == "abcd\n"
    model = write_scripted_model(tmp_path / "none", [*b"abcd", EOT], eos_token_id=None)
    assert cli("-m", model, "--greedy", "x").out == "abcd\n"


def test_stop_strings_may_span_tokens(cli, tmp_path):
    model = write_scripted_model(tmp_path / "model", [*f"you, {SMILE}é the. end".encode()])
    arguments = ["-m", model, "--greedy", "-n", 20]
    for stops, text in [
        (["the. "], f"you, {SMILE}é "),
        ([f"{SMILE}é"], "you, "),
        (["end", "zz", "é t"], f"you, {SMILE}"),
        (["ou, " + SMILE, ","], "you"),  # they overlap, and the comma is complete first
    ]:
        flags = itertools.chain.from_iterable(("--stop", stop) for stop in stops)
        result = cli(*arguments, *flags, "x")
        assert (result.status, result.out, result.err) == (0, text + "\n", "")


def test_generation_stops_when_every_sample_has_reached_a_stop_string(cli, tiny, replace_generate):
    replace_generate(itertools.chain([[97, 97], [98, 99], [100, 98]], map(pytest.fail, ["this step is one too many"])))
    assert cli("-m", tiny, "--num-samples", 2, "--stop", "b", "x").out == SEPARATED.format("a", "ac")


def test_samples_share_the_memory_of_a_long_prompt(cli, tiny):
    """A copy of the prompt for each sample would take 80 MB."""
    tracemalloc.start()
    result = cli("-m", tiny, "-n", 1, "--num-samples", 100, "-", stdin=b"a" * 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.status == 0, result.err
    assert "only the last 64 fit" in result.err
    assert peak < 40e6
