"""What the learner's functions can do together, printed when a part is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .. import model
from ..checkpoint import load
from ..hub import bundled_folder
from .own import Own

PROMPT = "To be, or not to be: that is the"


def own_logits(own: Own) -> Iterator[str]:
    """Part 1: the logits of the bundled model."""
    weights, config, tokenizer = load(bundled_folder())
    tokens = tokenizer.encode_ordinary(PROMPT)
    want = model.forward(tokens, weights, config)
    with own.installed():
        got = model.forward(tokens, weights, config)
    difference = float(np.abs(got - want).max() / np.abs(want).max())
    word = tokenizer.decode([int(got[-1].argmax())])
    yield f"your forward pass gives the bundled model's logits, to {difference:.0e} of the largest."
    yield f"After {PROMPT!r}, your model's first word is {word!r}."


MILESTONES: dict[int, Callable[[Own], Iterator[str]]] = {1: own_logits}
