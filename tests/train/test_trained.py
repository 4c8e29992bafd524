"""--train: all weights, the last blocks, or low-rank adapters."""

import itertools
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file

from numpy_gpt2 import forward, load
from numpy_gpt2.train import TrainConfig
from numpy_gpt2.train import __main__ as command_module
from numpy_gpt2.train import run as run_module
from numpy_gpt2.train import step as step_module
from numpy_gpt2.train.step import Run, current_weights, mean_gradient, take_step
from numpy_gpt2.train.trained import as_weights, rank, trained_weights

from ..conftest import write_model
from ..reference.seeded import (
    FOLDER,
    TRAINING,
    seeded_adapters,
    seeded_batch,
    seeded_weights,
    selected,
    variation,
)
from .conftest import (
    assert_one_error,
    break_by_ctrl_c,
    checkpoint,
    continue_from_each_file,
    everything_in,
    kill_at,
    result_of,
)

TUNING = ["--batch-size", 2, "--n-positions", 16, "--warmup", 2, "--lr", 0.01, "--sample-interval", 0, "--seed", 3]
TUNING += ["--max-steps", 6, "--eval-interval", 2, "--checkpoint-interval", 3, "--dropout", 0.1]
ADAPTED = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


@pytest.fixture(autouse=True)
def without_samples(monkeypatch):
    """The samples at the end of a run take most of its time."""
    monkeypatch.setattr(command_module, "write_both_samples", lambda *_: None)


@pytest.fixture
def tuned(cli, corpus, model, tmp_path):
    """Fine-tune the tiny model. Returns the folder of the run."""

    def run(train, *flags, name="tuned"):
        out = tmp_path / name
        result = cli(corpus, "--out", out, "--init-from", model, "--train", train, *TUNING, *flags)
        assert result.status == 0, result.err
        return out

    return run


def model_in(out):
    """The contents of all files with weights."""
    return {name: data for name, data in everything_in(out).items() if name.endswith("model.safetensors")}


def contents(out):
    """The contents of all files of a run with adapters, except its speed."""
    return result_of(out), everything_in(out / "adapter")


# What changes, and what is saved


def test_last_blocks_change_and_the_rest_stays(tuned, model):
    out = tuned("last:1")
    before, after = load(model).weights, load(out).weights
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("h.1.", "ln_f."))}
    arrays, _ = checkpoint(out)
    assert {array.size for array in arrays.values()} == {sum(before[name].size for name in changed)}


def test_all_blocks_can_be_trained_without_the_embeddings(tuned, model):
    before, after = load(model).weights, load(tuned("last:2")).weights
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == {"wte.weight", "wpe.weight"}


def test_adapters_are_merged_into_an_ordinary_model(tuned, model):
    """The matrices of each block become W + 2 A B. peft's lora_A is (R, in) and its lora_B is (out, R)."""
    out = tuned("lora:3")
    before, after = load(model).weights, load(out).weights
    matrices = load_file(out / "adapter" / "adapter_model.safetensors")
    assert len(matrices) == 2 * 2 * 4
    for layer, name in itertools.product(range(2), ADAPTED):
        weight = f"h.{layer}.{name}.weight"
        a, b = (matrices.pop(f"base_model.model.transformer.h.{layer}.{name}.lora_{x}.weight") for x in "AB")
        assert (len(a), b.shape[1]) == (3, 3)
        assert np.abs(a).max() > 0
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(after[weight], before.pop(weight) + 2 * (b @ a).T, atol=1e-6, err_msg=name)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert not matrices
    assert "adapter_config.json" not in os.listdir(out)  # transformers would look for an adapter


