"""What the four commands share: their common options, the prompt, the model, one-line errors, exit statuses."""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from typing import Any, NoReturn

from . import __version__, hub, interrupts
from .arguments import NON_NEGATIVE, POSITIVE
from .checkpoint import Model, load
from .console import lossy_stderr, print_stderr, write
from .files import read_utf8
from .tokenizer import ENDOFTEXT


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help whose lines do not end inside the name of an option, such as --max-steps."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap  # argparse, too, imports it for --help only

        return textwrap.wrap(text, width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line and prints help as UTF-8."""

    has_prompt = False

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=lambda prog: HelpFormatter(prog, max_help_position=28),
            allow_abbrev=False,
            **options,
        )
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)  # also -1e-3
        self.add_argument("--version", action="version", version=f"numpy_gpt2 {__version__}")

    def error(self, message: str) -> NoReturn:
        _, _, unrecognized = message.partition("unrecognized arguments: ")
        if option := re.search(r"(?<!\S)-[^\s=]+", unrecognized):
            message = f"{option[0]} is not an option"
            if self.has_prompt and re.match("-f|--file", option[0]):
                message += "; to read the prompt from a file, write - < FILE"
        elif unrecognized and self.has_prompt:
            message += " (a prompt of several words needs quotes)"
        print_stderr(f"error: {message}; see --help")
        sys.exit(2)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """argparse before Python 3.13 drops "--" even where it is the value of an option, as in --stop=--."""
        if action.option_strings and arg_strings == ["--"]:
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)

    def print_help(self, file: object = None) -> None:
        write(self.format_help())

    def add_prompt(self, description: str) -> None:
        """Add the argument PROMPT; `read_prompt` reads it."""
        self.has_prompt = True
        help = f'{description}; without PROMPT, or with -, read standard input; "" starts from {ENDOFTEXT}'
        self.add_argument("prompt", metavar="PROMPT", nargs="?", type=utf8_text, help=help)

    def check_prompt(self, prompt: str | None) -> None:
        """Exit with an error if there is neither a prompt nor a pipe to read it from."""
        if prompt in (None, "-") and (sys.stdin is None or (prompt is None and sys.stdin.isatty())):
            self.error(f'there is no prompt: give a text, as in {self.prog} "Once upon a time", or pipe one in')

    def add_model(self) -> None:
        """Add --model, --int8 and --threads, for a command that runs a model; `load_model` reads them."""
        help = (
            f"{', '.join(hub.NAMES)}, owner/name on the hub, a folder under weights/, or any folder (default:"
            f" {hub.DEFAULT_MODEL}, downloaded once; if the hub cannot be reached, the bundled model {hub.BUNDLED})"
        )
        self.add_argument("-m", "--model", metavar="NAME|FOLDER", help=help)
        help = "int8 weights: a quarter of the memory, slightly less exact"
        self.add_argument("--int8", action="store_true", help=help)
        self.add_threads()

    def add_with(self, needs_hook: bool = False) -> None:
        """Add --with; `use_functions` applies it. `needs_hook` says whether the program records or changes results."""
        help = "use the functions of this file, which you have written with python -m numpy_gpt2.learn"
        self.add_argument("--with", dest="functions", metavar="FILE.py", help=help)
        self.set_defaults(needs_hook=needs_hook)

    def add_threads(self) -> None:
        """Add --threads; `limit_threads` applies it."""
        help = "number of threads for matrix products (default: all cores)"
        self.add_argument("--threads", metavar="N", type=positive_int, help=help)


def argument_type(convert: Callable[[str], Any], accepts: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """A `type` for add_argument: convert the argument, then check the value. `wanted` says what is allowed."""

    def parse(argument: str) -> Any:
        with suppress(ValueError, OverflowError):
            value = convert(argument)
            if accepts(value):
                return value
        raise argparse.ArgumentTypeError(f"{argument!r} is not {wanted}")

    return parse


def decode_argument(argument: str) -> str:
    """Decode the bytes that were typed as UTF-8, whatever encoding Python assumed from the locale."""
    return os.fsencode(argument).decode("utf-8")


utf8_text = argument_type(decode_argument, lambda text: True, "UTF-8")
nonempty_text = argument_type(decode_argument, lambda text: text != "", "UTF-8 text of one character or more")
positive_int = argument_type(int, *POSITIVE[1:])
non_negative_int = argument_type(int, *NON_NEGATIVE[1:])


def read_prompt(prompt: str | None) -> str:
    """The prompt itself, or standard input if it is None or "-". One line end is removed from the end of the input."""
    if prompt not in (None, "-"):
        return prompt
    return read_utf8("-").removesuffix("\n").removesuffix("\r")


def limit_threads(n: int | None) -> None:
    """Set the number of threads for matrix products to n, but at most the number of cores. None changes nothing."""
    if n:
        from threadpoolctl import threadpool_limits

        threadpool_limits(min(n, os.cpu_count() or 1))


def use_functions(arguments: argparse.Namespace) -> None:
    """Use the functions of the file that --with names, in the place of the package's."""
    if arguments.functions is not None:
        from .learn.programs import use_file

        use_file(arguments.functions, arguments.needs_hook)


def load_model(arguments: argparse.Namespace) -> Model:
    """Load the model that the options of `Parser.add_model` name, or the default model. Apply --with."""
    use_functions(arguments)
    limit_threads(arguments.threads)
    return load(hub.choose_model(arguments.model), "int8" if arguments.int8 else "float32")


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed arrays and reuse it for new ones.

    By default glibc returns the memory of large arrays to the system. Each new page then costs more time than NumPy
    needs to fill it: a training step took up to twice as long. The parameters, from malloc.h, are M_MMAP_MAX,
    M_TRIM_THRESHOLD and M_ARENA_MAX. Other C libraries have no `mallopt`; nothing changes there.
    """
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((-4, 0), (-1, (1 << 31) - 1), (-8, 1)):
            libc.mallopt(parameter, value)


def return_freed_memory() -> None:
    """Return the memory of freed arrays to the system, where `keep_freed_memory` has kept it."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and return its exit status: 1 if it fails, 130 after Ctrl-C. An error is one line on stderr.

    A missing optional library is an error like the others. argparse exits with 2 for a wrong command line.
    """
    status = interrupts.STATUS
    with suppress(KeyboardInterrupt), interrupts.at_most_one_per_second(), redirect_stderr(lossy_stderr()):
        status = status_of(command)
    if status == interrupts.STATUS:
        interrupts.leave()
    return status


def status_of(command: Callable[[], int]) -> int:
    """Run a command, print its error, and return its exit status. Raises KeyboardInterrupt."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    try:
        with warnings.catch_warnings(action="always", category=UserWarning):
            warnings.showwarning = lambda message, *_: print_stderr(f"warning: {message}")
            return command()
    except BrokenPipeError:  # the program that reads standard output has ended
        return 0
    except (OSError, ValueError, MemoryError, ImportError) as error:
        print_error(error)
        return 1


def print_error(error: Exception) -> None:
    """Say on standard error why a command failed. `--with` replaces this function, to name the learner's line."""
    print_stderr(f"error: {describe(error)}")


def describe(error: Exception) -> str:
    """An error in one line. Python's own text of an OSError begins with "[Errno 2]".

    >>> describe(FileNotFoundError(2, "No such file or directory", "notes.txt")), describe(MemoryError())
    ("No such file or directory: 'notes.txt'", 'out of memory')
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return str(error) or "out of memory"
