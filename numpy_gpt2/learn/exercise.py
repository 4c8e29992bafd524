"""What an exercise consists of: a function of the package, hints, and the inputs with which it is checked."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..cache import KVCache
from ..config import GPT2Config, Shape
from ..weights import Weights

UNWRITTEN = 777  # in memory that a function has reserved


class Inputs:
    """The sizes and the random numbers for one call of a probe. No two sizes are equal, so a size names its axis.

    >>> Inputs(np.float64).letters((2, 5, 44))
    '(B, T, C)'
    """

    B, L, T, H, S, N, D, V, M, P = 2, 3, 5, 4, 7, 8, 11, 13, 17, 19  # M: width of the MLP, P: positions, N: any

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype, self.rng = np.dtype(dtype), np.random.default_rng(0)
        self.C = self.H * self.D

    def normal(self, *shape: int) -> np.ndarray:
        """Random numbers of about 1."""
        return self.array(self.rng.standard_normal(shape))

    def array(self, values: Any) -> np.ndarray:
        """These numbers in the dtype of this call."""
        return np.asarray(values).astype(self.dtype)

    def ids(self, *shape: int) -> np.ndarray:
        """Random token ids. With more ids than tokens, some are repeated."""
        return self.rng.integers(self.V, size=shape)

    def config(self, **fields: Any) -> GPT2Config:
        """A config with these sizes. The eps of 0.1 shows where eps is added."""
        sizes = {"vocab_size": self.V, "n_positions": self.P, "n_embd": self.C, "n_layer": self.L, "n_head": self.H}
        return GPT2Config(**{**sizes, "n_inner": self.M, "layer_norm_epsilon": 0.1, **fields})

    def weights(self, shapes: dict[str, Shape]) -> Weights:
        """Random weights with these names and shapes. A product with a matrix keeps the size of its input."""
        return {name: self.normal(*s) / math.sqrt(s[0] if len(s) == 2 else 1) for name, s in shapes.items()}

    def cache(self, config: GPT2Config, length: int, batch_size: int | None = None) -> KVCache:
        """A cache with random keys and values for `length` positions, and random numbers after them."""
        cache = KVCache(config, self.B if batch_size is None else batch_size, self.dtype)
        cache.reserve(config.n_positions)
        cache.keys[:], cache.values[:] = self.normal(*cache.keys.shape), self.normal(*cache.values.shape)
        cache.length = length
        return cache

    def letters(self, shape: Iterable[int]) -> str:
        """A shape in letters. It is empty if a size has no letter: it may be a number of steps, or a capacity."""
        names = {getattr(self, letter): letter for letter in "BTHSNDVPC"} | {self.M: "n_inner", 3 * self.C: "3C"}
        shape = tuple(shape)
        if len(shape) < 3:
            del names[self.H]
        if shape[:1] == (self.B * self.T,):
            names[self.B * self.T] = "B·T"
        unnamed = {*shape} - names.keys()
        if len(unnamed) == len({*shape}) or unnamed - ({1, 3} if len(shape) > 2 else set()):
            return ""
        return str(tuple(names.get(n, n) for n in shape)).replace("'", "")


class LargeInputs(Inputs):
    """The sizes of a GPT-2 with 2 layers and a small vocabulary: to compare the speed of two functions."""

    B, L, T, H, S, N, D, V, M, P = 1, 2, 128, 12, 256, 768, 64, 5000, 3072, 1024


class Probe(NamedTuple):
    """The arguments of one call, and a description of them."""

    make: Callable[[Any], tuple[Any, ...]]  # Inputs -> arguments
    what: str = "random numbers"  # as in "it is right for …, but not for …"
    error: type[Exception] | None = None  # what the reference raises


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """How most functions are checked: call them, and compare the result."""
    return function(*arguments)


class Loss(NamedTuple):
    """What a backward function differentiates: a number, and the arrays behind it.

    Their names are those of the outputs; "" if there is only one.
    """

    value: Callable[[], float]  # Σ dy · forward(arrays), computed from the arrays as they are now
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Exercise:
    """A function that a learner writes.

    `name` is the function's name in its module, or "Class.method". `run(subject, *arguments)` calls the subject and
    returns what is compared: an array, a number, or a tuple or dict of them. The subject is the function. For a method,
    it is the class, with this method in it.
    """

    name: str
    module: str  # without "numpy_gpt2."
    hints: tuple[str, str, str]  # what to look at, the piece of NumPy, and a fragment of the line that is shown
    probes: list[Probe]  # the first one is the generic one: no two sizes are equal, and all numbers are random
    run: Callable[..., Any] = call
    outputs: tuple[str, ...] = ()  # names for the parts of a tuple, or of an array that may be a tuple
    may_change: tuple[str, ...] = ()  # the arguments that the reference changes; a cache need not be named
    fixed: tuple[str, ...] = ()  # exercises that have more than one right result: here, the package's are called
    invariants: tuple[tuple[str, Callable[[np.ndarray], bool]], ...] = ()  # what must hold for the (first) result
    forward: str | None = None  # of a backward function: the name of its forward function
    loss: Callable[..., Loss] | None = None  # of a backward function: (forward function, *arguments) -> Loss
    reference: Any = field(init=False, repr=False)  # the function; kept here, because `--with` replaces it elsewhere

    def __post_init__(self) -> None:
        place = import_module(f"numpy_gpt2.{self.module}")
        for part in self.name.split("."):
            place = getattr(place, part)
        object.__setattr__(self, "reference", place)

    @property
    def owner(self) -> Any:
        """The class of a method; None for a function."""
        class_name, _, _ = self.name.rpartition(".")
        return getattr(import_module(f"numpy_gpt2.{self.module}"), class_name) if class_name else None

    @property
    def short_name(self) -> str:
        """The name of the function or the method, without its class."""
        return self.name.rpartition(".")[2]

    @functools.cached_property
    def parameters(self) -> list[str]:
        """The names of the parameters of the reference."""
        return [*inspect.signature(self.reference).parameters]

    @functools.cached_property
    def argument_names(self) -> list[str]:
        """The names of the arguments of a probe: those of `run`, without the subject, or those of the reference."""
        return self.parameters if self.run is call else [*inspect.signature(self.run).parameters][1:]

    @property
    def hook(self) -> str | None:
        """The name of the parameter that is a hook, if there is one."""
        return next((name for name in ("hook", "dropout") if name in self.parameters), None)

    def subject(self, function: Any) -> Any:
        """What `run` gets: this function, or a subclass of the owner with this method."""
        return type(self.owner.__name__, (self.owner,), {self.short_name: function}) if self.owner else function
