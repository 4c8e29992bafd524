"""The forward pass against the saved outputs of PyTorch and transformers."""

import ast
import itertools
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numpy_gpt2 as gpt2
from numpy_gpt2 import GPT2Config, KVCache, cross_entropy, forward, record
from numpy_gpt2.model import merge_heads

from .reference.seeded import FOLDER, VARIATIONS, seeded_tokens, seeded_weights, variation

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}  # relative to the largest logit

BLOCK_NAMES = [
    "resid_pre",
    "ln_1",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.scores",
    "attn.pattern",
    "attn.z",
    "attn_out",
    "resid_mid",
    "ln_2",
    "mlp.pre",
    "mlp.post",
    "mlp_out",
    "resid_post",
]


@pytest.fixture(scope="module")
def references():
    with np.load(FOLDER / "tiny.npz") as file:
        return dict(file)


def inputs(name, dtype):
    """A variation's config, weights and tokens, as the reference script made them."""
    seed = list(VARIATIONS).index(name)
    config = variation(name)
    weights = {key: array.astype(dtype) for key, array in seeded_weights(config, seed, scale=0.4).items()}
    return config, weights, seeded_tokens(config, seed, (2, 9))


def assert_close(actual, expected, tolerance, name=""):
    """Equal to within `tolerance` of the largest expected number. A difference is reported with the name."""
    assert actual.shape == expected.shape, name
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


TRACED = ["plain", "inverse_layer", "gelu_exact"]  # the variations whose intermediate results are saved


def assert_stages_close(name, dtype, references):
    """Compare the intermediate results in the order of the computation, so that a failure names the first wrong one.

    They are saved for the first row of the batch.
    """
    config, weights, tokens = inputs(name, dtype)
    trace = {}
    forward(tokens[:1], weights, config, hook=record(trace))
    expected = {key.removeprefix(f"{name}/trace/"): key for key in references if key.startswith(f"{name}/trace/")}
    assert len(expected) == 9 * config.n_layer + 1
    assert expected.keys() <= trace.keys()
    for stage in filter(expected.__contains__, trace):
        message = f"{stage} is the first result that differs (variation {name!r})"
        assert_close(trace[stage], references[expected[stage]], 3 * TOLERANCE[dtype], message)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", VARIATIONS)
def test_intermediate_results_logits_and_loss_equal_transformers(name, dtype, references):
    """If no intermediate results of a variation are saved, those of the plain model are compared first."""
    assert_stages_close(name if name in TRACED else "plain", dtype, references)
    config, weights, tokens = inputs(name, dtype)
    logits = forward(tokens, weights, config)
    assert logits.dtype == dtype
    assert_close(logits, references[f"{name}/logits"], TOLERANCE[dtype], f"logits (variation {name!r})")
    assert_close(logits[:, -1], references[f"{name}/logits_float32"], 1e-5, f"logits (variation {name!r})")
    targets = tokens[:, 1:].copy()
    targets[:, 3] = -1
    assert cross_entropy(logits[:, :-1], targets) == pytest.approx(references[f"{name}/loss"], rel=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("function", "wrong", "stage"),
    [
        ("layer_norm", lambda x, weight, bias, eps: gpt2.layer_norm(x, weight * 0.9, bias, eps), "h.0.ln_1"),
        ("causal_mask", lambda T, S: np.tri(T, S, -1, dtype=bool) | np.eye(T, S, 1, dtype=bool), "h.0.attn.pattern"),
        ("softmax", lambda scores: gpt2.softmax(scores * 1.1), "h.0.attn.pattern"),
        ("merge_heads", lambda z: merge_heads(z[:, ::-1]), "h.0.attn_out"),
        ("ACTIVATIONS", {"gelu_new": gpt2.gelu_exact}, "h.0.mlp.post"),
    ],
)
def test_a_wrong_function_is_reported_by_its_own_result(monkeypatch, references, function, wrong, stage):
    monkeypatch.setattr(sys.modules[forward.__module__], function, wrong)
    with pytest.raises(AssertionError, match=rf"{re.escape(stage)} is the first result that differs"):
        assert_stages_close("plain", np.float64, references)


def test_the_hook_is_called_with_these_names():
    config, weights, tokens = inputs("plain", np.float32)
    names = []

    def hook(name, value):
        names.append(name)
        return value

    forward(tokens, weights, config, hook=hook)
    blocks = [f"h.{layer}.{name}" for layer in range(config.n_layer) for name in BLOCK_NAMES]
    assert names == ["embed", "pos_embed", *blocks, "ln_f"]


def test_the_computation_continues_with_the_value_that_the_hook_returns():
    """Setting a head to zero in the hook equals setting its rows of the output projection to zero."""
    config, weights, tokens = inputs("plain", np.float64)

    def without_head_2(name, value):
        return value * (np.arange(4) != 2)[:, None, None] if name == "h.1.attn.z" else value

    removed = {**weights, "h.1.attn.c_proj.weight": weights["h.1.attn.c_proj.weight"].copy()}
    removed["h.1.attn.c_proj.weight"][12:18] = 0
    actual = forward(tokens, weights, config, hook=without_head_2)
    assert_close(actual, forward(tokens, removed, config), 1e-12)
    assert np.abs(actual - forward(tokens, weights, config)).max() > 1e-3


