"""Text on standard output; messages and progress bars on standard error."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

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


def print_stderr(message: str) -> None:
    """Print one line on standard error. Does nothing if standard error is closed."""
    if sys.stderr:
        print(" ".join(message.split()), file=sys.stderr, flush=True)


def progress_bar(**options: Any) -> tqdm[Any]:
    """A tqdm progress bar on standard error. In a terminal it is redrawn often, in a log file every 10 seconds."""
    from tqdm import tqdm

    if sys.stderr is None:
        options["disable"] = True
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(mininterval=0.1 if terminal else 10, dynamic_ncols=terminal, **options)
