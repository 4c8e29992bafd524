"""my_gpt2.py: written from the stubs, and set back to them, function by function."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from ..files import read_utf8, staged_writes
from .exercise import Exercise, Inputs
from .exercises import EXERCISES, PARTS
from .source import INDENT, class_head, method_stub, names_used, stub

NAME = "my_gpt2.py"

INTRODUCTION = """\
The letters B, T, S, C, H, D, V, P and L are the sizes: batch, new tokens, keys, channels, heads, channels per head,
vocabulary, positions (n_positions, the longest text) and layers.

A result has the dtype of x: for float32 it is float32, for float64 it is float64. In `mlp` and `mlp_backward`,
`activation` is a function, such as `gelu`. In a config, `activation_function` is its name: a key of `ACTIVATIONS`.

A `hook` takes the name and the value of an intermediate result, and returns the value to go on with: x = hook("ln_1",
x). A stub lists its names, in the order of the calls. A function that calls others with a `hook` passes it on to them:
within("h.0.", hook) puts a prefix before their names. You may leave all of this out; `train` and `explain` need it.

`trace` is the dict {name: value} of what the hook got in the forward pass. `dropout` is the hook of a gradient: it
multiplies the gradient by the mask that the value of this name got: dy = dropout("mlp_out", dy). The values in `trace`
are those before dropout. Where the forward pass went on with the value after it, call dropout for this value, too:
x = dropout("resid_pre", trace["resid_pre"]). Only `train` needs `dropout`.

KVCache(config, B, dtype) makes an empty cache. Its dtype must be that of the weights; without it, it is float32.
"""

TITLE = f'''"""GPT-2, to be written by you.

Each function below has a description and no body. Write the body in the place of `raise NotImplementedError`, then run

    python -m numpy_gpt2.learn

which checks everything and tells what is wrong. You may write the functions in any order: the package's own are used in
the place of those that are not written. Names of parameters may change, their order may not.

