"""Two passes compared: before and after interventions, and a prompt with a second prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import numpy as np

from ..model import softmax
from .analysis import Analysis, lens, log_probability, norm
from .contributions import largest
from .interventions import Patch, make_hook
from .page import layer_arrays
from .turns import map_in_steps
from .visible import token_text

N_COMPARED = 8  # candidates before and after


def trace_patching(first: Analysis, second: Analysis) -> Iterator[np.ndarray]:
    """p(answer | first prompt) when one vector comes from the second prompt: a row (T,) for each block.

    The answer is the `target` of `second`: what the second prompt leads to. Row l, position t: the residual stream
    before block l at position t is replaced by that of the second prompt. A high probability means that this vector
    carries what decides between the two prompts. Each number takes one forward pass. Both prompts have the same number
    of tokens, so that equal positions correspond; other prompts raise ValueError. This is the causal tracing of Meng et
    al. 2022, "Locating and Editing Factual Associations in GPT", with a second prompt in place of noise.
    """
    probabilities = trace_probabilities(first, second)
    T = len(first.tokens)
    return (np.array([*islice(probabilities, T)]) for _ in range(first.model.config.n_layer))


def trace_probabilities(first: Analysis, second: Analysis) -> Iterator[float]:
    """The numbers of `trace_patching`, one after another. Each one takes one forward pass."""
    weights, config, _ = first.model
    T, S = len(first.tokens), len(second.tokens)
    if T != S:
        raise ValueError(f"the second prompt has {S} tokens; it must have {T}, like the first one, for tracing")

    def probability(patch: Patch) -> float:
        hook = make_hook([patch], config, first, second)
        return math.exp(log_probability(first.tokens, second.target, weights, config, hook))

    places = product(range(config.n_layer), range(T))
    return map_in_steps(probability, [Patch(f"h.{layer}.resid_pre", t, t) for layer, t in places])


def trace_lines(first: Analysis, second: Analysis) -> Iterator[dict[str, Any]]:
    """`trace_patching` for the page: p(answer) with each prompt, and then one object for each row.

    An empty object after each other forward pass gives other requests their turn.
    """
    weights, config, _ = first.model
    probabilities = trace_probabilities(first, second)
    ends = [math.exp(log_probability(e.tokens, second.target, weights, config)) for e in (first, second)]
    yield {"answer": "".join(token_text(token, second.model) for token in second.target), "ends": ends}
    row: list[float] = []
    for p in probabilities:
        row.append(p)
        if len(row) == len(first.tokens):
            yield {"row": row}
            row = []
        else:
            yield {}


def change_arrays(before: np.ndarray, after: Analysis) -> dict[str, np.ndarray]:
    """What interventions change, from the logits (T, V) without them. The target is always among the tokens.

    `change.tokens` (N,) are the most probable next tokens before or after, and `change.probabilities` (N, 2) their
    probabilities before and after.
    """
    p = softmax(np.stack([before[-1], after["logits"][-1]]))
    tokens = np.unique([*largest(p, N_COMPARED)[0].flat, after.target[0]])
    tokens = tokens[np.argsort(-p[:, tokens].max(axis=0), kind="stable")]
    return {"change.tokens": tokens, "change.probabilities": p[:, tokens].T}


def second_arrays(first: Analysis, second: Analysis) -> dict[str, np.ndarray]:
    """What the page shows of a second prompt. The names of the arrays start with "second.".

    `second.distance` (L + 1, N) is 1 − the cosine between the residual streams of both prompts, at the N positions that
    both have. It is 0 as long as all tokens are the same.
    """
    arrays = {name: second[name] for name in ("surprisal", "lens.tokens", "lens.probabilities")}
    arrays |= {"tokens": second.tokens, "target.tokens": np.array(second.target)}
    for layer in range(second.model.config.n_layer):
        arrays |= {name: x for name, x in layer_arrays(second, layer).items() if "attn.scores" in name}
    arrays["distance"] = stream_distance(streams(first), streams(second))
    return {f"second.{name}": array for name, array in arrays.items()}


def lens_difference(first: Analysis, second: Analysis) -> Iterator[dict[str, np.ndarray]]:
    """½ Σ |p − q| between the logit lenses p and q of both prompts, at the N positions that both have.

    This is the total variation distance: 0 for equal probabilities, 1 if no token is possible in both. Each row takes
    one step, and the last step yields all rows, `second.lens.difference` (L + 1, N).
    """
    weights, config, _ = first.model
    x, y = streams(first), streams(second)
    n = min(x.shape[1], y.shape[1])
    rows = []
    for pair in zip(x[:, :n], y[:, :n], strict=True):
        p, q = (softmax(lens(stream, weights, config)) for stream in pair)
        rows.append(np.abs(p - q).sum(axis=-1) / 2)
        yield {}
    yield {"second.lens.difference": np.array(rows)}


def streams(a: Analysis) -> np.ndarray:
    """The residual stream before block 0, 1, …, and after the last one. (L + 1, T, C)."""
    return np.concatenate([a.layers("resid_pre"), a.layers("resid_post")[-1:]])


def stream_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 − x · y / (|x| |y|) at the positions that both have. (L, T, C) and (L, S, C) -> (L, min(T, S)).

    This is ½ |x / |x| − y / |y||², which rounding cannot make negative, and which is 0 for equal vectors.

    >>> stream_distance(np.array([[[1.0, 0.0], [3.0, 4.0]]]), np.array([[[5.0, 0.0], [4.0, -3.0], [1.0, 1.0]]]))
    array([[0., 1.]])
    """
    n = min(x.shape[1], y.shape[1])
    x, y = (z[:, :n] / np.maximum(norm(z[:, :n])[..., None], float(np.finfo(z.dtype).tiny)) for z in (x, y))
    return np.square(x - y).sum(axis=-1) / 2
