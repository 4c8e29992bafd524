"""The gradients: all of them against PyTorch's saved ones, and each function against central differences."""

import ast
import collections
import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, backward, cross_entropy, forward, model
from numpy_gpt2.backward import loss_and_gradients
from numpy_gpt2.model import causal_mask, identity, within
from numpy_gpt2.train.step import dropout

from .reference.seeded import (
    FOLDER,
    VARIATIONS,
    seeded_masks,
    seeded_targets,
    seeded_tokens,
    seeded_weights,
    selected,
    variation,
)

# Relative to each gradient's largest entry. Two variations need this much: unscaled scores, where float32's softmax is
# least exact, and gelu_fast, for which transformers rounds √(2/π) to ten digits. The others are within 1e-5 and 5e-15.
TOLERANCE = {np.float32: 4e-5, np.float64: 1e-11}

STEP = 1e-5  # of central differences

# The vocabulary is so small that tokens repeat. No two sizes are equal.
TINY = GPT2Config(
    vocab_size=7,
    n_positions=8,
    n_embd=6,
    n_layer=2,
    n_head=3,
    n_inner=10,
    scale_attn_by_inverse_layer_idx=True,
    tie_word_embeddings=False,
)


@pytest.fixture(scope="module")
def references():
    with np.load(FOLDER / "gradients.npz") as file:
        return dict(file)


def inputs(name, dtype):
    """A variation's config, weights, tokens, targets and dropout, as the reference script made them."""
    seed, shape = [*VARIATIONS, "dropout"].index(name), (3, 11)
    config = variation("plain" if name == "dropout" else name)
    weights = {key: array.astype(dtype) for key, array in seeded_weights(config, seed, scale=0.4).items()}
    masks = {key: mask.astype(dtype) for key, mask in seeded_masks(config, seed, shape).items()}

    def hook(name, value):
        return value * masks[name] if name in masks else value

    tokens, targets = seeded_tokens(config, seed, shape), seeded_targets(config, seed, shape)
    return config, weights, tokens, targets, hook if name == "dropout" else identity


def assert_equal_gradients(actual, expected, tolerance=1e-12):
    """The same names in the same order, and numbers equal to within `tolerance` of the largest of each."""
    assert list(actual) == list(expected)
    for name, gradient in expected.items():
        assert actual[name].shape == gradient.shape
        atol = tolerance * np.abs(gradient).max()
        np.testing.assert_allclose(actual[name], gradient, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [*VARIATIONS, "dropout"])
def test_loss_and_gradients_equal_pytorch(name, dtype, references):
    config, weights, tokens, targets, drop = inputs(name, dtype)
    loss, gradients = loss_and_gradients(tokens, targets, weights, config, drop)
    assert loss.dtype == dtype
    assert loss == pytest.approx(references[f"{name}/loss"], rel=TOLERANCE[dtype])
    assert list(gradients) == list(weights)
    remaining = references[f"{name}/selected"]
    for (key, gradient), norm, largest in zip(
        gradients.items(), references[f"{name}/norms"], references[f"{name}/largest"], strict=True
    ):
        assert gradient.dtype == dtype
        assert gradient.shape == weights[key].shape
        actual = selected(gradient)
        expected, remaining = remaining[: actual.size], remaining[actual.size :]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * largest, err_msg=key)
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=TOLERANCE[dtype]), key
        assert np.abs(gradient).max() == pytest.approx(largest, rel=TOLERANCE[dtype]), key
    assert not remaining.size


@pytest.fixture
def normal():
    """A function that makes random arrays. Each call gives different numbers."""
    rng = np.random.default_rng(0)
    return lambda *shape: rng.standard_normal(shape)


@pytest.fixture
def weights():
    """The weights of a TINY model, in float64."""
    return {name: array.astype(np.float64) for name, array in seeded_weights(TINY, seed=0, scale=0.4).items()}


def recording(trace, dropout=identity):
    """A hook that keeps each array as it was before dropout. The backward pass needs these."""

    def hook(name, value):
        trace[name] = value
        return dropout(name, value)

    return hook


