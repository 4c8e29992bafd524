"""--resume: a resumed run equals an uninterrupted one, and damaged or other checkpoints are refused."""

import dataclasses
import json
import os
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

from numpy_gpt2 import GPT2Config, load
from numpy_gpt2.train import TrainConfig
from numpy_gpt2.train import run as run_module
from numpy_gpt2.train.config import CHANGEABLE
from numpy_gpt2.train.run import load_checkpoint
from numpy_gpt2.train.step import learning_rate

from .conftest import (
    END,
    FILES,
    FULL_RUN,
    TEXT,
    TINY_RUN,
    assert_one_error,
    assert_speeds_fit,
    break_by_ctrl_c,
    break_by_time_limit,
    checkpoint,
    continue_from_each_file,
    everything_in,
    held_out_loss,
    kill_at,
    log,
    messages,
    named,
    result_of,
    written,
)


@pytest.mark.parametrize("way", [break_by_ctrl_c, break_by_time_limit])
@pytest.mark.parametrize("step", [1, 5, 7, 8, 9, 13])  # evaluation every 4 steps, a checkpoint every 3
def test_stopped_and_resumed_run_equals_an_uninterrupted_one(cli, corpus, uninterrupted, out, way, step):
    with pytest.MonkeyPatch.context() as patched:
        flags, status = way(patched, step)
        result = cli(corpus, "--out", out, *FULL_RUN, *flags)
        assert result.status == status
    assert sorted(os.listdir(out)) == FILES
    assert [row["step"] for row in log(out)] == [*range(4, step, 4), step]
    assert checkpoint(out)[1]["step"] == step
    best = min(row["val_loss"] for row in log(out))
    assert held_out_loss(out, np.array([*TEXT[END:].encode()])) == pytest.approx(best, abs=1e-5)
    _, stopping, stopped, saved = messages(result.err)
    assert "stopping: saving" in stopping
    assert f"{step:,} of 14 steps" in stopped
    assert "; --resume continues" in stopped
    assert f"-m {out}" in saved

    assert cli(corpus, "--out", out, "--resume").status == 0
    assert result_of(out) == result_of(uninterrupted)
    assert_speeds_fit(log(out))
    assert sorted(os.listdir(out)) == FILES


def test_run_may_be_interrupted_several_times(cli, corpus, uninterrupted, out):
    for step in 2, 6, 8, 11:
        with pytest.MonkeyPatch.context() as patched:
            break_by_ctrl_c(patched, step)
            flags = FULL_RUN if step == 2 else ["--resume"]
            assert cli(corpus, "--out", out, *flags).status == 130
    assert cli(corpus, "--out", out, "--resume").status == 0
    assert result_of(out) == result_of(uninterrupted)


@pytest.mark.parametrize(("step", "while_saving"), [(5, False), (10, False), (9, True)])
def test_killed_run_resumes_from_its_last_checkpoint(cli, corpus, uninterrupted, out, step, while_saving):
    kill_at(step, corpus, "--out", out, *FULL_RUN, while_saving=while_saving)
    assert checkpoint(out)[1]["step"] == {5: 3, 10: 9, 9: 6}[step]
    load(out)
    assert cli(corpus, "--out", out, "--resume").status == 0
    assert result_of(out) == result_of(uninterrupted)


def test_run_that_was_killed_while_saving_can_be_resumed_or_started_again(cli, corpus, tmp_path):
    """Also between the first model and the first checkpoint that is due, and between the files of one save."""
    flags = [*TINY_RUN, "--max-steps", 6, "--eval-interval", 3, "--checkpoint-interval", 4]
    ways = continue_from_each_file(cli, corpus, flags, tmp_path, result_of)
    assert ways == ["again"] + 23 * ["resumed"]  # step 3 saves 14 files, step 4 saves 1, step 6 saves 9


def test_resumed_run_with_bpe_equals_an_uninterrupted_one(cli, corpus, tmp_path):
    pytest.importorskip("tokenizers")
    options = [corpus, *FULL_RUN, "--tokenizer", "bpe:270", "--val-fraction", 0.2, "--grad-accumulation", 2]
    assert cli(*options, "--out", tmp_path / "whole").status == 0
    with pytest.MonkeyPatch.context() as patched:
        break_by_ctrl_c(patched, 7)
        assert cli(*options, "--out", tmp_path / "interrupted").status == 130
    assert cli(*options, "--out", tmp_path / "interrupted", "--resume").status == 0
    assert result_of(tmp_path / "interrupted") == result_of(tmp_path / "whole")