{INTRODUCTION}"""
'''


def new_file() -> str:
    """The text of a file with all stubs."""
    parts = ["\n".join([TITLE, *imports(), "", *given_names(), *weight_names()])]
    for number, (title, exercises) in enumerate(PARTS.items(), start=1):
        parts.append(heading(number, title))
        parts += stubs(exercises)
    return "\n\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def weight_names() -> list[str]:
    """The names and shapes of the weights, as comments."""
    n = Inputs("float64")
    shapes = n.config().parameter_shapes()
    names = [*n.config(n_layer=1).parameter_shapes()]
    width = max(map(len, names))
    lines = [f"#     {name:<{width}}  {n.letters(shapes[name])}" for name in names]
    return ["# The names of the weights and their shapes. Block 1's names begin with h.1, and so on:", "#", *lines]


def heading(number: int, title: str) -> str:
    """The line above a part."""
    return f"# ==== Part {number}: {title} ".ljust(119, "=")


def stubs(exercises: list[Exercise]) -> Iterator[str]:
    """The stub of each function, and of each class with all its methods."""
    owners = []
    for exercise in exercises:
        if not exercise.owner:
            yield stub(exercise.reference)
        elif exercise.owner not in owners:
            owners.append(exercise.owner)
            methods = [method_stub(e.reference) for e in exercises if e.owner is exercise.owner]
            yield "\n".join([class_head(exercise.owner), *methods])


def given() -> dict[str, tuple[str, Any]]:
    """The names that the exercises use and that are no exercises: the module to import each from, and its value."""
    exercises = {name.partition(".")[0] for name in EXERCISES}
    found: dict[str, tuple[str, Any]] = {}
    for exercise in EXERCISES.values():
        for name in {*names_used(exercise.reference)} - exercises:
            value = exercise.reference.__globals__[name]
            home = str(getattr(value, "__module__", ""))
            module = home if home.startswith("numpy_gpt2.") else exercise.reference.__module__
            found.setdefault(name, (module, value))
    return found


def imports() -> list[str]:
    """The imports of the file."""
    modules = {f"import {exercise.owner.__module__}" for exercise in EXERCISES.values() if exercise.owner}
    members: dict[str, list[str]] = {}
    for name, (module, value) in given().items():
        if isinstance(value, ModuleType):
            modules.add(f"import {value.__name__} as {name}".replace(f"{name} as {name}", name))
        else:
            members.setdefault(module, []).append(name)
    froms = [f"from {module} import {', '.join(sorted(names))}" for module, names in members.items()]
    return ["from __future__ import annotations", "", *sorted(modules), "", *sorted(froms)]


def given_names() -> list[str]:
    """What the imported names are, as comments: the first line of a docstring, or the keys of a dict."""
    lines = []
    for name, (_, value) in sorted(given().items()):
        if inspect.isfunction(value):
            parameters, (summary, *_) = inspect.signature(value).parameters, (inspect.getdoc(value) or "").split("\n")
            lines.append(f"{name}({', '.join(parameters)}): {summary}")
        elif isinstance(value, dict):
            keys = (getattr(key, "__name__", repr(key)) for key in value)
            lines.append(f"{name}[…]: a function for each of {', '.join(keys)}.")
    comments = [textwrap.wrap(line, 112, initial_indent="#     ", subsequent_indent="#         ") for line in lines]
    return ["# Imported for you:", "#", *itertools.chain(*comments), "#"]


def write_new(path: Path, text: str) -> None:
    """Write a file, completely or not at all."""
    with staged_writes(path.resolve().parent) as staging:
        (staging / path.name).write_text(text, encoding="utf-8", newline="")


def place_of(exercise: Exercise, lines: list[str]) -> tuple[int, int]:
    """The first line of a function in a file, counted from 0, and the line after its last one. (0, 0) if it is absent.

    The file need not be valid Python: then, a function ends where the indentation does.
    """
    with suppress(SyntaxError):
        nodes: list[Any] = ast.parse("\n".join(lines)).body
        if exercise.owner:
            classes = [
                node for node in nodes if isinstance(node, ast.ClassDef) and node.name == exercise.owner.__name__
            ]
            nodes = classes[-1].body if classes else []
        found = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == exercise.short_name]
        return (found[-1].lineno - 1, found[-1].end_lineno or 0) if found else (0, 0)
    indent = INDENT if exercise.owner else ""
    start, end = 0, len(lines)
    if exercise.owner:
        heads = [i for i, line in enumerate(lines) if re.match(rf"class {exercise.owner.__name__}\b", line)]
        if not heads:
            return 0, 0
        start = heads[-1] + 1
        end = next((i for i in range(start, end) if re.match(r"[^\s#)]", lines[i])), end)
    heads = [i for i in range(start, end) if re.match(rf"{indent}def {exercise.short_name}\b", lines[i])]
    if not heads:
        return 0, 0
    body = (i for i in range(heads[-1] + 1, end) if re.match(rf"(?!{indent}[ \t)])\s*\S", lines[i]))
    last = next(body, end)
    while not lines[last - 1].strip() or (
        last < end and lines[last - 1].lstrip().startswith("#") and not lines[last - 1].startswith(indent + " ")
    ):
        last -= 1
    return heads[-1], last


def reset(path: Path, exercise: Exercise) -> None:
    """Replace a function by its stub, and keep the old body as a comment below it. An absent function is appended."""
    text = read_utf8(path)
    lines, line_end = text.splitlines(), "\r\n" if "\r\n" in text else "\n"
    start, end = place_of(exercise, lines)
    if (start, end) == (0, 0):
        if exercise.owner:
            raise ValueError(f"{path} has no {exercise.name}; write its class, or begin a new file")
        lines += ["", ""]
        start = end = len(lines)
    new = (method_stub if exercise.owner else stub)(exercise.reference).splitlines()
    indent = INDENT if exercise.owner else ""
    if lines[start:end] == new:
        raise ValueError(f"{exercise.name} is a stub already; nothing was changed")
    body = [f"{indent}# {line}".rstrip() for line in lines[start:end] if line not in new]
    lines[start:end] = [*new, *body]
    write_new(path, line_end.join(lines) + line_end)
