"""What the commands have in common: text out, errors in one line, exit statuses."""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from . import __version__, hub
from .checkpoint import Model, load
from .console import print_stderr, write
from .tokenizer import ENDOFTEXT


def from_utf8(data: bytes, source: object) -> str:
    """Bytes -> the text that they are. Raises ValueError for another encoding."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 ({error}); convert it first") from None


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line, and help is written as all text is."""

    hint = ""  # for arguments too many

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28),
            allow_abbrev=False,
            **options,
        )
        self.add_argument("--version", action="version", version=f"numpy_gpt2 {__version__}")

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += self.hint
        print_stderr(f"error: {message}; --help shows how")
        sys.exit(2)

    def print_help(self, file: object = None) -> None:
        write(self.format_help())

    def add_prompt(self, what: str) -> None:
        """The argument PROMPT; see `read_prompt`."""
        self.hint = " (a prompt of several words needs quotes)"
        help = f"{what}; - or a pipe: from standard input; empty: start anew, from {ENDOFTEXT}"
        self.add_argument("prompt", metavar="PROMPT", nargs="?", type=text, help=help)

    def check_prompt(self, argument: str | None) -> None:
        """End the command if there is no prompt."""
        if argument in (None, "-") and (sys.stdin is None or (argument is None and sys.stdin.isatty())):
            self.error("there is no prompt: give a text, or pipe one in")

    def add_model(self) -> None:
        """The options of every command that runs a model: --model, --int8 and --threads; see `load_model`."""
        help = (
            f"{', '.join(hub.NAMES)}, owner/name on the hub, a folder under weights/, or any folder (default:"
            f" {hub.DEFAULT_MODEL}, downloaded once; where the hub cannot be reached, the bundled {hub.BUNDLED})"
        )
        self.add_argument("-m", "--model", metavar="NAME|FOLDER", help=help)
        self.add_argument("--int8", action="store_true", help="weights in a quarter of the memory, slightly less exact")
        self.add_threads()

    def add_threads(self) -> None:
        """The option --threads; see `limit_threads`."""
        self.add_argument(
            "--threads", metavar="N", type=positive_int, help="threads of the matrix products (default: all cores)"
        )


def argument_type(convert: Callable[[str], Any], accepts: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """An argument type: `convert`, then a check."""

    def parse(argument: str) -> Any:
        with suppress(ValueError):
            value = convert(argument)
            if accepts(value):
                return value
        raise argparse.ArgumentTypeError(f"{argument!r} is not {wanted}")

    return parse


def utf8(argument: str) -> str:
    """An argument as the bytes that were typed, read as UTF-8, whatever locale Python has decoded it in."""
    return os.fsencode(argument).decode("utf-8")


def read_prompt(argument: str | None) -> str:
    """The prompt: as typed, or all of standard input but the line end that editors and `echo` put last."""
    if argument not in (None, "-"):
        return argument
    return from_utf8(sys.stdin.buffer.read(), "standard input").removesuffix("\n").removesuffix("\r")


def keep_freed_memory() -> None:
    """Let glibc keep the memory of large arrays for the next ones.

    It would give it back to the system each time, and each page that comes anew costs more than NumPy's pass over it: a
    step of training took up to twice as long. The numbers are those of malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD,
    M_ARENA_MAX. Other C libraries have no `mallopt`, and keep it by themselves.
    """
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((-3, 1 << 25), (-1, (1 << 31) - 1), (-8, 1)):
            libc.mallopt(parameter, value)


text = argument_type(utf8, lambda text: True, "UTF-8")
some_text = argument_type(utf8, lambda text: text != "", "UTF-8 text of one character or more")
positive_int = argument_type(int, lambda n: n >= 1, "a whole number, 1 or more")
non_negative_int = argument_type(int, lambda n: n >= 0, "a whole number, 0 or more")


def limit_threads(n: int | None) -> None:
    """Give matrix products n threads, at most one for each core; None leaves all."""
    if n:
        from threadpoolctl import threadpool_limits

        threadpool_limits(min(n, os.cpu_count() or 1))


def load_model(arguments: argparse.Namespace) -> Model:
    """The model that the options of `Parser.add_model` name, or the default one."""
    limit_threads(arguments.threads)
    return load(hub.choose_model(arguments.model), "int8" if arguments.int8 else "float32")


def exit_status(command: Callable[[], int]) -> int:
    """Run a command: its own exit status, 1 for what went wrong, 130 for Ctrl-C. argparse exits with 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        with warnings.catch_warnings(action="always", category=UserWarning):
            warnings.showwarning = lambda message, *_: print_stderr(f"warning: {message}")
            return command()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough
        return 0
    except (OSError, ValueError, MemoryError) as error:
        print_stderr(f"error: {str(error) or 'out of memory'}")
        return 1
