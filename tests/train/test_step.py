"""One optimizer step: batches, dropout, learning rate, AdamW, gradients and the mean of the weights."""

import itertools
import math
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2 import GPT2Config, cross_entropy, forward, init_weights, load, windows
from numpy_gpt2.backward import loss_and_gradients
from numpy_gpt2.threads import SerialExecutor
from numpy_gpt2.train import TrainConfig
from numpy_gpt2.train import gradients as gradients_module
from numpy_gpt2.train import run as run_module
from numpy_gpt2.train import step as step_module
from numpy_gpt2.train.gradients import SCORES_PER_PART, equal_parts
from numpy_gpt2.train.step import (
    Run,
    adamw,
    batch,
    dropout,
    learning_rate,
    mean_gradient,
    new_run,
    shuffled_windows,
    take_step,
)
from numpy_gpt2.train.trained import as_weights

from ..reference.seeded import FOLDER, TRAINING, seeded_batch, seeded_tokens, seeded_weights, selected, variation
from .conftest import SIZES, TINY_RUN, checkpoint, named

# Batches


@pytest.mark.parametrize(("n_tokens", "length", "n"), [(9, 8, 3), (17, 8, 2), (100, 8, 5), (1000, 7, 32), (3, 1, 1)])
def test_targets_are_the_tokens_after_the_inputs(n_tokens, length, n):
    tokens = np.arange(1000, 1000 + n_tokens)
    for i in range(30):
        inputs, targets = batch(tokens, n, length, 0, i)
        assert inputs.shape == targets.shape == (n, length)
        assert (targets == inputs + 1).all()
        assert (inputs == inputs[:, :1] + np.arange(length)).all()
        assert inputs.min() >= 1000
        assert targets.max() < 1000 + n_tokens


def test_text_of_one_window_and_one_token_is_used_whole():
    inputs, targets = batch(np.arange(9), 4, 8, 0, 5)
    assert inputs.tolist() == [[*range(8)]] * 4
    assert targets.tolist() == [[*range(1, 9)]] * 4


@given(n_windows=st.integers(1, 12), rest=st.integers(0, 4), n=st.integers(1, 9), seed=st.integers(0, 2**64))
def test_epoch_uses_each_token_once(n_windows, rest, n, seed):
    """Also where an epoch ends in the middle of a batch."""
    length = 5
    tokens = np.arange((n_windows + 1) * length + 1 + rest)
    n_epochs = 6
    drawn = np.concatenate([batch(tokens, n, length, seed, step)[1] for step in range(n_epochs * n_windows)])
    for epoch in np.split(drawn[: n_epochs * n_windows], n_epochs):
        seen = np.sort(epoch.reshape(-1))
        assert (np.diff(seen) == 1).all()
        assert 1 <= seen[0] <= seen[-1] <= len(tokens) - 1


def test_each_epoch_has_other_windows_in_another_order():
    starts = [batch(np.arange(1001), 99, 10, 0, epoch)[0][:, 0] for epoch in range(200)]
    assert {int(epoch.min()) for epoch in starts} == {*range(11)}
    orders = [epoch.argsort() for epoch in starts]
    assert (orders[0] != orders[1]).mean() > 0.9
    assert (orders[0] != np.arange(99)).mean() > 0.9


def test_batch_depends_only_on_seed_and_step():
    tokens = np.arange(500)
    first = batch(tokens, 8, 10, 3, 6)[0]
    shuffled_windows.cache_clear()
    assert (batch(tokens, 8, 10, 3, 6)[0] == first).all()
    assert (batch(tokens, 8, 10, 3, 7)[0] != first).any()
    assert (batch(tokens, 8, 10, 4, 6)[0] != first).any()
    halves = [batch(tokens, 4, 10, 3, step)[0] for step in (12, 13)]
    assert (np.concatenate(halves) == first).all()


