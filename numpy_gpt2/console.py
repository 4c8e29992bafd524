"""Text on standard output; messages and progress bars on standard error."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm


def write(text: str) -> None:
    """Write text to standard output and flush it."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python flushes again at exit, and fails
        error.filename = "standard output"
        raise


class LossyFile(io.FileIO):
    """A file that loses what cannot be written: the disk is full, or the program that reads the pipe has ended."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data) or len(data)  # None: a pipe that does not block is full
        return len(data)


def lossy_stderr() -> TextIO:
    """Standard error for a command, in UTF-8. It never fails: messages and progress bars must not stop the work."""
    try:  # if standard error is closed, take its descriptor, which the next file that is opened would get
        descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    except OSError:  # an object that is not a file, as in a notebook
        return sys.stderr
    file = io.BufferedWriter(LossyFile(descriptor, "w", closefd=False))
    return io.TextIOWrapper(file, "utf-8", "replace", line_buffering=True)


def quantity(n: int, noun: str) -> str:
    """A number with its noun.

    >>> quantity(1, "step"), quantity(1200, "step")
    ('1 step', '1,200 steps')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def print_stderr(message: str) -> None:
    """Print one line on standard error. Does nothing if standard error is closed."""
    if sys.stderr:
        print(" ".join(message.split()), file=sys.stderr, flush=True)


def progress_bar(**options: Any) -> tqdm[Any]:
    """A tqdm progress bar on standard error. In a terminal it is redrawn often, in a log file every 10 seconds."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]  # tqdm is generic for type checkers only
        monitor_interval = 0  # no thread that redraws bars; with miniters=1, each update looks at the clock

    if sys.stderr is None:
        options["disable"] = True
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return Bar(mininterval=0.1 if terminal else 10, miniters=1, dynamic_ncols=terminal, **options)