def test_arrays_that_went_through_the_hook_are_not_modified():
    config, weights, tokens = inputs("plain", np.float32)

    def freeze(name, value):
        value.flags.writeable = False
        return value

    frozen = forward(tokens, weights, config, KVCache(config, 2), hook=freeze)
    assert_close(frozen, forward(tokens, weights, config), 1e-6)


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_float32_run_computes_nothing_in_float64(name):
    config, weights, tokens = inputs(name, np.float32)
    trace = {}
    cache = KVCache(config, 2)
    logits = forward(tokens, weights, config, cache, hook=record(trace))
    loss = cross_entropy(logits, tokens)
    assert {array.dtype for array in [*trace.values(), logits, loss]} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["plain", "inverse_layer", "odd_sizes", "one_channel_heads"])
@given(cuts=st.sets(st.integers(1, 8)))
@settings(max_examples=20, deadline=None)
def test_any_split_into_chunks_gives_the_same_logits(name, cuts):
    config, weights, tokens = inputs(name, np.float64)
    cache = KVCache(config, 2, np.float64)
    edges = [0, *sorted(cuts), 9]
    chunks = [forward(tokens[:, a:b], weights, config, cache) for a, b in itertools.pairwise(edges)]
    assert cache.length == 9
    assert_close(np.concatenate(chunks, axis=1), forward(tokens, weights, config), 1e-12)


def test_a_row_of_a_batch_equals_the_row_alone():
    config, weights, tokens = inputs("plain", np.float32)
    batch = forward(tokens, weights, config)
    for row, logits in zip(tokens, batch, strict=True):
        alone = forward(row, weights, config)
        assert alone.shape == (9, config.vocab_size)
        assert_close(alone, logits, 1e-6)


def test_later_tokens_do_not_change_earlier_logits():
    config, weights, tokens = inputs("plain", np.float64)
    changed = tokens.copy()
    changed[:, 6] = (changed[:, 6] + 1) % config.vocab_size
    before, after = forward(tokens, weights, config), forward(changed, weights, config)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before - after)[:, 6:].max(axis=(0, 2)) > 1e-6).all()


def test_positions_and_ids_that_do_not_exist_are_errors():
    config, weights, _ = inputs("plain", np.float32)
    with pytest.raises(ValueError, match=r"33 positions.* n_positions = 32"):
        forward(np.zeros(33, int), weights, config)
    cache = KVCache(config)
    forward(np.zeros(30, int), weights, config, cache)
    with pytest.raises(ValueError, match="33 positions"):
        forward(np.zeros(3, int), weights, config, cache)
    assert cache.length == 30
    for token in (-1, 97):
        with pytest.raises(IndexError, match=str(token)):
            forward(np.array([0, token]), weights, config)


@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 5), (3, 3), (2, 5)])
def test_causal_mask_is_aligned_to_the_lower_right(T, S):
    expected = [[key <= S - T + query for key in range(S)] for query in range(T)]
    mask = gpt2.causal_mask(T, S)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)


def test_known_values_of_gelu():
    assert gpt2.gelu(np.float64(1)) == pytest.approx(0.841192, abs=5e-7)
    x = np.linspace(-6, 6, 120_001)
    y = gpt2.gelu(x)
    assert y.min() == pytest.approx(-0.17004, abs=5e-6)
    assert x[y.argmin()] == pytest.approx(-0.7525, abs=5e-4)
    difference = np.abs(y - gpt2.gelu_exact(x))
    assert difference.max() == pytest.approx(4.73e-4, abs=1e-6)  # far above the tolerances, so a mix-up fails
    exact = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x]
    np.testing.assert_allclose(gpt2.gelu_exact(x), exact, rtol=1e-15, atol=1e-15)


def test_softmax_and_cross_entropy_do_not_overflow():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], np.float32)
    np.testing.assert_allclose(gpt2.softmax(logits), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert cross_entropy(logits, np.array([1, 0])) == pytest.approx((1e4 + math.log(3)) / 2)


@pytest.mark.parametrize("target", [-2, -100, 3])
def test_targets_that_do_not_exist_are_errors(target):
    with pytest.raises(IndexError, match=str(target)):
        cross_entropy(np.zeros((2, 3)), np.array([0, target]))


def test_the_loss_of_a_new_model_is_the_loss_of_guessing():
    """It is ln V plus half the variance of the logits. The tied head gives them a variance of 0.02² · C."""
    config = GPT2Config(vocab_size=5000, n_positions=64, n_embd=192, n_layer=2, n_head=4)
    weights = gpt2.init_weights(config, np.random.default_rng(0))
    tokens = seeded_tokens(config, 0, (4, 64))
    loss = cross_entropy(forward(tokens, weights, config)[:, :-1], tokens[:, 1:])
    assert loss == pytest.approx(math.log(5000) + 0.02**2 * 192 / 2, abs=0.02)


def test_model_py_imports_only_numpy_math_and_special():
    source = Path(sys.modules[forward.__module__].__file__).read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {
        name
        for node in imports
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert names == {"numpy", "math", "special"}
