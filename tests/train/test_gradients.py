"""The gradients of a batch: which ones arrive, where, in which order, and what happens after an error."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, init_weights
from numpy_gpt2.backward import loss_and_gradients
from numpy_gpt2.model import identity
from numpy_gpt2.threads import SerialExecutor
from numpy_gpt2.train import gradients
from numpy_gpt2.train.gradients import Part, batch_gradients
from numpy_gpt2.train.step import dropout

VOCABULARY = 30
ALL_NAMES = GPT2Config(VOCABULARY, 8, 12, 3, 2).parameter_shapes()


def model(**given):
    """The config and the weights of a small model, in float64."""
    config = GPT2Config(VOCABULARY, n_positions=8, n_embd=12, n_layer=3, n_head=2, **given)
    weights = init_weights(config, np.random.default_rng(0))
    return config, {name: 5 * array.astype(np.float64) for name, array in weights.items()}


def batch(rows=4):
    return np.random.default_rng(1).integers(VOCABULARY, size=(2, rows, 6))


def sums(weights, config, names, pool, p=0.0, rows=4):
    """The loss and {name: gradient}, with NaN where no gradient arrived."""
    found = {name: np.full_like(weights[name], np.nan) for name in names}

    def take(name, rows, gradient, is_first):
        found[name][rows] = gradient if is_first else found[name][rows] + gradient

    def dropouts(i):
        return dropout(p, np.random.default_rng(i))

    return batch_gradients(*batch(rows), weights, config, names, take, pool, dropouts), found


@pytest.mark.parametrize(
    "names",
    [
        [*ALL_NAMES],
        [name for name in ALL_NAMES if name.startswith(("h.1", "h.2", "ln_f"))],
        [name for name in ALL_NAMES if "attn" in name],
        ["ln_f.weight", "ln_f.bias"],
        ["wte.weight"],
        ["wpe.weight"],
        ["h.2.mlp.c_fc.bias"],
    ],
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tokens_per_forward", [512, 4])
def test_the_gradients_of_some_weights_are_those_of_all(names, tied, tokens_per_forward, pool, monkeypatch):
    monkeypatch.setattr(gradients, "TOKENS_PER_FORWARD", tokens_per_forward)  # 2 parts, or 2 chunks of each row
    monkeypatch.setattr(gradients, "HEAD_ROWS", 7)
    monkeypatch.setattr(gradients, "LOSS_ROWS", 5)
    config, weights = model(tie_word_embeddings=tied)
    names = names if tied or len(names) < len(ALL_NAMES) else [*weights]
    loss, found = sums(weights, config, names, pool)
    expected_loss, expected = loss_and_gradients(*batch(), weights, config)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("names", "blocks"), [(["h.2.ln_1.bias", "h.1.ln_1.bias"], {1, 2}), (["ln_f.bias"], {2})])
def test_nothing_is_kept_below_the_lowest_trained_block(names, blocks, monkeypatch, pool):
    kept = set()
    head_backward = Part.head_backward

    def see(part, *arguments):
        kept.update(name.split(".")[1] for name in part.trace)
        return head_backward(part, *arguments)

    monkeypatch.setattr(Part, "head_backward", see)
    config, weights = model()
    sums(weights, config, names, pool)
    assert kept == {str(block) for block in blocks}


@pytest.mark.parametrize("tokens_per_forward", [6, 2])  # each row is a part, or three chunks
def test_the_sums_do_not_depend_on_threads_or_on_which_part_is_faster(tokens_per_forward, monkeypatch):
    config, weights = model()
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    monkeypatch.setattr(gradients, "TOKENS_PER_FORWARD", tokens_per_forward)
    loss, expected = sums(weights, config, ALL_NAMES, SerialExecutor(), p=0.3)
    head_backward, delays = Part.head_backward, {0: 0.05, 2: 0.02}

    def slow(part, *arguments):
        threading.Event().wait(delays.get(part.number, 0))
        return head_backward(part, *arguments)

    monkeypatch.setattr(Part, "head_backward", slow)
    for n in (1, 2, 4):
        with ThreadPoolExecutor(n) as pool:
            same_loss, found = sums(weights, config, ALL_NAMES, pool, p=0.3)
        assert same_loss == loss
        for name, gradient in expected.items():
            np.testing.assert_array_equal(found[name], gradient, err_msg=name)


@pytest.mark.parametrize("failing", range(4))
@pytest.mark.parametrize("tokens_per_forward", [6, 3])
def test_an_error_in_one_part_ends_the_others(failing, tokens_per_forward, monkeypatch):
    monkeypatch.setattr(gradients, "TOKENS_PER_FORWARD", tokens_per_forward)
    head_backward = Part.head_backward

    def fail(part, *arguments):
        if part.number == failing:
            raise MemoryError
        return head_backward(part, *arguments)

    monkeypatch.setattr(Part, "head_backward", fail)
    config, weights = model()
    with ThreadPoolExecutor(4) as pool, pytest.raises(MemoryError):  # leaving the block waits for all threads
        sums(weights, config, ALL_NAMES, pool)


def test_gradients_are_freed_when_they_were_taken():
    """Of a part, never more than a block's gradients exist at the same time."""
    config, weights = model()
    alive, most = [], 0

    def take(name, rows, gradient, is_first):
        nonlocal most
        alive[:] = [reference for reference in alive if reference() is not None]
        alive.append(weakref.ref(gradient))
        most = max(most, len(alive))

    batch_gradients(*batch(), weights, config, ALL_NAMES, take, SerialExecutor(), lambda i: identity)
    assert most <= len(config.block_shapes()) + 2
