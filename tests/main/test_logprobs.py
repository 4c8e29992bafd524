"""--json with --logprobs and --echo."""

import numpy as np
import pytest

from numpy_gpt2 import forward, load, token_log_probabilities
from numpy_gpt2.logprobs import log_softmax
from numpy_gpt2.samples import Settings, continue_prompts
from numpy_gpt2.stream import TextStream

from ..conftest import assert_one_error
from .conftest import EOT, json_samples, write_scripted_model


def expected_logprobs(folder, prompt, tokens):
    """ln softmax (V,) for each generated token, computed again from the tokens that the model saw."""
    weights, config, _ = load(folder, np.float64)
    text, start, rows = [*prompt], max(0, len(prompt) - config.n_positions), []
    for token in tokens:
        if len(text) - start > config.n_positions:  # the last half becomes the start of a new window
            start = len(text) - config.n_positions // 2
        rows.append(log_softmax(forward(text[start:], weights, config)[-1]))
        text.append(token)
    return rows


def assert_logprobs(tokens, ids, rows, n_top):
    """Check the objects of tokens against ln softmax (V,) of each. Two nearly equal logits may change places."""
    assert [token["id"] for token in tokens] == ids
    for token, row in zip(tokens, rows, strict=True):
        assert list(token) == ["id", "text", "logprob", "rank", "top"]
        logprob = row[token["id"]]
        assert token["logprob"] == pytest.approx(logprob, abs=1e-4)
        assert 1 + np.sum(row > logprob + 1e-4) <= token["rank"] <= np.sum(row > logprob - 1e-4)
        assert len(token["top"]) == n_top
        np.testing.assert_allclose([x for _, x in token["top"]], np.sort(row)[::-1][:n_top], rtol=0, atol=1e-4)
        for id, x in token["top"]:
            assert x == pytest.approx(row[id], abs=1e-4)


@pytest.mark.parametrize(
    ("flags", "n_top"),
    [
        ("--greedy --logprobs 3", 3),
        ("-t 2 -k 5 -p 0.9 --logprobs 0", 0),
        ("--no-lookup --repetition-penalty 3 --min-p 0.2 --logprobs 999", 265),
    ],
)
def test_logprobs_are_those_of_the_model_before_temperature_and_cuts(cli, tiny, flags, n_top):
    """The text outgrows the window of 64 tokens twice. The prompt repeats, so there are drafts."""
    prompt = "the you the you the you "
    result = cli("-m", tiny, *flags.split(), "-n", 120, "-s", 1, "--ignore-eos", "--json", prompt)
    [sample] = json_samples(result.out)
    ids = load(tiny).tokenizer.encode_ordinary(prompt)
    assert len(sample["tokens"]) == 120
    assert_logprobs(sample["logprobs"], sample["tokens"], expected_logprobs(tiny, ids, sample["tokens"]), n_top)
    if "greedy" in flags:
        assert all(token["rank"] == 1 and token["top"][0][0] == token["id"] for token in sample["logprobs"])
    assert "prompt_logprobs" not in sample


def test_each_sample_has_its_own_logprobs(cli, tiny):
    """A stop string removes tokens from the end, and a row that has ended gets no more tokens."""
    flags = ["-n", 60, "-s", 3, "--num-samples", 8, "--stop", "a", "--stop", "the", "--logprobs", 1, "--json"]
    samples = json_samples(cli("-m", tiny, *flags, "you").out)
    assert len({len(sample["tokens"]) for sample in samples}) > 3
    ids = load(tiny).tokenizer.encode_ordinary("you")
    for sample in samples:
        assert_logprobs(sample["logprobs"], sample["tokens"], expected_logprobs(tiny, ids, sample["tokens"]), 1)


def test_the_end_of_text_has_no_entry(cli, tmp_path):
    """As it is not among the tokens."""
    model = write_scripted_model(tmp_path / "model", [97, 98, EOT, 99])
    [sample] = json_samples(cli("-m", model, "--greedy", "--logprobs", 0, "--json", "a").out)
    assert sample["tokens"] == [token["id"] for token in sample["logprobs"]] == [97, 98]


@pytest.mark.parametrize("length", [1, 2, 64, 150])
def test_echo_gives_the_logprobs_of_the_prompt(cli, tiny, length):
    """Of all tokens, in windows one after another, where the prompt is longer than the window."""
    weights, config, tokenizer = load(tiny)
    prompt = ("naïve the you, " * 40)[:length]
    ids = tokenizer.encode_ordinary(prompt)
    flags = ["-n", 1, "--num-samples", 2, "--logprobs", 2, "--echo", "--json"]
    result = cli("-m", tiny, *flags, prompt)
    samples = json_samples(result.out)
    first, *others = samples[0]["prompt_logprobs"]
    assert samples[1]["prompt_logprobs"] == samples[0]["prompt_logprobs"]
    assert first == {"id": ids[0], "text": "n", "logprob": None, "rank": None, "top": []}
    assert [token["id"] for token in others] == ids[1:]
    logprobs = token_log_probabilities(ids, weights, config)
    np.testing.assert_allclose([token["logprob"] for token in others], logprobs, rtol=0, atol=1e-5)
    assert all(len(token["top"]) == 2 for token in others)
    assert ("only the last 64 fit" in result.err) == (len(ids) > 64)


def test_each_prompt_of_a_batch_has_its_own_logprobs(tiny):
    model = load(tiny)
    prompts = np.array([[97, 98, 99], [100, 98, 99], [97, 98, 99]])
    samples = [TextStream(model.tokenizer, []) for _ in prompts]
    assert list(continue_prompts(prompts, samples, model, Settings(max_new_tokens=2, logprobs=0), 0))
    for prompt, sample in zip(prompts, samples, strict=True):
        rows = expected_logprobs(tiny, prompt.tolist(), sample.tokens)
        assert_logprobs(sample.logprobs[: len(sample.tokens)], sample.tokens, rows, 0)


def test_an_empty_prompt_has_an_empty_list(cli, tiny):
    [sample] = json_samples(cli("-m", tiny, "-n", 1, "--logprobs", 2, "--echo", "--json", "").out)
    assert sample["prompt_logprobs"] == []
    assert_logprobs(sample["logprobs"], sample["tokens"], expected_logprobs(tiny, [EOT], sample["tokens"]), 2)


def test_the_text_of_a_part_of_a_character_has_a_replacement_character(cli, tiny):
    [sample] = json_samples(cli("-m", tiny, "-n", 1, "--logprobs", 0, "--echo", "--json", "x\N{EURO SIGN}").out)
    assert [token["text"] for token in sample["prompt_logprobs"]] == ["x", "\ufffd", "\ufffd", "\ufffd"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--logprobs 5", "--logprobs adds a list to the JSON object of a sample; it needs --json"),
        ("--json --echo", "--echo adds the log-probabilities of the prompt; it needs --logprobs K"),
        *((f"--json --logprobs {k}", f"'{k}' is not a whole number from 0 to 1,000") for k in ("-1", "1001", "all")),
    ],
)
def test_wrong_command_lines_are_errors(cli, tiny, flags, message):
    assert_one_error(cli("-m", tiny, *flags.split(), "a"), 2, message)
