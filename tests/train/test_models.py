"""The model and the tokenizer that a run starts from: --tokenizer and --init-from."""

import json
import os
import sys

import numpy as np
import pytest

from numpy_gpt2 import cross_entropy, forward, load, load_tokenizer
from numpy_gpt2.tokenizer import save_tokenizer, train_tokenizer
from numpy_gpt2.train.step import batch

from ..conftest import write_model, write_tokenizer
from .conftest import END, TEXT, TINY_RUN, assert_one_error, everything_in, held_out_loss, log, written

# Texts and tokenizers


def test_byte_tokens_are_the_bytes(prepared, corpus, out):
    run, tokens, held_out, tokenizer = prepared(corpus, "--out", out, *TINY_RUN)
    assert tokens.tolist() == [*TEXT[:END].encode()]
    assert held_out.tolist() == [*TEXT[END:].encode()]
    assert (tokenizer.n_vocab, run.config.vocab_size) == (257, 257)


def test_texts_are_joined_with_the_endoftext_token(prepared, tmp_path, out):
    one, two = written(tmp_path / "1", "é" * 20 + "<|endoftext|>a"), written(tmp_path / "2", "b" * 20)
    _, tokens, held_out, _ = prepared(one, two, "--out", out, *TINY_RUN, "--val-fraction", 0)
    assert tokens.tolist() == [*(b"\xc3\xa9" * 20), 256, 97, 256, *(b"b" * 20)]
    assert held_out.tolist() == []


def test_bpe_equals_the_tokenizers_library_on_the_training_text(prepared, tmp_path, out):
    tokenizers = pytest.importorskip("tokenizers")
    text = TEXT[:END] + " zyzzyva" * 60
    path = written(tmp_path / "text", text)
    options = ["--tokenizer", "bpe:290", "--val-fraction", 1 - (END + 0.5) / len(text)]
    run, tokens, held_out, tokenizer = prepared(path, "--out", out, *TINY_RUN, *options)
    save_tokenizer(out, tokenizer)
    assert tokenizer.n_vocab == run.config.vocab_size == len(json.loads((out / "vocab.json").read_text())) == 290
    assert tokenizer.encode("<|endoftext|>", allowed_special="all") == [289] == [run.config.eos_token_id]

    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT[:END]], vocab_size=289, min_frequency=0, show_progress=False)
    bpe.save_model(str(tmp_path))
    merges = [(folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:] for folder in (out, tmp_path)]
    assert len(merges[0]) == 33
    assert merges[0] == merges[1]
    names = {i: name for name, i in json.loads((out / "vocab.json").read_text(encoding="utf-8")).items()}
    for part, ids in (TEXT[:END], tokens), (text[END:], held_out):
        assert [names[i] for i in ids.tolist()] == bpe.encode(part).tokens
        assert load_tokenizer(out).encode_ordinary(part) == ids.tolist()
    assert not any("zy" in name for name in names.values())


