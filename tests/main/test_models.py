"""Which model a name means, and models that cannot be used."""

import json
import os
import re
import shutil
import time

import pytest

from numpy_gpt2 import __main__ as command

from ..conftest import assert_one_error, write_model, write_tokenizer
from .conftest import generated


def test_gpt2_is_the_default(cli, tmp_path):
    gpt2 = write_model(tmp_path / "weights" / "gpt2", seed=1)
    result = cli("--greedy", "-n", 20, "a")
    assert (result.out, result.err) == (generated(gpt2, [97], 20)[1] + "\n", "")


def test_gpt2_is_downloaded_if_the_hub_answers(cli, tiny, tmp_path, monkeypatch):
    asked = []

    def download(name):
        asked.append(name)
        return tiny

    monkeypatch.setattr(command.hub, "why_unreachable", lambda name: None)
    monkeypatch.setattr(command.hub, "download_model", download)
    result = cli("--greedy", "-n", 20, "a")
    assert (result.out, result.err) == (generated(tiny, [97], 20)[1] + "\n", "")
    assert asked == ["gpt2"]


@pytest.mark.parametrize("offline", [True, False])
def test_the_bundled_model_is_used_if_the_hub_cannot_be_reached(cli, tiny, tmp_path, monkeypatch, offline):
    if not offline:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(command.hub, "bundled_folder", lambda: tiny)
    started = time.perf_counter()
    result = cli("--greedy", "-n", 20, "a")
    assert (result.status, result.out) == (0, generated(tiny, [97], 20)[1] + "\n")
    assert time.perf_counter() - started < 10  # 3 on an idle machine
    assert re.fullmatch(r"note: .*\bgpt2\b.*\nnote: .*\n", result.err)
    assert ("HF_HUB_OFFLINE" if offline else "refused") in result.err
    assert str(tmp_path / "weights" / "gpt2") in result.err


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "nobody/nothing", "no-such-model", "", "/no/such/folder"])
def test_a_model_given_with_m_is_never_replaced(cli, tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr(command.hub, "bundled_folder", lambda: tiny)
    monkeypatch.chdir(tmp_path)
    assert_one_error(cli("-m", name, "a"), 1, name)


def test_a_damaged_default_model_is_not_replaced(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(command.hub, "bundled_folder", lambda: tiny)
    gpt2 = write_model(tmp_path / "weights" / "gpt2")
    os.truncate(gpt2 / "model.safetensors", 1000)
    assert_one_error(cli("a"), 1, gpt2 / "model.safetensors")


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def truncate(name, size):
    return lambda folder: os.truncate(folder / name, size)


def configure(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


@pytest.mark.parametrize(
    ("damage", "mentioned"),
    [
        (remove("config.json"), "config.json"),
        (remove("model.safetensors"), "model.safetensors"),
        (remove("vocab.json", "tokenizer.json"), "vocab.json"),
        (remove("merges.txt", "tokenizer.json"), "merges.txt"),
        (truncate("config.json", 20), "config.json"),
        (truncate("model.safetensors", 0), "model.safetensors"),
        (truncate("model.safetensors", 5000), "model.safetensors"),
        (truncate("vocab.json", 100), "vocab.json"),
        (truncate("merges.txt", 20), "merges.txt"),
        (configure(model_type="llama"), "llama"),
        (configure(n_head=5), "5"),
        (configure(n_embd=16), "(265, 32), not (265, 16)"),
        (configure(n_layer=3), "h.2.ln_1.weight"),
        (configure(n_layer=10**12), str(10**12)),
        (configure(vocab_size=10**12), str(10**12)),
        (configure(activation_function="swish"), "swish"),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "config.json"),
        (lambda folder: write_tokenizer(folder) and (folder / "vocab.json").write_text("[]"), "vocab.json"),
    ],
)
def test_damaged_and_unsupported_models_are_errors(cli, tmp_path, damage, mentioned):
    damage(write_model(tmp_path / "model"))
    assert_one_error(cli("-m", tmp_path / "model", "a"), 1, mentioned)
