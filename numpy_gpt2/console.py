"""Text on standard output; lines and progress bars on standard error."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def write(text: str) -> None:
    """Put text on standard output, at once."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries to write the rest again
        error.filename = "standard output"
        raise


def print_stderr(message: str) -> None:
    """Put one line on standard error, if there is one."""
    if sys.stderr:
        print(" ".join(message.split()), file=sys.stderr, flush=True)


def progress_bar(**options: Any) -> tqdm:
    """A progress bar on standard error: alive on a screen, now and then a line's worth in a file."""
    from tqdm import tqdm

    if sys.stderr is None:
        options["disable"] = True
    screen = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(mininterval=0.1 if screen else 10, dynamic_ncols=screen, **options)
