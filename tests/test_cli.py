"""What the commands share: exit statuses, and reuse of freed memory. The tests of the commands cover the rest."""

import ctypes
import platform
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from numpy_gpt2 import __version__
from numpy_gpt2.cli import Parser, exit_status, keep_freed_memory, positive_int, utf8_text


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("this needs the tokenizers library: pip install tokenizers"), "this needs the tokenizers library"),
        (ValueError("two\nlines"), "two lines"),
        (OSError("no such file"), "no such file"),
        (MemoryError(), "out of memory"),
    ],
)
def test_an_error_is_one_line_and_status_1(capsys, error, message):
    assert exit_status(failing(error)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_programming_error_has_a_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_status(failing(ZeroDivisionError()))


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 0)])
def test_ctrl_c_and_a_closed_pipe_are_silent(capsys, error, status):
    assert exit_status(failing(error)) == status
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--text=--", "--", "-a"], ("--", 7, "-a")),
        (["--text=--", "a"], ("--", 7, "a")),
        (["-n=1", "a"], (None, 1, "a")),
        (["--number=--", "a"], "'--' is not a whole number"),
        (["-n=--", "a"], "'--' is not a whole number"),
    ],
)
def test_two_dashes_are_a_value_like_others(capsys, arguments, values):
    """argparse drops them, and gave an empty list instead."""
    parser = Parser()
    parser.add_argument("-t", "--text", type=utf8_text)
    parser.add_argument("-n", "--number", type=positive_int, default=7)
    parser.add_argument("positional")
    if isinstance(values, str):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(arguments)
        assert values in capsys.readouterr().err
    else:
        assert tuple(vars(parser.parse_args(arguments))[name] for name in ("text", "number", "positional")) == values


COMMANDS = ["numpy_gpt2", "numpy_gpt2.train", "numpy_gpt2.evaluate", "numpy_gpt2.explain"]


def help_of(command):
    """The options that a command's --help lists: each option's flags -> its flags and its text, in one line."""
    result = subprocess.run([sys.executable, "-m", command, "--help"], check=True, capture_output=True, text=True)
    text = result.stdout.partition("\noptions:\n")[2]
    return {
        option.split("  ")[0]: " ".join(option.split()) for option in re.split(r"^  (?=-)", text, flags=re.M) if option
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_the_version(command):
    result = subprocess.run([sys.executable, "-m", command, "--version"], check=True, capture_output=True, text=True)
    assert result.stdout == f"numpy_gpt2 {__version__}\n"


def test_the_commands_that_run_a_model_have_the_same_options_for_it():
    options = [help_of(command) for command in COMMANDS if command != "numpy_gpt2.train"]
    for flag in ("-m NAME|FOLDER, --model NAME|FOLDER\n", "--int8", "--threads N"):
        texts = {option.get(flag) for option in options}
        assert len(texts) == 1
        assert None not in texts
    assert "--threads N" in help_of("numpy_gpt2.train")


PAGE_FAULTS = """
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from numpy_gpt2 import __version__
from numpy_gpt2.cli import keep_freed_memory

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(1 << 20) for _ in range(4)]
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
with ThreadPoolExecutor(1) as pool:
    print(step(), step(), step(), pool.submit(step).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_reused():
    """In other threads too. Without `keep_freed_memory`, each step has as many page faults as the first."""
    out = subprocess.run([sys.executable, "-c", PAGE_FAULTS], check=True, capture_output=True, text=True).stdout
    first, *later = map(int, out.split())
    assert max(later) < first / 10


@pytest.mark.parametrize("error", [OSError, TypeError, None])
def test_a_c_library_without_mallopt_is_no_error(monkeypatch, error):
    def library(name):
        if error:
            raise error
        return SimpleNamespace()  # has no mallopt

    monkeypatch.setattr(ctypes, "CDLL", library)
    keep_freed_memory()
