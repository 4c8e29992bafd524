"""Outcomes: everything that can be seen of a call, and the distance between two of them."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .exercise import Exercise, Inputs, Probe

TOLERANCES = {"float64": 1e-9, "float32": 1e-4}  # of the largest entry


@dataclass(frozen=True)
class Case:
    """One call: a probe, in one dtype."""

    probe: Probe
    dtype: str

    @functools.cached_property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments. Each call gets a copy, because a function may change them."""
        return self.probe.make(Inputs(self.dtype))


@dataclass
class Outcome:
    """What a call gave: arrays by name, or an error, or the reason why the result cannot be compared."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    error: BaseException | None = None
    problem: str = ""  # what is wrong with the type of the result
    accepted: bool = False  # there is a result where the reference raises an error: this is told, and is not a mistake
    changed: list[str] = field(default_factory=list)  # arguments that the call changed


@functools.cache
def cases(exercise: Exercise) -> list[Case]:
    """Every probe in float64, and the first one in float32, too: there, a wrong dtype shows."""
    return [*(Case(probe, "float64") for probe in exercise.probes), Case(exercise.probes[0], "float32")]


@functools.cache
def reference_result(exercise: Exercise, case: Case) -> Any:
    """What the reference returns."""
    with np.errstate(all="ignore"):
        return exercise.run(exercise.subject(exercise.reference), *copy.deepcopy(case.arguments))


@functools.cache
def expected(exercise: Exercise, case: Case) -> dict[str, np.ndarray]:
    """The arrays in the reference's result; none if it must raise an error."""
    if case.probe.error:
        return {}
    result = reference_result(exercise, case)
    return dict(leaves(result, result, exercise.outputs))


def observe(exercise: Exercise, subject: Any, case: Case) -> Outcome:
    """Call the subject with the arguments of a case. Errors are caught, warnings are ignored."""
    arguments, outcome = copy.deepcopy(case.arguments), Outcome()
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            result = exercise.run(subject, *arguments)
    except (Exception, SystemExit) as error:
        outcome.error = None if case.probe.error else error
        return outcome
    if case.probe.error:
        outcome.accepted = True
        return outcome
    try:
        outcome.arrays = dict(leaves(result, reference_result(exercise, case), exercise.outputs))
    except (TypeError, ValueError) as error:
        outcome.problem = str(error)
    for name, after, before in zip(exercise.argument_names, arguments, case.arguments, strict=False):
        if name not in exercise.may_change and not is_same(after, before):
            outcome.changed.append(name)
    return outcome


