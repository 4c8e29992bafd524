"""What learners write, for the tests of `numpy_gpt2.learn`: a solved file, and functions written otherwise."""

import ast
import inspect
import linecache
import textwrap
from typing import Any

from numpy_gpt2 import learn
from numpy_gpt2.learn.exercises import EXERCISES
from numpy_gpt2.learn.file import new_file
from numpy_gpt2.learn.source import method_stub, stub


def file_with(*names: str) -> str:
    """The learner's file, in which these functions are the package's own source."""
    text = new_file()
    for name in names:
        exercise = EXERCISES[name]
        old = (method_stub if exercise.owner else stub)(exercise.reference)
        assert text.count(old) == 1, name
        text = text.replace(old, inspect.getsource(exercise.reference))
    return text


def functions_in(code: str) -> dict[str, Any]:
    """Run code as a learner's file: with the file's imports, and without any other function."""
    imports = new_file().split("# The names of the weights")[0]
    namespace: dict[str, Any] = {"__name__": "my_gpt2"}
    text = imports + textwrap.dedent(code)
    linecache.cache["<learner>"] = len(text), None, text.splitlines(keepends=True), "<learner>"
    exec(compile(text, "<learner>", "exec"), namespace)
    return namespace


def check_code(code: str) -> learn.Report:
    """Check the function, or the method of a class, that this code defines at its outermost level."""
    code = textwrap.dedent(code)
    [node] = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    function, name = functions_in(code)[node.name], node.name
    if isinstance(node, ast.ClassDef):
        methods = [f"{name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)]
        [name] = [method for method in methods if method in EXERCISES]
        function = getattr(function, name.rpartition(".")[2])
    return learn.check(function, name)
