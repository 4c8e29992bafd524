"""Texts, their tokens, and windows with their losses."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2 import GPT2Config, cross_entropy, forward, load_tokenizer
from numpy_gpt2 import windows as module
from numpy_gpt2.windows import ROWS, encode, read_text, window_losses, window_starts, windows

from .conftest import write_tokenizer
from .reference.seeded import FOLDER, seeded_tokens, seeded_weights

REFERENCE = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
TEXT, TOKENS = REFERENCE["text"], REFERENCE["tokens"]
EOT = 264


def test_text_is_read_byte_for_byte(tmp_path):
    (tmp_path / "text.txt").write_bytes("caf\u00e9\r\n\ufeff".encode())
    assert read_text(tmp_path / "text.txt") == "caf\u00e9\r\n\ufeff"


@pytest.mark.parametrize(("data", "problem"), [(b"", "is empty"), (b"caf\xe9 noir", "is not UTF-8")])
def test_empty_text_and_other_encodings_are_errors(tmp_path, data, problem):
    (tmp_path / "text.txt").write_bytes(data)
    with pytest.raises(ValueError, match=f"text.txt {problem}"):
        read_text(tmp_path / "text.txt")


def test_tokens_equal_the_tokenizers_library(tmp_path):
    write_tokenizer(tmp_path)
    assert encode(TEXT, load_tokenizer(tmp_path)).tolist() == TOKENS
    assert TOKENS.count(EOT) == TEXT.count("<|endoftext|>") == 2


def test_endoftext_in_a_text_becomes_its_token(tmp_path):
    write_tokenizer(tmp_path)
    assert encode("a<|endoftext|>b<|endoftext|", load_tokenizer(tmp_path)).tolist() == [97, EOT, 98, *b"<|endoftext|"]
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for token, i in vocab.items() if i < EOT}))
    text = "a<|endoftext|>"  # text, if the tokenizer has no such token
    assert encode(text, load_tokenizer(tmp_path)).tolist() == [*text.encode()]


@given(st.data())
def test_each_token_except_the_first_is_a_target_once(data):
    n = data.draw(st.integers(2, 150), "tokens")
    length = data.draw(st.integers(1, 40), "window")
    stride = data.draw(st.integers(1, length), "stride")
    tokens = np.random.default_rng(0).permutation(n) + 1  # different tokens, and no 0
    starts = window_starts(n, length, stride)
    inputs, targets = windows(tokens, starts, length, stride)
    assert inputs.shape == targets.shape == (len(starts), length)

    predicted = []
    for start, row, row_of_targets in zip(starts, inputs, targets, strict=True):
        ends = np.flatnonzero(row_of_targets != -1)
        assert len(ends), "a window without targets"
        for end in ends:
            position = start + end + 1
            assert row_of_targets[end] == tokens[position]
            np.testing.assert_array_equal(row[: end + 1], tokens[start:position])
            assert end + 1 == position or end >= length - stride  # enough context
            predicted.append(position)
    assert predicted == [*range(1, n)]

    for part in (slice(1, 3), slice(len(starts) - 1, None)):
        for some, all_ in zip(windows(tokens, starts[part], length, stride), (inputs, targets), strict=True):
            np.testing.assert_array_equal(some, all_[part])


@pytest.mark.parametrize("stride", [8, 3])
def test_window_losses_equal_the_losses_of_the_windows_one_by_one(stride):
    """`forward` and `cross_entropy` are tested against PyTorch."""
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=12, n_layer=2, n_head=2)
    weights = seeded_weights(config, 1, scale=0.4)
    tokens = seeded_tokens(config, 1, (601,))
    starts = window_starts(len(tokens), 8, stride)
    with ThreadPoolExecutor(2) as pool:
        losses, counts = zip(*window_losses(tokens, starts, stride, weights, config, pool), strict=True)
    assert len(losses) > 2
    assert max(counts) <= ROWS
    expected = []
    for start in starts.tolist():
        part = tokens[start : start + 9]
        new = 0 if start == 0 else 8 - stride
        logits = forward(part[:-1], weights, config)[new:]
        expected.append(cross_entropy(logits, part[1 + new :]) * len(logits))
    assert sum(counts) == 600
    assert sum(losses) == pytest.approx(sum(expected), rel=1e-6)


@pytest.mark.parametrize(("n", "shapes"), [(2, [(1, 1)]), (9, [(1, 8)]), (10, [(2, 8)]), (12, [(1, 8), (1, 3)])])
def test_the_padding_after_a_text_is_not_computed(monkeypatch, n, shapes):
    """Unless it is in the same batch as a full window. The last text fills a batch of its own with 3 tokens."""
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=2, n_layer=1, n_head=1)
    seen = []

    def hidden_states(inputs, *_):
        seen.append(inputs.shape)
        return np.zeros((*inputs.shape, 2))

    monkeypatch.setattr(module, "hidden_states", hidden_states)
    monkeypatch.setattr(module, "TOKENS_PER_FORWARD", 8 if len(shapes) > 1 else 16)
    with ThreadPoolExecutor(1) as pool:
        weights = {"wte.weight": np.zeros((50, 2))}
        losses = list(window_losses(np.arange(n), window_starts(n, 8, 8), 8, weights, config, pool))
    assert seen == shapes
    assert sum(count for _, count in losses) == n - 1
