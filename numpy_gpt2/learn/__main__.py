"""The command: `python -m numpy_gpt2.learn` writes my_gpt2.py and checks it."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from ..cli import Parser, exit_status
from ..console import print_stderr, write
from . import file, notebook
from .exercises import EXERCISES, PARTS, exercise_named
from .process import run_in_process
from .source import equation, line_with

EXAMPLES = """\
examples:
  python -m numpy_gpt2.learn                      write my_gpt2.py; later: check it, from the top
  python -m numpy_gpt2.learn softmax              check one function
  python -m numpy_gpt2.learn --watch              check again whenever the file is saved
  python -m numpy_gpt2.learn --hint softmax 2     two of three hints
  python -m numpy_gpt2 --with my_gpt2.py "To be"  run the real model with your functions
"""

POLL = 0.3  # seconds between two looks at the file


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = Parser(
        prog="python -m numpy_gpt2.learn",
        usage="%(prog)s [options] [FILE.py] [NAME]",
        description="Write GPT-2's functions yourself, and be told after each one what exactly is wrong.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    help = f"your file (default: {file.NAME}; it is written if it is absent), and the function to check (default: all)"
    add("words", metavar="FILE.py, NAME", nargs="*", help=help)
    add("--watch", action="store_true", help="check again whenever the file is saved")
    add("--hint", metavar=("NAME", "N"), nargs="+", help="show the first N of three hints (default: 1)")
    add("--show", metavar="NAME", help="show the package's function and yours, and compare their speed")
    add("--reset", metavar="NAME", help="begin a function again; the old one is kept as a comment")
    add("--list", action="store_true", help="list all functions")
    add("--notebook", action="store_true", help="write a Jupyter notebook with the same functions")
    arguments = parser.parse_args(argv)
    files = [word for word in arguments.words if word.endswith(".py")]
    names = [word for word in arguments.words if not word.endswith(".py")]
    if len(files) > 1 or len(names) > 1:
        parser.error(f"{' '.join(arguments.words)!r} is more than one FILE.py and one NAME")
    arguments.path, arguments.name = Path(files[0] if files else file.NAME), names[0] if names else None
    given = [name for name in ("watch", "hint", "show", "reset", "list", "notebook") if getattr(arguments, name)]
    if len(given) > 1:
        parser.error(f"--{given[0]} and --{given[1]} contradict each other; give one of them")
    if arguments.hint and (len(arguments.hint) > 2 or arguments.hint[1:] not in ([], ["1"], ["2"], ["3"])):
        parser.error(f"--hint takes NAME and a number from 1 to 3, not {' '.join(arguments.hint)!r}")
    for name in (arguments.name, arguments.show, arguments.reset, *(arguments.hint or [])[:1]):
        if name:
            try:
                exercise_named(name)
            except ValueError as error:
                parser.error(str(error))
    return arguments


def hints(name: str, n: int) -> list[str]:
    """The first n hints."""
    exercise = exercise_named(name)
    first, second, fragment = exercise.hints
    third = f"This is the line: {line_with(exercise.reference, fragment)}"
    lines = [f"{i}. {hint}" for i, hint in enumerate((first, second, third)[:n], start=1)]
    return lines if n == 3 else [*lines, f"more: --hint {name} {n + 1}"]


def listing(path: Path) -> list[str]:
    """All functions, with their equations; those that are right are marked."""
    result = run_in_process("check", path) if path.exists() else {}
    marks = dict.fromkeys(result.get("right", ()), "✓") | dict.fromkeys(result.get("wrong", ()), "✗")
    lines, width = [], shutil.get_terminal_size((120, 24)).columns
    for number, (title, exercises) in enumerate(PARTS.items(), start=1):
        lines += ["", f"part {number}: {title}"]
        rows = [f" {marks.get(e.name, ' ')} {e.name:<28}{equation(e.reference)}" for e in exercises]
        lines += [row if len(row) <= width else row[: width - 1] + "…" for row in rows]
    return [*lines[1:], *([result["problem"]] if "problem" in result else [])]


def print_result(result: dict[str, Any]) -> int:
    """Print what a task gave. Returns the exit status."""
    lines = [result["problem"]] if "problem" in result else result["lines"]
    write("".join(f"{line}\n" for line in lines))
    if "printed" in result:
        for line in f"note: {result['printed']}".split("\n"):
            print_stderr(line)
    return int(result.get("status", 1))


def check(path: Path, name: str | None) -> int:
    """Check the file or one function, and print the milestone that was reached. Returns the exit status."""
    result = run_in_process("check_named", path, name) if name else run_in_process("check", path)
    status = print_result(result)
    if number := result.get("milestone"):
        print_result(run_in_process("reach", path, str(number), time_limit=120))
    return status


def begin(path: Path) -> int:
    """Write the file. Returns the exit status: nothing in it is right yet."""
    text = file.new_file()
    file.write_new(path, text)
    first = next(iter(EXERCISES))
    start, _ = file.place_of(EXERCISES[first], text.splitlines())
    write(
        f"{path} is new: {len(EXERCISES)} functions of GPT-2, with their equations and without their bodies.\n"
        f"Begin with {first} in line {start + 1}: write its body in the place of `raise NotImplementedError`.\n"
        "Then run this command again.\n"
    )
    return 1


def watch(path: Path, name: str | None) -> int:
    """Check whenever the file is saved, until Ctrl-C."""
    seen = 0
    print_stderr(f"watching {path}; Ctrl-C ends this")
    while True:
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:  # some editors remove a file and write it again
            changed = seen
        if changed != seen:
            seen = changed
            write(f"\n──── {time.strftime('%H:%M:%S')}\n")
            check(path, name)
        time.sleep(POLL)


def command(argv: list[str] | None) -> int:
    """Run the command line. Returns the exit status."""
    arguments = parse_arguments(argv)
    path = arguments.path
    if arguments.hint:
        write("".join(f"{line}\n" for line in hints(arguments.hint[0], int((arguments.hint[1:] or ["1"])[0]))))
        return 0
    if arguments.list:
        write("".join(f"{line}\n" for line in listing(path)))
        return 0
    if arguments.notebook:
        target = path.with_suffix(".ipynb")
        if target.exists():
            raise FileExistsError(f"{target} is there already; rename it, or give another FILE.py")
        file.write_new(target, notebook.new_notebook())
        write(f"{target}\n")
        return 0
    if not path.exists() and (arguments.show or arguments.reset):
        raise FileNotFoundError(f"{path} is not there; run python -m numpy_gpt2.learn to write it")
    if not path.exists():
        status = begin(path)
        return watch(path, arguments.name) if arguments.watch else status
    if arguments.reset:
        file.reset(path, exercise_named(arguments.reset))
        write(f"{arguments.reset} is a stub again; the old body is below it, as a comment\n")
        return 0
    if arguments.show:
        return print_result(run_in_process("show", path, arguments.show, time_limit=60))
    if arguments.watch:
        return watch(path, arguments.name)
    return check(path, arguments.name)


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
