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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import hub
from .tokenizer import ENDOFTEXT

if TYPE_CHECKING:
    from tqdm import tqdm

DEFAULT_MODEL = "gpt2"


def write(text: str) -> None:
    """Put text on standard output, at once."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries to write the rest again
        error.filename = "standard output"
        raise


def say(message: str) -> None:
    """Put one line on standard error, if there is one."""
    if sys.stderr:
        print(" ".join(message.split()), file=sys.stderr, flush=True)


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

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += self.hint
        say(f"error: {message}; --help shows how")
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
        """The option --model; see `choose_model`."""
        help = (
            f"{', '.join(hub.NAMES)}, owner/name on the hub, a folder under weights/, or any folder (default:"
            f" {DEFAULT_MODEL}, downloaded once; where the hub cannot be reached, the bundled {hub.BUNDLED})"
        )
        self.add_argument("-m", "--model", metavar="NAME|FOLDER", help=help)


def checked(convert: Callable[[str], Any], accepts: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
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


def choose_model(name: str | None) -> str:
    """The model that was named; else GPT-2; else, where that cannot be had, the bundled model, and a notice."""
    if name is not None:
        return name
    folder = hub.weights_folder() / DEFAULT_MODEL
    for here in (Path(DEFAULT_MODEL), folder):
        if hub.is_complete(here):
            return str(here)
    problem = hub.why_unreachable(DEFAULT_MODEL)
    if problem is None:
        return str(hub.download(DEFAULT_MODEL, folder))
    say(f"note: the bundled model {hub.BUNDLED} answers: no {DEFAULT_MODEL} in {folder}, the hub is away ({problem})")
    say(f"note: run this again when the hub is in reach; {hub.by_hand(DEFAULT_MODEL, folder)}")
    return str(hub.bundled_folder())


def progress_bar(**options: Any) -> tqdm:
    """A progress bar on standard error: alive on a screen, now and then a line's worth in a file."""
    from tqdm import tqdm

    if sys.stderr is None:
        options["disable"] = True
    screen = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(mininterval=0.1 if screen else 10, dynamic_ncols=screen, **options)


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


text = checked(utf8, lambda text: True, "UTF-8")
some_text = checked(utf8, lambda text: text != "", "UTF-8 text of one character or more")
count = checked(int, lambda n: n >= 1, "a whole number, 1 or more")
natural = checked(int, lambda n: n >= 0, "a whole number, 0 or more")


def exit_status(command: Callable[[], int]) -> int:
    """Run a command: its own exit status, 1 for what went wrong, 130 for Ctrl-C. argparse exits with 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        with warnings.catch_warnings(action="always", category=UserWarning):
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            return command()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough
        return 0
    except (OSError, ValueError, MemoryError) as error:
        say(f"error: {str(error) or 'out of memory'}")
        return 1
