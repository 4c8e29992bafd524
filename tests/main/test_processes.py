"""The command as a process of its own: pipes, terminals, locales, signals, imports."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from numpy_gpt2 import __main__ as command

from ..conftest import run_cli, write_model
from .conftest import (
    EOT,
    SEPARATED,
    SMILE,
    ctrl_c_after,
    generated,
    json_samples,
    start_process,
    write_scripted_model,
)

FEW = ["-n", "8", "--greedy", "a"]  # eight tokens


def test_an_empty_pipe_is_an_empty_prompt(tiny):
    result = run_cli("-m", tiny, "-n", 20, "--greedy", input=b"")
    assert result.stdout.decode() == generated(tiny, [EOT], 20)[1] + "\n"


def test_no_prompt_on_a_terminal_is_an_error(tiny):
    terminal, stdin = pty.openpty()
    result = run_cli("-m", tiny, stdin=stdin, timeout=20)
    os.close(terminal)
    os.close(stdin)
    assert (result.returncode, result.stdout) == (2, b"")
    assert re.fullmatch(
        rb'error: there is no prompt[^\n]+ python -m numpy_gpt2 "Once upon a time"[^\n]+\n', result.stderr
    )


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"},
    ],
    ids=lambda env: "-".join(env.values()),
)
def test_text_is_utf8_in_every_locale(tmp_path, env):
    if "ISO" in env["LC_ALL"]:
        if not shutil.which("localedef"):
            pytest.skip("needs localedef to make a locale that is not UTF-8")
        locale = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / env["LC_ALL"]]
        subprocess.run(locale, check=True, capture_output=True)
        env = {**env, "LOCPATH": str(tmp_path)}
    text = f"→{SMILE}é¡"
    model = write_scripted_model(tmp_path / "modèle é", [*text.encode()])
    command_line = ["-m", model, "--greedy", "-n", 11, "--stop", "¡"]
    for prompt, options in [("é", {}), ("-", {"input": "é".encode()})]:
        result = run_cli(*command_line, "--json", prompt, env=env, **options)
        assert (result.returncode, result.stderr) == (0, b"")
        [sample] = json_samples(result.stdout.decode("utf-8"))
        assert (sample["prompt"], sample["text"], sample["finish_reason"]) == ("é", text[:-1], "stop")
    error = run_cli("-m", tmp_path / "なし", "a", env=env).stderr.decode("utf-8")
    assert error.startswith("error: ")


def test_several_samples_in_a_file_can_be_told_apart(tiny, tmp_path):
    with open(tmp_path / "f", "wb") as file, start_process(tiny, "--num-samples", 2, *FEW, stdout=file) as process:
        assert process.communicate()[1] == b""
    text = generated(tiny, [97], 8)[1]
    assert (tmp_path / "f").read_text(encoding="utf-8") == SEPARATED.format(text, text)


def test_an_error_is_one_line_on_stderr(tmp_path):
    folder = write_model(tmp_path / "model")
    os.truncate(folder / "model.safetensors", 5000)
    result = run_cli("-m", folder, "a")
    assert (result.returncode, result.stdout) == (1, b"")
    assert re.fullmatch(rb"error: [^\n]+\n", result.stderr)


@pytest.mark.parametrize("arguments", [["-n", 10**12, "--ignore-eos"], ["-n", 1, "--num-samples", 2000, "--json"]])
def test_a_closed_pipe_is_silent(tiny, arguments):
    with start_process(tiny, "--greedy", *arguments, "a") as process:
        assert process.stdout.read(5)
        process.stdout.close()
        assert (process.wait(30), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("arguments", [["a"], ["--json", "a"], ["--params"], ["--help"]])
def test_a_full_disk_is_one_error_line(tiny, arguments):
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "numpy_gpt2", "-m", tiny, *arguments], stdout=full, stderr=subprocess.PIPE
        )
    assert result.returncode == 1
    assert re.fullmatch(rb"error: .*No space left.*standard output.*\n", result.stderr)


def test_a_closed_stderr_is_no_error(tiny):
    argv = [sys.executable, "-m", "numpy_gpt2", "-m", tiny, "--num-samples", "2", "--stats", *FEW]
    result = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *argv], stdout=subprocess.PIPE)
    assert (result.returncode, result.stdout.decode()) == (0, SEPARATED.format(*[generated(tiny, [97], 8)[1]] * 2))


def test_ctrl_c_keeps_the_text_so_far(tiny):
    with start_process(tiny, "--greedy", "--ignore-eos", "-n", 10**12, "a") as process:
        beginning = process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, b"")
    text = (beginning + rest).decode("utf-8")
    assert text.endswith("\n")
    n = 256
    while len(expected := generated(tiny, [97], n, stop_tokens=())[1][:-4]) < len(text):
        n *= 2
    assert expected.startswith(text[:-1])


def test_ctrl_c_while_loading_is_silent(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with start_process(folder, "a") as process:
        pipe = None
        while pipe is None and process.poll() is None:
            with suppress(OSError):  # until the process has opened it and waits for data
                pipe = os.open(folder / "config.json", os.O_WRONLY | os.O_NONBLOCK)
        process.send_signal(signal.SIGINT)
        os.close(pipe)  # ends the read if the signal came just before it
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 130


def test_ctrl_c_drops_half_a_character(cli, tiny, replace_generate):
    rows = [97], [0xC3], [0xA9], [0xF0], [0x9F]
    replace_generate(ctrl_c_after(*rows))
    result = cli("-m", tiny, "--stats", "x")
    assert (result.status, result.out) == (130, "aé\n")
    assert result.err.startswith("stats: ")
    replace_generate(ctrl_c_after(*rows))
    [sample] = json_samples(cli("-m", tiny, "--json", "x").out)
    assert (sample["text"], sample["finish_reason"]) == ("aé", "interrupted")


def test_ctrl_c_prints_all_samples_with_the_text_held_back(cli, tiny, replace_generate):
    rows = [97, 97], [98, 0xC3], [99, 0xA9], [100, -1]
    replace_generate(ctrl_c_after(*rows))
    result = cli("-m", tiny, "--num-samples", 2, "--stop", "cde", "x")
    assert (result.status, result.out) == (130, SEPARATED.format("abcd", "aé"))
    replace_generate(ctrl_c_after(*rows))
    result = cli("-m", tiny, "--num-samples", 2, "--json", "x")
    assert [sample["finish_reason"] for sample in json_samples(result.out)] == ["interrupted", "stop"]


def test_ctrl_c_while_the_prompt_is_typed_is_silent(cli, tiny, monkeypatch):
    monkeypatch.setattr(command, "read_prompt", lambda _: signal.raise_signal(signal.SIGINT))
    result = cli("-m", tiny, "-")
    assert (result.status, result.out, result.err) == (130, "", "")


def test_download_libraries_are_not_imported_for_a_local_model(tiny):
    script = (
        "import sys; from numpy_gpt2.__main__ import main;"
        " main(['-m', sys.argv[1], '-n', '2', 'a']); main(['--params']);"
        " print(*{'requests', 'tqdm', 'threadpoolctl', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script, tiny], capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"\n")
