"""Shared by the tests of `python -m numpy_gpt2`: the command in this process, and models that generate given tokens."""

import io
import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from numpy_gpt2 import __main__ as command
from numpy_gpt2 import generate, load, samples, save_model

from ..conftest import run_in_process, write_model

EOT = 264  # the last token of the tiny tokenizer; ids below 256 are bytes
SEPARATED = "--- sample 1 of 2\n{}\n--- sample 2 of 2\n{}\n"  # the output of --num-samples 2
SMILE = "\N{GRINNING FACE}"  # four bytes, and four tokens


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """The hub is off, there are no models except those that a test makes, and stdout is buffered as by default."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run the command in this process, with the bytes of a pipe as `stdin`. Returns status, out and err."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin)))
        return run_in_process(command.main, capsys, *arguments)

    return run


@pytest.fixture
def replace_generate(monkeypatch):
    """Make `generate` return these rows of tokens, whatever the model is."""
    return lambda rows: monkeypatch.setattr(samples, "generate", lambda *_, **__: map(np.array, rows))


def generated(folder, ids, n, **options):
    """The tokens that `generate` appends to these, by default greedily, and their text."""
    model = load(folder)
    options = {"temperature": 0, "stop_tokens": [EOT], "n_vocab": model.tokenizer.n_vocab, **options}
    tokens = list(generate(ids, model.weights, model.config, max_new_tokens=n, **options))
    return tokens, model.tokenizer.decode(tokens)


def write_scripted_model(folder, tokens, **fields):
    """A model that generates these tokens after a prompt of one token.

    Each position embedding points in the direction of the next token's embedding.
    """
    write_model(folder, n_embd=64, n_layer=1, n_positions=len(tokens) + 1, **fields)
    weights, config, tokenizer = load(folder)
    weights = {name: np.zeros_like(array) if array.ndim == 2 else array for name, array in weights.items()}
    directions = np.random.default_rng(0).standard_normal(weights["wte.weight"].shape)
    weights["wte.weight"] += directions - directions.mean(axis=1, keepdims=True)
    weights["wpe.weight"][: len(tokens)] = 50 * weights["wte.weight"][tokens]
    save_model(folder, weights, config, tokenizer)
    return folder


def json_samples(out):
    """The samples that --json has printed, one per line."""
    assert out.endswith("\n")
    return [json.loads(line) for line in out[:-1].split("\n")]


def ctrl_c_after(*rows):
    yield from rows
    raise KeyboardInterrupt


@contextmanager
def start_process(folder, *arguments, **options):
    """A process whose output can be read while it runs. Ctrl-C works even if the tests run in the background."""
    argv = [sys.executable, "-m", "numpy_gpt2", "-m", str(folder), *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    handle_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(argv, bufsize=0, preexec_fn=handle_ctrl_c, **options) as process:
        try:
            yield process
        finally:
            process.kill()
