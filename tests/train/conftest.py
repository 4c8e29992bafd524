"""Shared by the tests of training: a text, short runs, and functions that read the files of a run."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors

from numpy_gpt2 import load
from numpy_gpt2.evaluate import evaluate
from numpy_gpt2.train import __main__ as command
from numpy_gpt2.train import run as run_module
from numpy_gpt2.train.trained import as_weights, trained_shapes

from .. import conftest
from ..conftest import run_in_process, write_model

SPEED = ("tokens_per_second", "seconds")  # columns of the log that differ between two equal runs
MODEL_FILES = [
    "config.json",
    "merges.txt",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
]
FILES = sorted([*MODEL_FILES, "checkpoint.safetensors", "loss.svg", "tokens.safetensors", "train.jsonl"])
SIZES = ["--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--n-positions", 16, "--batch-size", 4]
TINY_RUN = [*SIZES, "--warmup", 5, "--lr", 0.01, "--sample-interval", 0]
FULL_RUN = [*TINY_RUN, "--max-steps", 14, "--eval-interval", 4, "--checkpoint-interval", 3]
FULL_RUN += ["--dropout", 0.2, "--seed", 7]

WORDS = ["the", "you", "a", "thou", "And", "King,", "what", "is", "love?\n", "I", "am", "naïve", "→", "12", "o'clock"]
TEXT = " ".join(np.random.default_rng(0).choice(WORDS, 700))
END = int(len(TEXT) * 0.9)  # where the held-out text begins


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No hub, and only the models that a test makes. Ctrl-C works even if the tests run in the background."""
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
        result = run_in_process(command.main, capsys, *arguments)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        return result

    return run


@pytest.fixture(scope="session")
def uninterrupted(corpus, tmp_path_factory):
    """The folder of a complete run of 14 steps, FULL_RUN."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert command.main([*map(str, [corpus, "--out", out, *FULL_RUN])]) == 0
    return out


@pytest.fixture
def interrupted(corpus, out, cli):
    """The same run, interrupted by Ctrl-C after 7 steps."""
    with pytest.MonkeyPatch.context() as patched:
        after_step(patched, 7, lambda run: signal.raise_signal(signal.SIGINT))
        assert cli(corpus, "--out", out, *FULL_RUN).status == 130
    return out


@pytest.fixture
def prepared(cli, monkeypatch):
    """Start the command but do not train. Returns the run, the two arrays of tokens, and the tokenizer."""

    def run(*arguments):
        seen = []
        with monkeypatch.context() as patched:
            patched.setattr(command, "train", lambda *given: seen.extend(given))
            result = cli(*arguments)
        assert result.status == 0, result.err
        run, tokens, tokenizer, _ = seen
        return run, *tokens, tokenizer

    return run


@pytest.fixture
def model(tmp_path):
    """A model folder for --init-from."""
    return write_model(tmp_path / "model", n_positions=32)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def after_step(patched, n, do):
    """Call `do(run)` after step n."""
    take_step = run_module.take_step

    def step(run, *arguments):
        take_step(run, *arguments)
        if run.step == n:
            do(run)

    patched.setattr(run_module, "take_step", step)


def checkpoint(folder):
    """The arrays of a checkpoint, and the rest of its state."""
    with safetensors.safe_open(folder / "checkpoint.safetensors", framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118


def named(flat, config):
    """A flat array of all weights as a dict."""
    return as_weights(flat, trained_shapes("all", config))


def log(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def result_of(folder):
    """The contents of all files of a run, except its speed."""
    arrays, state = checkpoint(folder)
    files = {name: (folder / name).read_bytes() for name in MODEL_FILES}
    rows = [{key: value for key, value in row.items() if key not in SPEED} for row in log(folder)]
    assert set(arrays) >= {"weights", "m", "v"}
    return {name: array.tobytes() for name, array in arrays.items()}, files, rows, state["step"], state["best_loss"]


def everything_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def held_out_loss(folder, tokens):
    weights, config, _ = load(folder)
    return evaluate(tokens, weights, config)[0]


def messages(err):
    """The lines on standard error without the progress bar and what is said about the cost of the run."""
    return [line for line in re.split(r"[\r\n]+", err) if line.strip() and not re.match(f"{BAR}|{COST}", line)]


BAR = r" *\d+%\|.*"
COST = r"[\d,]+ steps, each on .*|about .* of memory; .*| *a step takes .*|warning: the run passes .*| +"
assert_one_error = partial(conftest.assert_one_error, before=rf"[\d,]+ parameters; .*|{BAR}|{COST}| *stopping: .*")


def assert_speeds_fit(rows):
    """In each row, speed times seconds is the number of tokens. A step has 4 windows of 16 tokens."""
    for before, row in itertools.pairwise([{"step": 0, "seconds": 0}, *rows]):
        n_tokens = (row["step"] - before["step"]) * 4 * 16
        assert row["tokens_per_second"] * (row["seconds"] - before["seconds"]) == pytest.approx(n_tokens, rel=1e-6)


def break_by_ctrl_c(patched, step):
    """Press Ctrl-C in a step. Returns the flags and the exit status of the run."""
    after_step(patched, step, lambda run: signal.raise_signal(signal.SIGINT))
    return [], 130


def break_by_time_limit(patched, step):
    """Let the time limit expire in a step. Returns the flags and the exit status of the run."""
    clock = SimpleNamespace(monotonic=lambda: 1000 + seconds[0])
    seconds = [0.0]
    patched.setattr(run_module, "time", clock)
    take_step = run_module.take_step

    def slow_step(*arguments):
        take_step(*arguments)
        seconds[0] += 90 / step + 1e-6

    patched.setattr(run_module, "take_step", slow_step)
    return ["--time-limit", 1.5], 0


KILLED = """
import os, signal, sys
from numpy_gpt2.train import __main__ as command
from numpy_gpt2.train import run as run_module

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

