"""What several test files use: a tiny model folder, and the data beside the checkout where it is present."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, Model, init_weights, load, load_tokenizer, save_model
from numpy_gpt2.explain import Explanation, explain
from numpy_gpt2.hub import bundled_folder, weights_folder
from numpy_gpt2.tokenizer import CHARACTER_OF_BYTE, ENDOFTEXT

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

ROOT = Path(__file__).parents[1]

PROMPT = "To be, or not to be, that is the"  # of the explanation that several tests look at

MERGES = ["t h", "th e", "Ġ the", "Ġ a", "o u", "Ġ y", "Ġy ou", "Ã ©"]  # the last one is the two bytes of é


def write_tokenizer(folder: Path) -> int:
    """A byte-level BPE of a few merges in GPT-2's file format; returns the number of tokens."""
    tokens = [*CHARACTER_OF_BYTE, *(merge.replace(" ", "") for merge in MERGES), ENDOFTEXT]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
    return len(tokens)


def write_model(folder: Path, seed: int = 0, scale: float = 10.0, **fields) -> Path:
    """A tiny model with a tokenizer of its own. `scale` makes its weights large enough for opinions."""
    n_vocab = write_tokenizer(folder)
    sizes = {"vocab_size": n_vocab, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = GPT2Config(**{**sizes, "bos_token_id": n_vocab - 1, "eos_token_id": n_vocab - 1, **fields})
    weights = init_weights(config, np.random.default_rng(seed))
    weights = {name: array * scale if array.ndim == 2 else array for name, array in weights.items()}
    save_model(folder, weights, config, load_tokenizer(folder))
    return folder


def run_cli(*arguments, env=None, **options) -> subprocess.CompletedProcess:
    """`python -m numpy_gpt2` as a process of its own, offline unless `env` says otherwise; bytes in, bytes out."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})}
    command = [sys.executable, "-m", "numpy_gpt2", *map(str, arguments)]
    options = {"stdin": subprocess.DEVNULL, "timeout": 60, **options}
    if "input" in options:
        del options["stdin"]
    return subprocess.run(command, capture_output=True, env=environment, **options)


def run_in_process(main, capsys, *arguments) -> SimpleNamespace:
    """A command's `main` inside this process. Returns status, out and err."""
    try:
        status = main([*map(str, arguments)])
    except SystemExit as end:
        status = end.code
    return SimpleNamespace(status=status, **capsys.readouterr()._asdict())


def assert_one_error(result: SimpleNamespace, status: int, *mentioned: object, before: str = "(?!)") -> None:
    """The command printed nothing on stdout and ended with one error line, which mentions these things.

    Lines in front of it, such as a progress bar, must match the regular expression `before`.
    """
    assert (result.status, result.out) == (status, "")
    *others, error = re.split("[\r\n]+", result.err.removesuffix("\n"))
    assert result.err.endswith("\n")
    assert error.startswith("error: ")
    assert all(re.fullmatch(before, line) for line in others if line)
    for words in mentioned:
        assert str(words) in error


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The folder of a tiny model."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def bundled() -> Model:
    """The model that comes with the project."""
    return load(bundled_folder())


@pytest.fixture(scope="session")
def example(bundled) -> Explanation:
    """What there is to explain of a prompt."""
    return explain(PROMPT, bundled, target=" question", ablate=True)


@pytest.fixture(scope="session")
def gpt2_tokenizer_folder() -> Path:
    """A folder with GPT-2's own vocab.json and merges.txt; tests that need it are skipped without one."""
    data = os.environ.get("NUMPY_GPT2_DATA")
    for folder in (weights_folder() / "gpt2", *([Path(data) / "gpt2-tokenizer"] if data else [])):
        if (folder / "merges.txt").exists():
            return folder
    pytest.skip("needs GPT-2's tokenizer: weights/gpt2, or gpt2-tokenizer in the folder that NUMPY_GPT2_DATA names")
