"""`--with my_gpt2.py`: the other programs run with a learner's functions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

from ..console import print_stderr, quantity
from .checking import hook_problems
from .own import error_text, line_of, load_file
from .process import run_in_process

MOST_NAMES = 6  # in a note; more are counted


def use_file(name: str, needs_hook: bool) -> None:
    """Let the whole package use the functions of this file that are written, until the process ends.

    With `needs_hook`, those that do not use the hook as the package's functions do are left out. A note says which are
    used. Raises OSError, or ValueError if the file does not run.
    """
    own = load_file(name)
    problems = hook_problems(own, own.functions) if needs_hook else {}
    used = [function for function in own.functions if function not in problems]
    own.install(used)
    which = f": {', '.join(used)}" if 0 < len(used) <= MOST_NAMES else ""
    print_stderr(f"note: using {quantity(len(used), 'function')} of {name}{which}")
    if problems:
        print_stderr(
            f"note: not used, because this program needs the hook there: {', '.join(problems)}. For more:"
            f" python -m numpy_gpt2.learn {name} {next(iter(problems))}"
        )
    print_error_line(Path(name))


def print_error_line(path: Path) -> None:
    """Let an error be one line, and not a traceback. If functions of the file are wrong, a second line says which."""
    full_path, usual = str(path.resolve()), sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        blamed = blame(path) if isinstance(error, Exception) else ""
        if blamed or line_of(error, full_path):
            print_stderr(f"error: {error_text(error, path)}")
            print_blame(blamed)
        else:
            usual(kind, error, traceback)

    sys.excepthook = excepthook
    if cli := sys.modules.get("numpy_gpt2.cli"):  # it imports this module, so this module cannot import it
        usual_print = vars(cli)["print_error"]

        def print_error(error: Exception) -> None:  # the command prints some kinds of errors itself
            own_error = line_of(error, full_path)
            if own_error:
                print_stderr(f"error: {error_text(error, path)}")
            else:
                usual_print(error)
            if own_error or isinstance(error, ValueError):
                print_blame(blame(path))

        vars(cli)["print_error"] = print_error


def blame(path: Path) -> str:
    """The functions of the file that are wrong, in a note; "" if there are none."""
    wrong = run_in_process("check", path).get("wrong", [])
    are = "is" if len(wrong) == 1 else "are"
    more = f"For more: python -m numpy_gpt2.learn {path} {wrong[0]}" if wrong else ""
    return f"note: {', '.join(wrong)} of {path.name} {are} not right yet. {more}" if wrong else ""


def print_blame(note: str) -> None:
    """Print a note, if there is one."""
    if note:
        print_stderr(note)
