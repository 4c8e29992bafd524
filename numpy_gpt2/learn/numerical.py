"""Numerical gradients: what a forward function says about its backward function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import seen
from .compare import Case, Outcome, is_right_everywhere
from .exercise import Exercise, Loss
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


def is_gradient(loss: Loss, outcome: Outcome) -> bool:
    """Whether the outcome of a backward function is the gradient of this loss, in random directions."""
    rng = np.random.default_rng(0)
    for name, array in loss.arrays.items():
        terms = outcome.arrays[name] * (direction := rng.standard_normal(array.shape))
        if not abs(slope(loss.value, array, direction) - terms.sum()) <= AGREE * np.linalg.norm(terms):
            return False
    return True


def own_gradient(
    exercise: Exercise, forward: Any, case: Case, outcome: Outcome, name: str, place: tuple[int, ...]
) -> Iterator[str]:
    """A sentence about the numerical gradient of the learner's own forward function, at the first wrong entry."""
    assert exercise.loss
    own, title = EXERCISES[exercise.forward or ""], f"your {exercise.forward}"
    try:
        loss = exercise.loss(forward, *copy.deepcopy(case.arguments))
        if not is_right_everywhere(own, forward):
            if is_gradient(loss, outcome):
                yield f"It is the gradient of {title}, which is not right yet. Correct {exercise.forward} first."
                return
            title += ", which is not right yet,"
        direction = np.zeros(loss.arrays[name].shape)
        direction[place] = 1
        gradient = slope(loss.value, loss.arrays[name], direction)
        yield f"The numerical gradient of {title} is {seen.number(gradient)} there."
    except Exception:  # a learner's function may raise anything
        yield f"{title[0].upper()}{title[1:]} does not run, so it has no numerical gradient."
