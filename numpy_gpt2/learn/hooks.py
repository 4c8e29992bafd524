"""The hook of a learner's function: which named results it gets, and whether its return values are used."""

from __future__ import annotations

import ast
import copy
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from . import seen
from .compare import TOLERANCES, Case, array_distance, cases, leaves
from .errors import in_one_line
from .exercise import Exercise
from .source import parts

Hook = Callable[[str, np.ndarray], np.ndarray]

NEEDED = {"hook": "train and explain need it", "dropout": "train needs it"}  # by the name of the parameter


def run_with_hook(exercise: Exercise, subject: Any, case: Case, hook: Hook) -> Any:
    """Call the subject with a hook. Parameters between the probe's arguments and the hook get None."""
    position = exercise.parameters.index(exercise.hook or "")
    arguments = [*copy.deepcopy(case.arguments)]
    arguments += [None] * (position - len(arguments))
    with np.errstate(all="ignore"):
        return exercise.run(subject, *arguments, hook)


def recorded(exercise: Exercise, subject: Any, case: Case) -> dict[str, np.ndarray]:
    """The named results, in the order of the calls. They end where the subject fails."""
    trace: dict[str, np.ndarray] = {}

    def record(name: str, value: np.ndarray) -> np.ndarray:
        trace.setdefault(name, np.array(value))
        return value

    with suppress(Exception):
        run_with_hook(exercise, subject, case, record)
    return trace


def first_difference(exercise: Exercise, subject: Any, case: Case) -> Iterator[str]:
    """The first named result that differs from the reference's, in a function that calls the hook."""
    got, want = recorded(exercise, subject, case), recorded(exercise, exercise.reference, case)
    for name in want:
        if name in got and array_distance(got[name], want[name], TOLERANCES[case.dtype]) > 1:
            problem = seen.wrong_shape(got[name], want[name])
            if place := not problem and seen.first_wrong(got[name], want[name], TOLERANCES[case.dtype]):
                problem = seen.entry(name, place, got[name], want[name])
            yield f"The first named result that differs: {problem}"
            return


def altered(name: str, value: np.ndarray) -> np.ndarray:
    """A hook that multiplies each entry by a factor of its own, as dropout does. A name always has the same factors."""
    factors = 1 + 0.1 * np.random.default_rng([*name.encode()]).random(value.shape)
    return value * factors.astype(value.dtype)


def pass_on(exercise: Exercise) -> str:
    """The functions that get the hook from this one, in a sentence."""
    calls = [
        node
        for node in ast.walk(ast.parse(textwrap.dedent(parts(exercise.reference)[2])))
        if isinstance(node, ast.Call)
    ]
    found = {ast.unparse(call.func): [ast.unparse(argument) for argument in call.args] for call in calls}
    names = [
        name
        for name, arguments in found.items()
        if name != "within" and arguments[-1:] and re.fullmatch(rf"(within\(.*, )?{exercise.hook}\)?", arguments[-1])
    ]
    return f" Pass {exercise.hook} on to {' and '.join(sorted(names))}." if names else ""


def listed(names: Iterable[str]) -> str:
    """Some of the names."""
    names = sorted(names)
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def is_close(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays are equal, up to rounding."""
    return array_distance(x, y, TOLERANCES["float64"]) <= 1


def hook_problem(exercise: Exercise, subject: Any) -> str:
    """What is missing in the use of the hook, in one sentence; "" if nothing is."""
    if not exercise.hook:
        return ""
    case, body = cases(exercise)[0], parts(exercise.reference)[2]
    names, mine = recorded(exercise, exercise.reference, case), recorded(exercise, subject, case)
    missing = names.keys() - mine.keys()
    if missing:
        odd = f"; it calls it for {listed(others)}" if (others := mine.keys() - names.keys()) else ""
        callees = "" if odd or all(f'"{name}"' in body for name in missing) else pass_on(exercise)
        return f"It does not call {exercise.hook} for {listed(missing)}{odd}: {NEEDED[exercise.hook]}.{callees}"
    want = run_with_hook(exercise, exercise.reference, case, altered)
    try:
        got = run_with_hook(exercise, subject, case, altered)
    except Exception as error:
        return f"With {exercise.hook}, it raises {in_one_line(error)}."
    if differ(exercise, case, got, want):
        for a, b in itertools.combinations(names, 2):
            if is_close(mine[a], names[b]) and is_close(mine[b], names[a]):
                return f"The names {a} and {b} are exchanged in the calls of {exercise.hook}: {NEEDED[exercise.hook]}."
        return f"It calls {exercise.hook}, but {unused(exercise, subject, case, names)}: {NEEDED[exercise.hook]}."
    return ""


def differ(exercise: Exercise, case: Case, got: Any, want: Any) -> bool:
    """Whether two results of a case are different in any array."""
    pairs = zip(*(leaves(result, want, exercise.outputs) for result in (got, want)), strict=True)
    return any(array_distance(x, y, TOLERANCES[case.dtype]) > 1 for (_, x), (_, y) in pairs)


def unused(exercise: Exercise, subject: Any, case: Case, names: Iterable[str]) -> str:
    """For which names the return value of the hook is not used as it must be, in a clause."""
    found = []
    for name in names:

        def alter_one(other: str, value: np.ndarray, name: str = name) -> np.ndarray:
            return altered(name, value) if other == name else value

        want, got = (run_with_hook(exercise, function, case, alter_one) for function in (exercise.reference, subject))
        if differ(exercise, case, got, want):
            found.append(name)
    of = f" for {listed(found)}" if found else ""
    return f"what {exercise.hook} returns{of} is not used where it must be"