def test_resume_restores_log_and_model_of_the_checkpoint(cli, corpus, interrupted):
    """A row of the log, or a model, may have been written after the checkpoint. Resuming removes it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "take_step", lambda *_: pytest.fail("the test ends before the first step"))
        with pytest.raises(pytest.fail.Exception):
            cli(corpus, "--out", interrupted, "--resume")
    arrays, state = checkpoint(interrupted)
    assert [row["step"] for row in log(interrupted)] == [row["step"] for row in state["rows"]] == [4]
    best = named(arrays["best"], GPT2Config.from_json(interrupted / "config.json"))
    np.testing.assert_array_equal(load(interrupted).weights["wte.weight"], best["wte.weight"])
    assert log(interrupted)[0]["val_loss"] == state["best_loss"]


def test_resume_may_change_steps_time_limit_and_intervals(cli, corpus, interrupted):
    flags = ["--max-steps", 20, "--time-limit", 5, "--eval-interval", 3, "--sample-interval", 9]
    result = cli(corpus, "--out", interrupted, "--resume", *flags, "--checkpoint-interval", 0)
    assert result.status == 0
    assert [row["step"] for row in log(interrupted)] == [4, 9, 12, 15, 18, 20]
    assert re.findall(r"^--- after (\d+) steps$", result.out, re.M) == ["9", "18", "20"]
    assert checkpoint(interrupted)[1]["step"] == 7
    options = TrainConfig(lr=0.01, min_lr=0.001, warmup=5, max_steps=20)
    assert log(interrupted)[-2]["lr"] == pytest.approx(learning_rate(17, options))


def test_complete_run_continues_with_more_steps(cli, corpus, uninterrupted, out):
    shutil.copytree(uninterrupted, out)
    before = everything_in(out)
    for flags in [], ["--max-steps", 14], ["--max-steps", 9]:
        result = cli(corpus, "--out", out, "--resume", *flags)
        assert result.status == 0
        assert "has done its 14 steps; a larger --max-steps continues it" in result.err
    assert everything_in(out) == before
    assert cli(corpus, "--out", out, "--resume", "--max-steps", 17).status == 0
    assert [row["step"] for row in log(out)] == [4, 8, 12, 14, 16, 17]
    written(out / "train.jsonl", '{"step": 17')  # a damaged log is written again
    assert cli(corpus, "--out", out, "--resume").status == 0
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
    "--train": "last:1",
    "--average": "off",
    "--val-fraction": 0.2,
    "--val-file": "held_out.txt",
    "--eval-batches": 3,
    "--schedule": "linear",
}


def test_resume_with_another_setting_is_an_error_that_names_it(cli, corpus, tmp_path, interrupted):
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"corpus", *CHANGEABLE}
    assert OTHERS.keys() == {"--" + name.replace("_", "-") for name in names}
    before = everything_in(interrupted)
    for flag, value in OTHERS.items():
        assert_one_error(cli(corpus, "--out", interrupted, "--resume", "--max-steps", 20, flag, value), 1, flag, value)
    other = written(tmp_path / "other.txt", TEXT + "!")
    for texts in [other], [corpus, corpus]:
        assert_one_error(cli(*texts, "--out", interrupted, "--resume", "--max-steps", 20), 1, "text")
    assert everything_in(interrupted) == before
    assert cli(corpus, "--out", interrupted, "--resume", *FULL_RUN).status == 0  # equal settings are accepted


def test_resume_compares_sizes_with_the_model_of_init_from(cli, corpus, model, out):
    """The model has 2 layers, 4 heads, 32 channels and a window of 32. Other values are errors, even the defaults."""
    options = ["--batch-size", 2, "--sample-interval", 0]
    assert cli(corpus, "--out", out, "--init-from", model, *options, "--max-steps", 2).status == 0
    for flag, value in [("--n-layer", 4), ("--n-embd", 192), ("--n-positions", 31), ("--tokenizer", "byte")]:
        assert_one_error(cli(corpus, "--out", out, "--resume", "--max-steps", 3, flag, value), 1, flag)
    result = cli(corpus, "--out", out, "--resume", "--max-steps", 3, "--init-from", model, "--n-positions", 32)
    assert result.status == 0, result.err


def test_resume_without_checkpoint_is_an_error(cli, corpus, out):
    assert_one_error(cli(corpus, "--out", out, "--resume"), 1, out, "no checkpoint")
    assert not out.exists()
    assert cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 2, "--checkpoint-interval", 0).status == 0
    before = everything_in(out)
    assert_one_error(cli(corpus, "--out", out, "--resume", "--max-steps", 3), 1, out, "no checkpoint")
    assert everything_in(out) == before


@pytest.mark.parametrize("size", [0, 7, 8, 100, 3000, 50_000, -1])
def test_truncated_checkpoint_is_an_error(cli, corpus, interrupted, size):
    path = interrupted / "checkpoint.safetensors"
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    before = everything_in(interrupted)
    assert_one_error(cli(corpus, "--out", interrupted, "--resume"), 1, path, "damaged")
    assert everything_in(interrupted) == before
    load(interrupted)


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
def test_file_that_is_not_a_checkpoint_is_an_error(cli, corpus, interrupted, damage):
    damage(interrupted / "checkpoint.safetensors")
    assert_one_error(cli(corpus, "--out", interrupted, "--resume"), 1, interrupted / "checkpoint.safetensors")


def test_setting_missing_in_a_checkpoint_takes_the_default(interrupted):
    arrays, state = checkpoint(interrupted)
    assert state["options"].pop("dropout") == 0.2
    save(arrays, {"state": json.dumps(state)})(interrupted / "checkpoint.safetensors")
    assert load_checkpoint(interrupted).options.dropout == TrainConfig().dropout == 0.1
