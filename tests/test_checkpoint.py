"""load and save_model, without a network."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2 import hub, int8
from numpy_gpt2.weights import save_weights

from .conftest import write_tokenizer
from .reference.seeded import FOLDER

TOKENIZER_FILES = {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def models(tiny, tmp_path, monkeypatch):
    """A weights folder that holds the tiny model as "mine". The current folder is empty, and the hub is offline."""
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, tmp_path / "models" / "mine")
    return tmp_path / "models"


def test_a_saved_model_loads_as_the_same_model(tiny, tmp_path):
    model = gpt2.load(tiny)
    gpt2.save_model(tmp_path / "new" / "folder", *model)
    again = gpt2.load(tmp_path / "new" / "folder")
    assert again.config == model.config
    assert again.weights.keys() == model.weights.keys()
    for name, array in model.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)
    assert again.tokenizer.encode_ordinary("the you") == model.tokenizer.encode_ordinary("the you")
    files = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert files == {"config.json", "model.safetensors", *TOKENIZER_FILES}


def test_a_saved_folder_can_be_saved_over_itself(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    model = gpt2.load(folder)  # its weights are views of the file that is replaced
    gpt2.save_model(folder, *model)
    for name, array in gpt2.load(folder).weights.items():
        np.testing.assert_array_equal(array, model.weights[name])


def test_a_saved_model_does_not_keep_the_end_of_text_of_an_earlier_one(tiny, tmp_path):
    weights, config, tokenizer = gpt2.load(tiny)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [77], "pad_token_id": 5}')
    gpt2.save_model(tmp_path, weights, dataclasses.replace(config, eos_token_id=3), tokenizer)
    saved = gpt2.load(tmp_path).config
    assert (saved.eos_token_id, saved.pad_token_id) == (3, None)


def test_a_failed_save_changes_nothing(tiny, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = gpt2.load(folder)

    def full_disk(path, weights):
        save_weights(path, weights)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numpy_gpt2.checkpoint.save_weights", full_disk)
    with pytest.raises(OSError, match="No space left"):
        gpt2.save_model(folder, *model)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_all_saved_files_have_the_same_permissions(tiny):
    assert len({path.stat().st_mode for path in tiny.iterdir()}) == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_saved_files_follow_the_umask(tiny, tmp_path, umask, mode):
    model = gpt2.load(tiny)
    before = os.umask(umask)
    try:
        for _ in range(2):  # the second time, over the first
            gpt2.save_model(tmp_path / "model", *model)
    finally:
        os.umask(before)
    files = [*(tmp_path / "model").iterdir()]
    assert len(files) == 6
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


def test_parts_that_do_not_fit_together_are_not_saved(tiny, tmp_path):
    weights, config, tokenizer = gpt2.load(tiny)
    incomplete = {name: array for name, array in weights.items() if name != "ln_f.bias"}
    with pytest.raises(ValueError, match=r"1 missing: ln_f\.bias"):
        gpt2.save_model(tmp_path / "new", incomplete, config, tokenizer)
    small = gpt2.GPT2Config(vocab_size=200, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="265 tokens; it must have at most 200"):
        gpt2.save_model(tmp_path / "new", gpt2.init_weights(small, np.random.default_rng(0)), small, tokenizer)
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_comes_before_the_weights_folder(models, tmp_path):
    assert hub.model_folder("mine") == models / "mine"
    shutil.copytree(models / "mine", models / "owner" / "name")
    assert hub.model_folder("owner/name") == models / "owner" / "name"
    shutil.copytree(models / "mine", tmp_path / "mine")
    assert hub.model_folder("mine").resolve() == tmp_path / "mine"  # an existing folder comes first
    assert gpt2.load(str(models / "mine")).config.n_layer == 2


def test_a_model_that_is_not_found_is_an_error(models):
    with pytest.raises(OSError, match=r"no model 'yours'.*gpt2-xl"):
        gpt2.load("yours")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        gpt2.load("gpt2")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        gpt2.load("owner/name")
    assert not (models / "gpt2").exists()


def test_missing_files_are_named_in_the_error(models):
    (models / "mine" / "config.json").unlink()
    (models / "mine" / "merges.txt").unlink()
    (models / "mine" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config.json and no merges.txt; .* beside model.safetensors"):
        gpt2.load("mine")


def test_a_tokenizer_with_more_tokens_than_the_model_is_an_error(models):
    config = json.loads((models / "mine" / "config.json").read_text())
    model = gpt2.load(models / "mine")
    weights = {**model.weights, "wte.weight": model.weights["wte.weight"][:200]}
    save_weights(models / "mine" / "model.safetensors", weights)
    (models / "mine" / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    with pytest.raises(ValueError, match=r"tokenizer has 265 tokens; it must have at most 200"):
        gpt2.load("mine")


def test_a_model_with_more_tokens_than_the_tokenizer_loads(tmp_path):
    n_vocab = write_tokenizer(tmp_path)
    config = gpt2.GPT2Config(vocab_size=n_vocab + 7, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    gpt2.save_model(
        tmp_path, gpt2.init_weights(config, np.random.default_rng(0)), config, gpt2.load_tokenizer(tmp_path)
    )
    model = gpt2.load(tmp_path)
    assert (model.tokenizer.n_vocab, model.config.vocab_size) == (n_vocab, n_vocab + 7)


def test_the_package_imports_neither_requests_nor_tqdm_nor_threadpoolctl():
    script = (
        "import sys, numpy, tiktoken, safetensors.numpy; before = set(sys.modules); import numpy_gpt2;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) <= {"numpy_gpt2", "numpy"}


def test_the_bundled_model_equals_transformers():
    with np.load(FOLDER / "bundled.npz") as expected:
        for dtype, tolerance in [(np.float32, 1e-5), (np.float64, 1e-10)]:
            weights, config, tokenizer = gpt2.load(hub.bundled_folder(), dtype)
            for i in (0, 1):
                tokens = expected[f"{i}/tokens"]
                assert tokenizer.encode_ordinary(str(expected[f"{i}/prompt"])) == tokens.tolist()
                logits, reference = gpt2.forward(tokens, weights, config), expected[f"{i}/logits"]
                np.testing.assert_allclose(logits, reference, rtol=0, atol=tolerance * np.abs(reference).max())
                if f"{i}/loss" in expected:
                    targets = tokens[1:].copy()
                    targets[3] = -1
                    loss = gpt2.cross_entropy(logits[:-1], targets)
                    assert loss == pytest.approx(expected[f"{i}/loss"], rel=tolerance)
                greedy = gpt2.generate(tokens, weights, config, max_new_tokens=40, temperature=0)
                assert list(greedy) == expected[f"{i}/greedy"].tolist()


def test_the_bundled_model_is_small_and_has_a_model_card():
    folder = hub.bundled_folder()
    assert sum(path.stat().st_size for path in folder.iterdir() if path.name != int8.FILE) < 12.5e6
    assert "bits per byte" in (folder / "README.md").read_text()
