"""The session in numpy_gpt2/learn/README.md is replayed: its output is what the page shows.

`python -m tests.test_learn_readme` writes the output into the page again.
"""

import contextlib
import io
import os
import re
import shlex
import tempfile
from pathlib import Path

from numpy_gpt2.learn.__main__ import main

from .conftest import ROOT

PAGE = ROOT / "numpy_gpt2" / "learn" / "README.md"


def replace_function(text: str, code: str) -> str:
    """Put a function into the learner's file, in the place of the one with its name."""
    start = text.index("\n" + code[: code.index("(")]) + 1
    return text[:start] + code.rstrip() + text[text.index("\n\n\n", start) :]


def run_block(match: re.Match[str]) -> str:
    """Do what a block of the session shows: write a function into the file, or run a command."""
    language, content = match.groups()
    path, command = Path("my_gpt2.py"), content.split("\n")[0]
    if language == "python":
        path.write_text(replace_function(path.read_text(encoding="utf-8"), content), encoding="utf-8")
        return match[0]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main(shlex.split(command.removeprefix("$ python -m numpy_gpt2.learn")))
    return f"```text\n{command}\n{output.getvalue()}```"


def replayed(page: str) -> str:
    """The page with the output that the commands give in the current folder."""
    start, end = page.index("## The first ten minutes"), page.index("## The commands")
    session = re.sub(r"```(\w+)\n(.*?)```", run_block, page[start:end], flags=re.DOTALL)
    return page[:start] + session + page[end:]


def test_the_session_is_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    page = PAGE.read_text(encoding="utf-8")
    assert replayed(page) == page


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        text = replayed(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
