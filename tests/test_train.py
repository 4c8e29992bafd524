"""Training: what a step computes, what a run leaves behind, and how it goes on after it was broken."""

import itertools
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2 import GPT2Config, cross_entropy, forward, init_weights, load, load_tokenizer, train
from numpy_gpt2 import evaluate as evaluation
from numpy_gpt2.backward import loss_and_gradients

from . import conftest
from .conftest import run_cli, run_in_process, write_model, write_tokenizer

SPEED = ("tokens_per_second", "seconds")  # what differs between two runs that are the same
MODEL_FILES = ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
FILES = sorted([*MODEL_FILES, "checkpoint.safetensors", "loss.svg", "train.jsonl"])
SIZES = ["--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--n-positions", 16, "--batch-size", 4]
TINY_RUN = [*SIZES, "--warmup", 5, "--lr", 0.01, "--sample-interval", 0]
FULL_RUN = [
    *TINY_RUN,
    "--max-steps",
    14,
    "--eval-interval",
    4,
    "--checkpoint-interval",
    3,
    "--dropout",
    0.2,
    "--seed",
    7,
]

WORDS = ["the", "you", "a", "thou", "And", "King,", "what", "is", "love?\n", "I", "am", "naïve", "→", "12", "o'clock"]
TEXT = " ".join(np.random.default_rng(0).choice(WORDS, 700))
END = int(len(TEXT) * 0.9)  # where the held-out text begins


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No hub, no models but those that a test makes, and Ctrl-C heard even where the tests run in the background."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return written(tmp_path_factory.mktemp("corpus") / "corpus.txt", TEXT)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def cli(capsys):
    """The command inside this process. Returns status, out and err."""

    def run(*arguments):
        result = run_in_process(train.main, capsys, *arguments)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        return result

    return run


