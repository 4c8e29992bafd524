"""The hook of a learner's function: which named results it gets, and whether its return values are used."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from . import seen
from .compare import TOLERANCES, Case, array_distance, cases, leaves
from .exercise import Exercise

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


def hook_problem(exercise: Exercise, subject: Any) -> str:
    """What is missing in the use of the hook, in one sentence; "" if nothing is."""
    if not exercise.hook:
        return ""
    case = cases(exercise)[0]
    missing = [*recorded(exercise, exercise.reference, case).keys() - recorded(exercise, subject, case).keys()]
    if missing:
        names = ", ".join(sorted(missing)[:3]) + ", …" * (len(missing) > 3)
        return f"It does not call {exercise.hook} for {names}: {NEEDED[exercise.hook]}."
    want, got = (run_with_hook(exercise, f, case, altered) for f in (exercise.reference, subject))
    pairs = zip(*(leaves(result, want, exercise.outputs) for result in (got, want)), strict=True)
    if any(array_distance(x, y, TOLERANCES[case.dtype]) > 1 for (_, x), (_, y) in pairs):
        return (
            f"It calls {exercise.hook}, but it does not use what {exercise.hook} returns where it must be used:"
            f" {NEEDED[exercise.hook]}."
        )
    return ""
