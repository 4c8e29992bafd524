"""Ctrl-C: the run is saved, and a second Ctrl-C ends it at once."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from numpy_gpt2 import hidden_states, windows

from .conftest import FILES, FULL_RUN, TEXT, TINY_RUN, break_by_ctrl_c, checkpoint, log, messages, written


def test_second_ctrl_c_stops_an_evaluation_at_once(cli, tmp_path, out, monkeypatch):
    text = written(tmp_path / "long.txt", TEXT * 20)
    calls = []

    def slow(tokens, *arguments):
        calls.append(tokens)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return hidden_states(tokens, *arguments)

    monkeypatch.setattr(windows, "hidden_states", slow)
    break_by_ctrl_c(monkeypatch, 5)
    result = cli(text, "--out", out, *TINY_RUN, "--eval-interval", 0, "--val-fraction", 0.5, "--eval-batches", 10**6)
    assert result.status == 130
    assert 3 <= len(calls) < len(TEXT * 10) / windows.TOKENS_PER_FORWARD / 2
    tokenizer = {"merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"}
    assert {*os.listdir(out)} == {"checkpoint.safetensors", "tokens.safetensors", *tokenizer}
    assert checkpoint(out)[1]["step"] == 5
    assert [line.strip() for line in messages(result.err)[1:]] == ["stopping: saving and evaluating the run"]


@contextmanager
def start(*arguments):
    """Run the command in a process where Ctrl-C works even if the tests run in the background."""
    enable = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = enable + "; from numpy_gpt2.train.__main__ import main; sys.exit(main())"
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_saves_the_run_and_says_how_to_resume(cli, corpus, out):
    with start(corpus, "--out", out, *TINY_RUN, "--max-steps", 10**9, "--eval-interval", 10) as process:
        while not (out / "train.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        printed, err = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, b"")
    _, stopping, stopped, saved = messages(err.decode())
    assert "stopping: saving" in stopping
    step = log(out)[-1]["step"]
    assert re.match(rf"stopped after {step:,} of 1,000,000,000 steps; --resume continues", stopped)
    assert f"python -m numpy_gpt2 -m {out}" in saved
    assert sorted(os.listdir(out)) == FILES
    assert checkpoint(out)[1]["step"] == step
    assert cli(corpus, "--out", out, "--resume", "--max-steps", step + 1).status == 0
    assert log(out)[-1]["step"] == step + 1


def test_run_without_checkpoints_does_not_offer_resume(cli, corpus, out, monkeypatch):
    break_by_ctrl_c(monkeypatch, 5)
    result = cli(corpus, "--out", out, *FULL_RUN, "--checkpoint-interval", 0)
    assert result.status == 130
    assert "checkpoint.safetensors" not in os.listdir(out)
    assert "--resume" not in result.err