@pytest.fixture(scope="session")
def unbroken(corpus, tmp_path_factory):
    """A run of 14 steps, FULL_RUN, to the end."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    assert train.main([*map(str, [corpus, "--out", out, *FULL_RUN])]) == 0
    return out


@pytest.fixture
def broken(corpus, out, cli):
    """The same run, broken by Ctrl-C after 7 steps."""
    with pytest.MonkeyPatch.context() as patched:
        after_step(patched, 7, lambda run: signal.raise_signal(signal.SIGINT))
        assert cli(corpus, "--out", out, *FULL_RUN).status == 130
    return out


@pytest.fixture
def prepared(cli, monkeypatch):
    """What the command would train on: the run, the tokens to learn from and those held out, the tokenizer."""

    def run(*arguments):
        seen = []
        with monkeypatch.context() as patched:
            patched.setattr(train, "train", lambda *given: seen.extend(given))
            result = cli(*arguments)
        assert result.status == 0, result.err
        return seen[:4]

    return run


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def after_step(patched, n, do):
    """Have something done when step n is done."""
    take_step = train.take_step

    def step(run, *arguments):
        take_step(run, *arguments)
        if run.step == n:
            do(run)

    patched.setattr(train, "take_step", step)


def checkpoint(folder):
    """The arrays of a checkpoint, and what else it holds."""
    with safetensors.safe_open(folder / "checkpoint.safetensors", framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118


def log(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def result_of(folder):
    """All that a run leaves, bit for bit, but for how fast it was."""
    arrays, state = checkpoint(folder)
    files = {name: (folder / name).read_bytes() for name in MODEL_FILES}
    rows = [{key: value for key, value in row.items() if key not in SPEED} for row in log(folder)]
    assert set(arrays) >= {"weights", "m", "v"}
    return {name: array.tobytes() for name, array in arrays.items()}, files, rows, state["step"], state["best_loss"]


def everything_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def held_out_loss(folder, tokens):
    weights, config, _ = load(folder)
    return evaluation.evaluate(tokens, weights, config)[0]


def messages(err):
    """The lines on standard error, without the progress bar."""
    return [line for line in re.split(r"[\r\n]+", err) if line.strip() and not re.match(r" *\d+%\|", line)]


assert_one_error = partial(conftest.assert_one_error, before=r"[\d,]+ parameters; .*")


# Batches


@pytest.mark.parametrize(("n_tokens", "length", "n"), [(9, 8, 3), (17, 8, 2), (100, 8, 5), (1000, 7, 32), (3, 1, 1)])
def test_windows_lie_in_the_text_and_targets_come_after_inputs(n_tokens, length, n):
    tokens = np.arange(1000, 1000 + n_tokens)
    for step in range(30):
        inputs, targets = train.batch(tokens, n, length, 0, step)
        assert inputs.shape == targets.shape == (n, length)
        assert (targets == inputs + 1).all()
        assert (inputs == inputs[:, :1] + np.arange(length)).all()
        assert inputs.min() >= 1000
        assert targets.max() < 1000 + n_tokens


def test_a_text_of_one_window_and_a_token_is_all_used():
    inputs, targets = train.batch(np.arange(9), 4, 8, 0, 5)
    assert inputs.tolist() == [[*range(8)]] * 4
    assert targets.tolist() == [[*range(1, 9)]] * 4


@given(n_windows=st.integers(1, 12), rest=st.integers(0, 4), n=st.integers(1, 9), seed=st.integers(0, 2**64))
def test_an_epoch_takes_every_part_of_the_text_once(n_windows, rest, n, seed):
    """Whatever the batches are: epochs end within them."""
    length = 5
    tokens = np.arange((n_windows + 1) * length + 1 + rest)
    n_epochs = 6
    drawn = np.concatenate([train.batch(tokens, n, length, seed, step)[1] for step in range(n_epochs * n_windows)])
    for epoch in np.split(drawn[: n_epochs * n_windows], n_epochs):
        seen = np.sort(epoch.reshape(-1))
        assert (np.diff(seen) == 1).all()
        assert 1 <= seen[0] <= seen[-1] <= len(tokens) - 1


def test_each_epoch_cuts_the_text_differently_and_has_an_order_of_its_own():
    starts = [train.batch(np.arange(1001), 99, 10, 0, epoch)[0][:, 0] for epoch in range(200)]
    assert {int(epoch.min()) for epoch in starts} == {*range(11)}
    orders = [epoch.argsort() for epoch in starts]
    assert (orders[0] != orders[1]).mean() > 0.9
    assert (orders[0] != np.arange(99)).mean() > 0.9


def test_a_batch_is_a_matter_of_seed_and_step():
    tokens = np.arange(500)
    first = train.batch(tokens, 8, 10, 3, 6)[0]
    train.shuffled_windows.cache_clear()
    assert (train.batch(tokens, 8, 10, 3, 6)[0] == first).all()
    assert (train.batch(tokens, 8, 10, 3, 7)[0] != first).any()
    assert (train.batch(tokens, 8, 10, 4, 6)[0] != first).any()
    halves = [train.batch(tokens, 4, 10, 3, step)[0] for step in (12, 13)]
    assert (np.concatenate(halves) == first).all()


@given(rows=st.integers(1, 300), length=st.integers(1, 2000))
def test_parts_are_equal_and_as_few_as_fit(rows, length):
    parts = train.equal_parts(rows, length)
    assert np.concatenate([np.arange(rows)[part] for part in parts]).tolist() == [*range(rows)]
    [size] = {part.stop - part.start for part in parts}
    possible = [n for n in range(min(2, rows), rows + 1) if rows % n == 0]
    fitting = [n for n in possible if rows // n * length <= evaluation.TOKENS_PER_FORWARD]
    assert len(parts) == (fitting[0] if fitting else rows)
    assert size * len(parts) == rows


# Dropout


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    value = np.random.default_rng(1).uniform(1, 2, (400, 500)).astype(np.float32)
    dropped = train.dropout(p, np.random.default_rng(0))("h.0.resid_pre", value)
    assert dropped.dtype == np.float32
    kept = dropped != 0
    assert 1 - kept.mean() == pytest.approx(p, abs=0.005)
    np.testing.assert_allclose(dropped[kept], value[kept] / (1 - p), rtol=1e-6)
    assert dropped.mean() == pytest.approx(value.mean(), rel=0.02)


def test_dropout_is_where_gpt2_has_it():
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=3, n_head=2)
    weights = init_weights(config, np.random.default_rng(0))
    drop, dropped = train.dropout(0.5, np.random.default_rng(0)), set()

    def hook(name, value):
        after = drop(name, value)
        if not np.array_equal(after, value):
            dropped.add(name)
        return after

    forward(np.arange(32), weights, config, hook=hook)
    assert dropped == {"h.0.resid_pre"} | {
        f"h.{layer}.{name}" for layer in range(3) for name in ("attn.pattern", "attn_out", "mlp_out")
    }


def test_a_name_has_one_mask_and_another_name_another():
    ones = np.ones((100, 100))
    drop = train.dropout(0.5, np.random.default_rng(0))
    first = drop("h.0.attn_out", ones)
    others = [drop(name, ones) for name in ("h.0.mlp_out", "h.1.attn_out")]
    np.testing.assert_array_equal(drop("h.0.attn_out", 3 * ones), 3 * first)
    assert all(0.4 < (other != first).mean() < 0.6 for other in others)


def test_no_dropout_changes_nothing():
    value = np.ones((5, 5), np.float32)
    assert train.dropout(0.0, np.random.default_rng(0))("h.0.attn_out", value) is value


# The step


@pytest.mark.parametrize(("warmup", "max_steps"), [(100, 1000), (0, 10), (1, 10), (10, 10), (50, 20)])
def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine(warmup, max_steps):
    options = SimpleNamespace(lr=3e-3, min_lr=2e-4, warmup=warmup, max_steps=max_steps)
    for step in range(max_steps):
        if step < warmup:
            expected = np.interp(step + 1, [0, warmup], [0, 3e-3])
        else:  # cos² of half the angle
            expected = 2e-4 + (3e-3 - 2e-4) * math.cos(math.pi / 2 * (step - warmup) / (max_steps - warmup)) ** 2
        assert train.learning_rate(step, options) == pytest.approx(expected, rel=1e-12)
    if 0 < warmup < max_steps:
        assert train.learning_rate(warmup - 1, options) == train.learning_rate(warmup, options) == 3e-3


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
def test_adamw_is_that_of_the_paper(n_steps, beta1, beta2, decay):
    rng = np.random.default_rng(n_steps)
    start, gradients = rng.standard_normal(7), rng.standard_normal((n_steps, 7)) * 10.0 ** rng.integers(-6, 3, 7)
    rates = rng.uniform(0.001, 0.02, n_steps)
    weights, m, v = start.copy(), np.zeros(7), np.zeros(7)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        train.adamw(weights, gradient, m, v, step=t, lr=rate, beta1=beta1, beta2=beta2, weight_decay=decay)
    expected = [adamw_by_hand(start[i], gradients[:, i], rates, beta1, beta2, decay) for i in range(7)]
    np.testing.assert_allclose(np.stack([weights, m, v], axis=1), expected, rtol=1e-10)


def test_the_flat_array_holds_every_parameter_once():
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=12, n_layer=2, n_head=2, tie_word_embeddings=False)
    flat = np.arange(config.num_parameters())
    weights = train.as_weights(flat, config)
    assert {name: array.shape for name, array in weights.items()} == config.parameter_shapes()
    assert sorted(np.concatenate([array.reshape(-1) for array in weights.values()])) == [*flat]
    weights["ln_f.bias"][:] = -1
    assert (flat == -1).sum() == 12  # they are views


def run_with_gradients(cli, monkeypatch, corpus, out, *arguments, scale=1.0):
    """A run whose gradients are drawn at random. Their list, that of the weights before and after each step."""
    gradients, weights = [], []

    def gradient(run, inputs, targets, pool):
        if not weights:
            weights.append(run.weights.copy())
        gradients.append(scale * np.random.default_rng(run.step).standard_normal(run.weights.size, np.float32))
        return 1.0, gradients[-1].copy()

    monkeypatch.setattr(train, "mean_gradient", gradient)
    monkeypatch.setattr(train, "ADAMW_BLOCK", 1000)
    take_step = train.take_step
    monkeypatch.setattr(train, "take_step", lambda run, *rest: (take_step(run, *rest), weights.append(run.weights + 0)))
    result = cli(corpus, "--out", out, *SIZES, "--sample-interval", 0, "--eval-interval", 0, *arguments)
    assert result.status == 0, result.err
    return gradients, weights


def test_a_step_clips_decays_matrices_alone_and_follows_the_schedule(cli, monkeypatch, corpus, out):
    options = ["--max-steps", 5, "--lr", 0.02, "--min-lr", 0.004, "--warmup", 2, "--weight-decay", 5, "--beta1", 0.8]
    options += ["--beta2", 0.95, "--grad-clip", 3]
    gradients, [start, *_, end] = run_with_gradients(cli, monkeypatch, corpus, out, *options)
    clipped = np.array([g * 3 / np.linalg.norm(g) for g in np.array(gradients, np.float64)])
    rates = [0.01, 0.02, 0.02, 0.016, 0.008]  # (1 + cos 0°, 60°, 120°)/2 of the way from 0.004 to 0.02
    arrays, _ = checkpoint(out)
    np.testing.assert_array_equal(arrays["weights"], end)
    config = GPT2Config.from_json(out / "config.json")
    flat = {name: train.as_weights(array, config) for name, array in [*arrays.items(), ("start", start)]}
    steps = [train.as_weights(gradient, config) for gradient in clipped]
    for name, first in flat["start"].items():
        decay = 5 if name.endswith(".weight") and "ln_" not in name else 0
        at = first.ndim * (first.shape[0] // 2,)  # one weight of each parameter
        at = tuple(min(i, n - 1) for i, n in zip(at, first.shape, strict=True))
        expected = adamw_by_hand(float(first[at]), [float(g[name][at]) for g in steps], rates, 0.8, 0.95, decay)
        got = [flat[array][name][at] for array in ("weights", "m", "v")]
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("clip", "length"), [(0.25, 0.25), (0, 2), (50, 2), (1e-6, 1e-6)])
def test_gradients_longer_than_grad_clip_are_shortened(cli, monkeypatch, corpus, out, clip, length):
    """Seen in m, which is a tenth of the first gradient."""
    n = 7680
    options = ["--max-steps", 1, "--grad-clip", clip, "--weight-decay", 0]
    [gradient], _ = run_with_gradients(cli, monkeypatch, corpus, out, *options, scale=2 / math.sqrt(n))
    m = checkpoint(out)[0]["m"]
    assert gradient.size == n
    assert 10 * np.linalg.norm(m) == pytest.approx(min(length, np.linalg.norm(gradient)), rel=0.03)
    assert np.vdot(m, gradient) == pytest.approx(np.linalg.norm(m) * np.linalg.norm(gradient), rel=1e-4)


def test_the_model_is_the_mean_of_late_weights(cli, monkeypatch, corpus, out):
    options = ["--max-steps", 60, "--lr", 0.02, "--warmup", 0, "--val-fraction", 0]
    _, weights = run_with_gradients(cli, monkeypatch, corpus, out, *options)
    mean = weights[1].astype(np.float64)
    for step, after in enumerate(weights[1:], start=1):
        mean += min(1, 20 / step) * (after - mean)
    config = GPT2Config.from_json(out / "config.json")
    for name, array in load(out).weights.items():
        np.testing.assert_allclose(array, train.as_weights(mean, config)[name], atol=1e-5, err_msg=name)
    assert np.abs(mean - weights[-1]).max() > 1e-3


def start_run(out, **given):
    given = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 8, "dropout": 0.0, **given}
    return train.begin(given, TEXT, out)[0]


@pytest.mark.parametrize(("rows", "part"), [(1, 512), (2, 512), (8, 512), (7, 16), (8, 16), (8, 1), (12, 24)])
def test_the_gradient_of_a_batch_does_not_depend_on_its_parts(out, monkeypatch, pool, rows, part):
    monkeypatch.setattr(train, "TOKENS_PER_FORWARD", part)
    run = start_run(out)
    inputs, targets = np.random.default_rng(rows).integers(257, size=(2, rows, 8))
    loss, gradient = train.mean_gradient(run, inputs, targets, pool)
    weights = train.as_weights(run.weights, run.config)
    expected_loss, expected = loss_and_gradients(inputs, targets, weights, run.config)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, array in train.as_weights(gradient, run.config).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6 * np.abs(gradient).max() + 1e-8, err_msg=name)


def test_masks_are_a_matter_of_seed_step_and_part(out, monkeypatch, pool):
    losses = []

    def spy(*arguments):
        losses.append(loss_and_gradients(*arguments))
        return losses[-1]

    monkeypatch.setattr(train, "loss_and_gradients", spy)
    inputs = targets = np.full((2, 8), 65)  # both parts are the same text

    def gradient(seed, step):
        run = start_run(out, dropout=0.5)
        run.options.seed, run.step = seed, step
        return train.mean_gradient(run, inputs, targets, pool)[1]

    first = gradient(1, 4)
    assert losses[0][0] != losses[1][0]
    np.testing.assert_array_equal(gradient(1, 4), first)
    assert all(np.abs(gradient(*other) - first).max() > 1e-4 for other in [(2, 4), (1, 5)])


def test_accumulated_batches_are_one_large_batch(cli, corpus, tmp_path):
    options = [corpus, *TINY_RUN, "--max-steps", 6, "--dropout", 0]
    assert cli(*options, "--out", tmp_path / "a", "--batch-size", 4, "--grad-accumulation", 2).status == 0
    assert cli(*options, "--out", tmp_path / "b", "--batch-size", 8).status == 0
    a, b = (checkpoint(tmp_path / name)[0]["weights"] for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert cli(*options, "--out", tmp_path / "c", "--batch-size", 4).status == 0
    assert np.abs(checkpoint(tmp_path / "c")[0]["weights"] - b).max() > 1e-3


# A run


def test_a_run_leaves_a_model_a_log_a_curve_and_a_checkpoint(unbroken):
    assert sorted(os.listdir(unbroken)) == FILES
    assert checkpoint(unbroken)[1]["step"] == 14
    assert (unbroken / "loss.svg").read_text(encoding="utf-8").startswith("<svg")
    result = run_cli("-m", unbroken, "-n", 5, "the")
    assert (result.returncode, result.stderr) == (0, b"")
    config = json.loads((unbroken / "config.json").read_text())
    assert (config["vocab_size"], config["n_positions"], config["n_layer"]) == (257, 16, 1)
    assert config["bos_token_id"] == config["eos_token_id"] == 256


def test_the_log_has_a_row_an_evaluation(unbroken):
    rows = log(unbroken)
    assert [row["step"] for row in rows] == [4, 8, 12, 14]
    fields = {"step", "train_loss", "val_loss", "lr", "tokens_per_second", "seconds"}
    options = SimpleNamespace(lr=0.01, min_lr=0.001, warmup=5, max_steps=14)
    for row in rows:
        assert set(row) == fields
        assert row["lr"] == pytest.approx(train.learning_rate(row["step"] - 1, options))
        assert 3 < row["train_loss"] < 6
        assert 3 < row["val_loss"] < 6
    assert_speeds_fit(rows)
    assert 0 < rows[-1]["seconds"] < 30


def assert_speeds_fit(rows):
    """Steps of 4 windows of 16 tokens, in the seconds since the row before."""
    for before, row in itertools.pairwise([{"step": 0, "seconds": 0}, *rows]):
        n_tokens = (row["step"] - before["step"]) * 4 * 16
        assert row["tokens_per_second"] * (row["seconds"] - before["seconds"]) == pytest.approx(n_tokens, rel=1e-6)


def test_the_training_loss_of_a_row_is_the_mean_since_the_one_before(cli, corpus, unbroken, out):
    assert cli(corpus, "--out", out, *FULL_RUN, "--eval-interval", 1).status == 0
    losses = [row["train_loss"] for row in log(out)]
    expected = [np.mean(losses[start:end]) for start, end in [(0, 4), (4, 8), (8, 12), (12, 14)]]
    assert [row["train_loss"] for row in log(unbroken)] == pytest.approx(expected, rel=1e-6)
    assert losses[0] == pytest.approx(math.log(257), abs=0.1)
    assert np.array_equal(checkpoint(out)[0]["weights"], checkpoint(unbroken)[0]["weights"])  # looking changes nothing


def test_the_validation_loss_is_that_of_the_saved_model_over_the_held_out_text(unbroken):
    best = min(row["val_loss"] for row in log(unbroken))
    assert held_out_loss(unbroken, np.array([*TEXT[END:].encode()])) == pytest.approx(best, abs=1e-5)


def test_few_eval_batches_are_spread_over_the_held_out_text(cli, corpus, out):
    options = ["--max-steps", 2, "--val-fraction", 0.5, "--eval-batches", 1, "--eval-interval", 0]
    assert cli(corpus, "--out", out, *TINY_RUN, *options).status == 0
    tokens = np.array([*TEXT[len(TEXT) // 2 :].encode()])
    n = math.ceil((len(tokens) - 1) / 16)
    starts = 16 * np.array([0, (n - 1) // 3, (n - 1) * 2 // 3, n - 1])
    weights, config, _ = load(out)
    windows = [tokens[start : start + 17] for start in starts]
    losses = [(len(row) - 1) * cross_entropy(forward(row[:-1], weights, config), row[1:]) for row in windows]
    expected = sum(losses) / sum(len(row) - 1 for row in windows)
    assert log(out)[-1]["val_loss"] == pytest.approx(expected, abs=1e-5)


def test_it_learns(cli, tmp_path, out):
    text = written(tmp_path / "abc.txt", "abcdefgh" * 300)
    options = ["--max-steps", 120, "--dropout", 0, "--eval-interval", 20, "--sample-interval", 120, "--lr", 0.02]
    result = cli(text, "--out", out, *TINY_RUN, *options)
    rows = log(out)
    assert rows[0]["train_loss"] > 2
    assert rows[-1]["train_loss"] < 0.1
    assert rows[-1]["val_loss"] < 0.1 < math.log(257) / 50
    assert "abcdefghabcdefgh" in result.out  # the sample
    best = min(row["val_loss"] for row in rows)
    assert held_out_loss(out, np.array([*b"abcdefgh" * 30])) == pytest.approx(best, rel=1e-4)


def test_the_same_seed_makes_the_same_model_and_another_another(cli, corpus, unbroken, tmp_path):
    assert cli(corpus, "--out", tmp_path / "same", *FULL_RUN).status == 0
    assert result_of(tmp_path / "same") == result_of(unbroken)
    first = {}
    for seed in 7, 8:
        with pytest.MonkeyPatch.context() as patched:
            after_step(patched, 1, lambda run, seed=seed: first.update({seed: (run.best.copy(), run.losses[0])}))
            assert cli(corpus, "--out", tmp_path / str(seed), *FULL_RUN, "--seed", seed, "--max-steps", 1).status == 0
    assert np.abs(first[7][0] - first[8][0]).max() > 0.01  # the initial weights
    assert first[7][1] != first[8][1]


def test_the_best_model_by_validation_is_what_is_saved(cli, tmp_path, out, monkeypatch):
    noise = "".join(map(chr, np.random.default_rng(0).integers(65, 91, 400)))
    text = written(tmp_path / "noise.txt", noise)
    options = ["--max-steps", 120, "--eval-interval", 10, "--dropout", 0, "--n-embd", 32, "--batch-size", 16]
    options += ["--val-fraction", 0.5]
    result = cli(text, "--out", out, *TINY_RUN, *options)
    losses = [row["val_loss"] for row in log(out)]
    assert 0 < np.argmin(losses) < len(losses) - 4
    assert losses[-1] > min(losses) + 0.5
    assert held_out_loss(out, np.array([*noise[200:].encode()])) == pytest.approx(min(losses), abs=1e-5)
    assert f"best model with {min(losses):.4f} nats" in messages(result.err)[-1]

    with monkeypatch.context() as patched:  # the same where a checkpoint lies between
        break_by_ctrl_c(patched, 45)
        cli(text, "--out", tmp_path / "broken", *TINY_RUN, *options)
    assert cli(text, "--out", tmp_path / "broken", "--resume").status == 0
    assert result_of(tmp_path / "broken") == result_of(out)


def test_where_nothing_is_held_out_the_last_model_is_saved(cli, corpus, out):
    result = cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 6, "--eval-interval", 3, "--val-fraction", 0)
    assert result.status == 0, result.err
    assert [row["val_loss"] for row in log(out)] == [None, None]
    config = GPT2Config.from_json(out / "config.json")
    mean = train.as_weights(checkpoint(out)[0]["mean"], config)
    for name, array in load(out).weights.items():
        np.testing.assert_array_equal(array, mean[name])


def test_samples_go_to_standard_output_all_else_to_standard_error(cli, corpus, out):
    result = cli(corpus, "--out", out, *TINY_RUN, "--sample-interval", 5, "--max-steps", 12, "--eval-interval", 4)
    assert re.findall(r"^--- after (\d+) steps$", result.out, re.M) == ["5", "10", "12"]
    assert len(result.out) > 3 * 100
    assert "---" not in result.err
    assert "%|" not in result.out
    first, last = messages(result.err)
    assert re.match(r"7,680 parameters; [\d,]+ tokens to learn from, [\d,]+ held out$", first)
    assert f"python -m numpy_gpt2 -m {out}" in last
    assert re.search(r" 12/12 .*loss \d\.\d+, held out \d\.\d+, [\d,]+ tokens/s", result.err)


@pytest.mark.parametrize(("flag", "steps"), [("--eval-interval", [7]), ("--eval-interval=3", [3, 6, 7])])
def test_an_interval_of_0_evaluates_at_the_end(cli, corpus, out, flag, steps):
    flags = [flag] if "=" in flag else [flag, 0]
    assert cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 7, *flags).status == 0
    assert [row["step"] for row in log(out)] == steps


def test_intervals_of_0_switch_samples_and_checkpoints_off(cli, corpus, out):
    result = cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 7, "--sample-interval", 0, "--checkpoint-interval", 0)
    assert (result.status, result.out) == (0, "")
    assert sorted(os.listdir(out)) == [name for name in FILES if name != "checkpoint.safetensors"]


def test_checkpoints_are_saved_at_their_interval_and_at_the_end(cli, corpus, out, monkeypatch):
    saved = []
    monkeypatch.setattr(train, "save_checkpoint", lambda run, *_: saved.append(run.step))
    assert cli(corpus, "--out", out, *FULL_RUN).status == 0
    assert saved == [3, 6, 9, 12, 14]


# Texts and tokenizers


def test_byte_tokens_are_the_bytes(prepared, corpus, out):
    run, tokens, held_out, tokenizer = prepared(corpus, "--out", out, *TINY_RUN)
    assert tokens.tolist() == [*TEXT[:END].encode()]
    assert held_out.tolist() == [*TEXT[END:].encode()]
    assert (tokenizer.n_vocab, run.config.vocab_size) == (257, 257)


def test_texts_are_joined_with_endoftext_which_is_a_token(prepared, tmp_path, out):
    one, two = written(tmp_path / "1", "é" * 20 + "<|endoftext|>a"), written(tmp_path / "2", "b" * 20)
    _, tokens, held_out, _ = prepared(one, two, "--out", out, *TINY_RUN, "--val-fraction", 0)
    assert tokens.tolist() == [*(b"\xc3\xa9" * 20), 256, 97, 256, *(b"b" * 20)]
    assert held_out.tolist() == []


def test_bpe_is_that_of_the_tokenizers_library_learned_from_the_training_part(prepared, tmp_path, out):
    tokenizers = pytest.importorskip("tokenizers")
    text = TEXT[:END] + " zyzzyva" * 60
    path = written(tmp_path / "text", text)
    options = ["--tokenizer", "bpe:290", "--val-fraction", 1 - (END + 0.5) / len(text)]
    run, tokens, held_out, tokenizer = prepared(path, "--out", out, *TINY_RUN, *options)
    train.save_tokenizer(out, tokenizer)
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


def test_bpe_of_more_tokens_than_there_are(cli, corpus, out):
    pytest.importorskip("tokenizers")
    assert_one_error(cli(corpus, "--out", out, *TINY_RUN, "--tokenizer", "bpe:100000"), 1, "100000")
    assert not out.exists()


def test_the_tokenizer_of_a_folder(prepared, corpus, tmp_path, out):
    n_vocab = write_tokenizer(tmp_path / "tokenizer")
    run, tokens, _, tokenizer = prepared(corpus, "--out", out, *TINY_RUN, "--tokenizer", tmp_path / "tokenizer")
    train.save_tokenizer(out, tokenizer)
    assert tokens.tolist() == load_tokenizer(tmp_path / "tokenizer").encode_ordinary(TEXT[:END])
    assert run.config.vocab_size == n_vocab
    assert tokens.max() > 256
    assert load_tokenizer(out).encode_ordinary(TEXT) == load_tokenizer(tmp_path / "tokenizer").encode_ordinary(TEXT)


def test_a_tokenizer_without_endoftext(prepared, tmp_path, out):
    write_tokenizer(tmp_path / "tokenizer")
    vocab = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    del vocab["<|endoftext|>"]
    written(tmp_path / "tokenizer" / "vocab.json", json.dumps(vocab))
    paths = [written(tmp_path / name, name * 20) for name in "xy"]
    options = ["--tokenizer", tmp_path / "tokenizer", "--val-fraction", 0]
    run, tokens, _, _ = prepared(*paths, "--out", out, *TINY_RUN, *options)
    assert load_tokenizer(tmp_path / "tokenizer").decode(tokens.tolist()) == "x" * 20 + "<|endoftext|>" + "y" * 20
    assert run.config.eos_token_id is run.config.bos_token_id is None


def test_gpt2s_tokenizer_is_enough_without_its_weights(prepared, corpus, tmp_path, out):
    n_vocab = write_tokenizer(tmp_path / "weights" / "gpt2")
    run, tokens, _, _ = prepared(corpus, "--out", out, *TINY_RUN, "--tokenizer", "gpt2")
    assert tokens.tolist() == load_tokenizer(tmp_path / "weights" / "gpt2").encode_ordinary(TEXT[:END])
    assert run.config.vocab_size == n_vocab


def test_gpt2s_tokenizer_where_the_hub_is_away(cli, corpus, tmp_path, out):
    assert_one_error(cli(corpus, "--out", out, *TINY_RUN, "--tokenizer", "gpt2"), 1, "gpt2", "HF_HUB_OFFLINE")
    assert os.listdir(tmp_path) == []


# --init-from


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model", n_positions=32)


def test_fine_tuning_starts_from_the_model(cli, corpus, model, out):
    """With a learning rate of almost 0, the losses are the model's own."""
    before = everything_in(model)
    options = ["--max-steps", 1, "--lr", 1e-12, "--dropout", 0, "--batch-size", 3, "--seed", 5, "--sample-interval", 0]
    assert cli(corpus, "--out", out, "--init-from", model, *options).status == 0
    [row] = log(out)
    weights, config, tokenizer = load(model)
    tokens, held_out = (np.array(tokenizer.encode_ordinary(part)) for part in (TEXT[:END], TEXT[END:]))
    inputs, targets = train.batch(tokens, 3, 32, 5, 0)
    assert row["train_loss"] == pytest.approx(cross_entropy(forward(inputs, weights, config), targets), rel=1e-5)
    assert row["val_loss"] == pytest.approx(held_out_loss(model, held_out), rel=1e-5)
    assert row["train_loss"] > 6  # unlike that of a new model
    assert load(out).config == config
    assert tokenizer.encode_ordinary(TEXT) == load(out).tokenizer.encode_ordinary(TEXT)
    assert everything_in(model) == before


