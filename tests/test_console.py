"""Progress bars on standard error."""

import io
import sys
import time

from numpy_gpt2.console import print_stderr, progress_bar


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
