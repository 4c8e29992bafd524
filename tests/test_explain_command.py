"""The command `python -m numpy_gpt2.explain`."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from numpy_gpt2 import __version__, load
from numpy_gpt2.explain import __main__ as command
from numpy_gpt2.explain import analysis, explain, size

from .browser import data_of
from .conftest import ROOT, run_in_process, write_model


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_in_process(command.main, capsys, *arguments)


def test_command_writes_the_page(cli, tiny, tmp_path):
    result = cli("-m", tiny, "the you")
    assert (result.status, result.out, result.err) == (0, f"{tmp_path / 'explain.html'}\n", "")
    assert data_of((tmp_path / "explain.html").read_text(encoding="utf-8"))["text"] == "the you"
    assert list(tmp_path.iterdir()) == [tmp_path / "explain.html"]
    before = (tmp_path / "explain.html").stat().st_ino
    result = cli("-m", tiny, "-o", "new/page.html", "the you", "--ablate", "--target", " a")
    assert result.status == 0
    assert "ablation" in result.err
    data = data_of((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert "ablation.heads" in data["arrays"]
    assert data["target"] == [load(tiny).tokenizer.encode_single_token(" a")]
    assert (tmp_path / "explain.html").stat().st_ino == before


def test_command_says_that_the_prompt_was_cut(cli, tiny, tmp_path):
    result = cli("-m", tiny, "--max-tokens", "1000", "the " * 100)
    assert re.fullmatch(r"note: the prompt has \d+ tokens; this shows the last 64; they fill the window\n", result.err)
    result = cli("-m", tiny, "--max-tokens", "3", "the you the you")
    n = len(load(tiny).tokenizer.encode_ordinary("the you the you"))
    notice = f"the prompt has {n} tokens; this shows the last 3"
    assert result.err == f"note: {notice}; --max-tokens changes this\n"
    assert data_of((tmp_path / "explain.html").read_text(encoding="utf-8"))["notice"] == notice


def test_text_option_prints_the_report_and_writes_no_page(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    result = cli("-m", tiny, "--text", "the you the you")
    assert result.status == 0
    assert "the last 2 of" in result.out
    assert result.out == explain("the you the you", load(tiny)).text(60)
    assert not list(tmp_path.iterdir())


def test_open_option_opens_the_page(cli, tiny, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(command.webbrowser, "open", lambda url: opened.append(url) or True)
    assert cli("-m", tiny, "--open", "-o", "a b.html", "the").err == ""
    assert opened == [(tmp_path / "a b.html").as_uri()]
    monkeypatch.setattr(command.webbrowser, "open", lambda url: False)
    result = cli("-m", tiny, "--open", "the")
    assert (result.status, result.err) == (0, "note: there is no browser to open the page with\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "-o", "x.html", "a"], "--text prints a report and makes no page"),
        (["--text", "--open", "a"], "--text prints a report and makes no page"),
        (["--target", "", "a"], "--target: '' is not UTF-8 text of one character or more"),
        (["--max-tokens", "0", "a"], "--max-tokens: '0' is not a whole number"),
        (["a", "b"], "a prompt of several words needs quotes"),
    ],
)
def test_wrong_command_line_is_an_error(arguments, message, cli, tiny, tmp_path):
    result = cli("-m", tiny, *arguments)
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_page_that_cannot_be_written_is_an_error(cli, tiny, tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for name in ("file/page.html", "folder", "/dev/null"):
        result = cli("-m", tiny, "-o", name, "the")
        assert result.status == 1
        assert re.fullmatch(r"error: .*\n", result.err)
        assert result.out == ""
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "folder"]


def test_page_that_would_be_too_large_is_refused_before_anything_is_computed(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(size, "MAX_BYTES", 500_000)
    monkeypatch.setattr(command, "explain", None)
    result = cli("-m", tiny, "-o", "new/page.html", "the " * 100)
    assert re.fullmatch(
        r"error: the page for 64 tokens is 1 MB; it must be 0 MB at most; show fewer tokens with --max-tokens \d+\n",
        result.err,
    )
    assert (result.status, result.out, list(tmp_path.iterdir())) == (1, "", [])


def test_output_may_be_a_symbolic_link(cli, tiny, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.html").symlink_to("there/page.html")
    assert cli("-m", tiny, "-o", "link.html", "the").status == 0
    assert (tmp_path / "link.html").is_symlink()
    assert data_of((tmp_path / "there" / "page.html").read_text(encoding="utf-8"))["text"] == "the"
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    result = cli("-m", tiny, "-o", "a", "the")
    assert result.status in (0, 1)
    assert result.status == 0 or result.err.startswith("error: ")


def test_failure_creates_no_folders(cli, tiny, tmp_path):
    result = cli("-m", tiny, "-o", "new/folder/page.html", "--target", "the " * 100, "the")
    assert result.status == 1
    assert result.err.startswith("error: the target has ")
    assert not list(tmp_path.iterdir())


def test_the_root_folder_is_an_error(cli, tiny):
    result = cli("-m", tiny, "-o", "/", "the")
    assert (result.status, result.err) == (1, "error: / cannot be written; choose another file with -o\n")


def test_unwritable_folder_is_an_error_before_anything_is_computed(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(command.os, "access", lambda path, mode: path != tmp_path)  # as for users that are not root
    monkeypatch.setattr(command, "explain", None)
    result = cli("-m", tiny, "-o", "new/page.html", "the")
    assert (result.status, result.err) == (
        1,
        f"error: {tmp_path / 'new' / 'page.html'} cannot be written; choose another file with -o\n",
    )


def test_ctrl_c_ends_with_130_and_writes_nothing(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "ablation", lambda *_: signal.raise_signal(signal.SIGINT))
    assert cli("-m", tiny, "--ablate", "-o", "new/page.html", "the").status == 130
    assert not list(tmp_path.iterdir())


def test_failure_keeps_the_old_page(cli, tiny, tmp_path, monkeypatch):
    (tmp_path / "explain.html").write_text("the old one")

    def fail(*arguments, **options):
        raise ValueError("the logits are not finite")

    monkeypatch.setattr(command, "explain", fail)
    assert cli("-m", tiny, "the").err == "error: the logits are not finite\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old one"]


def test_command_reads_a_pipe_and_writes_utf8(tiny, tmp_path):
    """In its own process. An empty prompt is the start of a text."""
    arguments = [sys.executable, "-m", "numpy_gpt2.explain", "-m", str(tiny), "--text"]
    result = subprocess.run(arguments, input=b"the you\n", capture_output=True, cwd=tmp_path, timeout=60)
    assert (result.returncode, result.stderr) == (0, b"")
    assert "·you" in result.stdout.decode()
    piped = subprocess.run(f"{shlex.join([*arguments, 'a'])} | true", shell=True, capture_output=True, timeout=60)
    assert piped.stderr == b""
    plain = subprocess.run([*arguments, "the"], capture_output=True, env={**os.environ, "LC_ALL": "C"}, timeout=60)
    assert "█" in plain.stdout.decode("utf-8")
    result = subprocess.run([*arguments, ""], capture_output=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 0
    assert "<|endoftext|>" in result.stdout.decode()


def test_bundled_model_answers_when_the_hub_is_offline(tmp_path):
    arguments = [sys.executable, "-m", "numpy_gpt2.explain", "--text", "ROMEO:"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NUMPY_GPT2_WEIGHTS": str(tmp_path)}
    result = subprocess.run(arguments, capture_output=True, env=environment, timeout=60)
    assert result.returncode == 0
    assert result.stdout.startswith(b"shakespeare: ")
    assert result.stderr.startswith(b"note: using the bundled model shakespeare")


def test_int8_option_uses_int8_weights(cli, tmp_path, monkeypatch):
    folder = write_model(tmp_path / "model")  # int8 writes a file into it
    monkeypatch.setenv("COLUMNS", "100")
    result = cli("-m", folder, "--int8", "--text", "--ablate", "the you")
    assert result.status == 0
    assert result.out == explain("the you", load(folder, "int8"), ablate=True).text(100)
    assert result.out != explain("the you", load(folder), ablate=True).text(100)


def test_threads_option_limits_the_threads(cli, tiny, monkeypatch):
    limits = []
    monkeypatch.setattr("threadpoolctl.threadpool_limits", limits.append)
    assert cli("-m", tiny, "--threads", "1", "the").status == 0
    assert limits == [1]


def test_version_option_prints_the_version(cli):
    result = cli("--version")
    assert (result.status, result.out) == (0, f"numpy_gpt2 {__version__}\n")


def test_git_ignores_the_page():
    assert command.PAGE in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