def test_fine_tuning_with_a_smaller_window(cli, corpus, model, out):
    options = ["--n-positions", 12, "--max-steps", 1, "--lr", 1e-12, "--dropout", 0, "--sample-interval", 0]
    assert cli(corpus, "--out", out, "--init-from", model, *options).status == 0
    small, large = load(out), load(model)
    assert small.config.n_positions == 12
    np.testing.assert_allclose(small.weights["wpe.weight"], large.weights["wpe.weight"][:12], atol=1e-6)
    tokens = np.arange(12)
    expected = forward(tokens, large.weights, large.config)
    np.testing.assert_allclose(forward(tokens, small.weights, small.config), expected, atol=1e-4)


def test_fine_tuning_with_a_larger_window_is_an_error(cli, corpus, model, out):
    assert_one_error(cli(corpus, "--out", out, "--init-from", model, "--n-positions", 33), 1, "33", "32", model)
    assert not out.exists()


@pytest.mark.parametrize("said_to_be_tied", [False, True])  # a head that differs is kept, whatever the config says
def test_an_untied_model_stays_untied(cli, corpus, tmp_path, out, said_to_be_tied):
    model = write_model(tmp_path / "model", n_positions=16, tie_word_embeddings=False)
    config = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": said_to_be_tied}
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
def test_init_from_brings_its_own_sizes_and_tokenizer(cli, corpus, model, out, flags):
    result = cli(corpus, "--out", out, "--init-from", model, "--max-steps", 1, *flags)
    assert_one_error(result, 2, "--init-from", flags[0])


