"""`--with my_gpt2.py`: the other programs run with a learner's functions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

from ..console import print_stderr
from .checking import hook_problems
from .own import line_of, load_file

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
    print_stderr(f"note: using {len(used)} function{'s' * (len(used) != 1)} of {name}{which}")
    if problems:
        print_stderr(
            f"note: not used, because this program needs the hook there: {', '.join(problems)}. For more:"
            f" python -m numpy_gpt2.learn {name} {next(iter(problems))}"
        )
    print_error_line(Path(name))


def print_error_line(path: Path) -> None:
    """Let an error in the learner's code be one line, with its line number, and not a traceback."""
    full_path, usual = str(path.resolve()), sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if line := line_of(error, full_path):
            print_stderr(f"error: {path.name}, line {line}: {kind.__name__}: {error}")
        else:
            usual(kind, error, traceback)

    sys.excepthook = excepthook
