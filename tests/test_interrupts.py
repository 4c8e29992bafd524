"""Ctrl-C in a command: while libraries are imported, several times at once, and while threads compute."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from numpy_gpt2 import interrupts
from numpy_gpt2.cli import exit_status

from .conftest import ROOT
from .test_cli import COMMANDS

SCRIPTS = {
    "numpy-gpt2": "from numpy_gpt2.__main__ import main",
    "numpy-gpt2-train": "from numpy_gpt2.train.__main__ import main",
}


@pytest.fixture(autouse=True)
def usual_handler():
    """Ctrl-C raises KeyboardInterrupt even if the tests run in the background, and does so again after each test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def start(*argv, path, handler=signal.SIG_DFL, **options):
    """Start Python with modules from the folder `path`. It handles Ctrl-C even if the tests run in the background."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": path, "env": environment, **options}
    return subprocess.Popen(
        [sys.executable, *argv], preexec_fn=partial(signal.signal, signal.SIGINT, handler), **options
    )


def written(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def arguments_of(command, folder):
    """What Python needs to run a command: its module, or a script like those that pip installs."""
    return [written(folder / command, SCRIPTS[command])] if command in SCRIPTS else ["-m", command]


@pytest.mark.parametrize("command", [*COMMANDS, *SCRIPTS])
def test_ctrl_c_while_numpy_is_imported_is_silent(command, tmp_path):
    written(tmp_path / "numpy.py", "import time; print('importing', flush=True); time.sleep(60)")
    with start(*arguments_of(command, tmp_path), path=tmp_path) as process:
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 130


def test_a_command_in_the_background_ignores_ctrl_c(tmp_path):
    """A shell without job control ignores Ctrl-C for programs in the background."""
    written(tmp_path / "numpy.py", "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)")
    with start("-m", "numpy_gpt2", path=tmp_path, handler=signal.SIG_IGN) as process:
        assert process.stdout.readline() == b"True\n"


@pytest.mark.parametrize("arguments", [["-m", "demo"], ["demo/__init__.py"], ["-c", "import demo"]])
def test_a_program_that_uses_the_package_handles_ctrl_c_itself(arguments, tmp_path):
    code = "import numpy_gpt2, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    written(tmp_path / "demo" / "__init__.py", code)
    written(tmp_path / "demo" / "__main__.py", "")
    with start(*arguments, path=tmp_path) as process:
        assert process.communicate(timeout=30) == (b"True\n", b"")


def press():
    signal.raise_signal(signal.SIGINT)


def test_cleaning_up_after_ctrl_c_is_not_interrupted():
    cleaned = []

    def command():
        try:
            press()
        finally:
            press()
            press()
            cleaned.append(True)

    assert exit_status(command) == 130
    assert cleaned == [True]


def test_ctrl_c_interrupts_again_after_a_second(monkeypatch):
    clock = iter([100.0, 100.0, 100.9, 101.1, 101.1])
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: next(clock))
    with interrupts.at_most_one_per_second():
        with pytest.raises(KeyboardInterrupt):
            press()
        press()
        with pytest.raises(KeyboardInterrupt):
            press()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_ctrl_c_stays_ignored_or_handled_by_the_caller(handler):
    usual = signal.signal(signal.SIGINT, handler)
    assert exit_status(lambda: press() or 0) == 0
    assert signal.getsignal(signal.SIGINT) == handler
    signal.signal(signal.SIGINT, usual)


def test_a_command_can_run_in_a_thread():
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(exit_status(lambda: 0)))
    thread.start()
    thread.join()
    assert statuses == [0]


def test_a_command_does_not_wait_for_its_threads_after_ctrl_c(tmp_path):
    code = """
import threading, time
from numpy_gpt2.cli import exit_status
threading.Thread(target=time.sleep, args=[60]).start()
def command():
    print("ready", flush=True)
    time.sleep(60)
exit_status(command)
"""
    start_time = time.monotonic()
    with start(written(tmp_path / "numpy-gpt2", code), path=tmp_path) as process:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(4):
            process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=40) == (b"", b"")
        assert process.returncode == 130
    assert time.monotonic() - start_time < 50
