"""The options of sampling, and several samples."""

import re

import numpy as np
import pytest

from numpy_gpt2 import KVCache, generate, load

from ..conftest import assert_one_error, write_model
from .conftest import EOT, generated, json_samples


def test_ids_outside_the_tokenizer_are_never_generated(cli, tmp_path):
    padded = write_model(tmp_path / "padded", vocab_size=2000)
    arguments = ["-m", padded, "-n", 50, "-t", 100, "-k", 0, "-s", 0, "--ignore-eos", "--json", "a"]
    [sample] = json_samples(cli(*arguments).out)
    assert len(sample["tokens"]) == 50
    assert 200 < max(sample["tokens"]) <= EOT


def test_the_sampling_flags_set_the_arguments_of_generate(cli, tiny):
    texts = set()
    for flags, options in [
        ([], {"temperature": 0.8, "top_k": 40}),
        (["-t", "1.5"], {"temperature": 1.5, "top_k": 40}),
        (["--temperature", "1.5", "--top-k", "0"], {"temperature": 1.5}),
        (["-t", "1.5", "-k", "3"], {"temperature": 1.5, "top_k": 3}),
        (["-t", "1.5", "-k", "0", "-p", "0.7"], {"temperature": 1.5, "top_p": 0.7}),
        (["-t", "1.5", "-k", "50", "--top-p", "0.9"], {"temperature": 1.5, "top_k": 50, "top_p": 0.9}),
        (["--min-p", "0.3"], {"temperature": 0.8, "top_k": 40, "min_p": 0.3}),
        (["--repetition-penalty", "1.5"], {"temperature": 0.8, "top_k": 40, "repetition_penalty": 1.5}),
        (["--no-repeat-ngram", "1"], {"temperature": 0.8, "top_k": 40, "no_repeat_ngram": 1}),
        (["--greedy", "--repetition-penalty", "1.5"], {"temperature": 0, "repetition_penalty": 1.5}),
        (["--greedy", "--no-repeat-ngram", "2"], {"temperature": 0, "no_repeat_ngram": 2}),
    ]:
        _, text = generated(tiny, [97], 40, rng=np.random.default_rng(11), **options)
        assert cli("-m", tiny, "-n", 40, "-s", 11, *flags, "a").out == text + "\n"
        texts.add(text)
    assert len(texts) == 11


def test_a_sample_has_100_tokens_by_default(cli, tiny):
    [sample] = json_samples(cli("-m", tiny, "--ignore-eos", "--json", "a").out)
    assert len(sample["tokens"]) == 100


def test_stats_print_the_random_seed_and_it_reproduces_the_text(cli, tiny):
    arguments = ["-m", tiny, "-n", 40, "--ignore-eos", "-t", 2, "--stats", "a"]
    first, second = cli(*arguments), cli(*arguments)
    assert first.out != second.out
    seed = re.search(r"\bseed (\d+)", first.err)[1]
    assert cli(*arguments, "--seed", seed).out == first.out


def test_several_samples_equal_a_batch_of_generate(cli, tiny):
    model = load(tiny)
    rows = generate(
        np.array([[97, 98]] * 3),
        model.weights,
        model.config,
        max_new_tokens=30,
        temperature=1.2,
        rng=np.random.default_rng(5),
    )
    texts = [model.tokenizer.decode(column) for column in np.stack(list(rows), axis=1).tolist()]
    assert len(set(texts)) == 3
    arguments = ["-m", tiny, "-n", 30, "-t", 1.2, "-k", 0, "-s", 5, "--ignore-eos", "--num-samples", 3, "ab"]
    result = cli(*arguments)
    assert result.out == "".join(f"--- sample {i} of 3\n{text}\n" for i, text in enumerate(texts, start=1))
    assert result.err == ""
    result = cli(*arguments, "--json")
    assert [sample["text"] for sample in json_samples(result.out)] == texts
    assert result.err == ""


def test_each_sample_ends_at_its_own_stop_string(cli, tiny):
    arguments = ["-m", tiny, "-n", 40, "-t", 2, "-s", 3, "--num-samples", 6, "--json", "a"]
    whole = json_samples(cli(*arguments, "--ignore-eos").out)
    cut = json_samples(cli(*arguments, "--ignore-eos", "--stop", "e", "--stop", "i").out)
    for long, short in zip(whole, cut, strict=True):
        assert short["text"] == re.split("[ei]", long["text"])[0]
        assert short["finish_reason"] == ("length" if short["text"] == long["text"] else "stop")
    assert {sample["finish_reason"] for sample in cut} == {"length", "stop"}


def test_samples_share_one_prefill(cli, tiny, monkeypatch):
    shapes = []  # (B, T) of each forward pass
    update = KVCache.update

    def recording_update(cache, layer, k, v):
        if layer == 0:
            shapes.append((k.shape[0], k.shape[2]))
        return update(cache, layer, k, v)

    monkeypatch.setattr(KVCache, "update", recording_update)
    cli("-m", tiny, "-n", 3, "--ignore-eos", "--num-samples", 5, "abcd")
    assert shapes == [(1, 4), (5, 1), (5, 1)]


def test_a_text_that_cannot_go_on_without_repeating_ends_with_an_error(cli, tiny):
    options = ["--greedy", "--ignore-eos", "--no-repeat-ngram", 1, "--json", "-n", 300, "a"]
    assert_one_error(cli("-m", tiny, *options), 1, "no_repeat_ngram is 1; it must be larger")


@pytest.mark.parametrize(
    "flags", ["--repetition-penalty 0", "--repetition-penalty inf", "--no-repeat-ngram -1", "--min-p 0", "--min-p 1.1"]
)
def test_impossible_values_are_errors(cli, tiny, flags):
    name, value = flags.split()
    assert_one_error(cli("-m", tiny, name, value, "a"), 2, name, f"'{value}' is not a")


def test_too_many_samples_are_an_error(cli, tiny):
    assert_one_error(cli("-m", tiny, "--num-samples", 10**9, "a"), 2, "from 1 to 10,000")
