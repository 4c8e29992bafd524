"""Checks from the top: what is right, and the diagnosis of the first function that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint import Model, load
from ..console import write
from ..hub import BUNDLED
from ..stream import generate_text
from .compare import is_right_everywhere
from .diagnosis import Report, check_subject
from .exercise import Exercise
from .exercises import EXERCISES, exercise_named
from .hooks import hook_problem
from .own import Own, is_written


class Progress(NamedTuple):
    """What is right, what is wrong, and the diagnosis of the first wrong one. All others are not written."""

    right: list[str]
    wrong: list[str]
    report: Report | None


def check_all(own: Own, names: Iterable[str] = EXERCISES, diagnose: bool = True) -> Progress:
    """Check these functions from the top.

    Each one calls the learner's functions that are right, and else the package's. So a wrong `layer_norm` does not make
    `block` wrong.
    """
    right: list[str] = []
    wrong: list[str] = []
    report = None
    for name in names:
        if name in own.functions:
            with own.using(called(EXERCISES[name], right)):
                subject = own.subject(EXERCISES[name])
                if is_right_everywhere(EXERCISES[name], subject):
                    right.append(name)
                    continue
                wrong.append(name)
                if diagnose and report is None:
                    report = check_subject(EXERCISES[name], subject, forward_of(own, EXERCISES[name]))
    return Progress(right, wrong, report)


def called(exercise: Exercise, right: list[str]) -> set[str]:
    """The learner's functions that are called while this one is checked. All others are the package's."""
    return {exercise.name, *right} - {*exercise.fixed}


def forward_of(own: Own, exercise: Exercise) -> Any:
    """The forward function of a backward function, right or wrong, if the learner has written one."""
    name = exercise.forward
    return own.subject(EXERCISES[name]) if name in own.functions and not own.is_reference(name) else None


def check_one(own: Own, exercise: Exercise) -> Report:
    """Check one function. In the place of functions before it that are wrong, it calls the package's."""
    name = exercise.name
    if name not in own.functions:
        return Report(name, False, " ".join(filter(None, [f"{name}: not written yet.", own.misspelt(name)])))
    if own.is_reference(name):
        return Report(name, True, f"{name}: right. It is the package's own function, imported.")
    names = [*EXERCISES]
    before = check_all(own, names[: names.index(name)], diagnose=False)
    with own.using(called(exercise, before.right)):
        report = check_subject(exercise, own.subject(exercise), forward_of(own, exercise))
    if report and (problem := own_hook_problem(own, exercise, called(exercise, before.right))):
        right = f"{name}: right."
        report.text = f"{right} {problem}{report.text.removeprefix(right)}"
    used = getattr(getattr(own.functions[name], "__code__", None), "co_names", ())
    if replaced := [other for other in before.wrong if other.rpartition(".")[2] in used]:
        them = "yours is" if len(replaced) == 1 else "yours are"
        report.text += f"\n   It was checked with the package's {', '.join(replaced)}, because {them} not right yet."
    return report


def own_hook_problem(own: Own, exercise: Exercise, names: Iterable[str]) -> str:
    """What is missing in a function's use of the hook, when it calls these functions of the learner; "" if nothing is.

    It must be missing with the package's functions inside, too: else the fault is in one of those that it calls.
    """
    problem = ""
    for inside in ([*names], [exercise.name]):
        with own.using(inside):
            problem = hook_problem(exercise, own.subject(exercise))
        if not problem:
            break
    return problem


def hook_problems(own: Own, names: Iterable[str]) -> dict[str, str]:
    """The functions that do not use the hook as the package's do, each with a sentence."""
    found = {name: own_hook_problem(own, EXERCISES[name], own.functions) for name in names}
    return {name: problem for name, problem in found.items() if problem}


def check(function: Any, name: str | None = None) -> Report:
    """Check a function that you have written: `learn.check(layer_norm)`, or `learn.check(f, "layer_norm")`.

    The report is true if the function is right, and shows what was found. `report.mistake` is the short name of a known
    mistake, such as "layer_norm/ddof", or None. For a class, the first of its methods that is not right is reported.

    Functions that `function` calls are yours if they are right, and else the package's. Raises TypeError if it is not a
    function, and ValueError if no exercise has this name.
    """
    if not callable(function):
        raise TypeError(f"{function!r} is not a function; check takes a function, as in check(layer_norm)")
    if isinstance(function, type) and name is None:
        methods = [e for e in EXERCISES.values() if e.owner and e.owner.__name__ == function.__name__]
        if not methods:
            raise ValueError(f"there is no exercise in a class {function.__name__}")
        own = own_of(next((f for f in vars(function).values() if hasattr(f, "__globals__")), None))
        own = Own({**own.namespace, function.__name__: function})
        reports = (check_one(own, exercise) for exercise in methods)
        return next(
            (report for report in reports if not report),
            Report(function.__name__, True, f"{function.__name__}: right."),
        )
    if name is None and not hasattr(function, "__name__"):
        raise TypeError(f"{function!r} has no name; give one, as in check(f, 'layer_norm')")
    exercise = exercise_named(function.__name__ if name is None else name)
    if isinstance(function, type):  # a class, for one of its methods
        function = vars(function).get(exercise.short_name, function)
    own = own_of(function)
    own.functions.pop(exercise.name, None)
    if is_written(function):
        own.functions[exercise.name] = function
    return check_one(own, exercise)


def own_of(function: Callable[..., Any] | None) -> Own:
    """What is written where a function was defined."""
    return Own(getattr(function, "__globals__", {}))


def run(
    namespace: dict[str, Any],
    prompt: str,
    model: Model | str | Path = BUNDLED,
    max_new_tokens: int = 100,
    **options: Any,
) -> None:
    """Continue a prompt with your functions, and print the text: `learn.run(globals(), "To be")`.

    The package's functions are used for those that you have not written. The options are those of `generate_text`.
    """
    if not isinstance(model, Model):
        model = load(model)
    with Own(namespace).installed():
        for piece in generate_text(prompt, model, max_new_tokens=max_new_tokens, **options):
            write(piece)
    write("\n")