def test_init_from_no_model(cli, corpus, tmp_path, out):
    assert_one_error(cli(corpus, "--out", out, "--init-from", tmp_path / "none"), 1, tmp_path / "none")
    assert not out.exists()


# --resume


def break_by_ctrl_c(patched, step):
    after_step(patched, step, lambda run: signal.raise_signal(signal.SIGINT))
    return [], 130


def break_by_time_limit(patched, step):
    clock = SimpleNamespace(monotonic=lambda: 1000 + seconds[0], perf_counter=time.perf_counter)
    seconds = [0.0]
    patched.setattr(train, "time", clock)
    take_step = train.take_step

    def slow_step(*arguments):
        take_step(*arguments)
        seconds[0] += 90 / step + 1e-6

    patched.setattr(train, "take_step", slow_step)
    return ["--time-limit", 1.5], 0


@pytest.mark.parametrize("way", [break_by_ctrl_c, break_by_time_limit])
@pytest.mark.parametrize("step", [1, 5, 7, 8, 9, 13])  # evaluated every 4, saved every 3
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(cli, corpus, unbroken, out, way, step):
    with pytest.MonkeyPatch.context() as patched:
        flags, status = way(patched, step)
        result = cli(corpus, "--out", out, *FULL_RUN, *flags)
        assert result.status == status
    assert sorted(os.listdir(out)) == FILES
    assert [row["step"] for row in log(out)] == [*range(4, step, 4), step]
    assert checkpoint(out)[1]["step"] == step
    best = min(row["val_loss"] for row in log(out))
    assert held_out_loss(out, np.array([*TEXT[END:].encode()])) == pytest.approx(best, abs=1e-5)
    _, stopped, saved = messages(result.err)
    assert f"{step:,} of 14 steps" in stopped
    assert "--resume" in stopped
    assert f"-m {out}" in saved

    assert cli(corpus, "--out", out, "--resume").status == 0
    assert result_of(out) == result_of(unbroken)
    assert_speeds_fit(log(out))
    assert sorted(os.listdir(out)) == FILES


