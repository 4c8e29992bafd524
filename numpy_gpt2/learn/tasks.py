"""What is done with a learner's file in its process. Each task returns what the command prints."""

from __future__ import annotations

import copy
import shutil
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .checking import check_all, check_one, hook_problems
from .compare import cases, expected
from .exercise import Exercise, LargeInputs
from .exercises import EXERCISES, PARTS, exercise_named
from .file import NAME, place_of
from .milestones import MILESTONES
from .own import Own
from .source import parts

COMMAND = "python -m numpy_gpt2.learn"
WIDTH = 34  # of the progress bar


def command(path: Path) -> str:
    """How this command is run with the file."""
    return COMMAND if path.name == NAME else f"{COMMAND} {path}"


def prepare() -> None:
    """Compute all that is expected, before the learner's file can change NumPy or the package."""
    for exercise in EXERCISES.values():
        parts(exercise.reference)
        for case in cases(exercise):
            expected(exercise, case)


def wrapped(text: str) -> str:
    """A report, in lines that fit the terminal. Further lines are indented."""
    width = max(40, min(shutil.get_terminal_size((100, 24)).columns, 120) - 1)
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()) or 3)
        lines += textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def check(own: Own, path: Path) -> dict[str, Any]:
    """Check all functions from the top."""
    progress = check_all(own)
    right, total = progress.right, len(EXERCISES)
    unwritten = [name for name in EXERCISES if name not in own.functions]
    lines = [bar(len(right), total)]
    if progress.report is not None:
        lines += [wrapped(str(progress.report)), f"   more: {command(path)} --hint {progress.report.name}"]
        if others := progress.wrong[1:]:
            lines.append(f"not right yet, too: {', '.join(others)}")
    elif unwritten:
        lines.append(next_text(unwritten[0], path, right))
    else:
        lines.append(f"All {total} are right. Compare one with the package's: {command(path)} --show NAME")
    return {
        "lines": [*lines, *notes(own, path, right, with_hook=progress.report is None)],
        "status": int(len(right) < total),
        "milestone": 0 if progress.wrong else milestone(own, right),
        "right": right,
        "wrong": progress.wrong,
    }


def bar(n: int, total: int) -> str:
    """The progress.

    >>> bar(17, 34)
    '▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓░░░░░░░░░░░░░░░░░  17 of 34'
    """
    done = WIDTH * n // total
    return f"{'▓' * done}{'░' * (WIDTH - done)}  {n} of {total}"


def next_text(name: str, path: Path, right: list[str]) -> str:
    """What to write next, and where it is."""
    start, _ = place_of(EXERCISES[name], path.read_text(encoding="utf-8").splitlines())
    where = (
        f"in line {start + 1} of {path.name}"
        if start
        else f"not in {path.name} yet; {command(path)} --reset {name} adds it"
    )
    compare = f"All right so far. Compare: {command(path)} --show {right[-1]}\n" if right else ""
    return f"{compare}next: {name}, {where}"


def notes(own: Own, path: Path, right: list[str], with_hook: bool) -> list[str]:
    """Remarks about functions that are right; those about the hook only if there is nothing else to do."""
    misspelt = (own.misspelt(name) for name in EXERCISES if own.find(EXERCISES[name]) is None)
    lines = [f"note: {question}" for question in misspelt if question]
    if imported := [name for name in right if own.is_reference(name)]:
        n = "all" if len(imported) == len(right) else f"{len(imported)} of {len(right)}"
        lines.append(f"note: {n} are the package's own functions, imported. They are right, but they are not yours.")
    if problems := hook_problems(own, right) if with_hook else {}:
        lines.append(
            f"note: train or explain cannot use {', '.join(problems)}, because of the hook or dropout."
            f" For more: {command(path)} {next(iter(problems))}"
        )
    return lines


def milestone(own: Own, right: list[str]) -> int:
    """The number of the last part that is complete, with all parts before it, if the next one is not begun; else 0."""
    names = [[exercise.name for exercise in exercises] for exercises in PARTS.values()]
    n = next((i for i, part in enumerate(names) if not {*part} <= {*right}), len(names))
    begun = n < len(names) and any(name in own.functions for name in names[n])
    return 0 if begun or n not in MILESTONES else n


def check_named(own: Own, path: Path, name: str) -> dict[str, Any]:
    """Check one function."""
    exercise = exercise_named(name)
    report = check_one(own, exercise)
    more = f"   compare: {command(path)} --show {name}" if report else f"   more: {command(path)} --hint {name}"
    return {"lines": [wrapped(str(report)), more], "status": int(not report)}


def show(own: Own, path: Path, name: str) -> dict[str, Any]:
    """The package's function, the learner's, and how much slower the learner's is."""
    exercise = exercise_named(name)
    lines = [f"==== {name} in numpy_gpt2/{exercise.module.replace('.', '/')}.py", *source_lines(exercise.reference)]
    if exercise.name not in own.functions:
        return {"lines": [*lines, f"==== {name} in {path.name} is not written yet"], "status": 1}
    lines += ["", f"==== {name} in {path.name}", *source_lines(own.functions[exercise.name])]
    report = check_one(own, exercise)
    if report:
        with own.using([*own.functions]):
            mine, theirs = (seconds(exercise, s) for s in (own.subject(exercise), exercise.subject(exercise.reference)))
        ratio = mine / theirs
        speed = (
            f"{ratio:.1f} times as long as" if ratio > 1.1 else "about as long as" if ratio > 0.9 else "less time than"
        )
        lines += ["", f"yours takes {mine * 1e6:,.0f} µs, {speed} the package's ({theirs * 1e6:,.0f} µs)"]
    else:
        lines += ["", "yours is not right yet, so its time is not measured"]
    return {"lines": lines, "status": int(not report)}


def source_lines(function: Any) -> list[str]:
    """The source of a function without its docstring, if there is a source."""
    try:
        signature, _, body = parts(function)
    except (OSError, TypeError):
        return [f"{function!r} has no Python source"]
    return (signature + body).rstrip().splitlines()


def seconds(exercise: Exercise, subject: Any) -> float:
    """The shortest time of a few calls, with arrays of the size of GPT-2's."""
    arguments = exercise.probes[0].make(LargeInputs(np.float32))
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.3 and len(times) < 100):
        copied = copy.deepcopy(arguments)
        start = time.perf_counter()
        exercise.run(subject, *copied)
        times.append(time.perf_counter() - start)
    return min(times)


def reach(own: Own, path: Path, number: str) -> dict[str, Any]:
    """What the learner's functions can do together, after part `number`."""
    first, *lines = MILESTONES[int(number)](own)
    return {"lines": [f"milestone {number}: {first}", *(f"   {line}" for line in lines)], "status": 0}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "check": check,
    "check_named": check_named,
    "show": show,
    "reach": reach,
}
