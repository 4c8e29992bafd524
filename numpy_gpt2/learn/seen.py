"""What can be seen of a wrong array: sentences about its shape, its dtype and its numbers, without any guess."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from .compare import TOLERANCES, array_distance, is_same_dtype, rounding
from .exercise import UNWRITTEN, Inputs

NEARLY = 1e-5  # the error of numbers that are nearly right, of the largest entry

AXES = {"B": "row", "T": "position", "S": "key", "H": "head", "C": "channel", "V": "token", "D": "channel"}

PLURALS = {"entry": "entries"}


def sizes(shape: tuple[int, ...]) -> str:
    """A shape in numbers and letters.

    >>> sizes((2, 5, 44))
    '(2, 5, 44), which is (B, T, C)'
    """
    letters = Inputs("float64").letters(shape)
    return f"{shape}, which is {letters}" if letters else str(shape)


def wrong_shape(got: np.ndarray, want: np.ndarray) -> str:
    """A sentence if the shape is wrong."""
    if got.shape == want.shape:
        return ""
    for axes in itertools.permutations(range(got.ndim)) if got.ndim == want.ndim else ():
        if array_distance(got.transpose(axes), want, TOLERANCES["float64"]) <= 1:
            order = f" The numbers are right: only the axes are in another order, and .transpose{axes} would move them."
            break
    else:
        order = ""
    return f"The shape is {sizes(got.shape)}; it must be {sizes(want.shape)}.{order}"


def wrong_dtype(got: np.ndarray, want: np.ndarray) -> str:
    """A sentence if the dtype is wrong. That of a single number does not matter."""
    if got.ndim == 0 or is_same_dtype(got, want):
        return ""
    text = f"The dtype is {got.dtype}; it must be {want.dtype}."
    if want.dtype == np.float32 and got.dtype == np.float64:
        text += (
            " The input was float32. np.sqrt(2), np.zeros(n), np.eye(n) and integers such as np.sum(mask) make the"
            " result float64. math.sqrt(2), np.zeros(n, x.dtype) and int(np.sum(mask)) do not."
        )
    return text


def facts(got: np.ndarray, want: np.ndarray) -> Iterator[str]:
    """Sentences about the numbers of an array that has the right shape."""
    if UNWRITTEN in got and UNWRITTEN not in want:
        yield f"{UNWRITTEN} is in memory that was reserved, and to which nothing was written."
    in_float32 = want.dtype == np.float32  # rounding hides the rest
    got, want = got.astype(np.float64), want.astype(np.float64)
    yield from not_finite(got, want)
    if not in_float32 and np.isfinite(got).all() and np.isfinite(want).all():
        tests = (nearly_right, factor_or_offset, another_order, some_rows)
        yield from next((found for test in tests if (found := [*test(got, want)])), [])


def not_finite(got: np.ndarray, want: np.ndarray) -> Iterator[str]:
    """Where nan and inf are that should not be."""
    for name, test in (("nan", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf)):
        wrong = test(got) & ~test(want)
        if wrong.any():
            first = [int(i) for i in np.argwhere(wrong)[0]]
            some = (
                f"{np.count_nonzero(wrong)} of {wrong.size} entries are {name}, and must not be; the first is {first}."
            )
            yield f"Every entry is {name}." if wrong.all() else some
    if np.isnan(got).any() and not np.isnan(want).any():
        yield "0 · inf, inf - inf, inf/inf, 0/0, and roots and logarithms of negative numbers are nan."


def nearly_right(got: np.ndarray, want: np.ndarray) -> Iterator[str]:
    """How exact the array is, if it is nearly right."""
    error = float(np.abs(got - want).max(initial=0) / (np.abs(want).max(initial=0) or 1))
    if error < NEARLY:
        yield (
            f"Every entry is right to {number(error, 2)} of the largest one; the limit is 1e-09."
            " Is a constant rounded, a derivative numerical, or an array float32, such as that of KVCache(config, B)"
            " without its argument dtype?"
        )


def factor_or_offset(got: np.ndarray, want: np.ndarray) -> Iterator[str]:
    """The one factor or the one offset between the two arrays, if there is one."""
    if not want.size:
        return
    largest = np.unravel_index(np.abs(want).argmax(), want.shape)
    if not want[largest] and want.size < 2:
        return
    factor, offset = float(got[largest] / want[largest]) if want[largest] else 0.0, float((got - want)[largest])
    tolerance = TOLERANCES["float64"] * max(float(np.abs(want).max()), float(np.abs(got).max()))
    if factor and np.abs(got - factor * want).max() <= tolerance:
        if want.size > 1 or recognized(factor):  # of a single number, there is always a factor
            what = "Every entry" if want.size > 1 else "It"
            yield f"{what} is {number(factor)}{recognized(factor)} times what it should be."
    elif want.size > 1 and np.abs(got - want - offset).max() <= tolerance:
        yield f"Every entry is {number(abs(offset))}{recognized(abs(offset))} too {'large' if offset > 0 else 'small'}."


def recognized(x: float) -> str:
    """The name of a number that often is a wrong factor, in brackets.

    >>> recognized(1 / math.sqrt(11))
    ' (1/√D)'
    """
    names = {2.0: "2", math.log(2): "ln 2", math.pi: "π", math.log(10): "ln 10", math.sqrt(2): "√2"}
    for letter in "TSDCV":  # B and H are 2 and 4, which can be any numbers
        n = getattr(Inputs("float64"), letter)
        names |= {n: letter, math.sqrt(n): f"√{letter}", n / (n - 1): f"{letter}/({letter} - 1)"}
        names[math.sqrt(n / (n - 1))] = f"√({letter}/({letter} - 1))"
    for value, name in names.items():
        for power, text in ((1, name), (-1, f"1/({name})" if "/" in name or " " in name else f"1/{name}")):
            if math.isclose(abs(x), value**power, rel_tol=1e-7):
                return f" ({'-' if x < 0 else ''}{text})" if text != number(x) else ""
    return ""


def another_order(got: np.ndarray, want: np.ndarray) -> Iterator[str]:
    """Whether the numbers are right but in other places."""
    if array_distance(np.sort(got, axis=None), np.sort(want, axis=None), 10 * TOLERANCES["float64"]) > 1:
        return
    letters = Inputs("float64").letters
    for axes in itertools.permutations(range(want.ndim)):
        moved = want.transpose(axes)
        if array_distance(moved.reshape(want.shape), got, TOLERANCES["float64"]) <= 1:
            order = letters(moved.shape) or f"axes {axes}"
            yield f"The numbers are right, but in another order: the order of {order}, reshaped to {sizes(want.shape)}."
            return
    yield "The numbers are right, but they are in other places."


def some_rows(got: np.ndarray, want: np.ndarray) -> Iterator[str]:
    """Along which axes some of the indices are right; or, if there are none, how many entries are right."""
    right = np.abs(got - want) <= TOLERANCES["float64"] * (float(np.abs(want).max()) or 1)
    letters = Inputs("float64").letters(want.shape).strip("()").split(", ")
    found = False
    for axis in range(want.ndim):
        indices = np.flatnonzero(right.all(axis=tuple(i for i in range(want.ndim) if i != axis))).tolist()
        if indices:
            found = True
            name = AXES.get(letters[axis], "entry") if len(letters) == want.ndim else "entry"
            listed = ", ".join(map(str, indices[:6])) + (", …" if len(indices) > 6 else "")
            yield (
                f"Along axis {axis}, only {name} {listed} is right."
                if len(indices) == 1
                else f"Along axis {axis}, {PLURALS.get(name, name + 's')} {listed} are right; the others are not."
            )
    if right.any() and not found:
        yield f"{np.count_nonzero(right)} of {right.size} entries are right."


def first_wrong(got: np.ndarray, want: np.ndarray, tolerance: float) -> tuple[int, ...] | None:
    """The index of the first entry that is wrong; None if all are right."""
    tolerance = max(tolerance, rounding(got, want))
    numbers, wanted = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(wanted)
    largest = float(np.abs(wanted[finite]).max(initial=0)) or 1.0
    with np.errstate(invalid="ignore"):
        right = np.where(finite, np.abs(numbers - wanted) <= tolerance * largest, numbers == wanted)
    return None if right.all() else tuple(int(i) for i in np.unravel_index(int((~right).argmax()), right.shape))


def entry(name: str, place: tuple[int, ...], got: np.ndarray, want: np.ndarray) -> str:
    """One entry, and what it should be, with as many digits as they need to differ."""
    index = f"[{', '.join(map(str, place))}]" if place else ""
    digits = next((n for n in range(4, 17) if number(got[place], n) != number(want[place], n)), 17)
    return f"{name}{index} = {number(got[place], digits)}, it should be {number(want[place], digits)}"


def number(x: float, digits: int = 4) -> str:
    """A number with a few digits.

    >>> number(0.84119), number(1234567.0), number(2.0)
    ('0.8412', '1.235e+06', '2')
    """
    return f"{x:.{digits}g}" if not isinstance(x, bool | np.bool_) else str(x)
