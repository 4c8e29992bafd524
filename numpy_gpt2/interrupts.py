"""Ctrl-C in a command: no traceback, from the first import to the end of the process.

The package imports this module before NumPy, which takes time. A program that uses the package keeps its own handling.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the module signal imports others, which takes time
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STATUS = 130  # of a command that Ctrl-C ended: 128 + SIGINT
COMMANDS = ("numpy-gpt2", "numpy-gpt2-train", "numpy-gpt2-evaluate", "numpy-gpt2-explain", "numpy-gpt2-learn")


def is_command() -> bool:
    """Whether this process was started as one of the commands: `python -m numpy_gpt2.train`, or `numpy-gpt2-train`."""
    if sys.argv[:1] == ["-m"]:  # while `python -m` imports the package, argv[0] is not the file yet
        return sys.orig_argv[-len(sys.argv)].replace("_", "-").replace(".", "-") in COMMANDS
    return os.path.splitext(os.path.basename("".join(sys.argv[:1])))[0] in COMMANDS


def end_process(*_: object) -> None:
    """End the process at once. Threads that are still computing do not delay it."""
    os._exit(STATUS)


@contextmanager
def at_most_one_per_second() -> Iterator[None]:
    """In this block, Ctrl-C raises KeyboardInterrupt, but not again within a second: cleaning up is not interrupted.

    Nothing changes where Ctrl-C is ignored or handled by the caller, and in a thread, where it raises nothing.
    """
    last = float("-inf")

    def interrupt(*_: object) -> None:
        nonlocal last
        if time.monotonic() > last + 1:
            last = time.monotonic()
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    if usual in (signal.default_int_handler, end_process):
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, usual)


def leave() -> None:
    """After Ctrl-C, end the process if it is a command's own. Python would wait for all threads and could hang."""
    if signal.getsignal(signal.SIGINT) is end_process:
        os._exit(STATUS)


if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_process)