def assert_undoes(f_backward, f, arrays):
    """Check that f_backward(dy) is the derivative of Σ dy · f() with respect to each array.

    It is compared with central differences at 20 places.

    f_backward is called once, after f. It must write neither to dy nor to the arrays.
    """
    rng = np.random.default_rng(1)
    dy = np.array(rng.standard_normal(np.shape(f())))
    for array in (dy, *arrays.values()):
        array.flags.writeable = False
    gradients = f_backward(dy)
    assert gradients.keys() == arrays.keys()
    for name, array in arrays.items():
        array.flags.writeable = True
        assert gradients[name].shape == array.shape
        places = np.unravel_index(rng.permutation(array.size)[:20], array.shape)
        slopes = []
        for place in zip(*places, strict=True):
            value = array[place]
            array[place] = value + STEP
            above = np.vdot(dy, f())
            array[place] = value - STEP
            slopes.append((above - np.vdot(dy, f())) / (2 * STEP))
            array[place] = value
        atol = 2e-8 * np.abs(slopes).max()
        np.testing.assert_allclose(gradients[name][places], slopes, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("name", "shapes", "constants"),
    [
        ("layer_norm", {"x": (3, 4, 5), "weight": (5,), "bias": (5,)}, [1e-5]),
        ("layer_norm", {"x": (3, 4, 5), "weight": (5,), "bias": (5,)}, [0.5]),
        ("gelu", {"x": (3, 4, 5)}, []),
        ("gelu_exact", {"x": (3, 4, 5)}, []),
        ("relu", {"x": (3, 4, 5)}, []),
        ("linear", {"x": (2, 3, 4), "weight": (4, 5), "bias": (5,)}, []),
        ("merge_heads", {"z": (2, 3, 4, 5)}, []),
    ],
)
def test_elementwise_and_linear_backward_equal_central_differences(name, shapes, constants, normal):
    f, f_backward = getattr(model, name), getattr(backward, f"{name}_backward")
    arrays = {key: normal(*shape) for key, shape in shapes.items()}

    def undo(dy):
        if name == "merge_heads":  # its backward needs the number of heads, not the values
            return {"z": f_backward(dy, n_head=3)}
        gradients = f_backward(dy, *arrays.values(), *constants)
        return dict(zip(arrays, gradients if len(arrays) > 1 else [gradients], strict=True))

    assert_undoes(undo, lambda: f(*arrays.values(), *constants), arrays)


def test_the_gradient_of_relu_is_0_at_0_as_in_pytorch():
    np.testing.assert_array_equal(backward.relu_backward(np.full(3, 2.0), np.array([-1.0, 0.0, 1.0])), [0, 0, 2])


def test_softmax_backward_takes_the_output_of_softmax(normal):
    x = normal(3, 7)
    assert_undoes(lambda dy: {"x": backward.softmax_backward(dy, model.softmax(x))}, lambda: model.softmax(x), {"x": x})


def test_split_heads_backward_equals_central_differences(normal):
    qkv = normal(2, 4, 18)
    assert_undoes(
        lambda dy: {"qkv": backward.split_heads_backward(*dy)}, lambda: model.split_heads(qkv, n_head=3), {"qkv": qkv}
    )


@pytest.mark.parametrize("p", [0, 0.3])
def test_attention_backward_equals_central_differences(p, normal):
    q, k, v = normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 5)
    mask, scale, trace, drop = causal_mask(4, 6), 0.7, {}, dropout(p, np.random.default_rng(0))
    assert_undoes(
        lambda dz: dict(zip("qkv", backward.attention_backward(dz, q, k, v, scale, trace, drop), strict=True)),
        lambda: model.attention(q, k, v, mask, scale, recording(trace, drop)),
        {"q": q, "k": k, "v": v},
    )


@pytest.mark.parametrize("activation", [model.gelu, model.gelu_exact, model.relu])
def test_mlp_backward_equals_central_differences(activation, normal, weights):
    x, trace = normal(2, 5, 6), {}
    w = {name: weights[f"h.0.{name}"] for name in TINY.block_shapes() if name.startswith("mlp.")}

    def undo(dy):
        dx, dw = backward.mlp_backward(dy, x, w, activation, trace)
        return {"x": dx, **dw}

    assert_undoes(undo, lambda: model.mlp(x, w, activation, recording(trace)), {"x": x, **w})


@pytest.mark.parametrize("p", [0, 0.3])
def test_block_backward_equals_central_differences(p, normal, weights):
    x, trace = normal(2, 5, 6), {}
    w = {name: weights[f"h.0.{name}"] for name in TINY.block_shapes()}
    drop = within("h.0.", dropout(p, np.random.default_rng(0)))  # in block 0, dropout also applies to the input

    def undo(dy):
        dx, dw = backward.block_backward(dy, w, TINY, 1, trace, drop)
        return {"x": dx, **dw}

    assert_undoes(undo, lambda: model.block(x, w, TINY, 1, None, recording(trace, drop)), {"x": x, **w})


