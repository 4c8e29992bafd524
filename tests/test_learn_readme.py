"""The session in numpy_gpt2/learn/README.md is replayed: its output is what the page shows."""

import re
import shlex

from numpy_gpt2.learn.__main__ import main

from .conftest import ROOT
from .conftest import run_in_process as run_main

PAGE = ROOT / "numpy_gpt2" / "learn" / "README.md"
START, END = "## The first ten minutes", "## The commands"


def replace_function(text: str, code: str) -> str:
    """Put a function into the learner's file, in the place of the one with its name."""
    name = re.match(r"def (\w+)", code)[1]
    start = text.index(f"\ndef {name}(") + 1
    end = text.index("\n\n\n", start)
    return text[:start] + code.rstrip() + text[end:]


def replay(session: str, folder, capsys) -> str:
    """The session with the output that the commands give now."""

    def run(match: re.Match[str]) -> str:
        language, content = match.groups()
        if language == "python":
            path = folder / "my_gpt2.py"
            path.write_text(replace_function(path.read_text(encoding="utf-8"), content), encoding="utf-8")
            return match[0]
        command = content.split("\n")[0]
        arguments = shlex.split(command.removeprefix("$ python -m numpy_gpt2.learn"))
        return f"```text\n{command}\n{run_main(main, capsys, *arguments).out}```"

    return re.sub(r"```(\w+)\n(.*?)```", run, session, flags=re.DOTALL)


def test_the_session_is_real(tmp_path, monkeypatch, capsys):
    """To write its output again: python -m tests.test_learn_readme."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    page = PAGE.read_text(encoding="utf-8")
    session = page[page.index(START) : page.index(END)]
    assert replay(session, tmp_path, capsys) == session
