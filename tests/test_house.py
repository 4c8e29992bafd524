"""The structure of the code: sizes, imports, names, and an example in every function of the core."""

import ast
import doctest
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from .conftest import ROOT

SOURCES = sorted([*ROOT.glob("numpy_gpt2/**/*.py"), *ROOT.glob("bench/*.py")])
CORE = ["model", "backward", "cache", "sampling", "generate"]


def lines_without_doctests(path: Path) -> int:
    """The lines of a file, except those of its doctests (input and expected output)."""
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    examples = [example for docstring in docstrings for example in doctest.DocTestParser().get_examples(docstring)]
    return len(text.splitlines()) - sum((example.source + example.want).count("\n") for example in examples)


def test_core_is_short():
    lengths = {name: lines_without_doctests(ROOT / "numpy_gpt2" / f"{name}.py") for name in CORE}
    assert lengths["model"] <= 260
    assert lengths["backward"] <= 275
    assert sum(lengths.values()) < 780


def test_no_file_is_long():
    longest = {"numpy_gpt2/**/*.py": 400, "bench/*.py": 400, "tests/**/*.py": 600, "**/README.md": 149}
    for pattern, limit in longest.items():
        for path in ROOT.glob(pattern):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= limit, path


def module_name(path: Path) -> str:
    """The name under which a file is imported: numpy_gpt2/train/__init__.py is numpy_gpt2.train."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """The project's modules that a file imports, at the top or inside a function."""
    package = module_name(path).split(".")
    if path.stem != "__init__":
        package.pop()
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            found |= {f"{source}.{alias.name}" for alias in node.names} | {source}
    return found & modules


def test_imports_have_no_cycle():
    modules = {module_name(path) for path in SOURCES}
    graph = {module_name(path): imported_modules(path, modules) for path in SOURCES}
    # A module may read `__version__` from its package, which is set before the package imports anything.
    packages = {module_name(path) for path in SOURCES if path.stem == "__init__"}
    graph = {
        name: {m for m in used if m not in packages or not f"{name}.".startswith(f"{m}.")}
        for name, used in graph.items()
    }
    assert len(graph) > 30
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("name", ["model", "backward", "sampling", "train.step"])
def test_every_function_of_the_core_has_an_example(name):
    module = import_module(f"numpy_gpt2.{name}")
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 3
    for function in functions:
        assert ">>>" in (ast.get_docstring(function) or ""), function.name


@pytest.mark.parametrize("library", ["requests", "tqdm", "threadpoolctl", "torch"])
def test_importing_the_package_does_not_load(library):
    code = f"import sys, numpy_gpt2; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_public_names_exist():
    import numpy_gpt2

    assert sorted(numpy_gpt2.__all__) == numpy_gpt2.__all__
    assert all(hasattr(numpy_gpt2, name) for name in numpy_gpt2.__all__)