@pytest.mark.parametrize("p", [0, 0.3])
@pytest.mark.parametrize("shape", [(2, 5), (5,)])
def test_hidden_states_backward_equals_central_differences(p, shape, weights):
    del weights["lm_head.weight"]
    tokens, trace, drop = seeded_tokens(TINY, 0, shape), {}, dropout(p, np.random.default_rng(0))
    assert_undoes(
        lambda dy: backward.hidden_states_backward(dy, tokens, weights, TINY, trace, drop),
        lambda: model.hidden_states(tokens, weights, TINY, None, recording(trace, drop)),
        weights,
    )


@pytest.mark.parametrize("head", ["wte.weight", "lm_head.weight"])
def test_logits_backward_equals_central_differences(head, normal):
    x, weights = normal(2, 5, 6), {"wte.weight": normal(7, 6)}
    weights[head] = normal(7, 6)
    assert_undoes(
        lambda dy: dict(zip(["x", head], backward.logits_backward(dy, x, weights), strict=True)),
        lambda: model.logits(x, weights),
        {"x": x, head: weights[head]},
    )


@pytest.mark.parametrize("p", [0, 0.3])
@pytest.mark.parametrize("tied", [True, False])
def test_forward_backward_equals_central_differences(p, tied, weights):
    if tied:
        del weights["lm_head.weight"]
    tokens, trace, drop = seeded_tokens(TINY, 0, (2, 5)), {}, dropout(p, np.random.default_rng(0))
    assert_undoes(
        lambda dy: backward.forward_backward(dy, tokens, weights, TINY, trace, drop),
        lambda: forward(tokens, weights, TINY, hook=recording(trace, drop)),
        weights,
    )


def test_cross_entropy_backward_equals_central_differences(normal):
    logits, targets = normal(2, 3, 5), np.array([[1, -1, 4], [0, 0, -1]])
    assert_undoes(
        lambda dy: {"logits": backward.cross_entropy_backward(dy, logits, targets)},
        lambda: cross_entropy(logits, targets),
        {"logits": logits},
    )


def test_cross_entropy_backward_does_not_overflow():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], np.float32)
    expected = [[1 / 2, -1 / 2, 0], [-1 / 3, 1 / 6, 1 / 6]]
    np.testing.assert_allclose(backward.cross_entropy_backward(1, logits, np.array([1, 0])), expected, rtol=1e-6)


@pytest.mark.parametrize("p", [0, 0.3])
def test_gradients_with_dropout_equal_central_differences(p, weights):
    tokens, targets = seeded_tokens(TINY, 0, (3, 6)), seeded_targets(TINY, 0, (3, 6))
    drop = dropout(p, np.random.default_rng(0))
    assert_undoes(
        lambda dy: {
            name: dy * gradient
            for name, gradient in loss_and_gradients(tokens, targets, weights, TINY, drop)[1].items()
        },
        lambda: cross_entropy(forward(tokens, weights, TINY, hook=drop), targets),
        weights,
    )


def test_dropout_applies_to_the_same_arrays_as_in_the_reference():
    config, weights, tokens, _, _ = inputs("dropout", np.float64)
    drop, dropped = dropout(0.25, np.random.default_rng(0)), []

    def hook(name, value):
        after = drop(name, value)
        if after is not value:
            dropped.append(name)
            np.testing.assert_allclose(after[after != 0], value[after != 0] / 0.75, rtol=1e-14)
            assert ((after == 0) & (value != 0)).sum() / (value != 0).sum() == pytest.approx(0.25, abs=0.08)
        return after

    forward(tokens, weights, config, hook=hook)
    assert dropped == list(seeded_masks(config, 0, tokens.shape))


def test_a_tied_embedding_gets_the_sum_of_both_gradients():
    config, weights, tokens, targets, _ = inputs("plain", np.float64)
    loss, gradients = loss_and_gradients(tokens, targets, weights, config)
    untied = {**weights, "lm_head.weight": weights["wte.weight"]}
    same_loss, expected = loss_and_gradients(tokens, targets, untied, config)
    assert loss == same_loss
    expected["wte.weight"] += expected.pop("lm_head.weight")
    assert_equal_gradients(gradients, expected)


def test_a_row_without_targets_changes_no_gradient():
    config, weights, tokens, targets, _ = inputs("plain", np.float64)
    assert (targets[2] == -1).all()
    loss, gradients = loss_and_gradients(tokens, targets, weights, config)
    same_loss, expected = loss_and_gradients(tokens[:2], targets[:2], weights, config)
    assert loss == pytest.approx(same_loss, rel=1e-14)
    assert_equal_gradients(gradients, expected)


