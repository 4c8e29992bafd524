"""What a learner has written: found in a file or a notebook, and put in the place of the reference's functions."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from ..backward import ACTIVATIONS_BACKWARD, gelu_backward
from ..files import read_utf8
from .errors import in_one_line
from .exercise import Exercise
from .exercises import EXERCISES

Change = tuple[Any, Any, Any]  # a dict or a class, a name in it, and its new value

MISSING = object()  # the value of a name that is not there

CLASS_NAMES = {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__firstlineno__"}

STUBS = [
    compile(f"def f(): raise NotImplementedError{arguments}", "", "exec").co_consts[0].co_code
    for arguments in ("", "()", "('')")
]


def is_written(function: Any) -> bool:
    """Whether a function has a body other than `raise NotImplementedError`.

    >>> def f(x):
    ...     raise NotImplementedError
    >>> is_written(f), is_written(max)
    (False, True)
    """
    code = getattr(function, "__code__", None)
    return code is None or code.co_code not in STUBS or code.co_names != ("NotImplementedError",)


class Own:
    """The functions of the exercises that a namespace has, such as a module's or a notebook's globals.

    `functions` has those that are written, by the names of the exercises.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.functions = {n: f for n, e in EXERCISES.items() if callable(f := self.find(e)) and is_written(f)}

    def find(self, exercise: Exercise) -> Any:
        """The learner's function or method, written or not; None if there is none."""
        if not exercise.owner:
            return self.namespace.get(exercise.name)
        owner = self.namespace.get(exercise.owner.__name__)
        return vars(owner).get(exercise.short_name) if isinstance(owner, type) else None

    def is_reference(self, name: str) -> bool:
        """Whether a function was imported from the package."""
        return self.functions.get(name) is EXERCISES[name].reference

    def misspelt(self, name: str) -> str:
        """A question if a function of the file has almost this name, and it is no exercise; else ""."""
        functions = [key for key, f in self.namespace.items() if getattr(f, "__globals__", None) is self.namespace]
        nearest = get_close_matches(name, [key for key in functions if key not in EXERCISES], n=1, cutoff=0.8)
        return "".join(f"There is a function {key}: did you mean {name}?" for key in nearest)

    @contextmanager
    def using(self, names: Iterable[str]) -> Iterator[None]:
        """In this block, the learner's code calls these functions of its own, and the reference's for all others."""
        with changes(self.completions({*names})):
            yield

    def completions(self, names: set[str]) -> Iterator[Change]:
        """What `using` sets."""
        modules = [self.namespace, *(f.__globals__ for f in self.functions.values() if isinstance(f, FunctionType))]
        namespaces = {id(n): n for n in modules if not str(n.get("__name__")).startswith("numpy_gpt2")}
        if "gelu" in names:  # `mlp_backward` finds the derivative by the function
            yield ACTIVATIONS_BACKWARD, self.functions["gelu"], self.functions.get("gelu_backward", gelu_backward)
        for name, exercise in EXERCISES.items():
            function = self.functions[name] if name in names else exercise.reference
            for namespace in namespaces.values():
                if not exercise.owner:
                    yield namespace, name, function
                elif isinstance(owner := namespace.get(exercise.owner.__name__), type) and owner is not exercise.owner:
                    yield owner, exercise.short_name, function
                    if not issubclass(owner, exercise.owner):
                        yield from ((owner, name, value) for name, value in missing_members(owner, exercise.owner))
                else:
                    yield namespace, exercise.owner.__name__, exercise.owner

    def subject(self, exercise: Exercise) -> Any:
        """What is checked: the function, or the learner's class for a method."""
        function = self.functions[exercise.name]
        owner = self.namespace.get(exercise.owner.__name__) if exercise.owner else None
        if isinstance(owner, type) and vars(owner).get(exercise.short_name) is function:
            return owner
        return exercise.subject(adapted(exercise, function))

    def install(self, names: Iterable[str] | None = None) -> None:
        """Let the whole package use the learner's functions, until the process ends. The default is all of them."""
        set_all(self.installations(names))

    @contextmanager
    def installed(self, names: Iterable[str] | None = None) -> Iterator[None]:
        """In this block, the whole package uses the learner's functions. The default is all of them."""
        with changes(self.installations(names)):
            yield

    def installations(self, names: Iterable[str] | None) -> Iterator[Change]:
        """What `install` sets."""
        chosen = {*self.functions} if names is None else {*names}
        yield from self.completions(chosen)
        for owner in {EXERCISES[name].owner for name in chosen} - {None}:
            own_class = self.namespace[owner.__name__]
            if own_class is not owner:  # its own `__init__` and other helpers, too
                members = {name: value for name, value in vars(own_class).items() if is_written(value)}
                yield from ((owner, name, members[name]) for name in members.keys() - CLASS_NAMES)
        yield from replacements({name: self.functions[name] for name in chosen})