def test_a_run_may_be_broken_again_and_again(cli, corpus, unbroken, out):
    for step in 2, 6, 8, 11:
        with pytest.MonkeyPatch.context() as patched:
            break_by_ctrl_c(patched, step)
            flags = FULL_RUN if step == 2 else ["--resume"]
            assert cli(corpus, "--out", out, *flags).status == 130
    assert cli(corpus, "--out", out, "--resume").status == 0
    assert result_of(out) == result_of(unbroken)


KILLED = """
import os, signal, sys
from numpy_gpt2 import train

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

take_step, save_tensors = train.take_step, train.save_tensors

def step(run, *arguments):
    take_step(run, *arguments)
    if run.step == {step}:
        if {while_saving}:
            train.save_tensors = lambda path, *rest: (path.write_bytes(b"half"), kill())
        else:
            kill()

train.take_step = step
train.main(sys.argv[1:])
"""


@pytest.mark.parametrize(("step", "while_saving"), [(5, False), (10, False), (9, True)])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(cli, corpus, unbroken, out, step, while_saving):
    script = KILLED.format(step=step, while_saving=while_saving)
    command = [sys.executable, "-c", script, *map(str, [corpus, "--out", out, *FULL_RUN])]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == -signal.SIGKILL
    assert checkpoint(out)[1]["step"] == {5: 3, 10: 9, 9: 6}[step]
    load(out)
    assert cli(corpus, "--out", out, "--resume").status == 0
    assert result_of(out) == result_of(unbroken)


