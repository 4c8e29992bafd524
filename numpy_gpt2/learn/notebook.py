"""my_gpt2.ipynb: a Jupyter notebook made from the same stubs. After each one comes a cell that checks it."""

from __future__ import annotations

import json
import re
from typing import Any

from .exercises import PARTS
from .file import INTRODUCTION, given_names, imports, stubs, weight_names

TEXT = f"""\
# GPT-2, to be written by you

Each function below has a description and no body. Write the body in the place of `raise NotImplementedError`, run the
cell, and run the cell after it: it tells what is wrong. You may write the functions in any order: the package's own are
used in the place of those that are not written. Names of parameters may change, their order may not.

{INTRODUCTION}"""

LAST = """\
## Your functions, in the real model

The package's functions are used in the place of those that you have not written."""


def new_notebook() -> str:
    """The notebook as JSON."""
    cells = [text_cell(TEXT)]
    cells.append(
        code_cell("\n".join([*imports(), "from numpy_gpt2 import learn", "", *given_names(), *weight_names()]))
    )
    for number, (title, exercises) in enumerate(PARTS.items(), start=1):
        cells.append(text_cell(f"## Part {number}: {title}"))
        for stub in stubs(exercises):
            name = re.match(r"(?:def|class) (\w+)", stub)
            assert name
            cells += [code_cell(stub.rstrip()), code_cell(f"learn.check({name[1]})")]
    cells += [text_cell(LAST), code_cell('learn.run(globals(), "To be, or not to be")')]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, ensure_ascii=False, indent=1) + "\n"


def text_cell(text: str) -> dict[str, Any]:
    """A cell of text in Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def code_cell(code: str) -> dict[str, Any]:
    """A cell of Python."""
    source = code.splitlines(keepends=True)
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
