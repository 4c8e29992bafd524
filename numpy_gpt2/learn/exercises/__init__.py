"""The exercises, in five parts. The order inside a part is that of the module that it is about."""

from __future__ import annotations

from difflib import get_close_matches

from ..exercise import Exercise
from . import cache, forward, gradients, optimizer, sampling

PARTS: dict[str, list[Exercise]] = {
    "the forward pass": forward.EXERCISES,
    "sampling and the decode loop": sampling.EXERCISES,
    "the KV cache": cache.EXERCISES,
    "gradients": gradients.EXERCISES,
    "the optimizer": optimizer.EXERCISES,
}
EXERCISES = {exercise.name: exercise for exercises in PARTS.values() for exercise in exercises}


def exercise_named(name: str) -> Exercise:
    """The exercise with this name; a method's class may be left out. Raises ValueError if there is none."""
    found = [exercise for exercise in EXERCISES.values() if name in (exercise.name, exercise.short_name)]
    if not found:
        nearest = "".join(f"; the nearest is {near}" for near in get_close_matches(name, EXERCISES, n=1))
        raise ValueError(f"there is no exercise {name!r}{nearest}; --list shows all {len(EXERCISES)}")
    return found[0]