def test_a_run_with_bpe_goes_on_as_if_it_had_not_been_broken(cli, corpus, tmp_path):
    pytest.importorskip("tokenizers")
    options = [corpus, *FULL_RUN, "--tokenizer", "bpe:270", "--val-fraction", 0.2, "--grad-accumulation", 2]
    assert cli(*options, "--out", tmp_path / "whole").status == 0
    with pytest.MonkeyPatch.context() as patched:
        break_by_ctrl_c(patched, 7)
        assert cli(*options, "--out", tmp_path / "broken").status == 130
    assert cli(*options, "--out", tmp_path / "broken", "--resume").status == 0
    assert result_of(tmp_path / "broken") == result_of(tmp_path / "whole")


def test_resuming_puts_the_folder_back_to_the_checkpoint(cli, corpus, broken):
    """The row and perhaps the model that came after it are not part of the run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "take_step", lambda *_: pytest.fail("no step is needed to see this"))
        with pytest.raises(pytest.fail.Exception):
            cli(corpus, "--out", broken, "--resume")
    arrays, state = checkpoint(broken)
    assert [row["step"] for row in log(broken)] == [row["step"] for row in state["rows"]] == [4]
    best = train.as_weights(arrays["best"], GPT2Config.from_json(broken / "config.json"))
    np.testing.assert_array_equal(load(broken).weights["wte.weight"], best["wte.weight"])
    assert log(broken)[0]["val_loss"] == state["best_loss"]


def test_resume_may_change_the_steps_the_time_limit_and_the_intervals(cli, corpus, broken):
    flags = ["--max-steps", 20, "--time-limit", 5, "--eval-interval", 3, "--sample-interval", 9]
    result = cli(corpus, "--out", broken, "--resume", *flags, "--checkpoint-interval", 0)
    assert result.status == 0
    assert [row["step"] for row in log(broken)] == [4, 9, 12, 15, 18, 20]
    assert re.findall(r"^--- after (\d+) steps$", result.out, re.M) == ["9", "18", "20"]
    assert checkpoint(broken)[1]["step"] == 7
    options = SimpleNamespace(lr=0.01, min_lr=0.001, warmup=5, max_steps=20)
    assert log(broken)[-2]["lr"] == pytest.approx(train.learning_rate(17, options))


def test_a_run_that_is_done_can_be_made_longer(cli, corpus, unbroken, out):
    shutil.copytree(unbroken, out)
    before = everything_in(out)
    for flags in [], ["--max-steps", 14], ["--max-steps", 9]:
        result = cli(corpus, "--out", out, "--resume", *flags)
        assert result.status == 0
        assert "has done its 14 steps; --max-steps N goes on" in result.err
    assert everything_in(out) == before
    assert cli(corpus, "--out", out, "--resume", "--max-steps", 17).status == 0
    assert [row["step"] for row in log(out)] == [4, 8, 12, 14, 16, 17]


OTHERS = {
    "--n-layer": 2,
    "--n-head": 4,
    "--n-embd": 32,
    "--n-positions": 8,
    "--dropout": 0.1,
    "--batch-size": 8,
    "--grad-accumulation": 2,
    "--lr": 0.02,
    "--min-lr": 0.002,
    "--warmup": 6,
    "--weight-decay": 0,
    "--beta1": 0.8,
    "--beta2": 0.9,
    "--grad-clip": 0,
    "--seed": 8,
    "--tokenizer": "bpe:300",
    "--init-from": "gpt2",
    "--val-fraction": 0.2,
    "--eval-batches": 3,
}
CHANGEABLE = {"--max-steps", "--time-limit", "--eval-interval", "--sample-interval", "--checkpoint-interval"}


def test_resume_with_anything_else_is_an_error_that_names_it(cli, corpus, tmp_path, broken):
    assert {"--" + name.replace("_", "-") for name in train.DEFAULTS} == OTHERS.keys() | CHANGEABLE
    before = everything_in(broken)
    for flag, value in OTHERS.items():
        assert_one_error(cli(corpus, "--out", broken, "--resume", "--max-steps", 20, flag, value), 1, flag, value)
    other = written(tmp_path / "other.txt", TEXT + "!")
    for texts in [other], [corpus, corpus]:
        assert_one_error(cli(*texts, "--out", broken, "--resume", "--max-steps", 20), 1, "text")
    assert everything_in(broken) == before
    assert cli(corpus, "--out", broken, "--resume", *FULL_RUN).status == 0  # the same is no difference


def test_resume_with_a_size_that_the_model_of_init_from_does_not_have(cli, corpus, model, out):
    """2 layers, 4 heads, 32 channels, a window of 32; what else is given is a difference, were it the default."""
    options = ["--batch-size", 2, "--sample-interval", 0]
    assert cli(corpus, "--out", out, "--init-from", model, *options, "--max-steps", 2).status == 0
    for flag, value in [("--n-layer", 4), ("--n-embd", 192), ("--n-positions", 31), ("--tokenizer", "byte")]:
        assert_one_error(cli(corpus, "--out", out, "--resume", "--max-steps", 3, flag, value), 1, flag)
    result = cli(corpus, "--out", out, "--resume", "--max-steps", 3, "--init-from", model, "--n-positions", 32)
    assert result.status == 0, result.err


def test_resume_without_a_checkpoint(cli, corpus, out):
    assert_one_error(cli(corpus, "--out", out, "--resume"), 1, out, "no checkpoint")
    assert not out.exists()
    assert cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 2, "--checkpoint-interval", 0).status == 0
    before = everything_in(out)
    assert_one_error(cli(corpus, "--out", out, "--resume", "--max-steps", 3), 1, out, "no checkpoint")
    assert everything_in(out) == before


@pytest.mark.parametrize("size", [0, 7, 8, 100, 3000, 50_000, -1])
def test_a_checkpoint_cut_short(cli, corpus, broken, size):
    path = broken / "checkpoint.safetensors"
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    before = everything_in(broken)
    assert_one_error(cli(corpus, "--out", broken, "--resume"), 1, path, "damaged")
    assert everything_in(broken) == before
    load(broken)


def save(arrays, metadata=None):
    return lambda path: safetensors.numpy.save_file(arrays, path, metadata)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
        lambda path: path.write_bytes(b"\x02\0\0\0\0\0\0\0{}"),
        lambda path: shutil.copy(path.parent / "model.safetensors", path),
        save({"weights": np.zeros(3)}, {"state": "{}"}),
        save({"weights": np.zeros(3)}, {"state": "{"}),
    ],
)
def test_a_checkpoint_that_is_none(cli, corpus, broken, damage):
    damage(broken / "checkpoint.safetensors")
    assert_one_error(cli(corpus, "--out", broken, "--resume"), 1, broken / "checkpoint.safetensors")


def test_a_folder_that_has_a_model_or_a_run_is_not_overwritten(cli, corpus, broken, tiny):
    for folder, name, way_out in (broken, "a run", "--resume"), (tiny, "model.safetensors", "--init-from"):
        before = everything_in(folder)
        assert_one_error(cli(corpus, "--out", folder, *TINY_RUN, "--max-steps", 1), 1, folder, name, way_out)
        assert everything_in(folder) == before


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt"])
def test_files_of_a_model_are_not_overwritten(cli, corpus, out, file):
    out.mkdir()
    written(out / file, "something")
    assert_one_error(cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 1), 1, file)
    assert (out / file).read_text() == "something"


@pytest.mark.parametrize("flags", [["--eval-interval", 0], ["--val-fraction", 0]])
def test_a_ruinous_step_is_not_saved(cli, corpus, out, flags):
    """The weights are finite after it, but no loss is."""
    result = cli(corpus, "--out", out, *FULL_RUN, "--warmup", 0, "--lr", 1e30, "--checkpoint-interval", 1, *flags)
    assert result.status == 1
    assert "after 1 steps" in messages(result.err)[-1]
    assert os.listdir(out) == []


def test_where_nobody_reads_the_progress_bar_the_run_is_saved(cli, corpus, out, monkeypatch):
    """As where `tee` or `less` ends."""

    def break_at_5(bar, n=1):
        bar.n += n
        if bar.n == 5:
            raise BrokenPipeError

    monkeypatch.setattr("tqdm.tqdm.update", break_at_5)
    result = cli(corpus, "--out", out, *FULL_RUN, "--checkpoint-interval", 1000)
    assert result.status == 1
    assert train.load_checkpoint(out).step == 5


def test_an_option_that_a_checkpoint_does_not_have_is_the_default(cli, corpus, broken, monkeypatch):
    monkeypatch.setitem(train.DEFAULTS, "later", 5)
    assert train.load_checkpoint(broken).options.later == 5


def test_a_folder_that_has_a_model_in_shards_is_not_overwritten(cli, corpus, tmp_path):
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00001.safetensors"}}
    written(model / "model.safetensors.index.json", json.dumps(index))
    before = everything_in(model)
    assert_one_error(cli(corpus, "--out", model, *TINY_RUN, "--max-steps", 1), 1, model)
    assert everything_in(model) == before
    load(model)


# Ctrl-C


def test_a_second_ctrl_c_interrupts_an_evaluation_at_once(cli, tmp_path, out, monkeypatch):
    text = written(tmp_path / "long.txt", TEXT * 20)
    calls = []

    def slow(tokens, *arguments):
        calls.append(tokens)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return forward(tokens, *arguments)

    monkeypatch.setattr(evaluation, "forward", slow)
    break_by_ctrl_c(monkeypatch, 5)
    result = cli(text, "--out", out, *TINY_RUN, "--eval-interval", 0, "--val-fraction", 0.5, "--eval-batches", 10**6)
    assert result.status == 130
    assert 3 <= len(calls) < len(TEXT * 10) / evaluation.TOKENS_PER_FORWARD / 2
    assert sorted(os.listdir(out)) == ["checkpoint.safetensors", "merges.txt", "vocab.json"]
    assert checkpoint(out)[1]["step"] == 5
    assert messages(result.err)[1:] == []


@contextmanager
def start(*arguments):
    """A process that hears Ctrl-C even where the tests run in the background."""
    hear = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = hear + "; from numpy_gpt2 import train; sys.exit(train.main())"
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_saves_and_says_how_to_go_on(cli, corpus, out):
    with start(corpus, "--out", out, *TINY_RUN, "--max-steps", 10**9, "--eval-interval", 10) as process:
        while not (out / "train.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        printed, err = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, b"")
    _, stopped, saved = messages(err.decode())
    step = log(out)[-1]["step"]
    assert re.match(rf"stopped after {step:,} of 1,000,000,000 steps; --resume ", stopped)
    assert f"python -m numpy_gpt2 -m {out}" in saved
    assert sorted(os.listdir(out)) == FILES
    assert checkpoint(out)[1]["step"] == step
    assert cli(corpus, "--out", out, "--resume", "--max-steps", step + 1).status == 0
    assert log(out)[-1]["step"] == step + 1


def test_stopped_without_a_checkpoint(cli, corpus, out, monkeypatch):
    break_by_ctrl_c(monkeypatch, 5)
    result = cli(corpus, "--out", out, *FULL_RUN, "--checkpoint-interval", 0)
    assert result.status == 130
    assert "checkpoint.safetensors" not in os.listdir(out)
    assert "--resume goes on" not in result.err  # there is nothing to go on from


# What goes wrong


@pytest.mark.parametrize(
    ("texts", "flags", "mentioned"),
    [
        ([b""], [], "text0 is empty"),
        ([b"a" * 500, b""], [], "text1 is empty"),
        ([b"too short"], [], "8 tokens"),
        ([b"a" * 17], ["--val-fraction", 0.05], "16 tokens"),
        ([b"a" * 25], ["--val-fraction", 0.02], "held-out text has 1 token"),
        ([b"a" * 25], ["--val-fraction", 1e-9], "held-out text has 1 token"),
        ([b"a" * 500], ["--val-fraction", 0.999], "0 tokens"),
        ([b"a" * 500, b"caf\xe9 noir" * 50], [], "text1 is not UTF-8"),
        ([b"a" * 500], ["--n-embd", 17], "n_embd is 17"),
        ([b"a" * 500], ["--tokenizer", "nowhere"], "nowhere"),
    ],
)
def test_texts_and_sizes_that_do_not_do(cli, tmp_path, out, texts, flags, mentioned):
    paths = [written(tmp_path / f"text{i}", text) for i, text in enumerate(texts)]
    assert_one_error(cli(*paths, "--out", out, *TINY_RUN, *flags), 1, mentioned)
    assert not out.exists()


def test_the_shortest_text(cli, tmp_path, out):
    text = written(tmp_path / "text", "a" * 17 + "ab")
    result = cli(text, "--out", out, *TINY_RUN, "--max-steps", 2, "--eval-batches", 1)
    assert result.status == 0, result.err
    assert len(log(out)) == 1


@pytest.mark.parametrize("name", ["none.txt", "."])
def test_a_corpus_that_cannot_be_read(cli, tmp_path, out, name):
    assert_one_error(cli(tmp_path / name, "--out", out), 1, tmp_path / name)
    assert not out.exists()


def test_a_file_in_the_place_of_the_folder(cli, corpus, tmp_path):
    file = written(tmp_path / "file", "precious")
    assert_one_error(cli(corpus, "--out", file, *TINY_RUN), 1, file)
    assert_one_error(cli(corpus, "--out", file / "sub", *TINY_RUN), 1, file / "sub")
    assert file.read_text() == "precious"


@pytest.mark.skipif(sys.platform != "linux", reason="even root obeys where it has put its privilege down, as on Linux")
def test_a_folder_that_cannot_be_written(corpus, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o500)
    obey = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.executable, sys.argv[1:])"
    argv = [sys.executable, "-c", obey, sys.executable, "-m", "numpy_gpt2.train", corpus]
    for out in folder, folder / "sub":
        command = [*map(str, [*argv, "--out", out, *TINY_RUN])]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert_one_error(SimpleNamespace(status=result.returncode, out=result.stdout, err=result.stderr), 1, folder)
    assert os.listdir(folder) == []


@contextmanager
def largest_file(size):
    """A disk on which no file has room for more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 20_000, 100_000])  # too little for a tokenizer, model, checkpoint
