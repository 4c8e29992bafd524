"""Fine-tuning with --init-from: its defaults, the loss at step 0, what is said before and after the run, and stops."""

import os
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from numpy_gpt2 import load
from numpy_gpt2.evaluate import main as evaluate_main
from numpy_gpt2.train import TrainConfig
from numpy_gpt2.train import cost as cost_module
from numpy_gpt2.train import run as run_module
from numpy_gpt2.train.config import FLAGS
from numpy_gpt2.train.step import learning_rate, windows_per_epoch

from ..conftest import run_in_process
from .conftest import (
    END,
    FULL_RUN,
    TEXT,
    TINY_RUN,
    after_step,
    assert_one_error,
    break_by_ctrl_c,
    checkpoint,
    log,
    messages,
    result_of,
    written,
)

TUNE = ["--batch-size", 8, "--n-positions", 8, "--seed", 3]


@pytest.fixture
def tune(cli, corpus, model, out):
    """Fine-tune the tiny model. Returns status, out and err."""
    return lambda *flags: cli(corpus, "--out", out, "--init-from", model, *TUNE, *flags)


# Settings


def test_fine_tuning_has_defaults_of_its_own():
    plain, tuning = TrainConfig(), TrainConfig(init_from="gpt2").with_steps(39)
    assert (plain.max_steps, plain.epochs, plain.batch_size, plain.n_positions, plain.lr) == (2000, None, 32, 128, 1e-3)
    assert (plain.schedule, plain.warmup, plain.average, plain.weight_decay) == ("cosine", 100, True, 0.1)
    assert (tuning.max_steps, tuning.epochs, tuning.batch_size, tuning.n_positions, tuning.lr) == (30, 3, 4, 256, 5e-5)
    assert (tuning.schedule, tuning.warmup, tuning.average, tuning.weight_decay) == ("linear", 3, False, 0)
    assert (tuning.min_lr, tuning.dropout, tuning.eval_interval) == (5e-6, 0.1, 3)
    assert TrainConfig(init_from="gpt2", max_steps=5000).warmup == 100
    rates = [TrainConfig(init_from="gpt2", train=train).lr for train in ("last:2", "lora:8")]
    assert rates == [5e-5, 5e-4]


def test_help_states_both_defaults(cli):
    text = "".join(cli("--help").out.split())  # a line may end at the hyphen of --init-from
    for stated in ["(default: 32; with --init-from: 4)",
                   "(default: 0.001; with --init-from: 0.00005, and 0.0005 for lora)",
                   "(with --init-from: 3)", "(default: on; with --init-from: off)",
                   "(default: lr / 10)", "(default: 0.1)"]:  # fmt: skip
        assert stated.replace(" ", "") in text
    assert all(field.metadata["defaults"] for field in FLAGS)