def test_bpe_needs_the_tokenizers_library(cli, corpus, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = cli(corpus, "--out", out, *TINY_RUN, "--tokenizer", "bpe:300")
    assert_one_error(result, 1, "pip install tokenizers")
    assert not out.exists()


def test_bpe_with_more_tokens_than_the_text_gives_is_an_error(cli, corpus, out):
    pytest.importorskip("tokenizers")
    assert_one_error(cli(corpus, "--out", out, *TINY_RUN, "--tokenizer", "bpe:100000"), 1, "100000")
    assert not out.exists()


def test_bpe_with_an_impossible_vocabulary_is_an_error():
    for n in (0, -5, 2**70):
        with pytest.raises(ValueError, match="vocabulary"):
            train_tokenizer("abab", n)


def test_tokenizer_may_come_from_a_folder(prepared, corpus, tmp_path, out):
    n_vocab = write_tokenizer(tmp_path / "tokenizer")
    run, tokens, _, tokenizer = prepared(corpus, "--out", out, *TINY_RUN, "--tokenizer", tmp_path / "tokenizer")
    save_tokenizer(out, tokenizer)
    assert tokens.tolist() == load_tokenizer(tmp_path / "tokenizer").encode_ordinary(TEXT[:END])
    assert run.config.vocab_size == n_vocab
    assert tokens.max() > 256
    assert load_tokenizer(out).encode_ordinary(TEXT) == load_tokenizer(tmp_path / "tokenizer").encode_ordinary(TEXT)


def test_tokenizer_without_endoftext_has_a_line_end_between_texts(prepared, tmp_path, out):
    write_tokenizer(tmp_path / "tokenizer")
    vocab = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    del vocab["<|endoftext|>"]
    written(tmp_path / "tokenizer" / "vocab.json", json.dumps(vocab))
    paths = [written(tmp_path / name, name * 20) for name in "xy"]
    options = ["--tokenizer", tmp_path / "tokenizer", "--val-fraction", 0]
    run, tokens, _, _ = prepared(*paths, "--out", out, *TINY_RUN, *options)
    assert load_tokenizer(tmp_path / "tokenizer").decode(tokens.tolist()) == "x" * 20 + "\n" + "y" * 20
    assert run.config.eos_token_id is run.config.bos_token_id is None


def test_gpt2_tokenizer_does_not_need_the_weights(prepared, corpus, tmp_path, out):
    n_vocab = write_tokenizer(tmp_path / "weights" / "gpt2")
    run, tokens, _, _ = prepared(corpus, "--out", out, *TINY_RUN, "--tokenizer", "gpt2")
    assert tokens.tolist() == load_tokenizer(tmp_path / "weights" / "gpt2").encode_ordinary(TEXT[:END])
    assert run.config.vocab_size == n_vocab


def test_gpt2_tokenizer_without_hub_is_an_error(cli, corpus, tmp_path, out):
    assert_one_error(cli(corpus, "--out", out, *TINY_RUN, "--tokenizer", "gpt2"), 1, "gpt2", "HF_HUB_OFFLINE")
    assert os.listdir(tmp_path) == []


# --init-from


def test_fine_tuning_starts_from_the_model(cli, corpus, model, out):
    """With a learning rate of almost 0, the losses are the losses of the model."""
    before = everything_in(model)
    options = ["--max-steps", 1, "--lr", 1e-12, "--dropout", 0, "--batch-size", 3, "--seed", 5, "--sample-interval", 0]
    assert cli(corpus, "--out", out, "--init-from", model, *options).status == 0
    first, row = log(out)
    weights, config, tokenizer = load(model)
    tokens, held_out = (np.array(tokenizer.encode_ordinary(part)) for part in (TEXT[:END], TEXT[END:]))
    inputs, targets = batch(tokens, 3, 32, 5, 0)
    assert row["train_loss"] == pytest.approx(cross_entropy(forward(inputs, weights, config), targets), rel=1e-5)
    assert row["val_loss"] == pytest.approx(held_out_loss(model, held_out), rel=1e-5)
    assert first["val_loss"] == pytest.approx(held_out_loss(model, held_out), rel=1e-6)
    assert row["train_loss"] > 6  # the loss of a new model is lower: ln 265 = 5.6
    assert load(out).config == config
    assert tokenizer.encode_ordinary(TEXT) == load(out).tokenizer.encode_ordinary(TEXT)
    assert everything_in(model) == before


def test_fine_tuning_with_a_smaller_window_keeps_all_positions(cli, corpus, model, out):
    options = ["--n-positions", 12, "--max-steps", 1, "--lr", 1e-12, "--dropout", 0, "--sample-interval", 0]
    assert cli(corpus, "--out", out, "--init-from", model, *options).status == 0
    small, large = load(out), load(model)
    assert small.config == large.config
    np.testing.assert_array_equal(small.weights["wpe.weight"][12:], large.weights["wpe.weight"][12:])
    tokens = np.arange(32)
    expected = forward(tokens, large.weights, large.config)
    np.testing.assert_allclose(forward(tokens, small.weights, small.config), expected, atol=1e-4)


def test_fine_tuning_with_a_larger_window_is_an_error(cli, corpus, model, out):
    assert_one_error(cli(corpus, "--out", out, "--init-from", model, "--n-positions", 33), 1, "33", "32", model)
    assert not out.exists()


@pytest.mark.parametrize("tied_in_config", [False, True])  # even if config.json says it is tied
def test_untied_model_stays_untied(cli, corpus, tmp_path, out, tied_in_config):
    model = write_model(tmp_path / "model", n_positions=16, tie_word_embeddings=False)
    config = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": tied_in_config}
    written(model / "config.json", json.dumps(config))
    options = ["--max-steps", 3, "--batch-size", 2, "--warmup", 0, "--sample-interval", 0]
    assert cli(corpus, "--out", out, "--init-from", model, *options).status == 0
    weights, config, _ = load(out)
    assert config.tie_word_embeddings is False
    for name in "lm_head.weight", "wte.weight":
        moved = np.abs(weights[name] - load(model).weights[name])
        assert 1e-4 < moved.max() < 0.01
    assert np.abs(weights["lm_head.weight"] - weights["wte.weight"]).max() > 0.1


@pytest.mark.parametrize(
    "flags", [["--n-layer", 2], ["--n-head", 4], ["--n-embd", 32], ["--tokenizer", "byte"]], ids=lambda flags: flags[0]
)
def test_init_from_with_sizes_or_tokenizer_is_an_error(cli, corpus, model, out, flags):
    result = cli(corpus, "--out", out, "--init-from", model, "--max-steps", 1, *flags)
    assert_one_error(result, 2, "--init-from", flags[0])


def test_init_from_without_such_a_model_is_an_error(cli, corpus, tmp_path, out):
    assert_one_error(cli(corpus, "--out", out, "--init-from", tmp_path / "none"), 1, tmp_path / "none")
    assert not out.exists()