def test_a_full_disk_leaves_what_was_there(cli, corpus, unbroken, broken, size):
    before = everything_in(broken)
    with largest_file(size):
        result = cli(corpus, "--out", broken, "--resume")
    assert_one_error(result, 1, broken)
    after = everything_in(broken)
    assert after.keys() == before.keys()
    assert after["checkpoint.safetensors"] == before["checkpoint.safetensors"]
    assert (after["vocab.json"], after["merges.txt"]) == (before["vocab.json"], before["merges.txt"])
    if size < 100_000:
        assert after == before
    load(broken)
    assert cli(corpus, "--out", broken, "--resume").status == 0
    assert result_of(broken) == result_of(unbroken)


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_full_disk_leaves_nothing_half_written(cli, corpus, out, size):
    with largest_file(size):
        assert_one_error(cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 2), 1, out)
    assert all(path.is_file() for path in out.iterdir())
    if (out / "vocab.json").exists():
        assert load_tokenizer(out).n_vocab == 257
    assert "model.safetensors" not in os.listdir(out)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_the_run(cli, corpus, out, monkeypatch, where, loss):
    gradient = train.mean_gradient
    seen = []

    def spoiled(run, *arguments):
        value, flat = gradient(run, *arguments)
        if run.step == 7:
            seen.append(everything_in(out))
            if where == "loss":
                return loss, flat
            flat[1234] = loss
        return value, flat

    with monkeypatch.context() as patched:
        patched.setattr(train, "mean_gradient", spoiled)
        assert_one_error(cli(corpus, "--out", out, *FULL_RUN), 1, str(loss), "at step 8", "--lr")
    assert [everything_in(out)] == seen
    assert sorted(seen[0]) == FILES
    assert cli(corpus, "--out", out, "--resume").status == 0  # from step 6