def test_adapters_have_a_config_for_peft(tuned, model):
    config = json.loads((tuned("lora:3") / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model)
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"], config["bias"]) == (3, 6, True, "none")
    assert config["target_modules"] == ["c_attn", "c_fc", "c_proj"]


def test_first_step_of_adapters_starts_from_the_model(tuned, model):
    """B is 0, and A has the size of peft's: uniform up to 1/√in."""
    out = tuned("lora:3", "--max-steps", 1, "--lr", 1e-12)
    before, after = load(model).weights, load(out).weights
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-7, err_msg=name)
    for name, array in load_file(out / "adapter" / "adapter_model.safetensors").items():
        if "lora_A" in name:
            bound = array.shape[1] ** -0.5
            assert 0.9 * bound < np.abs(array).max() <= bound
            assert np.abs(array.mean()) < 0.3 * bound


def test_head_of_an_untied_model_is_kept(cli, corpus, tmp_path):
    model = write_model(tmp_path / "model", n_positions=16, tie_word_embeddings=False)
    for train in "last:1", "lora:2":
        out = tmp_path / train.partition(":")[0]
        assert cli(corpus, "--out", out, "--init-from", model, "--train", train, *TUNING).status == 0
        np.testing.assert_array_equal(load(out).weights["lm_head.weight"], load(model).weights["lm_head.weight"])


# Stop and resume


@pytest.mark.parametrize("train", ["last:1", "lora:2"])
def test_stopped_and_killed_runs_equal_an_uninterrupted_one(cli, corpus, model, tuned, tmp_path, train):
    expected = contents(tuned(train))
    flags = [corpus, "--init-from", model, "--train", train, *TUNING]
    with pytest.MonkeyPatch.context() as patched:
        break_by_ctrl_c(patched, 5)
        assert cli(*flags, "--out", tmp_path / "stopped").status == 130
    kill_at(5, *flags, "--out", tmp_path / "killed")
    for name in "stopped", "killed":
        assert cli(corpus, "--out", tmp_path / name, "--resume").status == 0
        assert contents(tmp_path / name) == expected


@pytest.mark.parametrize("train", ["all", "last:1", "lora:2"])
def test_resume_restores_the_best_model_of_the_checkpoint(cli, corpus, model, out, monkeypatch, train):
    """The checkpoint of step 5 has the model of step 4, the best so far. After Ctrl-C, that of step 5 is the best."""
    saved, save_best = {}, run_module.save_best

    def save_and_note(run, *arguments):
        save_best(run, *arguments)
        saved.setdefault(run.step, model_in(out))

    monkeypatch.setattr(run_module, "save_best", save_and_note)
    with pytest.MonkeyPatch.context() as patched:
        break_by_ctrl_c(patched, 5)
        cli(corpus, "--out", out, "--init-from", model, "--train", train, *TUNING)
    assert model_in(out) == saved[5] != saved[4]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "take_step", lambda *_: pytest.fail("the test ends before the first step"))
        with pytest.raises(pytest.fail.Exception):
            cli(corpus, "--out", out, "--resume")
    assert model_in(out) == saved[4]


def test_run_with_adapters_that_was_killed_while_saving_can_be_resumed(cli, corpus, model, tmp_path):
    flags = ["--init-from", model, "--train", "lora:2", *TUNING, "--max-steps", 3]
    assert len(continue_from_each_file(cli, corpus, flags, tmp_path, contents, every=2)) > 10


def test_resume_needs_the_same_model(cli, corpus, model, tuned):
    out = tuned("lora:2")
    shutil.copytree(model, model.with_name("kept"))
    write_model(model, n_positions=32, seed=1)
    before = everything_in(out)
    assert_one_error(cli(corpus, "--out", out, "--resume", "--max-steps", 7), 1, model, "changed")
    shutil.rmtree(model)
    assert_one_error(cli(corpus, "--out", out, "--resume", "--max-steps", 7), 1, model)
    assert everything_in(out) == before
    shutil.move(model.with_name("kept"), model)
    assert cli(corpus, "--out", out, "--resume", "--max-steps", 7).status == 0


# Errors


@pytest.mark.parametrize("train", ["last", "last:0", "lora:-1", "lora:1.5", "lora", "some", "ALL", ""])
def test_unknown_values_are_usage_errors(cli, corpus, model, out, train):
    assert_one_error(cli(corpus, "--out", out, "--init-from", model, "--train", train), 2, "--train", "last:N")


