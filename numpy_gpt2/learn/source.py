"""From the source of a reference function: a stub without its body, and functions with a mistake.

There is no other copy of the source. When the reference changes, the stub changes with it, and a mistake in a line that
is no longer there raises ValueError.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .exercise import Exercise

NOT_WRITTEN = "raise NotImplementedError"
INDENT = " " * 4


class Mistake(NamedTuple):
    """A mistake that learners make: a sentence about it, and how the reference's source changes: (old, new), …

    Each `old` is a part of one line and must occur exactly once. In `new`, a line end continues at the indentation of
    the line. `name` is unique among the mistakes of the function. `same_as` names a mistake with the same numbers.
    """

    name: str
    sentence: str
    edits: tuple[tuple[str, str], ...]
    same_as: str | None = None


def mistake(name: str, sentence: str, *edits: tuple[str, str], same_as: str | None = None) -> Mistake:
    """A row of the tables in `mistakes/`."""
    return Mistake(name, sentence, edits, same_as)


@functools.cache
def parts(function: Any) -> tuple[str, str, str]:
    """The source of a function in three parts: signature, docstring, body. All lines end with a line end."""
    source = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    lines, first = source.splitlines(keepends=True), node.body[0]
    has_docstring = ast.get_docstring(node) is not None
    body = (node.body[1] if has_docstring else first).lineno - 1
    while has_docstring and lines[body - 1].strip().startswith("#"):  # a comment above the first line
        body -= 1
    start = first.lineno - 1
    return "".join(lines[:start]), "".join(lines[start:body]) if has_docstring else "", "".join(lines[body:])


def stub(function: Any) -> str:
    """The function's signature and docstring, the names for its hook and in its trace, and no body."""
    signature, docstring, body = parts(function)
    lines = [
        *name_list("names for the hook", re.findall(r'hook\("([\w.]+)"', body)),
        *name_list("names for dropout", re.findall(r'dropout\("([\w.]+)"', body)),
        *name_list("names in the trace", re.findall(r'trace(?:\[|\.pop\()f?"([^"]+)"', body)),
    ]
    return "\n".join([signature + docstring.rstrip(), *lines, INDENT + NOT_WRITTEN]) + "\n"


def name_list(title: str, names: list[str]) -> list[str]:
    """The lines of a comment that lists names; none if there are no names."""
    comment = f"{INDENT}# {title}: {', '.join(dict.fromkeys(names))}"
    return textwrap.wrap(comment, 120, subsequent_indent=f"{INDENT}# ") if names else []


def method_stub(method: Any) -> str:
    """The stub of a method, indented."""
    return textwrap.indent(stub(method), INDENT, lambda line: line.strip() != "")


def class_head(owner: Any) -> str:
    """The first lines of a class that inherits from `owner`: its docstring, and what its methods find in `self`."""
    head = f"class {owner.__name__}({owner.__module__}.{owner.__name__}):\n"
    if dataclasses.is_dataclass(owner):
        fields = f"The fields of self: {', '.join(field.name for field in dataclasses.fields(owner))}."
        return head + textwrap.fill(fields, 118, initial_indent="    # ", subsequent_indent="    # ") + "\n"
    docstring = textwrap.indent(f'"""{inspect.getdoc(owner)}\n"""\n', INDENT, lambda line: line.strip() != "")
    return f"{head}{docstring}\n{INDENT}# given\n{inspect.getsource(owner.__init__)}"


def equation(function: Any) -> str:
    """The first line of the docstring, up to its shapes."""
    first_line = (inspect.getdoc(function) or "").split("\n")[0]
    return re.split(r"\. (?=\(|Any shape)", first_line)[0].rstrip(".")


def line_with(function: Any, fragment: str) -> str:
    """The one line of the body that contains the fragment. Raises ValueError if there is not exactly one."""
    lines = [line.strip() for line in parts(function)[2].splitlines() if fragment in line]
    if len(lines) != 1:
        raise ValueError(f"{fragment!r} is in {len(lines)} lines of {function.__qualname__}; it must be in 1")
    return lines[0]


def with_mistakes(exercise: Exercise, *mistakes: Mistake) -> Any:
    """The reference function with these mistakes in it. Raises ValueError if one does not fit or if two overlap."""
    signature, _, body = parts(exercise.reference)
    changes = []
    for old, new in (edit for mistake in mistakes for edit in mistake.edits):
        if (n := body.count(old)) != 1:
            raise ValueError(f"{old!r} occurs {n} times in {exercise.name}; it must occur once")
        start = body.index(old)
        line = body[body.rindex("\n", 0, start) + 1 if "\n" in body[:start] else 0 :]
        new = new.replace("\n", "\n" + line[: len(line) - len(line.lstrip())])
        changes.append((start, start + len(old), new))
    changes.sort()
    if any(end > start for (_, end, _), (start, _, _) in itertools.pairwise(changes)):
        raise ValueError(f"two mistakes of {exercise.name} change the same part of the source")
    for start, end, new in reversed(changes):
        body = body[:start] + new + body[end:]
    created: dict[str, Any] = {}
    code = compile(f"from __future__ import annotations\n{signature}{body}", f"<{exercise.name}>", "exec")
    exec(code, {"np": np, "math": math} | exercise.reference.__globals__, created)
    return created[exercise.short_name]


def can_be_combined(exercise: Exercise, *mistakes: Mistake) -> bool:
    """Whether these mistakes change different parts of the source."""
    body = parts(exercise.reference)[2]
    spans = sorted((body.index(old), body.index(old) + len(old)) for m in mistakes for old, _ in m.edits)
    return all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def names_used(function: Any) -> Iterator[str]:
    """The names that the source of a function uses and that its module defines, its annotations included."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Name) and node.id in function.__globals__:
            yield node.id
