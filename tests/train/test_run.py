"""A training run: its files, its log, its evaluations, samples and checkpoints."""

import json
import math
import os
import re

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, cross_entropy, forward, load
from numpy_gpt2.train import TrainConfig
from numpy_gpt2.train import run as run_module
from numpy_gpt2.train.step import learning_rate

from ..conftest import run_cli
from .conftest import (
    END,
    FILES,
    FULL_RUN,
    TEXT,
    TINY_RUN,
    after_step,
    assert_speeds_fit,
    break_by_ctrl_c,
    checkpoint,
    held_out_loss,
    log,
    messages,
    named,
    result_of,
    written,
)


def test_run_writes_model_log_curve_and_checkpoint(uninterrupted):
    assert sorted(os.listdir(uninterrupted)) == FILES
    assert checkpoint(uninterrupted)[1]["step"] == 14
    assert (uninterrupted / "loss.svg").read_text(encoding="utf-8").startswith("<svg")
    result = run_cli("-m", uninterrupted, "-n", 5, "the")
    assert (result.returncode, result.stderr) == (0, b"")
    config = json.loads((uninterrupted / "config.json").read_text())
    assert (config["vocab_size"], config["n_positions"], config["n_layer"]) == (257, 16, 1)
    assert config["bos_token_id"] == config["eos_token_id"] == 256


def test_log_has_a_row_for_each_evaluation(uninterrupted):
    rows = log(uninterrupted)
    assert [row["step"] for row in rows] == [4, 8, 12, 14]
    fields = {"step", "train_loss", "val_loss", "lr", "tokens_per_second", "seconds"}
    options = TrainConfig(lr=0.01, min_lr=0.001, warmup=5, max_steps=14)
    for row in rows:
        assert set(row) == fields
        assert row["lr"] == pytest.approx(learning_rate(row["step"] - 1, options))
        assert 3 < row["train_loss"] < 6
        assert 3 < row["val_loss"] < 6
    assert_speeds_fit(rows)
    assert 0 < rows[-1]["seconds"] < 30


def test_training_loss_is_the_mean_since_the_row_before(cli, corpus, uninterrupted, out):
    assert cli(corpus, "--out", out, *FULL_RUN, "--eval-interval", 1).status == 0
    losses = [row["train_loss"] for row in log(out)]
    expected = [np.mean(losses[start:end]) for start, end in [(0, 4), (4, 8), (8, 12), (12, 14)]]
    assert [row["train_loss"] for row in log(uninterrupted)] == pytest.approx(expected, rel=1e-6)
    assert losses[0] == pytest.approx(math.log(257), abs=0.1)
    weights = [checkpoint(folder)[0]["weights"] for folder in (out, uninterrupted)]
    np.testing.assert_array_equal(*weights)  # evaluating changes nothing


def test_validation_loss_is_the_loss_of_the_saved_model_on_the_held_out_text(uninterrupted):
    best = min(row["val_loss"] for row in log(uninterrupted))
    assert held_out_loss(uninterrupted, np.array([*TEXT[END:].encode()])) == pytest.approx(best, abs=1e-5)


def test_eval_batches_are_spread_evenly_over_the_held_out_text(cli, corpus, out):
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


def test_run_learns_a_repeated_text(cli, tmp_path, out):
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


def test_equal_seeds_give_equal_models_and_other_seeds_other_models(cli, corpus, uninterrupted, tmp_path):
    assert cli(corpus, "--out", tmp_path / "same", *FULL_RUN).status == 0
    assert result_of(tmp_path / "same") == result_of(uninterrupted)
    first = {}
    for seed in 7, 8:
        with pytest.MonkeyPatch.context() as patched:
            after_step(patched, 1, lambda run, seed=seed: first.update({seed: (run.mean.copy(), run.losses[0])}))
            assert cli(corpus, "--out", tmp_path / str(seed), *FULL_RUN, "--seed", seed, "--max-steps", 1).status == 0
    assert np.abs(first[7][0] - first[8][0]).max() > 0.01  # the initial weights
    assert first[7][1] != first[8][1]