@pytest.mark.parametrize(("train", "largest"), [("last:3", 2), ("lora:33", 32)])
def test_too_many_blocks_or_ranks_are_errors(cli, corpus, model, out, train, largest):
    assert_one_error(cli(corpus, "--out", out, "--init-from", model, "--train", train), 1, train, largest)
    assert not out.exists()


def test_new_model_is_trained_whole(cli, corpus, out):
    result = cli(corpus, "--out", out, "--train", "lora:4")
    assert result.status == 2
    assert "--train lora:4 needs --init-from" in result.err
    assert not out.exists()
    with pytest.raises(ValueError, match=r"train is last:1; it must be all without init_from"):
        TrainConfig(train="last:1")


# Against PyTorch


def reference_run(train, dtype):
    """The run of tests/reference/make_trained.py before its first step."""
    config = variation("plain")
    weights = {name: array.astype(dtype) for name, array in seeded_weights(config, seed=0, scale=0.02).items()}
    settings = {"dropout": 0.0, "init_from": "model", "average": False, "schedule": "cosine"}
    options = TrainConfig(**TRAINING, **settings, train=train, batch_size=6, n_positions=config.n_positions)
    start = weights | seeded_adapters(config, rank(train) or 1)
    flat = np.zeros(0, dtype)
    run = Run(options, config, flat, flat, flat)
    run.weights = np.concatenate([start[name].reshape(-1) for name in run.shapes]).astype(dtype)
    run.m, run.v = np.zeros_like(run.weights), np.zeros_like(run.weights)
    run.frozen = {name: array for name, array in weights.items() if name not in run.shapes}
    return run


def in_order(flat, run):
    """The entries of make_trained.py: some of each array, in the order of the forward pass."""
    arrays = as_weights(flat, run.shapes)
    names = trained_weights(run.options.train, run.config)
    if rank(run.options.train):
        names = [f"{name}.lora_{x}" for name in names for x in "AB"]
    return np.concatenate([selected(arrays[name]) for name in names])


@pytest.mark.parametrize("train", ["last:2", "lora:8"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_gradients_and_ten_steps_equal_pytorch(train, dtype, tolerance, monkeypatch):
    run = reference_run(train, dtype)
    monkeypatch.setattr(step_module, "batch", lambda tokens, n, length, seed, i: seeded_batch(run.config, i))
    with np.load(FOLDER / "trained.npz") as expected, ThreadPoolExecutor(2) as pool:
        gradient = in_order(mean_gradient(run, *seeded_batch(run.config, 0), pool)[1], run)
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, expected[f"{train}/gradients"], rtol=0, atol=tolerance / 10)
        for _ in range(10):
            take_step(run, np.zeros(0, np.int64), pool)
        np.testing.assert_allclose(run.losses, expected[f"{train}/losses"], rtol=tolerance / 10, atol=0)
        np.testing.assert_allclose(in_order(run.weights, run), expected[f"{train}/weights"], rtol=0, atol=tolerance)


def test_logits_of_the_merged_model_are_those_of_model_and_adapters():
    run = reference_run("lora:8", np.float64)
    tokens = seeded_batch(run.config, 0)[0]
    adapters = as_weights(run.weights, run.shapes)

    class Adapted:
        """x ↦ x W + 2 (x A) B in place of x ↦ x W."""

        __array_ufunc__ = None

        def __init__(self, name):
            self.matrices = run.frozen[name], adapters[f"{name}.lora_A"], adapters[f"{name}.lora_B"]

        def __rmatmul__(self, x):
            w, a, b = self.matrices
            return x @ w + 2 * (x @ a) @ b

    names = trained_weights("lora:8", run.config)
    expected = forward(tokens, run.frozen | {name: Adapted(name) for name in names}, run.config)
    merged = forward(tokens, current_weights(run, run.weights), run.config)
    np.testing.assert_allclose(merged, expected, atol=1e-13)
    assert np.abs(merged - forward(tokens, run.frozen, run.config)).max() > 1e-3
