"""Part 2: the functions of `sampling.py` and of the decode loop in `generate.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..exercise import Exercise, Inputs, Probe

Arguments = tuple[Any, ...]


def run_generate(generate: Callable[..., Any], tokens: Any, weights: Any, config: Any, n: int, seed: int) -> Any:
    """How `generate_plainly` is checked: the tokens that it yields. A loop that does not end is cut."""
    yielded = generate(tokens, weights, config, n, np.random.default_rng(seed))
    return [int(token) for token in itertools.islice(yielded, n + 3)]


def generate_probe(seed: int) -> Callable[[Inputs], Arguments]:
    """The arguments of `generate_plainly`, for weights whose text differs from seed to seed."""

    def make(n: Inputs) -> Arguments:
        config = n.config()
        return n.ids(n.T), n.weights(config.parameter_shapes()), config, 9, seed

    return make


EXERCISES: list[Exercise] = [
    Exercise(
        "generate_plainly",
        "generate",
        (
            "The text grows by one token per step, and the model reads all of it each time. Only the last row counts.",
            "Draw with sample(probabilities(scores), rng), yield the token, and append it: np.append.",
            "np.append",
        ),
        [Probe(generate_probe(0)), Probe(generate_probe(1), "another seed")],
        run=run_generate,
    ),
]