def leaves(value: Any, like: Any, names: tuple[str, ...], name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in a result, with their names. `like` is the reference's result, which has the same structure.

    A list in the place of an array is wrong, except for the three parts of `split_heads`.

    Raises TypeError or ValueError, with a text for the learner, if the structure is another one.
    """
    if isinstance(like, dict):
        if not isinstance(value, dict):
            raise TypeError(f"{kind(value)} came out; it must be a dict from names to arrays")
        missing, others = (
            ", ".join(sorted(map(repr, keys))[:3]) for keys in (like.keys() - value.keys(), value.keys() - like.keys())
        )
        if missing or others:
            problems = [f"missing are {missing}"] * bool(missing) + [f"not expected are {others}"] * bool(others)
            raise TypeError(f"The dict that came out has the wrong keys: {'; '.join(problems)}")
        for key in like:
            yield from leaves(value[key], like[key], names, key)
    elif isinstance(like, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(like):
            raise TypeError(f"{kind(value)} came out; it must be {len(like)} results: {', '.join(names)}")
        for part_name, part, part_like in zip(names, value, like, strict=True):
            yield from leaves(part, part_like, (), f"{part_name} of {name}" if name else part_name)
    elif hasattr(value, "__array__") and not isinstance(value, np.ndarray | np.generic):  # such as a tensor
        package = type(value).__module__.split(".")[0]
        raise TypeError(
            f"{name}: " * bool(name) + f"a {package} {type(value).__name__} came out; it must be a NumPy array"
        )
    else:
        if isinstance(like, np.ndarray) and isinstance(value, list | tuple) and len(value) != len(names):
            a = f"{name}: a" if name else "A"
            raise TypeError(f"{a} {type(value).__name__} came out; it must be an array: return np.array(…)")
        try:
            array = np.asarray(value)
        except ValueError:
            raise TypeError(
                f"{name}: " * bool(name) + f"{kind(value)} came out, whose items have several shapes"
            ) from None
        if array.dtype.kind not in "biuf":
            real = "an array or a number" if array is not value else f"of real numbers, not of dtype {array.dtype}"
            raise TypeError(f"{name}: " * bool(name) + f"{kind(value)} came out; it must be {real}")
        yield name, array


def kind(value: Any) -> str:
    """A value's type, in words.

    >>> kind((1, 2)), kind({}), kind(None)
    ('a tuple of 2', 'a value of type dict', 'None')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    return f"a {name} of {len(value)}" if isinstance(value, tuple | list) else f"a value of type {name}"


def is_same(x: Any, y: Any) -> bool:
    """Whether an argument is what it was. Only arrays, and dicts and lists of them, can be told."""
    if isinstance(x, np.ndarray):
        return x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(is_same(x[key], y[key]) for key in x)
    if isinstance(x, list):
        return len(x) == len(y) and all(map(is_same, x, y))
    return True


def is_right(exercise: Exercise, outcome: Outcome, case: Case) -> bool:
    """Whether the outcome is that of the reference."""
    return distance(outcome, Outcome(expected(exercise, case)), case.dtype) <= 1


def is_right_everywhere(exercise: Exercise, subject: Any) -> bool:
    """Whether a subject is right, without a diagnosis."""
    return all(is_right(exercise, observe(exercise, subject, case), case) for case in cases(exercise))


def distance(a: Outcome, b: Outcome, dtype: str, *, loosely: bool = False) -> float:
    """The largest difference of two outcomes, in tolerances; inf if they are of different kinds.

    With `loosely`, only the numbers count: not the dtype float32 or float64, and not the arguments that were changed.
    """
    same_kind = (type(a.error), a.problem, [*a.arrays]) == (type(b.error), b.problem, [*b.arrays])
    if not same_kind or (a.changed != b.changed and not loosely):
        return math.inf
    tolerance, pairs = TOLERANCES[dtype], zip(a.arrays.values(), b.arrays.values(), strict=True)
    return max((array_distance(x, y, tolerance, any_float=loosely) for x, y in pairs), default=0.0)


def array_distance(x: np.ndarray, y: np.ndarray, tolerance: float, *, any_float: bool = False) -> float:
    """The largest difference of two arrays, in tolerances. The unit is `tolerance` times the largest entry of y.

    It is inf for different shapes or dtypes, and if nan or inf are in different places. A number has no dtype.

    >>> array_distance(np.array([1.0, 2.0]), np.array([1.0, 4.0]), tolerance=0.1)
    5.0
    """
    if x.shape != y.shape or (x.ndim and not is_same_dtype(x, y) and not (any_float and x.dtype.kind == y.dtype.kind)):
        return math.inf
    tolerance = max(tolerance, rounding(x, y))
    with np.errstate(all="ignore"):
        x, y = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(y)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True) or not np.isfinite(x[finite]).all():
        return math.inf
    x, y = x[finite], y[finite]
    largest = float(np.abs(y).max(initial=0)) or 1.0
    with np.errstate(over="ignore"):
        return float(np.abs(x - y).max(initial=0)) / (tolerance * largest)


def rounding(x: np.ndarray, y: np.ndarray) -> float:
    """The tolerance of float32 if only one of two arrays of floats is float32, else 0."""
    return TOLERANCES["float32"] if x.dtype.kind == y.dtype.kind == "f" and x.dtype != y.dtype else 0.0


def is_same_dtype(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays have the same dtype. All integers count as one."""
    return x.dtype == y.dtype or (x.dtype.kind in "iu" and y.dtype.kind in "iu")