def test_model_with_the_lowest_validation_loss_is_saved(cli, tmp_path, out, monkeypatch):
    noise = "".join(map(chr, np.random.default_rng(0).integers(65, 91, 400)))
    text = written(tmp_path / "noise.txt", noise)
    options = ["--max-steps", 120, "--eval-interval", 10, "--dropout", 0, "--n-embd", 32, "--batch-size", 16]
    options += ["--val-fraction", 0.5]
    result = cli(text, "--out", out, *TINY_RUN, *options)
    losses = [row["val_loss"] for row in log(out)]
    assert 0 < np.argmin(losses) < len(losses) - 4
    assert losses[-1] > min(losses) + 0.5
    assert held_out_loss(out, np.array([*noise[200:].encode()])) == pytest.approx(min(losses), abs=1e-5)
    assert f"best model (validation loss {min(losses):.4f} nats per token)" in messages(result.err)[-1]

    with monkeypatch.context() as patched:  # the same for a resumed run
        break_by_ctrl_c(patched, 45)
        cli(text, "--out", tmp_path / "interrupted", *TINY_RUN, *options)
    assert cli(text, "--out", tmp_path / "interrupted", "--resume").status == 0
    assert result_of(tmp_path / "interrupted") == result_of(out)


def test_without_held_out_text_the_last_model_is_saved(cli, corpus, out):
    result = cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 6, "--eval-interval", 3, "--val-fraction", 0)
    assert result.status == 0, result.err
    assert [row["val_loss"] for row in log(out)] == [None, None]
    config = GPT2Config.from_json(out / "config.json")
    mean = named(checkpoint(out)[0]["mean"], config)
    for name, array in load(out).weights.items():
        np.testing.assert_array_equal(array, mean[name])


def test_samples_go_to_stdout_and_the_rest_to_stderr(cli, corpus, out):
    result = cli(corpus, "--out", out, *TINY_RUN, "--sample-interval", 5, "--max-steps", 12, "--eval-interval", 4)
    assert re.findall(r"^--- after (\d+) steps$", result.out, re.M) == ["5", "10", "12"]
    assert len(result.out) > 3 * 100
    assert "---" not in result.err
    assert "%|" not in result.out
    first, last = messages(result.err)
    assert re.match(r"7,680 parameters; [\d,]+ training tokens, [\d,]+ held out$", first)
    assert f"python -m numpy_gpt2 -m {out}" in last
    assert re.search(r" 12/12 .*loss \d\.\d+, held out \d\.\d+, [\d,]+ tokens/s", result.err)


@pytest.mark.parametrize("last", [12, 5], ids=["completed", "interrupted"])
def test_the_bar_ends_with_the_last_evaluation(cli, corpus, out, monkeypatch, last):
    break_by_ctrl_c(monkeypatch, last)
    result = cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 12, "--eval-interval", 4)
    assert log(out)[-1]["step"] == last
    assert re.findall(r"held out (\d\.\d+)", result.err)[-1] == f"{log(out)[-1]['val_loss']:.4f}"


@pytest.mark.parametrize(("flag", "steps"), [("--eval-interval", [7]), ("--eval-interval=3", [3, 6, 7])])
def test_last_step_is_always_evaluated(cli, corpus, out, flag, steps):
    flags = [flag] if "=" in flag else [flag, 0]
    assert cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 7, *flags).status == 0
    assert [row["step"] for row in log(out)] == steps


def test_interval_of_0_turns_samples_and_checkpoints_off(cli, corpus, out):
    result = cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 7, "--sample-interval", 0, "--checkpoint-interval", 0)
    assert (result.status, result.out) == (0, "")
    assert sorted(os.listdir(out)) == [
        name for name in FILES if name not in ("checkpoint.safetensors", "tokens.safetensors")
    ]


def test_checkpoints_are_saved_at_each_interval_and_at_the_end(cli, corpus, out, monkeypatch):
    saved = []
    monkeypatch.setattr(run_module, "save_checkpoint", lambda run, *_: saved.append(run.step))
    assert cli(corpus, "--out", out, *FULL_RUN).status == 0
    assert saved == [3, 6, 9, 12, 14]


@pytest.mark.parametrize("flags", [["--eval-interval", 0], ["--val-fraction", 0]])
def test_step_with_infinite_loss_is_not_saved(cli, corpus, out, flags):
    """The weights are finite after the step, but the loss is not."""
    result = cli(corpus, "--out", out, *FULL_RUN, "--warmup", 0, "--lr", 1e30, "--checkpoint-interval", 1, *flags)
    assert result.status == 1
    assert "after 1 steps" in messages(result.err)[-1]
    assert os.listdir(out) == []
