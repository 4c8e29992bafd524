"""Messages and progress bars on standard error, which may be closed, broken or full."""

import io
import os
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from numpy_gpt2.console import print_stderr, progress_bar
from numpy_gpt2.download import locked
from numpy_gpt2.int8 import load_int8

from .conftest import ROOT, write_model


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawings(stream, monkeypatch, seconds, **options):
    """What a progress bar writes on standard error: one entry each time it is drawn."""
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=20, unit="step", **options) as bar:
        for i in range(20):
            time.sleep(seconds / 20)
            bar.set_postfix_str(f"loss {i}", refresh=False)
            bar.update()
    return stream.getvalue().split("\r")[1:]


def test_a_progress_bar_is_redrawn_often_in_a_terminal_and_rarely_in_a_file(monkeypatch, capsys):
    in_a_terminal = drawings(Terminal(), monkeypatch, 0.4)
    assert len(in_a_terminal) >= 3
    in_a_file = drawings(io.StringIO(), monkeypatch, 0.2)
    assert len(in_a_file) == 2
    for lines in (in_a_terminal, in_a_file):
        assert "| 0/20 [" in lines[0]
        assert "| 20/20 [" in lines[-1]
        assert "step/s, loss 19]" in lines[-1]
        assert lines[-1].endswith("\n")
    assert capsys.readouterr().out == ""


def test_a_progress_bar_can_be_disabled(monkeypatch):
    assert drawings(Terminal(), monkeypatch, 0, disable=True) == []


def test_a_message_is_one_line(capsys):
    print_stderr("two\nlines  of text")
    assert capsys.readouterr().err == "two lines of text\n"


def test_closed_stderr_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    print_stderr("a message")
    with progress_bar(total=2) as bar:
        bar.update()


def test_a_progress_bar_starts_no_thread(monkeypatch):
    n = threading.active_count()
    with progress_bar(total=2):
        assert threading.active_count() == n


TRAIN = ["numpy_gpt2.train", ROOT / "README.md", "--out", "out", "--max-steps", 2, "--n-layer", 1, "--n-embd", 8]
TRAIN += ["--sample-interval", 0]
EVALUATE = ["numpy_gpt2.evaluate", ROOT / "README.md", "--json"]
EXPLAIN = ["numpy_gpt2.explain", "--ablate", "hi"]
GENERATE = ["numpy_gpt2", "-n", 3, "--num-samples", 2, "--greedy", "hi"]


def run(command, stderr, folder, model):
    """Run a command with a standard error that cannot be written. Returns its status and what it printed."""
    argv = [sys.executable, "-m", *command, *([] if command is TRAIN else ["-m", model])]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh"] if stderr == "closed" else []
    reader, pipe = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(pipe, "w") as broken:
        result = subprocess.run(
            [*shell, *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr={"full": full, "broken": broken, "closed": None}[stderr],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    return result.returncode, result.stdout.decode()


@pytest.mark.parametrize(
    ("command", "stderr"),
    [*((command, "broken") for command in (TRAIN, EVALUATE, EXPLAIN, GENERATE)), (TRAIN, "full"), (EVALUATE, "closed")],
    ids=["train", "evaluate", "explain", "main", "train-full", "evaluate-closed"],
)
def test_the_work_is_done_without_standard_error(command, stderr, tmp_path, tiny):
    status, out = run(command, stderr, tmp_path, tiny)
    assert status == 0
    if command is TRAIN:
        assert (tmp_path / "out" / "model.safetensors").exists()
    elif command is EXPLAIN:
        assert (tmp_path / "explain.html").exists()
    else:
        assert out.count("\n") >= 1
        assert "loss" in out or command is GENERATE


@pytest.mark.parametrize("stderr", ["broken", "full"])
def test_a_wrong_command_line_is_an_error_without_standard_error(stderr, tmp_path, tiny):
    assert run([*GENERATE, "--bad"], stderr, tmp_path, tiny) == (2, "")
    assert run(["numpy_gpt2", "-m", tmp_path / "none", "hi"], stderr, tmp_path, tmp_path / "none") == (1, "")


def test_notes_and_bars_without_standard_error_go_nowhere(monkeypatch, capsys, tmp_path):
    """Not to standard output, which `print` uses where standard error is None."""
    monkeypatch.setattr(sys, "stderr", None)
    tries = iter([False, True])
    monkeypatch.setattr("numpy_gpt2.download.try_lock", lambda _: nullcontext(next(tries)))
    with locked(tmp_path):
        pass
    load_int8(write_model(tmp_path / "model"))
    assert capsys.readouterr().out == ""
