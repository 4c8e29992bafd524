"""int8 weights: products equal those of the converted matrices, and the matrices are close to the original ones."""

import json
import os
import shutil
import threading

import numpy as np
import pytest
from safetensors import safe_open

import numpy_gpt2 as gpt2
from numpy_gpt2 import forward, generate, int8, threads
from numpy_gpt2.evaluate import evaluate
from numpy_gpt2.hub import bundled_folder
from numpy_gpt2.int8 import FILE, Int8Matrix, load_int8, quantize
from numpy_gpt2.weights import save_tensors, save_weights

from .conftest import write_model

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny model that a test may change."""
    return shutil.copytree(tiny, tmp_path / "model")


def random_matrix(N, C):
    values = RNG.integers(-127, 128, (N, C), dtype=np.int8)
    return Int8Matrix(values, RNG.random(N, dtype=np.float32))


@pytest.fixture(params=[1, 2, 3])
def threads_and_blocks(request, monkeypatch):
    """Products use this many threads, and blocks so small that small matrices have many of them."""
    monkeypatch.setattr(threads, "thread_count", lambda: request.param)
    monkeypatch.setattr(int8, "BLOCK", 100)
    monkeypatch.setattr(int8, "SHARED", 1)
    threads.helpers.cache_clear()
    yield
    threads.helpers.cache_clear()


def test_quantization_is_symmetric_and_rounds():
    floats = RNG.standard_normal((7, 50), np.float32)
    floats[3] = 0
    floats[4, 5] = 1000
    values, scales = quantize(floats, "name")
    assert values.dtype == np.int8
    assert scales.dtype == np.float32
    for row, q, scale in zip(floats, values.astype(float), scales, strict=True):
        if row.any():
            assert scale == pytest.approx(np.abs(row).max() / 127)
        np.testing.assert_allclose(q * scale, row, atol=scale * 0.5001)
    assert np.abs(values[:3]).max(axis=1).tolist() == [127, 127, 127]
    assert not values[3].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_an_error(bad):
    floats = np.ones((3, 4), np.float32)
    floats[1, 2] = bad
    with pytest.raises(ValueError, match="holds numbers that are not finite"):
        quantize(floats, "h.0")


@pytest.mark.parametrize("rows", [0, 1, 2, 9, 130])
def test_products_equal_those_of_the_converted_matrix(rows, threads_and_blocks):
    for N, C in ((37, 20), (2, 9), (1, 1), (5, 300)):
        m = random_matrix(N, C)
        floats = m.values.astype(np.float64) * m.scales[:, None]
        np.testing.assert_allclose(np.asarray(m), floats, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(m.T), np.asarray(m).T)
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-12)):
            x = RNG.standard_normal((rows, C)).astype(dtype)
            y = x @ m.T
            assert y.dtype == dtype
            assert y.shape == (rows, N)
            np.testing.assert_allclose(y, x @ floats.T, atol=tolerance * 127 * C)
        np.testing.assert_allclose(np.ones((3, N)) @ m, np.ones((3, N)) @ np.asarray(m), rtol=1e-6)


def test_an_int8_matrix_has_the_attributes_and_indexing_of_an_array():
    m = random_matrix(37, 20)
    assert (m.shape, m.T.shape, m.ndim, m.dtype) == ((37, 20), (20, 37), 2, np.float32)
    assert m.T.T is m
    floats = np.asarray(m)
    for rows in (3, [1, 1, 5], np.array([[0, 2], [36, 3]]), slice(2, 9)):
        np.testing.assert_array_equal(m[rows], floats[rows])
        assert m[rows].dtype == np.float32
    np.testing.assert_array_equal(m.T[[3, 4]], floats.T[[3, 4]])
    x = RNG.standard_normal((2, 3, 20)).astype(np.float32)
    np.testing.assert_allclose(x @ m.T, x @ floats.T, atol=1e-2)
    np.testing.assert_allclose(x[0, 0] @ m.T, x[0, 0] @ floats.T, atol=1e-2)
    with pytest.raises(IndexError):
        m[37]


def test_several_threads_can_multiply_at_once(threads_and_blocks):
    matrices = [random_matrix(60, 64) for _ in range(4)]
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for i in range(50):
            x = rng.standard_normal((1 + i % 2, 64)).astype(np.float32)
            m = matrices[rng.integers(4)]
            if not np.allclose(x @ m.T, x @ np.asarray(m).T, atol=1e-2):
                wrong.append(seed)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": False}, {"n_inner": 10, "activation_function": "gelu"}])
def test_the_model_computes_the_same_with_the_converted_matrices(fields, tmp_path):
    write_model(tmp_path, **fields)
    weights, config, _ = gpt2.load(tmp_path, dtype="int8")
    floats = {name: np.asarray(array) for name, array in weights.items()}
    assert {name: array.shape for name, array in floats.items()} == config.parameter_shapes()
    assert sum(array.dtype == np.float32 for array in floats.values()) == len(floats)
    tokens = RNG.integers(config.vocab_size, size=(2, 40))
    expected = forward(tokens, floats, config)
    np.testing.assert_allclose(forward(tokens, weights, config), expected, atol=2e-5 * np.abs(expected).max())
    options = {"max_new_tokens": 80, "temperature": 0}
    assert list(generate(tokens[0], weights, config, **options)) == list(generate(tokens[0], floats, config, **options))
    source, *_ = gpt2.load(tmp_path)
    assert not np.array_equal(floats["wte.weight"], source["wte.weight"])
    for name, array in source.items():
        whole = array.ndim == 1 or name == "wpe.weight"
        largest = np.abs(array).max(axis=0 if ".c_" in name else -1, keepdims=True)
        np.testing.assert_allclose(floats[name], array, atol=0 if whole else (largest * 0.501 / 127).max())


def test_int8_changes_the_loss_of_the_bundled_model_by_less_than_half_a_percent(tmp_path):
    folder = shutil.copytree(bundled_folder(), tmp_path / "model", ignore=shutil.ignore_patterns(FILE))
    weights, config, tokenizer = gpt2.load(folder)
    text = "ROMEO:\nAy, but my lord, the king is in the field,\nAnd all his men are gone to bring him home.\n" * 2
    tokens = np.array(tokenizer.encode_ordinary(text))
    loss, _ = evaluate(tokens, weights, config)
    changed, _ = evaluate(tokens, load_int8(folder), config)
    assert loss != changed
    assert changed == pytest.approx(loss, rel=0.005)


def test_int8_weights_are_saved_and_reused(folder, monkeypatch):
    load_int8(folder)
    before = (folder / FILE).stat()
    assert before.st_size < 0.45 * (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(int8, "quantize_all", None)
    weights = load_int8(folder)
    assert (folder / FILE).stat().st_mtime_ns == before.st_mtime_ns
    assert not weights["wte.weight"].values.flags.writeable  # a view of the file


def test_int8_weights_are_computed_again_when_the_model_changes(folder):
    first = load_int8(folder)
    weights, config, _ = gpt2.load(folder)
    changed = {name: array * 2 for name, array in weights.items()}
    del weights
    save_weights(folder / "model.safetensors", changed)
    second = load_int8(folder)
    np.testing.assert_allclose(second["wte.weight"].scales, 2 * first["wte.weight"].scales, rtol=1e-6)
    assert config.vocab_size == second["wte.weight"].shape[0]


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file", "half"])
def test_a_damaged_file_is_replaced(folder, damage):
    expected = np.asarray(load_int8(folder)["wte.weight"])
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) // 2] if damage == "half" else damage)
    np.testing.assert_array_equal(np.asarray(load_int8(folder)["wte.weight"]), expected)
    assert (folder / FILE).read_bytes() == data


def with_scale(value):
    def forge(tensors):
        tensors["h.0.mlp.c_fc.weight.scales"][3] = value

    return forge


@pytest.mark.parametrize(
    "forge",
    [
        *map(with_scale, [np.nan, np.inf, 0, -1]),
        lambda tensors: tensors.pop("wte.weight.scales"),
        lambda tensors: tensors.pop("ln_f.bias"),
        lambda tensors: tensors.update({"more": np.ones(3, np.float32)}),
        lambda tensors: tensors.update({"wte.weight.scales": tensors["wte.weight.scales"][:-1]}),
        lambda tensors: tensors.update({"wte.weight.scales": tensors["wte.weight.scales"][:1]}),
        lambda tensors: tensors.update({"wte.weight.scales": tensors["wte.weight.scales"][:, None]}),
        lambda tensors: tensors.update({"wte.weight.scales": np.ones_like(tensors["wte.weight.scales"], np.int8)}),
        lambda tensors: tensors.update({"wte.weight.scales": np.ones_like(tensors["wte.weight.scales"], np.float16)}),
        lambda tensors: tensors.update({"wte.weight": tensors["wte.weight"].astype(np.float32)}),
        lambda tensors: tensors.update({"h.1.attn.c_attn.weight": tensors["h.1.attn.c_attn.weight"].T}),
        lambda tensors: tensors.update({"ln_f.bias": np.full_like(tensors["ln_f.bias"], np.nan)}),
    ],
)
def test_a_file_that_cannot_be_of_the_model_is_replaced(folder, forge):
    load_int8(folder)
    data = (folder / FILE).read_bytes()
    with safe_open(folder / FILE, framework="np") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    forge(tensors)
    save_tensors(folder / FILE, tensors, metadata)
    assert (folder / FILE).read_bytes() != data
    load_int8(folder)
    assert (folder / FILE).read_bytes() == data


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write to any folder")
def test_a_read_only_folder_gives_a_warning(folder):
    folder.chmod(0o555)
    try:
        with pytest.warns(UserWarning, match="each start computes them again"):
            weights = load_int8(folder)
    finally:
        folder.chmod(0o755)
    assert weights["wte.weight"].shape[1] == 32


def test_a_failed_save_gives_a_warning(folder, monkeypatch):
    expected = np.asarray(load_int8(folder)["wte.weight"])
    (folder / FILE).unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(int8, "save_tensors", full)
    with pytest.warns(UserWarning, match="not saved.*: .*No space left"):
        weights = load_int8(folder)
    np.testing.assert_array_equal(np.asarray(weights["wte.weight"]), expected)
    assert not (folder / FILE).exists()


def test_errors_are_those_of_a_float32_model(folder):
    with pytest.raises(ValueError, match="float32 or float64"):
        gpt2.load(folder, dtype="int16")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(ValueError, match="12 missing"):
        load_int8(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        load_int8(folder)


def test_a_changed_config_is_checked_again(folder):
    load_int8(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(ValueError, match="12 missing"):
        load_int8(folder)


def test_a_changed_tie_word_embeddings_is_noticed(folder):
    """While the config ties the head to the embedding, a stored head is ignored. Afterwards, it is used."""
    weights, config, _ = gpt2.load(folder)
    tensors = {name: array.copy() for name, array in weights.items()}
    del weights
    save_weights(folder / "model.safetensors", tensors | {"lm_head.weight": tensors["wte.weight"].copy()})
    assert "lm_head.weight" not in load_int8(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"tie_word_embeddings": False}))
    assert load_int8(folder)["lm_head.weight"].shape == (config.vocab_size, config.n_embd)


def test_saving_an_int8_model_writes_the_converted_matrices(folder, tmp_path):
    weights, config, tokenizer = gpt2.load(folder, dtype="int8")
    gpt2.save_model(tmp_path / "saved", weights, config, tokenizer)
    saved = gpt2.load(tmp_path / "saved").weights
    for name, array in weights.items():
        np.testing.assert_array_equal(saved[name], np.asarray(array))


def test_int8_flag_of_the_commands(folder, tmp_path, capsys):
    from numpy_gpt2.__main__ import main
    from numpy_gpt2.evaluate import main as evaluate_main

    (tmp_path / "text.txt").write_text("the cat and you")
    assert main(["-m", str(folder), "--int8", "--greedy", "-n", "5", "the"]) == 0
    text = capsys.readouterr().out
    assert (folder / FILE).exists()
    weights, config, tokenizer = gpt2.load(folder, dtype="int8")
    prompt = tokenizer.encode_ordinary("the")
    tokens = list(generate(prompt, weights, config, max_new_tokens=5, temperature=0))
    assert text == tokenizer.decode_bytes(tokens).decode("utf-8", "replace") + "\n"
    losses = []
    for flags in ([], ["--int8"]):
        assert evaluate_main([str(tmp_path / "text.txt"), "-m", str(folder), "--json", *flags]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
