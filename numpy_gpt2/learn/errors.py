"""The errors that a learner's function raises: the line, the shapes of the arrays in it, and advice."""

from __future__ import annotations

import linecache
import math
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from types import FrameType

import numpy as np

from . import seen
from .exercise import Exercise

NOT_LEARNERS = ("numpy", "numpy_gpt2", "copy")  # packages whose lines are not shown

SPELLINGS = {  # a pattern for PyTorch's spelling, this spelling, and NumPy's
    r"\.(contiguous\(\)\.)?view\(": ("view(…)", "reshape(…)"),
    r"\.permute\(": ("permute(…)", "transpose(…)"),
    r"\.transpose\((-?\w+), *(-?\w+)\)": ("transpose(i, j)", "swapaxes(i, j)"),
    r"\bdim *=": ("dim=", "axis="),
    r"\bkeepdim *=": ("keepdim=", "keepdims="),
    r"\.masked_fill_?\(": ("x.masked_fill(mask, value)", "np.where(mask, value, x)"),
    r"\.unsqueeze\(": ("x.unsqueeze(-1)", "x[..., None]"),
}
STANDARD_LIBRARY = (os.path.dirname(os.__file__), "<frozen")  # the files of its modules


def in_one_line(error: BaseException) -> str:
    """The type of an error and its text.

    >>> in_one_line(ValueError("two\\n lines"))
    'ValueError: two lines'
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def raised(exercise: Exercise, error: BaseException) -> Iterator[str]:
    """An error, the learner's line that raised it, and the shapes of the arrays in this line."""
    places = learners_places(error)
    frame, line_number = places[-1] if places else (None, 0)
    problem = " ".join(str(error).split())
    if problem.startswith("matmul: Input operand"):  # NumPy's own text needs a page of explanation
        problem = "the shapes do not fit the product @"
    text = f"{type(error).__name__}: {problem}" if problem else type(error).__name__
    if isinstance(error, NotImplementedError):
        yield f"It is not written to the end: line {line_number} raises NotImplementedError."
        return
    if isinstance(error, SystemExit):
        text = "It calls exit(), which ends the program"
    if type(error).__name__ == "BdbQuit":
        text = "It calls breakpoint(), which has no terminal here"
    if frame is None:
        parameters = [name for name in exercise.parameters if name not in ("self", exercise.hook)]
        yield f"{text.rstrip('.')}. It is called as {exercise.short_name}({', '.join(parameters)})."
        return
    line = source_line(frame, line_number)
    yield f"{text}{'' if text.endswith('.') else '.'} This is line {line_number}" + (f": {line}" if line else ".")
    if places[0][1] != line_number:  # a comprehension has a frame of its own
        yield f"It was reached from line {places[0][1]}: {source_line(*places[0])}".rstrip(": ") + "."
    yield from tip(error, frame, line_number)
    if isinstance(error, AttributeError | TypeError) or "axes don't match" in problem:
        yield from numpy_spellings(line)
    named = re.findall(r"[^\W\d]\w*", line)
    for name, value in frame.f_locals.items():
        key = error.args[0] if isinstance(error, KeyError) else None
        looked_up = re.search(rf"\b{name}(\[|\.pop\()", line)
        if isinstance(value, dict) and value and isinstance(key, str) and key not in value and (looked_up or not line):
            nearest = get_close_matches(key, map(str, value), n=2, cutoff=0)
            yield f"the nearest names in {name} are {' and '.join(map(repr, nearest))}"
        if isinstance(value, dict):
            for key, array in value.items():
                if isinstance(array, np.ndarray) and re.search(rf"\b{name}\[['\"]{re.escape(str(key))}['\"]\]", line):
                    yield f"{name}[{key!r}] has the shape {seen.sizes(array.shape)}"
        if isinstance(value, np.ndarray) and (name in named or not line):
            yield f"{name} has the shape {seen.sizes(value.shape)}"
            if value.ndim > 2 and re.search(rf"\b{name}\.T\b", line):
                reverse = seen.sizes(value.T.shape)
                yield f"{name}.T reverses all axes: {reverse}. swapaxes(-1, -2) exchanges the last two."


def tip(error: BaseException, frame: FrameType, line_number: int) -> Iterator[str]:
    """What to write in the place of `^`, or of a function of `math` that got an array."""
    if not isinstance(error, TypeError):
        return
    if re.search(r"'bitwise_xor'|for \^=?:", str(error)):
        yield "^ is no power in Python. Write x**2."
    columns = [start for _, _, start, _ in frame.f_code.co_positions()]
    line = linecache.getline(frame.f_code.co_filename, line_number).encode()
    failed = line[columns[frame.f_lasti // 2] or 0 :].decode()  # from the call that failed
    found = re.match(r"(?:math\.)?(\w+)\(", failed)
    if "converted to Python scalars" in str(error) and found and hasattr(math, found[1]) and hasattr(np, found[1]):
        yield f"math.{found[1]} takes one number. For an array, use np.{found[1]}."


def numpy_spellings(line: str) -> Iterator[str]:
    """What NumPy writes for the PyTorch in a line."""
    if found := [f"{torch} is {numpy}" for pattern, (torch, numpy) in SPELLINGS.items() if re.search(pattern, line)]:
        yield f"PyTorch is written otherwise in NumPy: {'; '.join(found)}."


def source_line(frame: FrameType, line_number: int) -> str:
    """A line of the file of a frame; "" if there is no file."""
    linecache.checkcache(frame.f_code.co_filename)
    return linecache.getline(frame.f_code.co_filename, line_number).strip()


def learners_places(error: BaseException) -> list[tuple[FrameType, int]]:
    """The frames that are the learner's, from the outermost to the innermost, and their line numbers."""
    places, step = [], error.__traceback__
    while step is not None:
        code, module = step.tb_frame.f_code, str(step.tb_frame.f_globals.get("__name__"))
        if module.split(".")[0] not in NOT_LEARNERS and not code.co_filename.startswith(STANDARD_LIBRARY):
            places.append((step.tb_frame, step.tb_lineno))
        step = step.tb_next
    return places
