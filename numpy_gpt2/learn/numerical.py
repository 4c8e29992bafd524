"""Numerical gradients: what a forward function says about its backward function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import seen
from .compare import Case, Outcome, is_right_everywhere
from .exercise import Exercise
from .exercises import EXERCISES

STEP = 1e-5
AGREE = 1e-6  # how exact a difference of two numbers can be, with this step


@np.errstate(all="ignore")
def slope(value: Callable[[], float], array: np.ndarray, direction: np.ndarray) -> float:
    """(L(x + h d) − L(x − h d)) / 2h: how L changes along a direction d, where x is an array that L depends on.

    For a random direction, it is Σ d · gradient only if all entries of the gradient are right.

    >>> x = np.array([3.0, 5.0])
    >>> round(slope(lambda: float(x[0] ** 2 + x[1]), x, np.array([1, 10])), 6)  # 1 · 2x₀ + 10 · 1
    16.0
    """
    x, values = array.copy(), []
    for step in (STEP, -STEP):
        array[...] = x + step * direction
        values.append(float(value()))
    array[...] = x
    return (values[0] - values[1]) / (2 * STEP)


def is_gradient_of(exercise: Exercise, forward: Any, case: Case, outcome: Outcome) -> bool:
    """Whether the outcome of a backward function is the gradient of this forward function, in random directions."""
    assert exercise.loss
    rng = np.random.default_rng(0)
    try:
        loss = exercise.loss(forward, *copy.deepcopy(case.arguments))
        for name, array in loss.arrays.items():
            terms = outcome.arrays[name] * (direction := rng.standard_normal(array.shape))
            if not abs(slope(loss.value, array, direction) - terms.sum()) <= AGREE * np.linalg.norm(terms):
                return False
    except Exception:  # the learner's forward function does not run
        return False
    return True


def compared(
    exercise: Exercise, forward: Any, case: Case, outcome: Outcome, name: str, place: tuple[int, ...]
) -> Iterator[str]:
    """A sentence about the numerical gradient at the first wrong entry. `forward` is the learner's, or None."""
    assert exercise.loss
    forward_exercise = EXERCISES[exercise.forward or ""]
    is_own = forward is not None and is_right_everywhere(forward_exercise, forward)
    if forward is not None and not is_own and is_gradient_of(exercise, forward, case, outcome):
        yield (
            f"It is the gradient of your own {exercise.forward}, which is not right yet."
            f" Correct {exercise.forward} first."
        )
        return
    loss = exercise.loss(
        forward if is_own else forward_exercise.subject(forward_exercise.reference), *copy.deepcopy(case.arguments)
    )
    direction = np.zeros(loss.arrays[name].shape)
    direction[place] = 1
    gradient = seen.number(slope(loss.value, loss.arrays[name], direction))
    yield f"The numerical gradient of {'your' if is_own else 'the package’s'} {exercise.forward} is {gradient} there."