@given(rows=st.integers(1, 300), length=st.integers(1, 2000), vocab_size=st.sampled_from([256, 50257, 1 << 20]))
def test_parts_cover_the_batch_and_are_as_large_as_allowed(rows, length, vocab_size):
    """Several rows of few tokens have few scores, too, unless a row has more than that."""
    most_tokens = windows.TOKENS_PER_FORWARD
    seen = np.zeros((rows, length), int)
    groups = equal_parts(rows, length, vocab_size)
    for part in itertools.chain(*groups):
        seen[part] += 1
        assert seen[part].size <= most_tokens
    assert (seen == 1).all()
    if rows > 1 and length <= most_tokens:
        largest = max(length, min(most_tokens, SCORES_PER_PART // vocab_size))
        [size] = {seen[part].size for [part] in groups}
        divisors = [n for n in range(2, rows + 1) if rows % n == 0 and (rows % 2 or n % 2 == 0)]
        possible = [n for n in divisors if rows // n * length <= largest]
        assert size == rows // possible[0] * length
    else:
        assert len(groups) == rows
        assert {len(chunks) for chunks in groups} == {max(min(2, length), math.ceil(length / most_tokens))}


# Dropout


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_dropout_drops_a_fraction_p_and_keeps_the_mean(p):
    value = np.random.default_rng(1).uniform(1, 2, (400, 500)).astype(np.float32)
    dropped = dropout(p, np.random.default_rng(0))("h.0.resid_pre", value)
    assert dropped.dtype == np.float32
    kept = dropped != 0
    assert 1 - kept.mean() == pytest.approx(p, abs=0.005)
    np.testing.assert_allclose(dropped[kept], value[kept] / (1 - p), rtol=1e-6)
    assert dropped.mean() == pytest.approx(value.mean(), rel=0.02)


def test_dropout_changes_the_arrays_that_gpt2_drops():
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=3, n_head=2)
    weights = init_weights(config, np.random.default_rng(0))
    drop, dropped = dropout(0.5, np.random.default_rng(0)), set()

    def hook(name, value):
        after = drop(name, value)
        if not np.array_equal(after, value):
            dropped.add(name)
        return after

    forward(np.arange(32), weights, config, hook=hook)
    assert dropped == {"h.0.resid_pre"} | {
        f"h.{layer}.{name}" for layer in range(3) for name in ("attn.pattern", "attn_out", "mlp_out")
    }


def test_each_name_has_one_mask_of_its_own():
    ones = np.ones((100, 100))
    drop = dropout(0.5, np.random.default_rng(0))
    first = drop("h.0.attn_out", ones)
    others = [drop(name, ones) for name in ("h.0.mlp_out", "h.1.attn_out")]
    np.testing.assert_array_equal(drop("h.0.attn_out", 3 * ones), 3 * first)
    assert all(0.4 < (other != first).mean() < 0.6 for other in others)


def test_dropout_of_0_returns_the_same_array():
    value = np.ones((5, 5), np.float32)
    assert dropout(0.0, np.random.default_rng(0))("h.0.attn_out", value) is value


# The step


@pytest.mark.parametrize(("warmup", "max_steps"), [(100, 1000), (0, 10), (1, 10), (8, 10)])
def test_learning_rate_rises_linearly_and_falls_as_half_a_cosine(warmup, max_steps):
    options = TrainConfig(lr=3e-3, min_lr=2e-4, warmup=warmup, max_steps=max_steps)
    for step in range(max_steps):
        if step < warmup:
            expected = np.interp(step + 1, [0, warmup], [0, 3e-3])
        else:  # cos² of half the angle
            angle = math.pi / 2 * (step - warmup) / (max_steps - 1 - warmup)
            expected = 2e-4 + (3e-3 - 2e-4) * math.cos(angle) ** 2
        assert learning_rate(step, options) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(warmup, options) == 3e-3


@given(max_steps=st.integers(1, 200), warmup=st.integers(0, 300), min_lr=st.floats(0, 1e-3))
def test_last_step_has_the_lowest_learning_rate(max_steps, warmup, min_lr):
    options = TrainConfig(lr=1e-3, min_lr=min_lr, warmup=warmup, max_steps=max_steps)
    rates = [learning_rate(step, options) for step in range(max_steps)]
    assert rates[-1] == min_lr
    assert max(rates) <= 1e-3
    if warmup >= max_steps:  # the steps before the last are those of a longer run
        assert rates[:-1] == [1e-3 * (step + 1) / warmup for step in range(max_steps - 1)]


def adamw_by_hand(weight, gradients, rates, beta1, beta2, decay):
    """Loshchilov & Hutter 2019, algorithm 2, for one weight: the weight, m and v after all steps."""
    m = v = 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        weight = weight - rate * (m_hat / (math.sqrt(v_hat) + 1e-8) + decay * weight)
    return weight, m, v


@pytest.mark.parametrize("n_steps", [1, 2, 25])
@pytest.mark.parametrize(("beta1", "beta2", "decay"), [(0.9, 0.99, 0.1), (0.9, 0.999, 0), (0, 0, 0.5), (0.5, 0.3, 10)])
def test_adamw_equals_the_algorithm_of_the_paper(n_steps, beta1, beta2, decay):
    rng = np.random.default_rng(n_steps)
    start, gradients = rng.standard_normal(7), rng.standard_normal((n_steps, 7)) * 10.0 ** rng.integers(-6, 3, 7)
    rates = rng.uniform(0.001, 0.02, n_steps)
    weights, m, v = start.copy(), np.zeros(7), np.zeros(7)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        adamw(weights, gradient, m, v, step=t, lr=rate, beta1=beta1, beta2=beta2, weight_decay=decay)
    expected = [adamw_by_hand(start[i], gradients[:, i], rates, beta1, beta2, decay) for i in range(7)]
    np.testing.assert_allclose(np.stack([weights, m, v], axis=1), expected, rtol=1e-10)


def test_flat_array_holds_each_parameter_once():
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=12, n_layer=2, n_head=2, tie_word_embeddings=False)
    flat = np.arange(config.num_parameters())
    weights = named(flat, config)
    assert {name: array.shape for name, array in weights.items()} == config.parameter_shapes()
    assert sorted(np.concatenate([array.reshape(-1) for array in weights.values()])) == [*flat]
    weights["ln_f.bias"][:] = -1
    assert (flat == -1).sum() == 12  # they are views


def run_with_gradients(cli, monkeypatch, corpus, out, *arguments, scale=1.0):
    """Train with random gradients. Returns the list of gradients, and the weights before and after each step."""
    gradients, weights = [], []

    def gradient(run, inputs, targets, pool):
        if not weights:
            weights.append(run.weights.copy())
        gradients.append(scale * np.random.default_rng(run.step).standard_normal(run.weights.size, np.float32))
        return 1.0, gradients[-1].copy()

    monkeypatch.setattr(step_module, "mean_gradient", gradient)
    monkeypatch.setattr(step_module, "ADAMW_BLOCK", 1000)
    take_step = run_module.take_step
    monkeypatch.setattr(run_module, "take_step", lambda *given: weights.append(take_step(*given) or +given[0].weights))
    result = cli(corpus, "--out", out, *SIZES, "--sample-interval", 0, "--eval-interval", 0, *arguments)
    assert result.status == 0, result.err
    return gradients, weights


def test_a_step_clips_the_gradient_follows_the_learning_rate_and_decays_only_matrices(cli, monkeypatch, corpus, out):
    options = ["--max-steps", 5, "--lr", 0.02, "--min-lr", 0.004, "--warmup", 2, "--weight-decay", 5, "--beta1", 0.8]
    options += ["--beta2", 0.95, "--grad-clip", 3]
    gradients, [start, *_, end] = run_with_gradients(cli, monkeypatch, corpus, out, *options)
    clipped = np.array([g * 3 / np.linalg.norm(g) for g in np.array(gradients, np.float64)])
    rates = [0.01, 0.02, 0.02, 0.012, 0.004]  # (1 + cos 0°, 90°, 180°)/2 of the way from 0.004 to 0.02
    arrays, _ = checkpoint(out)
    np.testing.assert_array_equal(arrays["weights"], end)
    config = GPT2Config.from_json(out / "config.json")
    flat = {name: named(array, config) for name, array in [*arrays.items(), ("start", start)]}
    steps = [named(gradient, config) for gradient in clipped]
    for name, first in flat["start"].items():
        decay = 5 if name.endswith(".weight") and "ln_" not in name else 0
        at = first.ndim * (first.shape[0] // 2,)  # one weight of each parameter
        at = tuple(min(i, n - 1) for i, n in zip(at, first.shape, strict=True))
        expected = adamw_by_hand(float(first[at]), [float(g[name][at]) for g in steps], rates, 0.8, 0.95, decay)
        got = [flat[array][name][at] for array in ("weights", "m", "v")]
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-6, err_msg=name)


def test_the_norm_of_many_parameters_is_exact(monkeypatch, pool):
    """A float32 sum of 2 million squares would be too small."""
    config = GPT2Config(6000, n_positions=8, n_embd=256, n_layer=1, n_head=2)
    options = TrainConfig(n_positions=8, weight_decay=0, grad_clip=1)
    run = new_run(options, config, init_weights(config, np.random.default_rng(0)))
    gradient = np.full(run.weights.size, 1e-3, np.float32)
    monkeypatch.setattr(step_module, "mean_gradient", lambda *_: (1.0, gradient))
    take_step(run, np.arange(100), pool)
    np.testing.assert_allclose(run.m, 0.1 / math.sqrt(run.m.size), rtol=1e-5)


@pytest.mark.parametrize(("clip", "length"), [(0.25, 0.25), (0, 2), (50, 2), (1e-6, 1e-6)])
def test_gradients_are_clipped_to_grad_clip(cli, monkeypatch, corpus, out, clip, length):
    """After the first step, m is a tenth of the clipped gradient."""
    n = 7680
    options = ["--max-steps", 1, "--grad-clip", clip, "--weight-decay", 0]
    [gradient], _ = run_with_gradients(cli, monkeypatch, corpus, out, *options, scale=2 / math.sqrt(n))
    m = checkpoint(out)[0]["m"]
    assert gradient.size == n
    assert 10 * np.linalg.norm(m) == pytest.approx(min(length, np.linalg.norm(gradient)), rel=0.03)
    assert np.vdot(m, gradient) == pytest.approx(np.linalg.norm(m) * np.linalg.norm(gradient), rel=1e-4)


def test_saved_model_is_the_running_mean_of_the_weights(cli, monkeypatch, corpus, out):
    options = ["--max-steps", 60, "--lr", 0.02, "--warmup", 0, "--val-fraction", 0]
    _, weights = run_with_gradients(cli, monkeypatch, corpus, out, *options)
    mean = weights[1].astype(np.float64)
    for step, after in enumerate(weights[1:], start=1):
        mean += min(1, 20 / step) * (after - mean)
    config = GPT2Config.from_json(out / "config.json")
    for name, array in load(out).weights.items():
        np.testing.assert_allclose(array, named(mean, config)[name], atol=1e-5, err_msg=name)
    assert np.abs(mean - weights[-1]).max() > 1e-3


def tiny_run(**given):
    """A tiny new run."""
    config = GPT2Config(257, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    return new_run(TrainConfig(**{"dropout": 0.0, **given}), config, init_weights(config, np.random.default_rng(0)))


@pytest.mark.parametrize(("rows", "part"), [(1, 512), (2, 512), (8, 512), (7, 16), (8, 16), (8, 1), (12, 24)])
def test_gradient_does_not_depend_on_the_parts_of_the_batch(monkeypatch, pool, rows, part):
    monkeypatch.setattr(gradients_module, "TOKENS_PER_FORWARD", part)
    run = tiny_run()
    inputs, targets = np.random.default_rng(rows).integers(257, size=(2, rows, 8))
    loss, gradient = mean_gradient(run, inputs, targets, pool)
    weights = as_weights(run.weights, run.shapes)
    expected_loss, expected = loss_and_gradients(inputs, targets, weights, run.config)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, array in as_weights(gradient, run.shapes).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6 * np.abs(gradient).max() + 1e-8, err_msg=name)


def test_dropout_masks_depend_on_seed_step_and_part(monkeypatch, pool):
    losses = []

    def spy(*arguments):
        losses.append(cross_entropy(*arguments))
        return losses[-1]

    monkeypatch.setattr(gradients_module, "cross_entropy", spy)
    inputs = targets = np.full((2, 8), 65)  # both parts are the same text

    def gradient(seed, n_steps):
        run = tiny_run(dropout=0.5, seed=seed)
        run.step = n_steps
        return mean_gradient(run, inputs, targets, pool)[1]

    first = gradient(1, 4)
    assert losses[0] != losses[1]
    np.testing.assert_array_equal(gradient(1, 4), first)
    assert all(np.abs(gradient(*other) - first).max() > 1e-4 for other in [(2, 4), (1, 5)])


def test_finished_parts_of_a_batch_take_no_memory():
    """16 parts take hardly more than 4, dropout's masks included."""
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=4, n_head=4)
    run = new_run(TrainConfig(dropout=0.1), config, seeded_weights(config, 0, scale=0.1))
    peaks = []
    for rows in (32, 128):
        tokens = seeded_tokens(config, 0, (rows, 65))
        tracemalloc.start()
        mean_gradient(run, tokens[:, :-1], tokens[:, 1:], SerialExecutor())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_accumulated_batches_equal_one_large_batch(cli, corpus, tmp_path):
    options = [corpus, *TINY_RUN, "--max-steps", 6, "--dropout", 0]
    assert cli(*options, "--out", tmp_path / "a", "--batch-size", 4, "--grad-accumulation", 2).status == 0
    assert cli(*options, "--out", tmp_path / "b", "--batch-size", 8).status == 0
    a, b = (checkpoint(tmp_path / name)[0]["weights"] for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert cli(*options, "--out", tmp_path / "c", "--batch-size", 4).status == 0
    assert np.abs(checkpoint(tmp_path / "c")[0]["weights"] - b).max() > 1e-3


# Against PyTorch

# Tolerances of the losses (relative) and the weights (absolute; they move by up to 0.02). The exact gradient of a key's
# bias is 0. AdamW turns its rounding error into steps, so without these biases 2e-6 would be enough in float32.
LOSS_TOLERANCE = {np.float32: 5e-7, np.float64: 1e-13}
WEIGHT_TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def reference_run(dtype):
    """The run of tests/reference/make_references.py before its first step."""
    config = variation("plain")
    flat = np.zeros(config.num_parameters(), dtype)
    weights = named(flat, config)
    for name, array in seeded_weights(config, seed=0, scale=0.02).items():
        weights[name][:] = array
    options = TrainConfig(**TRAINING, n_positions=32, batch_size=2, grad_accumulation=3, dropout=0.0, seed=0)
    return Run(options, config, flat, np.zeros_like(flat), np.zeros_like(flat), mean=flat.copy())


@pytest.mark.parametrize("dtype", LOSS_TOLERANCE)
def test_ten_steps_equal_pytorch(dtype, monkeypatch):
    run = reference_run(dtype)

    def batch(tokens, n, length, seed, i):
        inputs, targets = seeded_batch(run.config, i)
        assert inputs.shape == (n, length)
        return inputs, targets

    monkeypatch.setattr(step_module, "batch", batch)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            take_step(run, np.zeros(0, np.int64), pool)
    with np.load(FOLDER / "gradients.npz") as expected:
        np.testing.assert_allclose(run.losses, expected["steps/losses"], rtol=LOSS_TOLERANCE[dtype], atol=0)
        weights = as_weights(run.weights, run.shapes)
        actual = np.concatenate([selected(weights[name]) for name in run.config.parameter_shapes()])
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, expected["steps/weights"], rtol=0, atol=WEIGHT_TOLERANCE[dtype])