@pytest.mark.parametrize(
    "flags", [[], ["--eval-interval", 1], ["--sample-interval", 1], ["--lr", 1e300], ["--grad-clip", 0]]
)
def test_a_learning_rate_far_too_high(cli, corpus, out, flags):
    result = cli(corpus, "--out", out, *FULL_RUN, "--warmup", 0, "--lr", 1e30, *flags)
    assert result.status == 1
    assert re.match(r"error: .*\bat step [123]\b", messages(result.err)[-1]) or "--sample-interval" in flags
    assert os.listdir(out) == []


@pytest.mark.parametrize(
    "flags",
    [
        *(["--dropout", x] for x in ("1", "-0.1", "nan")),
        *(["--lr", x] for x in ("0", "nan", "inf", "-1", "fast")),
        *(["--min-lr", x] for x in ("-1", "nan")),
        *(["--val-fraction", x] for x in ("1", "-0.1", "1.5")),
        *(["--seed", n] for n in ("-1", "0.5")),
        *(["--tokenizer", name] for name in ("bpe:3", "bpe:x", "bpe:", "bpe:256", "bpe:-300", "bpe:1000001")),
        *([flag, "0"] for flag in ("--max-steps", "--batch-size", "--grad-accumulation", "--eval-batches")),
        *([flag, "0"] for flag in ("--n-layer", "--n-head", "--n-embd", "--n-positions", "--time-limit")),
        *([flag, "-1"] for flag in ("--eval-interval", "--sample-interval", "--checkpoint-interval", "--warmup")),
        *([flag, "1"] for flag in ("--beta1", "--beta2")),
        *([flag, "-1"] for flag in ("--weight-decay", "--grad-clip")),
    ],
    ids=" ".join,
)
def test_impossible_values(cli, corpus, out, flags):
    assert_one_error(cli(corpus, "--out", out, "=".join(flags)), 2, *flags)
    assert not out.exists()


def test_command_lines_that_mean_nothing(cli, corpus, out):
    for arguments in [], [corpus], ["--out", out], [corpus, "--out", out, "--max-step", 3], [corpus, "--out"]:
        assert_one_error(cli(*arguments), 2, "--help")
    assert not out.exists()


def test_help_shows_every_flag_and_examples_that_work(cli):
    result = cli("--help")
    assert (result.status, result.err) == (0, "")
    for flag in [*OTHERS, *CHANGEABLE, "--out", "--resume"]:
        assert re.search(rf"^  {flag}\b", result.out, re.M), flag
    lines = re.findall(r"^  python -m numpy_gpt2\.train (.*)$", result.out, re.M)
    assert len(lines) >= 3
    for line in lines:
        train.parse_arguments(shlex.split(line))


def test_standard_error_may_be_closed(corpus, out):
    argv = [sys.executable, "-m", "numpy_gpt2.train", corpus, "--out", out, *FULL_RUN, "--sample-interval", 14]
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *map(str, argv)]
    result = subprocess.run(command, stdout=subprocess.PIPE, timeout=60)
    assert result.returncode == 0
    assert result.stdout.startswith(b"--- after 14 steps\n")
    assert sorted(os.listdir(out)) == FILES


def test_a_sample_that_cannot_be_written(corpus, out):
    argv = [sys.executable, "-m", "numpy_gpt2.train", corpus, "--out", out, *FULL_RUN, "--sample-interval", 7]
    with open("/dev/full", "wb") as full:
        result = subprocess.run([*map(str, argv)], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert result.returncode == 1
    assert re.fullmatch("error: .*No space left.*standard output.*", messages(result.stderr.decode())[-1])
    assert checkpoint(out)[1]["step"] >= 6


def test_samples_that_nobody_reads_do_not_end_a_run_with_nothing(corpus, out):
    """`… | head -1`: it may go on or stop, but what it has learned is not thrown away."""
    argv = [sys.executable, "-m", "numpy_gpt2.train", corpus, "--out", out, *FULL_RUN]
    argv += ["--sample-interval", 5, "--eval-interval", 14, "--checkpoint-interval", 14]
    with subprocess.Popen([*map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.close()
        process.wait(60)
    assert checkpoint(out)[1]["step"] >= 5
