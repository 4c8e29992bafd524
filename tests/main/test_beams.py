"""--beams and --length-penalty."""

import re

import pytest

from numpy_gpt2 import beam, load
from numpy_gpt2.beam import beam_search

from ..conftest import assert_one_error, write_model
from .conftest import json_samples

END = 158  # ends a text, because the model often generates it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("beams"), eos_token_id=END)


def searched(folder, **options):
    """The best text of `beam_search` after "ab": its score, its tokens and its text."""
    model = load(folder)
    options = {"beams": 3, "max_new_tokens": 20, "stop_tokens": [END], **options}
    score, tokens = beam_search([97, 98], model.weights, model.config, **options)[0]
    return score, tokens, model.tokenizer.decode(tokens)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("", {}),
        ("--length-penalty -2e+0", {"length_penalty": -2}),
        ("--length-penalty 0.5 --no-lookup", {"length_penalty": 0.5}),
        ("--repetition-penalty 1.1", {"repetition_penalty": 1.1}),
        ("--no-repeat-ngram 2", {"no_repeat_ngram": 2}),
        ("--ignore-eos -n 70", {"max_new_tokens": 70, "stop_tokens": ()}),  # the window has 64 tokens
        ("--beams 1 -k 1 -p 1", {"beams": 1}),
    ],
)
def test_the_best_text_of_a_search_is_printed_at_its_end(cli, folder, flags, options):
    score, tokens, text = searched(folder, **options)
    assert options == {} or tokens != searched(folder)[1]
    arguments = ["-m", folder, "--beams", 3, "-n", 20, *flags.split(), "ab"]
    result = cli(*arguments)
    assert (result.status, result.out, result.err) == (0, text + "\n", "")
    [sample] = json_samples(cli(*arguments, "--json").out)
    assert (sample["text"], sample["tokens"], sample["score"]) == (text, tokens, score)
    assert sample["finish_reason"] == ("length" if len(tokens) == options.get("max_new_tokens", 20) else "stop")


@pytest.mark.parametrize("source", [["ab"], ["--prompts", "-"], ["-i"]])
def test_statistics_of_a_search_have_its_time_and_no_seed(cli, folder, source):
    arguments = ["-m", folder, "--beams", 2, "-n", 4, "--stats", *source]
    result = cli(*arguments, stdin=b"ab\n")
    assert re.search(r"^stats: (loaded after .* s · )?best text after [\d.]+ s · peak memory", result.err, re.M)
    if "-i" not in source:
        [sample] = json_samples(cli(*arguments, *(["--json"] if "ab" in source else []), stdin=b"ab\n").out)
        timings = sample["timings"]
        assert sample["seed"] is None
        assert timings["loaded"] <= timings["best_text"] == timings["total"]
        assert timings["tokens_per_second"] is None


def test_a_stop_string_cuts_the_best_text_and_leaves_its_score(cli, folder):
    score, tokens, text = searched(folder)
    stop = text[7:9]
    arguments = ["-m", folder, "--beams", 3, "-n", 20, "--stop", stop, "ab"]
    before = text.partition(stop)[0]
    assert cli(*arguments).out == before + "\n"
    [sample] = json_samples(cli(*arguments, "--json").out)
    assert (sample["text"], sample["finish_reason"], sample["score"]) == (before, "stop", score)
    assert len(sample["tokens"]) < len(tokens)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-t 1", "contradicts -t;"),
        ("-t 0", "contradicts -t;"),
        ("-k 5 -p 0.5 --min-p 0.1", "contradicts -k, -p, --min-p;"),
        ("--greedy -s 0 --num-samples 2", "contradicts --greedy, --seed, --num-samples;"),
        ("--json --logprobs 0", "contradicts --logprobs;"),
        ("--beams 0", "from 1 to 100"),
        ("--beams 101", "from 1 to 100"),
        ("--length-penalty nan", "from -10 to 10"),
        ("--length-penalty 11", "from -10 to 10"),
    ],
)
def test_options_that_do_not_fit_a_search_are_errors(cli, folder, flags, message):
    assert_one_error(cli("-m", folder, "--beams", 3, *flags.split(), "ab"), 2, message)


def test_a_length_penalty_without_beams_is_an_error(cli, folder):
    assert_one_error(cli("-m", folder, "--length-penalty", 1, "ab"), 2, "--length-penalty", "needs --beams B")


def test_ctrl_c_in_a_search_prints_no_text(cli, folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(beam, "beam_search", interrupted)
    result = cli("-m", folder, "--beams", 3, "ab")
    assert (result.status, result.out, result.err) == (130, "\n", "")
    [sample] = json_samples(cli("-m", folder, "--beams", 3, "--json", "ab").out)
    assert (sample["text"], sample["finish_reason"]) == ("", "interrupted")
    assert "score" not in sample