take_step, save_tensors = run_module.take_step, run_module.save_tensors

def step(run, *arguments):
    take_step(run, *arguments)
    if run.step == {step}:
        if {while_saving}:
            run_module.save_tensors = lambda path, *rest: (path.write_bytes(b"half"), kill())
        else:
            kill()

run_module.take_step = step
command.main(sys.argv[1:])
"""


def kill_at(step, *arguments, while_saving=False):
    """Run the command in a process that is killed at the end of a step, or while it saves this step."""
    script = KILLED.format(step=step, while_saving=while_saving)
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    assert subprocess.run(argv, capture_output=True, timeout=60).returncode == -signal.SIGKILL


def continue_from_each_file(cli, corpus, flags, tmp_path, contents, every=1):
    """Continue the run as if it had been killed before a file was moved into its folder, for each file.

    The copies of the folder are continued: started again if possible, otherwise resumed. Each must end with the
    `contents` of the whole run. Returns how each one was continued.
    """
    whole, moved, replace = tmp_path / "whole" / "out", itertools.count(), Path.replace

    def copy_folder_and_replace(path, target):
        if (n := next(moved)) % every == 0:
            shutil.copytree(whole, tmp_path / str(n) / "out")
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", copy_folder_and_replace)
        assert cli(corpus, "--out", whole, *flags).status == 0
    expected, ways = contents(whole), []
    for n in range(0, next(moved), every):
        out = tmp_path / str(n) / "out"
        again = cli(corpus, "--out", out, *flags)
        resumed = again if again.status == 0 else cli(corpus, "--out", out, "--resume")
        assert resumed.status == 0, (n, again.err, resumed.err)
        assert contents(out) == expected, n
        assert sorted(os.listdir(out)) == sorted(os.listdir(whole)), n  # without the temporary folder
        ways.append("again" if resumed is again else "resumed")
    return ways
