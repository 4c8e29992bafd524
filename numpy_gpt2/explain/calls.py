"""The calls of the functions of `model.py` and `backward.py` while they run: what each was given and returned.

A hook sees named results only, and `backward.py` names few of its results. The calls have all of them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, NamedTuple


class Call(NamedTuple):
    """One call of a function."""

    name: str
    arguments: tuple[Any, ...]  # in the order of the parameters
    result: Any


def functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions that a module defines, by name, in this order. --with may have replaced some of them."""
    code = inspect.getsource(module)
    functions = {name: f for name, f in vars(module).items() if inspect.isfunction(f)}
    return {name: f for name, f in functions.items() if re.search(rf"^def {name}\(", code, re.MULTILINE)}


@contextmanager
def watch(*modules: ModuleType) -> Iterator[list[Call]]:
    """Record the calls of these modules' functions in this thread. They are listed in the order in which they return.

    Python itself reports the calls, through `sys.setprofile`, so the functions need no code for it.

    >>> from numpy_gpt2 import backward
    >>> with watch(backward) as calls:
    ...     _ = backward.relu_backward(5, 3)
    >>> calls
    [Call(name='relu_backward', arguments=(5, 3), result=5)]
    """
    names = {inspect.unwrap(f).__code__: name for module in modules for name, f in functions_of(module).items()}
    calls: list[Call] = []
    arguments: list[tuple[Any, ...]] = []  # of the calls that have not returned

    def profile(frame: FrameType, event: str, result: Any) -> None:
        code = frame.f_code
        if event == "call" and code in names:
            given = frame.f_locals
            arguments.append(tuple(given[name] for name in code.co_varnames[: code.co_argcount]))
        elif event == "return" and code in names:
            calls.append(Call(names[code], arguments.pop(), result))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)