def missing_members(owner: type, complete: type) -> Iterator[tuple[str, Any]]:
    """What a learner's class lacks, if it does not inherit from the package's."""
    present = {name for parent in owner.__mro__[:-1] for name in vars(parent)} | CLASS_NAMES
    return ((name, value) for name, value in vars(complete).items() if name not in present)


@contextmanager
def changes(wanted: Iterable[Change]) -> Iterator[None]:
    """Make the changes; at the end of the block, undo them."""
    before = set_all(wanted)
    try:
        yield
    finally:
        set_all(reversed(before))


def set_all(wanted: Iterable[Change]) -> list[Change]:
    """Make the changes. Returns what was there before."""
    before = []
    for place, name, value in [*wanted]:
        before.append((place, name, (place if isinstance(place, dict) else vars(place)).get(name, MISSING)))
        put(place, name, value)
    return before


def put(place: Any, name: Any, value: Any) -> None:
    """Set a name of a dict or a class, or remove it if the value is MISSING."""
    if isinstance(place, dict):
        if value is MISSING:
            place.pop(name, None)
        else:
            place[name] = value
    elif value is not MISSING:
        setattr(place, name, value)
    elif name in vars(place):
        delattr(place, name)


def replacements(functions: dict[str, Any]) -> Iterator[Change]:
    """Where the package has these functions: in its modules, and as keys and values of dicts in its modules."""
    swaps = {}
    for name, function in functions.items():
        exercise = EXERCISES[name]
        if exercise.owner:
            yield exercise.owner, exercise.short_name, adapted(exercise, function)
        else:
            swaps[id(exercise.reference)] = adapted(exercise, function)
        if not function.__doc__:
            function.__doc__ = exercise.reference.__doc__  # the explain page shows the equation
    for module_name, module in [*sys.modules.items()]:
        if not module_name.startswith("numpy_gpt2") or module_name.startswith(__package__):
            continue
        for name, value in [*vars(module).items()]:
            if id(value) in swaps:
                yield vars(module), name, swaps[id(value)]
            elif isinstance(value, dict) and not name.startswith("__"):
                for key, item in [*value.items()]:
                    if id(key) in swaps:
                        yield value, key, MISSING
                    if id(key) in swaps or id(item) in swaps:
                        yield value, swaps.get(id(key), key), swaps.get(id(item), item)


def adapted(exercise: Exercise, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, for callers that use the reference's signature.

    Its parameters may have other names, and it need not have one for the hook.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # such as a NumPy ufunc
        return function
    signature = inspect.signature(exercise.reference)
    if [(p.name, p.kind) for p in parameters.values()] == [(p.name, p.kind) for p in signature.parameters.values()]:
        return function
    n = exercise.parameters.index(exercise.hook) if exercise.hook else len(exercise.parameters)
    n += len(parameters) > n  # the hook is passed if there is a parameter for it
    kinds = [parameter.kind for parameter in parameters.values()]
    keywords = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    n_positional = len(kinds) - len(keywords) - (inspect.Parameter.VAR_KEYWORD in kinds)

    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        same_names = named.keys() <= parameters.keys() or inspect.Parameter.VAR_KEYWORD in kinds
        if same_names and not (keywords and len(arguments) > n_positional):
            return function(*arguments[:n], **named)
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        values = [*bound.arguments.values()][:n]
        in_order = values[:n_positional] if keywords else values
        return function(*in_order, **dict(zip(keywords, values[len(in_order) :], strict=False)))

    return called


def load_file(path: str | Path) -> Own:
    """Run a learner's file as a module. Raises OSError, or ValueError with one line about what is wrong in the file."""
    path = Path(path)
    text, full_path = read_utf8(path), str(path.resolve())
    module = ModuleType(path.stem)
    module.__file__ = full_path
    sys.modules.setdefault(path.stem, module)
    sys.path.append(str(Path(full_path).parent))
    try:
        exec(compile(text.removeprefix("\ufeff"), full_path, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        raise ValueError(load_problem(error, path.name, full_path)) from None
    return Own(vars(module))


def load_problem(error: BaseException, name: str, full_path: str) -> str:
    """Why a file does not run, in one line."""
    if isinstance(error, SyntaxError):
        return f"{name} is not Python: {f'line {error.lineno}: ' * bool(error.lineno)}{error.msg}"
    line = f"line {line_of(error, full_path)}"
    if isinstance(error, SystemExit):
        return f"{name} calls exit() in {line}; it must only define functions"
    if isinstance(error, EOFError):
        return f"{name} reads standard input in {line}; it must only define functions"
    return f"{name} does not run: {line}: {in_one_line(error)}"


def error_text(error: BaseException, path: Path) -> str:
    """An error in one line, with the innermost line of the learner's file."""
    line = line_of(error, str(path.resolve()))
    return f"{path.name}{f', line {line}' * bool(line)}: {in_one_line(error)}"


def line_of(error: BaseException, full_path: str) -> int:
    """The innermost line of a file in an error's traceback; 0 if there is none."""
    step, line = error.__traceback__, 0
    while step is not None:
        if step.tb_frame.f_code.co_filename == full_path:
            line = step.tb_lineno
        step = step.tb_next
    return line
