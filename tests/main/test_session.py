"""-i: a session that continues the lines that are typed."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from numpy_gpt2 import load_tokenizer, session
from numpy_gpt2.stream import TextStream

from ..conftest import assert_one_error, run_cli, write_model, write_model_without_endoftext
from .conftest import EOT, SMILE, ctrl_c_after, generated, write_scripted_model


@pytest.fixture
def run_session(cli):
    """Run a session with these lines as standard input. Returns status, out and err (without the greeting)."""

    def run(*arguments, lines):
        result = cli("-i", *arguments, stdin="".join(f"{line}\n" for line in lines).encode())
        greeting, _, result.err = result.err.partition("\n")
        assert greeting == session.GREETING
        return result

    return run


# What is continued


def test_each_line_is_a_prompt(run_session, tiny):
    lines = ["the you", '"quoted"', " a", "x\r"]
    result = run_session("-m", tiny, "--greedy", "-n", 9, lines=lines)
    encode = load_tokenizer(tiny).encode_ordinary
    expected = [generated(tiny, encode(line.removesuffix("\r")), 9)[1] + "\n" for line in lines]
    assert (result.status, result.out, result.err) == (0, "".join(expected), "")


@pytest.mark.parametrize("prompt", ["the you", "", "naïve"])
@pytest.mark.parametrize("n", [1, 7, 20])
def test_empty_lines_continue_the_text_so_far(run_session, tiny, prompt, n):
    """As one longer text. Before any text, an empty line starts from endoftext."""
    result = run_session("-m", tiny, "--greedy", "--ignore-eos", "-n", n, lines=[prompt, "", ""])
    ids = load_tokenizer(tiny).encode_ordinary(prompt) or [EOT]
    tokens, _ = generated(tiny, ids, 3 * n, stop_tokens=[])
    stream, expected = TextStream(load_tokenizer(tiny), []), ""
    for i, token in enumerate(tokens, start=1):
        stream.append(token)
        expected += stream.new_text() + ("\n" if i % n == 0 else "")
    assert result.out == expected


def test_a_new_prompt_begins_a_new_text(run_session, tiny):
    result = run_session("-m", tiny, "--greedy", "-n", 9, lines=["the", "", "you", ""])
    assert result.out.endswith(run_session("-m", tiny, "--greedy", "-n", 9, lines=["you", ""]).out)


def test_the_argument_is_the_first_prompt(run_session, tiny):
    result = run_session("-m", tiny, "--greedy", "-n", 9, "the\nyou", lines=["", "x"])
    tokens, _ = generated(tiny, load_tokenizer(tiny).encode_ordinary("the\nyou"), 18)
    decode = load_tokenizer(tiny).decode
    assert result.out == f"{decode(tokens[:9])}\n{decode(tokens[9:])}\n{generated(tiny, [120], 9)[1]}\n"


def test_half_a_character_is_printed_when_it_is_complete(run_session, tmp_path):
    model = write_scripted_model(tmp_path / "model", [*f"ab{SMILE}cd".encode()])
    assert run_session("-m", model, "--greedy", "-n", 4, lines=["x", ""]).out == f"ab\n{SMILE}cd\n"
    assert run_session("-m", model, "--greedy", "-n", 1, lines=["x"] + 6 * [""]).out == f"a\nb\n\n\n\n{SMILE}\nc\n"


def test_a_stop_string_is_not_part_of_the_text_so_far(run_session, tmp_path):
    model = write_scripted_model(tmp_path / "model", [*b"ab the cd"])
    assert run_session("-m", model, "--greedy", "--stop", "b t", "-n", 9, lines=["x", ""]).out == "a\n\n"
    assert run_session("-m", model, "--greedy", "--stop", "b t", "-n", 2, lines=["x", "", ""]).out == "ab\n t\nhe\n"
    the = load_tokenizer(model).encode_single_token(" the")
    model = write_scripted_model(tmp_path / "merged", [97, the, *b"xyz"])  # after "a t", three tokens, comes y
    assert run_session("-m", model, "--greedy", "--stop", "h", "-n", 2, lines=["q", ""]).out == "a t\nyz\n"


@pytest.mark.parametrize(
    ("stop", "text"), [("e", ["a", "th"]), ("he", ["a", "t"]), ("the", ["a"]), (" ", ["a", "the"])]
)
def test_the_last_token_may_reach_into_the_stop_string(tiny, stop, text):
    tokenizer = load_tokenizer(tiny)
    stream = session.TextStream(tokenizer, [stop])
    for token in tokenizer.encode_ordinary("athe y"):
        stream.append(token)
    assert [tokenizer.decode([token]) for token in session.tokens_of_text(stream)] == text


def test_a_text_goes_on_past_the_window_without_a_warning(run_session, tiny):
    result = run_session("-m", tiny, "--ignore-eos", "-n", 40, "--stats", lines=["y" * 70, "", ""])
    warning, *stats = result.err.splitlines()
    assert warning.startswith("warning: the prompt has 70 tokens; only the last 64 fit")
    assert [line.split()[0] for line in stats] == ["stats:", "note:"] * 3
    assert result.out.count("\n") >= 3


def test_text_i_has_the_seed_plus_i_minus_1(run_session, tiny, cli):
    arguments = ["-m", tiny, "-n", 9, "-t", 2]
    result = run_session(*arguments, "-s", 5, "--stats", lines=["a", "b", ""])
    assert re.findall(r"^stats: seed (\d+) · first token after", result.err, re.M) == ["5", "6", "7"]
    assert result.out.startswith(cli(*arguments, "-s", 5, "a").out + cli(*arguments, "-s", 6, "b").out)


def test_beam_search_continues_a_text(run_session, tiny):
    result = run_session("-m", tiny, "--beams", 1, "--ignore-eos", "-n", 9, lines=["the", ""])
    assert result.out == run_session("-m", tiny, "--greedy", "--ignore-eos", "-n", 9, lines=["the", ""]).out


def test_an_error_does_not_end_the_session(cli, tmp_path):
    folder = write_model_without_endoftext(tmp_path / "model")
    result = cli("-i", "-m", folder, "-n", 3, "--greedy", stdin=b"\ncaf\xe9\na\n")
    assert (result.status, result.out) == (0, generated(folder, [97], 3)[1] + "\n")
    _, empty, not_utf8 = result.err.splitlines()
    assert empty.startswith("error: the prompt is empty and the tokenizer has no <|endoftext|>")
    assert not_utf8.startswith("error: the line is not UTF-8")


def test_ctrl_c_ends_a_session_that_is_not_in_a_terminal(cli, tiny, replace_generate):
    replace_generate(ctrl_c_after([97], [98], [0xC3]))
    result = cli("-i", "-m", tiny, stdin=b"x\ny\n")
    assert (result.status, result.out) == (130, "ab\n")


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["--json"], "contradicts --json"),
        (["--num-samples", 2, "--json", "a"], "contradicts --json, --num-samples"),
        (["-"], "PROMPT cannot be -"),
    ],
)
def test_a_session_contradicts_other_forms_of_output(cli, arguments, mentioned):
    assert_one_error(cli("-i", *arguments), 2, mentioned)


def test_a_session_needs_a_standard_input(cli):
    assert_one_error(cli("-i", stdin=None), 2, "standard input", "closed")


def test_a_closed_pipe_ends_a_session_silently(tiny):
    argv = [sys.executable, "-m", "numpy_gpt2", "-m", tiny, "-i", "-n", "3"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.wait(30) == 0
        assert process.stderr.read().decode() == session.GREETING + "\n"


# In a terminal

CTRL_A, CTRL_C, CTRL_D, UP = "\x01", "\x03", "\x04", "\x1b[A"


class Terminal:
    """A session in a terminal of its own: what the terminal shows, and the keys that are pressed."""

    def __init__(self, *arguments):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.environ |= {"TERM": "dumb", "HF_HUB_OFFLINE": "1"}
            os.execv(sys.executable, [sys.executable, "-m", "numpy_gpt2", "-i", *map(str, arguments)])

    def shows(self, end="> ", length=0):
        """What is shown until it ends with `end` and has this length, or until the session ends."""
        shown, deadline = "", time.monotonic() + 30
        while not shown.endswith(end) or len(shown) < length:
            ready, _, _ = select.select([self.descriptor], [], [], max(0, deadline - time.monotonic()))
            assert ready, shown
            try:
                shown += os.read(self.descriptor, 1 << 16).decode().replace("\r\n", "\n")
            except OSError:  # the session has ended
                break
        return shown

    def press(self, keys, **options):
        os.write(self.descriptor, keys.encode())
        return self.shows(**options)

    def interrupt(self):
        """Press Ctrl-C. While a line is typed, Python may miss it just after another key: then press it again."""
        while True:
            os.write(self.descriptor, CTRL_C.encode())
            if select.select([self.descriptor], [], [], 1)[0]:
                return self.shows()


@pytest.fixture
def terminal():
    """Start a session in a terminal. It is killed at the end of the test."""
    sessions = []
    yield lambda *arguments: sessions.append(Terminal(*arguments)) or sessions[-1]
    for process in sessions:
        os.close(process.descriptor)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)


def test_lines_can_be_edited_and_have_a_history(tiny, terminal):
    pytest.importorskip("readline")
    texts = [generated(tiny, [*prompt.encode()], 5)[1] for prompt in ("xy", "zxy")]
    process = terminal("-m", tiny, "--greedy", "-n", 5)
    assert process.shows() == f"{session.GREETING}\n> "
    assert process.press("xy\n") == f"xy\n{texts[0]}\n> "
    assert process.press(f"{UP}{CTRL_A}z\n").endswith(f"\n{texts[1]}\n> ")
    assert process.press("abc", end="abc") == "abc"
    assert process.interrupt().endswith("\n> ")  # the line is cleared
    assert process.press("xy\n") == f"xy\n{texts[0]}\n> "
    assert process.press(CTRL_D, end="end") == "\n"
    assert os.waitpid(process.pid, 0)[1] == 0


def test_ctrl_c_stops_a_text_and_an_empty_line_continues_it(tmp_path, terminal):
    model = write_model(tmp_path, n_positions=20_000)
    process = terminal("-m", model, "--greedy", "--ignore-eos", "-n", 10**9)
    process.shows()
    text = process.press("xy\n", end="", length=20).removeprefix("xy\n")
    text += process.interrupt().removesuffix("\n> ").replace("^C", "")
    time.sleep(1)  # until then, Ctrl-C is ignored
    text += process.press("\n", end="", length=20).removeprefix("\n")
    text += process.interrupt().removesuffix("\n> ").replace("^C", "")
    expected, n = "", 256
    while len(expected) < len(text):
        _, expected = generated(model, [*b"xy"], n := 2 * n, stop_tokens=[])
    assert expected.startswith(text)
    assert process.press(CTRL_D, end="end") == "\n"


def test_a_session_shows_no_prompt_in_its_output(tiny, terminal, tmp_path):
    """Standard input is a terminal, and standard output is a file."""
    text = generated(tiny, [120], 5)[1] + "\n"
    controller, stdin = pty.openpty()
    argv = ["-m", tiny, "-i", "--greedy", "-n", 5]
    os.write(controller, b"x\nx\n" + CTRL_D.encode())
    result = run_cli(*argv, stdin=stdin)
    os.close(controller)
    os.close(stdin)
    assert (result.returncode, result.stdout.decode(), result.stderr.decode()) == (0, 2 * text, session.GREETING + "\n")
