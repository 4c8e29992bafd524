"""A function is checked: right, or what exactly is wrong.

The order is: not written; an error; no result; a wrong type, shape or dtype; a changed argument; a known mistake, or
two of them; and then only what can be seen. A mistake is named only if it gives the same numbers for every probe.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np

from . import seen
from .compare import TOLERANCES, Case, Outcome, array_distance, cases, distance, expected, is_right, observe
from .errors import in_one_line, raised
from .exercise import Exercise
from .hooks import first_difference
from .mistakes import MISTAKES
from .numerical import own_gradient
from .source import Mistake, can_be_combined, with_mistakes

EVERYTHING = {"everything"}  # is wrong if there is no result

MOST_ARRAYS = 3  # of one result, that are described


@dataclass
class Report:
    """The result of a check: true or false as a condition, its text as a string and in a notebook."""

    name: str
    right: bool
    text: str
    mistake: str | None = None  # such as "layer_norm/ddof"; "a/b+c" for two mistakes

    def __bool__(self) -> bool:
        return self.right

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f'<pre style="white-space: pre-wrap">{escape(self.text)}</pre>'


def check_subject(exercise: Exercise, subject: Any, forward: Any = None) -> Report:
    """Check a function, or a class for a method.

    For a backward function, `forward` is the learner's forward function, right or wrong, or None.
    """
    outcomes = []
    for case in cases(exercise):
        outcomes.append(observe(exercise, subject, case))
        if isinstance(outcomes[0].error, NotImplementedError):
            break
    results = [*zip(cases(exercise), outcomes, strict=False)]
    wrong = [(case, outcome) for case, outcome in results if not is_right(exercise, outcome, case)]
    if not wrong:
        accepted = [
            f"For {case.probe.what}, there is a result, which means nothing;"
            f" the package raises {case.probe.error.__name__}."
            for case, outcome in results
            if case.probe.error and outcome.accepted
        ]
        return Report(exercise.name, True, " ".join([f"{exercise.name}: right.", *accepted[:1]]))
    found = known_mistakes(exercise, results, wrong)
    names = "+".join(mistake.name for mistake in found.mistakes if found.everywhere) or beside_numbers(exercise, wrong)
    lines = [*describe(exercise, subject, results, wrong, found, forward)]
    text = "\n   ".join([f"{exercise.name}: not yet. {lines[0]}", *lines[1:]])
    return Report(exercise.name, False, text, f"{exercise.name}/{names}" if names else None)


def beside_numbers(exercise: Exercise, wrong: list[tuple[Case, Outcome]]) -> str:
    """The name of what is wrong if all numbers are right: "in_place" for a changed argument, "dtype", or else ""."""
    for case, outcome in wrong:
        if distance(outcome, Outcome(expected(exercise, case)), case.dtype, loosely=True) > 1:
            return ""
    return "in_place" if any(outcome.changed for _, outcome in wrong) else "dtype"


def describe(
    exercise: Exercise,
    subject: Any,
    results: list[tuple[Case, Outcome]],
    wrong: list[tuple[Case, Outcome]],
    found: Found,
    forward: Any,
) -> Iterator[str]:
    """The lines of the diagnosis; the first one follows "not yet."."""
    case, outcome = wrong[0]
    sentences = [mistake.sentence for mistake in found.mistakes]
    structural = [*structural_problem(exercise, case, outcome)]
    dtype = "" if structural else next(filter(None, (wrong_dtype(exercise, *each) for each in wrong)), "")
    if structural:
        yield from structural
        if sentences and found.everywhere:
            yield from named("This mistake gives", "These two mistakes together give", "exactly this", sentences)
    elif found.mistakes:
        if found.everywhere:
            start = "These are exactly the numbers of"
            yield from named(f"{start} this mistake", f"{start} two mistakes together", "", sentences)
        else:
            yield f"For {case.probe.what}, the numbers are as if this was the mistake: {sentences[0]}"
            yield "Other inputs show that it is another one, or not the only one."
    elif dtype and not [*entry(exercise, case, outcome, None)]:
        yield dtype
        dtype = ""
    else:
        facts = [*visible(exercise, case, outcome)]
        if distance(observe(exercise, subject, case), outcome, case.dtype) > 1:
            facts.insert(0, "A second call with the same arguments gives other numbers.")
        yield "No mistake that is known here gives these numbers." + " What can be seen:" * bool(facts)
        yield from facts
    yield from which_probes(results, wrong)
    if dtype:
        yield f"Also: {dtype}"
    if not structural:
        yield from entry(exercise, case, outcome, forward)
        if exercise.hook == "hook":
            yield from first_difference(exercise, subject, case)


def named(one: str, two: str, end: str, sentences: list[str]) -> Iterator[str]:
    """The sentence of one mistake, or a list of those of two."""
    if len(sentences) == 1:
        yield f"{one} {end}".rstrip() + f": {sentences[0]}"
    else:
        yield f"{two} {end}".rstrip() + ":"
        yield from (f"{i}. {sentence}" for i, sentence in enumerate(sentences, start=1))


def structural_problem(exercise: Exercise, case: Case, outcome: Outcome) -> Iterator[str]:
    """What is wrong before numbers can be compared."""
    if outcome.error is not None:
        yield from raised(exercise, outcome.error)
        return
    if outcome.problem:
        yield (
            "It returns None: is a `return` missing?"
            if "None came out" in outcome.problem
            else f"{outcome.problem[0].upper()}{outcome.problem[1:]}."
        )
        return
    for name, want in expected(exercise, case).items():
        got = outcome.arrays[name]
        if problem := seen.wrong_shape(got, want):
            yield order_of_results(exercise, case, outcome) or (f"{name}: " if name else "") + problem
            return
    if outcome.changed:
        names = " and ".join(outcome.changed)
        yield (
            f"It changes its argument {names}. The caller's array must stay as it is: write x = x + …, not x += …, or"
            " change a copy."
        )


def order_of_results(exercise: Exercise, case: Case, outcome: Outcome) -> str:
    """A sentence if the results are right, but in another order."""
    wants = expected(exercise, case)
    for order in itertools.permutations(wants) if [*wants] == [*exercise.outputs] else ():
        pairs = ((got, wants[name]) for got, name in zip(outcome.arrays.values(), order, strict=True))
        if all(array_distance(got, want, TOLERANCES[case.dtype]) <= 1 for got, want in pairs):
            return f"The results are right, but their order is {', '.join(order)}; it must be {', '.join(wants)}."
    return ""


def wrong_dtype(exercise: Exercise, case: Case, outcome: Outcome) -> str:
    """A sentence if a dtype is wrong."""
    for name, want in expected(exercise, case).items():
        if name in outcome.arrays and (problem := seen.wrong_dtype(outcome.arrays[name], want)):
            return (f"{name}: " if name else "") + problem
    return ""


def visible(exercise: Exercise, case: Case, outcome: Outcome) -> Iterator[str]:
    """What can be seen of the arrays that are wrong: of each in a tuple, and of the first one in a large dict."""
    wants, gots = expected(exercise, case), outcome.arrays
    wrong = [name for name in wants if array_distance(gots[name], wants[name], TOLERANCES[case.dtype]) > 1]
    if len(wants) > 1:
        yield from which_arrays(wrong, [name for name in wants if name not in wrong])
    for name in wrong if len(wrong) <= MOST_ARRAYS else wrong[:1]:
        yield from ((f"{name}: " if name else "") + fact for fact in seen.facts(gots[name], wants[name]))
        if name == next(iter(wants)):
            yield from (
                f"{what.capitalize()}; it does not." for what, holds in exercise.invariants if not holds(gots[name])
            )


def which_arrays(wrong: list[str], right: list[str]) -> Iterator[str]:
    """Which of several arrays are wrong, or which are right: the shorter list."""
    if not right:
        yield f"{listed(wrong)} are wrong." if len(wrong) <= MOST_ARRAYS else f"All {len(wrong)} arrays are wrong."
    elif len(wrong) <= len(right):
        yield f"Wrong: {listed(wrong)}. All others are right."
    else:
        yield f"Right: {listed(right)}. All others are wrong."


def listed(names: list[str]) -> str:
    """Names, or some of them and how many there are.

    >>> listed(["dq", "dk", "dv"])
    'dq, dk and dv'
    """
    if len(names) > MOST_ARRAYS:
        return f"{'; '.join(names[:2])}; and {len(names) - 2} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def which_probes(results: list[tuple[Case, Outcome]], wrong: list[tuple[Case, Outcome]]) -> Iterator[str]:
    """For which probes the function is right, if there are any."""
    wrong_cases = [case for case, _ in wrong]
    right = [case for case, _ in results if case not in wrong_cases and not case.probe.error]
    if len(wrong_cases) == 1 and wrong_cases[0].dtype == "float32":
        yield "In float64 it is right. In float32 it is not."
    elif right := [case for case in right if case.dtype == "float64"]:
        fails = [case for case in wrong_cases if case.dtype == "float64"]
        shorter, word = min((right, ""), (fails, "not "), key=lambda pair: len(pair[0]))
        yield f"Of {len(right) + len(fails)} inputs, it is {word}right for {'; '.join(c.probe.what for c in shorter)}."
    raises = [(case, outcome.error) for case, outcome in wrong if outcome.error and case.dtype == "float64"]
    if raises and wrong[0][1].error is None:
        case, error = raises[0]
        yield f"For {case.probe.what}, it raises {in_one_line(error)}."


def entry(exercise: Exercise, case: Case, outcome: Outcome, forward: Any) -> Iterator[str]:
    """The first wrong entry; for a gradient, also its numerical value."""
    for name, want in expected(exercise, case).items():
        got = outcome.arrays[name]
        place = seen.first_wrong(got, want, TOLERANCES[case.dtype])
        if place is not None:
            yield seen.entry(name or "yours", place, got, want)
            if forward is not None and case.dtype == "float64":
                yield from own_gradient(exercise, forward, case, outcome, name, place)
            return


class Found(NamedTuple):
    """The mistake, or the two mistakes, that give the same outcomes: everywhere, or only for the first wrong case."""

    mistakes: list[Mistake]
    everywhere: bool


def known_mistakes(
    exercise: Exercise, results: list[tuple[Case, Outcome]], wrong_results: list[tuple[Case, Outcome]]
) -> Found:
    """The mistakes that give these outcomes for every probe, or else those that give the first wrong numbers.

    In all cases that are right, they must be right, too. An error shows less than numbers do. If there are no wrong
    numbers, the text of the error must be the same, too, and two mistakes are not named. nan alone shows nothing.
    """
    (first, first_outcome), table = results[0], MISTAKES.get(exercise.name, [])
    wrong_numbers = any(outcome.arrays for _, outcome in wrong_results)
    some_numbers = any(np.isfinite(array).any() for _, outcome in results for array in outcome.arrays.values())
    if len(results) < len(cases(exercise)) or not some_numbers or (first_outcome.error and not wrong_numbers):
        return Found([], False)
    wrong = wrong_parts(exercise, first_outcome)
    may_differ = [case for case, _ in wrong_results[1:]] if wrong_results[0][1].arrays else []
    reach: dict[Mistake, set[str]] = {}
    partly: list[tuple[int, tuple[Mistake, ...]]] = []  # how many outcomes differ, and the mistakes

    def gives(*mistakes: Mistake) -> bool:
        subject, n_different = exercise.subject(with_mistakes(exercise, *mistakes)), 0
        for case, outcome in results:
            given = observe(exercise, subject, case)
            if case is first and len(mistakes) == 1:
                reach[mistakes[0]] = wrong_parts(exercise, given)
            same_error = wrong_numbers or str(outcome.error) == str(given.error)
            if not same_error or distance(outcome, given, case.dtype, loosely=True) > 1:
                n_different += 1
                if case not in may_differ:
                    return False
        if len(mistakes) == 1:
            partly.append((n_different, mistakes))
        return not n_different

    pairs = (
        (a, b)
        for a, b in itertools.combinations(table if wrong_numbers else [], 2)
        if together(reach[a], reach[b]) == wrong and can_be_combined(exercise, a, b)
    )
    candidates: Iterator[tuple[Mistake, ...]] = itertools.chain(((mistake,) for mistake in table), pairs)
    for mistakes in candidates:
        if is_possible(gives, *mistakes):
            return Found([*mistakes], True)
    _, mistakes = min(partly, key=lambda pair: pair[0], default=(0, ()))
    return Found([*mistakes], False)


def wrong_parts(exercise: Exercise, outcome: Outcome) -> set[str]:
    """What is wrong in the outcome of the first case. It keeps the search for pairs of mistakes short."""
    case = cases(exercise)[0]
    if outcome.error is not None or outcome.problem:
        return EVERYTHING
    want, tolerance = expected(exercise, case), TOLERANCES[case.dtype]
    wrong = {name for name, array in outcome.arrays.items() if array_distance(array, want[name], tolerance) > 1}
    return wrong | {f"argument {name}" for name in outcome.changed}


def together(a: set[str], b: set[str]) -> set[str]:
    """What two mistakes make wrong, from what each does: what either does, or all if one of them has no result."""
    return EVERYTHING if EVERYTHING in (a, b) else a | b


def is_possible(gives: Callable[..., bool], *mistakes: Mistake) -> bool:
    """Whether these mistakes give the outcome. Two mistakes may make code that is no Python."""
    try:
        return gives(*mistakes)
    except SyntaxError:
        return False