def test_epochs_give_the_number_of_steps(prepared, corpus, model, out):
    run, tokens, _, _ = prepared(corpus, "--out", out, "--init-from", model, *TUNE, "--epochs", 1.5)
    n_windows = (len(tokens) - 1) // 8 - 1
    assert run.options.max_steps == -(-3 * n_windows // 2 // 8)
    assert run.options.warmup == -(-run.options.max_steps // 10)
    run, *_ = prepared(corpus, "--out", out, *TINY_RUN, "--epochs", 2)  # also from scratch
    assert run.options.max_steps == -(-2 * windows_per_epoch(len(TEXT[:END].encode()), 16) // 4)


def test_epochs_and_max_steps_exclude_each_other(cli, corpus, out):
    result = cli(corpus, "--out", out, "--epochs", 2, "--max-steps", 3)
    assert_one_error(result, 2, "--epochs and --max-steps exclude each other")


def test_linear_schedule_ends_at_min_lr():
    options = TrainConfig(init_from="gpt2", max_steps=30, lr=1.0)
    rates = [learning_rate(step, options) for step in range(30)]
    assert rates == pytest.approx([1 / 3, 2 / 3, *(1 - 0.9 * k / 26 for k in (0, *range(27)))])
    assert learning_rate(4, TrainConfig(init_from="gpt2", max_steps=5, lr=1.0, warmup=10)) == pytest.approx(0.1)


# The loss at step 0, and what a run says


def test_loss_at_step_0_is_that_of_evaluate(tune, model, tmp_path, out, capsys):
    result = tune("--max-steps", 4, "--lr", 0.01)
    assert result.status == 0, result.err
    first, *rows = log(out)
    assert first == {"step": 0, "train_loss": None, "val_loss": first["val_loss"], "lr": None} | {
        "tokens_per_second": None,
        "seconds": 0.0,
    }
    held_out = written(tmp_path / "held_out.txt", TEXT[END:])
    for folder, loss in (model, first["val_loss"]), (out, min(row["val_loss"] for row in rows)):
        printed = run_in_process(evaluate_main, capsys, held_out, "-m", folder, "--json").out
        assert float(re.search(r'"loss": ([\d.]+)', printed)[1]) == pytest.approx(loss, rel=1e-6)
    assert '<polyline points="64.0,' in (out / "loss.svg").read_text(encoding="utf-8")  # the curve begins at step 0


def test_run_ends_with_both_losses_and_both_samples(tune, cli, out, model, monkeypatch):
    monkeypatch.setattr(run_module, "SAMPLE_TOKENS", 30)
    result = tune("--max-steps", 4, "--lr", 0.01)
    first, *rows = log(out)
    best = min(rows, key=lambda row: row["val_loss"])
    gain = first["val_loss"] - best["val_loss"]
    assert gain > 0.1
    figures = f"{first['val_loss']:.4f} at step 0, {best['val_loss']:.4f} at step {best['step']}"
    assert f"held-out loss: {figures}, the lowest: {gain:.4f} nats per token less" in messages(result.err)
    before, after = re.fullmatch(r"--- after 0 steps\n(.*)\n--- after \d steps\n(.*)\n", result.out, re.S).groups()
    assert before == run_module.sample(load(model), 3)
    assert after == run_module.sample(load(out), 3) != before
    shutil.move(model, model.with_name("moved"))
    result = cli("--out", out, "--resume", "--max-steps", 5)
    assert (result.status, "there is no sample after 0 steps" in result.err) == (0, True)
    assert re.match(r"--- after [1-5] steps\n", result.out)


def test_sample_interval_of_0_turns_both_samples_off(tune):
    assert tune("--max-steps", 2, "--sample-interval", 0).out == ""


def test_run_without_a_gain_says_so_and_saves_the_best_of_its_steps(tune, out, model):
    result = tune("--max-steps", 3, "--lr", 100, "--grad-clip", 0)
    first, *rows = log(out)
    best = min(row["val_loss"] for row in rows)
    assert best > first["val_loss"]
    assert f"{model} predicts the held-out text better than any model of this run" in result.err
    assert f"best model (validation loss {best:.4f}" in result.err
    assert np.abs(load(out).weights["wte.weight"] - load(model).weights["wte.weight"]).max() > 1


def test_run_states_what_it_takes_before_the_first_step(cli, corpus, out):
    """7,680 parameters of 4 bytes: the model, and a checkpoint with five such arrays."""
    result = cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 14)
    lines = [line for line in re.split(r"[\r\n]+", result.err) if line.strip()]
    assert lines[1:3] == [
        "14 steps, each on 4 windows of 16 tokens; the training text has 175 windows, so the run passes over it 0.3"
        " times",
        lines[2],
    ]
    assert re.fullmatch(
        r"about \d+ MB of memory; 1 MB on the disk, and 1 MB more while a checkpoint is saved", lines[2]
    )
    assert re.search(r"a step takes [\de.-]+ s; the rest of the run, 12 steps, takes about 1 second", result.err)
    assert "warning" not in result.err


def test_estimate_of_the_disk_is_the_size_of_the_files(prepared, corpus, model, out, cli):
    flags = [corpus, "--out", out, "--init-from", model, *TUNE, "--max-steps", 4, "--eval-interval", 2, "--lr", 0.01]
    run, *_ = prepared(*flags)
    kept, while_saving = cost_module.disk(run)
    shutil.rmtree(out, ignore_errors=True)
    assert cli(*flags, "--checkpoint-interval", 3).status == 0  # the checkpoint of step 3 has the best model of step 2
    sizes = [(out / name).stat().st_size for name in ("checkpoint.safetensors", "model.safetensors")]
    assert sum(sizes) == pytest.approx(kept, rel=0.25)
    assert while_saving >= 0.75 * sizes[0]


def test_memory_grows_with_what_a_step_holds(prepared, corpus, model, out):
    def memory(*flags):
        return cost_module.memory(prepared(corpus, "--out", out, "--init-from", model, *flags)[0])

    assert memory() < memory("--batch-size", 64)
    assert memory("--average", "off") < memory("--average", "on")
    assert memory("--train", "last:1") < memory()


def test_large_steps_and_many_passes_are_warnings(cli, corpus, out):
    before = ["--time-limit", 1e-9]  # the run ends before its first step
    result = cli(corpus, "--out", out, *TINY_RUN, *before, "--batch-size", 200, "--max-steps", 20)
    assert "warning: a step has 3,200 tokens and the training text only 2,824; use a smaller --batch-size" in result.err
    assert "warning: the run passes over the training text 23 times." in result.err
    shutil.rmtree(out)
    few = cli(corpus, "--out", out, *TINY_RUN, *before, "--max-steps", 2)
    assert "warning" not in few.err


# Stops


def test_stopped_and_resumed_fine_tuning_equals_an_uninterrupted_one(cli, corpus, model, tmp_path):
    options = ["--init-from", model, *TUNE, "--epochs", 0.2, "--eval-interval", 2, "--checkpoint-interval", 3]
    options += ["--sample-interval", 0]
    assert cli(corpus, "--out", tmp_path / "whole", *options).status == 0
    n_steps = checkpoint(tmp_path / "whole")[1]["step"]
    assert n_steps > 6
    for step in 0, 2, 3:
        with pytest.MonkeyPatch.context() as patched:
            break_by_ctrl_c(patched, step)
            flags, status = (["--time-limit", 1e-9], 0) if step == 0 else ([], 130)
            assert cli(corpus, "--out", tmp_path / str(step), *options, *flags).status == status
        assert cli("--out", tmp_path / str(step), "--resume").status == 0
        assert result_of(tmp_path / str(step)) == result_of(tmp_path / "whole")
    assert cli("--out", tmp_path / "0", "--resume", "--epochs", 0.3).status == 0
    assert checkpoint(tmp_path / "0")[1]["step"] > n_steps
    assert cli("--out", tmp_path / "0", "--resume", "--max-steps", 20).status == 0
    assert (checkpoint(tmp_path / "0")[1]["step"], checkpoint(tmp_path / "0")[1]["options"]["epochs"]) == (20, None)


@pytest.mark.parametrize("call", [1, 3])
def test_ctrl_c_in_an_evaluation_ends_it_and_resume_makes_it_up(cli, corpus, model, tmp_path, out, call):
    """The first evaluation is that of step 0, the third one that of step 4."""
    options = ["--init-from", model, *TUNE, "--max-steps", 6, "--eval-interval", 2, "--sample-interval", 0]
    assert cli(corpus, "--out", tmp_path / "whole", *options).status == 0
    losses, calls = run_module.window_losses, []

    def interrupted(*arguments):
        calls.append(arguments)
        for i, loss in enumerate(losses(*arguments)):
            if len(calls) == call and i == 0:
                signal.raise_signal(signal.SIGINT)
            yield loss

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "window_losses", interrupted)
        assert cli(corpus, "--out", out, *options).status == 130
    step = 2 * (call - 1)
    assert checkpoint(out)[1]["step"] == step
    assert [row["step"] for row in checkpoint(out)[1]["rows"]] == [*range(0, step, 2)]
    assert cli("--out", out, "--resume").status == 0
    assert result_of(out) == result_of(tmp_path / "whole")


def test_evaluation_that_takes_too_long_after_ctrl_c_is_given_up(cli, corpus, uninterrupted, out, monkeypatch):
    """Saving takes 9.5 seconds, and each part of the evaluation one. There are 10 seconds for both."""
    now = [1000.0]
    save, losses, parts = run_module.save_checkpoint, run_module.window_losses, []

    def slow_save(*arguments):
        now[0] += 9.5
        save(*arguments)

    def slow_losses(*arguments):
        for loss in losses(*arguments):
            now[0] += 1
            parts.append(loss)
            yield loss

    with monkeypatch.context() as patched:
        break_by_ctrl_c(patched, 5)
        clock = SimpleNamespace(monotonic=lambda: now[0])
        patched.setattr(run_module, "time", clock)
        patched.setattr("numpy_gpt2.train.progress.time", clock)
        patched.setattr(run_module, "save_checkpoint", slow_save)
        patched.setattr(run_module, "window_losses", slow_losses)
        result = cli(corpus, "--out", out, *FULL_RUN, "--eval-interval", 0)
    assert result.status == 130
    assert parts == []
    assert not (out / "model.safetensors").exists()
    assert "stopped after 5 of 14 steps; --resume continues" in result.err
    assert cli("--out", out, "--resume", "--eval-interval", 4).status == 0
    assert checkpoint(out)[0]["weights"].tobytes() == checkpoint(uninterrupted)[0]["weights"].tobytes()


def test_disk_without_room_is_an_error_before_the_first_step(cli, corpus, out, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(run_module, "take_step", None)
    assert_one_error(cli(corpus, "--out", out, *FULL_RUN), 1, f"the run needs 1 MB in {out}", "free; make room")
    assert os.listdir(out) == []


def test_disk_that_fills_up_during_a_run_leaves_the_checkpoint_before(cli, corpus, uninterrupted, out):
    with pytest.MonkeyPatch.context() as patched:
        full = SimpleNamespace(free=1000)
        after_step(patched, 5, lambda run: patched.setattr(shutil, "disk_usage", lambda folder: full))
        assert_one_error(cli(corpus, "--out", out, *FULL_RUN), 1, "the checkpoint of step 6 needs 1 MB", "make room")
    assert checkpoint(out)[1]["step"] == 3
    assert cli("--out", out, "--resume").status == 0
    assert result_of(out) == result_of(uninterrupted)