@pytest.mark.parametrize("as_given", [np.asarray, np.ndarray.tolist])
def test_one_sequence_equals_a_batch_of_one(as_given):
    config, weights, tokens, targets, _ = inputs("plain", np.float64)
    loss, gradients = loss_and_gradients(as_given(tokens[0]), as_given(targets[0]), weights, config)
    same_loss, expected = loss_and_gradients(tokens[:1], targets[:1], weights, config)
    assert loss == pytest.approx(same_loss, rel=1e-14)
    assert_equal_gradients(gradients, expected)


def test_inputs_and_dropped_arrays_are_not_modified():
    config, weights, tokens, targets, _ = inputs("plain", np.float64)
    expected = loss_and_gradients(tokens, targets, weights, config)[1]

    def freeze(name, value):
        value.flags.writeable = False
        return value

    for array in (tokens, targets, *weights.values()):
        freeze("", array)
    assert_equal_gradients(loss_and_gradients(tokens, targets, weights, config, freeze)[1], expected)


@contextlib.contextmanager
def calls_of(module, event, see):
    """Inside this context, see(frame) is called at each "call" or "return" of the module's functions."""

    def profile(frame, happened, _):
        if happened == event and frame.f_code.co_filename == module.__file__:
            see(frame)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("name", [*VARIATIONS, "dropout"])
def test_a_float32_run_computes_nothing_in_float64(name):
    config, weights, tokens, targets, drop = inputs(name, np.float32)
    dtypes = {}

    def see(frame):
        for variable, value in frame.f_locals.items():
            if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
                dtypes[frame.f_code.co_name, variable] = value.dtype

    with calls_of(backward, "return", see):
        loss_and_gradients(tokens, targets, weights, config, drop)
    assert len(dtypes) > 40
    assert {key: dtype for key, dtype in dtypes.items() if dtype != np.float32} == {}


def test_the_backward_pass_repeats_no_forward_computation():
    """Each function of model.py is called as often as for the loss alone.

    Two exceptions: softmax is called once more for the gradient of the loss, and merge_heads once more per block.
    """
    config, weights, tokens, targets, _ = inputs("untied", np.float32)
    differentiable = {name.removesuffix("_backward") for name in vars(backward) if name.endswith("_backward")}

    def calls_in(run):
        calls = collections.Counter()
        with calls_of(model, "call", lambda frame: calls.update([frame.f_code.co_name])):
            run()
        return {name: n for name, n in calls.items() if name in differentiable}

    once = calls_in(lambda: cross_entropy(forward(tokens, weights, config), targets))
    assert once["forward"] == 1
    assert once["block"] == config.n_layer
    once["softmax"] += 1
    once["merge_heads"] += config.n_layer
    assert calls_in(lambda: loss_and_gradients(tokens, targets, weights, config)) == once


def test_the_arrays_of_a_block_are_freed_after_its_backward_pass():
    config, weights, tokens, targets, _ = inputs("plain", np.float32)
    left = []

    def see(frame):
        if frame.f_code.co_name == "block_backward":
            left.append(set(frame.f_back.f_locals["trace"]))

    with calls_of(backward, "call", see):
        loss_and_gradients(tokens, targets, weights, config)
    kept = "resid_pre ln_1 attn.q attn.k attn.v attn.pattern attn.z resid_mid ln_2 mlp.pre mlp.post resid_post"
    assert left == [{f"h.{layer}.{name}" for layer in range(n) for name in kept.split()} for n in (2, 1, 0)]


def test_the_forward_pass_checks_the_arguments():
    config, weights, _, _, _ = inputs("plain", np.float32)
    with pytest.raises(ValueError, match="33 positions"):
        loss_and_gradients(np.zeros(33, int), np.zeros(33, int), weights, config)
    with pytest.raises(IndexError, match="token id -1"):
        loss_and_gradients([0, -1], [0, 0], weights, config)
    with pytest.raises(IndexError, match="target -2"):
        loss_and_gradients([0, 0], [0, -2], weights, config)


def functions(module):
    """The names of a module's functions, in order."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_every_function_of_model_py_has_its_backward_in_the_same_order():
    without = {"identity", "within", "causal_mask", "output_head", "record"}
    expected = [f"{name}_backward" for name in functions(model) if name not in without]
    assert functions(backward) == [*expected, "loss_and_gradients"]


def test_backward_py_imports_nothing_but_numpy_math_model_and_special():
    tree = ast.parse(Path(backward.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    assert names == {"numpy", "math", ".model", ".special"}
