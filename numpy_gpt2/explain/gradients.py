"""The gradients of the log-probabilities of the next tokens, computed by `backward.py` on the recorded pass.

Each position t has an objective: ln p of the token that follows it. The objective of the last position is ln p(target),
the sum over all tokens of the target. `backward.py` runs once for each objective.

The gradient of a named result x says how the objective changes with x. To first order, a change Δx adds the inner
product of Δx and the gradient. A head that is removed changes by −z, so the estimate of the effect is −(gradient ×
output). Simonyan et al. 2014, "Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency
Maps"; Michel et al. 2019, "Are Sixteen Heads Really Better than One?".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import backward
from ..backward import cross_entropy_backward, forward_backward
from ..model import forward, record
from ..weights import Weights
from .analysis import Analysis
from .calls import Call, watch
from .turns import map_in_steps

Arrays = dict[str, np.ndarray]

EMBEDDINGS = ("embed", "pos_embed")


def gradients_of(a: Analysis) -> Iterator[Arrays]:
    """The gradients that an explanation shows, in T steps. Each step but the last yields no arrays, the last one all.

    gradient.embed … gradient.ln_f, .logits   of the last objective, for each named result; the shapes are the same
    gradient.weights.wte.weight, … ()         of the last objective: length of the gradient of each weight
    gradient.stream (T, 2L+1, T)              of each objective: length of the gradient of the residual stream at each
                                              position, before block 0, then after each attention and each MLP
    gradient.embeddings (T, 2, T)             of each objective: gradient × embed and gradient × pos_embed, by position
    gradient.heads (T, L, H), .mlps (T, L)    of each objective: gradient × output, summed over positions

    Raises ValueError if functions from --with do not call each other.
    """
    T = len(a.tokens)
    weights = {name: np.asarray(weight) for name, weight in a.model.weights.items()}  # int8 matrices as float32
    trace, scores = target_pass(a, weights)

    def numbers(t: int) -> Arrays:
        named, _ = one_pass(a, t, trace, scores, weights)
        return objective_numbers(a, named, trace)

    named, dweights = one_pass(a, T - 1, trace, scores, weights)
    found = {name: first_positions(name, gradient, T) for name, gradient in named.items()}
    found |= {f"weights.{name}": np.asarray(np.linalg.norm(gradient)) for name, gradient in dweights.items()}
    del dweights  # as large as the model
    rows = []
    for row in map_in_steps(numbers, range(T - 1)):
        rows.append(row)
        yield {}
    rows.append(objective_numbers(a, named, trace))
    found |= {name: np.array([row[name] for row in rows]) for name in rows[0]}
    yield {f"gradient.{name}": array for name, array in found.items()}


def objective_numbers(a: Analysis, named: Arrays, trace: Arrays) -> Arrays:
    """What is kept of one objective: lengths of gradients, and gradient × result. Later positions have 0."""
    L, T = a.model.config.n_layer, len(a.tokens)
    products = {}
    for name in (*EMBEDDINGS, *(f"h.{layer}.{part}" for layer in range(L) for part in ("attn.z", "mlp_out"))):
        gradient = named[name]
        products[name] = gradient * first_positions(name, trace[name], gradient.shape[-2])
    n = min(T, len(named["embed"]))  # the target's own tokens are not shown
    later = [(0, 0), (0, T - n)]
    return {
        "stream": np.pad([np.linalg.norm(named[name][0, :n], axis=-1) for name in stages(L)], later),
        "embeddings": np.pad([products[name][:n].sum(axis=-1) for name in EMBEDDINGS], later),
        "heads": np.array([products[f"h.{layer}.attn.z"].sum(axis=(0, 2, 3)) for layer in range(L)]),
        "mlps": np.array([products[f"h.{layer}.mlp_out"].sum() for layer in range(L)]),
    }


def stages(n_layer: int) -> list[str]:
    """The names of the residual stream, from the embeddings to the end: 2L + 1."""
    blocks = [f"h.{layer}.{name}" for layer in range(n_layer) for name in ("resid_mid", "resid_post")]
    return ["h.0.resid_pre", *blocks]


def target_pass(a: Analysis, weights: Weights) -> tuple[Arrays, np.ndarray]:
    """The recorded results and the logits. For a target of several tokens, the model also reads all but its last."""
    if len(a.target) == 1:
        return {name: array for name, _, array in a.forward_steps(a.model.config.n_layer)}, a["logits"]
    trace: Arrays = {}
    scores = forward([*a.tokens, *a.target[:-1]], weights, a.model.config, hook=record(trace))
    return trace, scores


def one_pass(a: Analysis, t: int, trace: Arrays, scores: np.ndarray, weights: Weights) -> tuple[Arrays, Arrays]:
    """The gradients of one objective: of each named result, and of each weight.

    Positions after the objective's have no influence on it, so the pass leaves them out.
    """
    ids = [*a.tokens.tolist(), *a.target]
    n = t + 1 if t + 1 < len(a.tokens) else len(ids) - 1
    targets = np.array([-1] * t + ids[t + 1 : n + 1])
    dscores = cross_entropy_backward(t - n, scores[:n], targets)  # ln p = −(n − t) · cross_entropy, which is a mean
    results = {name: first_positions(name, array, n) for name, array in trace.items()}
    with watch(backward) as calls:
        dweights = forward_backward(dscores, np.array(ids[:n]), weights, a.model.config, results)
    return named_gradients(calls, a.model.config.n_layer) | {"logits": dscores}, dweights


def first_positions(name: str, x: np.ndarray, n: int) -> np.ndarray:
    """The part of a named result, or of its gradient, that belongs to the first n positions."""
    return x[..., :n, :n] if name.endswith(("attn.scores", "attn.pattern")) else x[..., :n, :]


def named_gradients(calls: list[Call], n_layer: int) -> Arrays:
    """The gradient of each named result, from the calls of a backward pass, which begins in the last block.

    f_backward is given the gradient of what f returned, and it returns the gradient of what f was given.
    """
    lists: dict[str, list[Call]] = {}
    for call in calls:
        lists.setdefault(call.name, []).append(call)
    calls_of = {name: iter(found) for name, found in lists.items()}
    try:
        found = {"ln_f": next(calls_of["layer_norm_backward"]).arguments[0]}
        for layer in reversed(range(n_layer)):
            found |= {f"h.{layer}.{name}": gradient for name, gradient in block_gradients(calls_of).items()}
    except (KeyError, StopIteration):
        problem = (
            "the gradients of some results are unknown, because functions of --with do not call those of backward.py"
        )
        raise ValueError(f"{problem}; leave out --gradients, or leave out --with") from None
    found["ln_f"] = found["ln_f"].reshape(found["h.0.resid_pre"].shape)
    return found | dict.fromkeys(EMBEDDINGS, found["h.0.resid_pre"][0])


def block_gradients(calls_of: dict[str, Iterator[Call]]) -> Arrays:
    """The gradients of one block's named results, from the calls of its backward pass, in their order."""
    functions = ("block", "mlp", "layer_norm", "layer_norm", "attention", "softmax", *("linear",) * 4)
    block, mlp, ln_2, ln_1, attention, softmax, mlp_proj, mlp_fc, attn_proj, _ = (
        next(calls_of[f"{name}_backward"]) for name in functions
    )
    dq, dk, dv = attention.result
    return {
        "resid_pre": block.result[0],
        "ln_1": ln_1.arguments[0],
        "attn.q": dq,
        "attn.k": dk,
        "attn.v": dv,
        "attn.scores": softmax.result,
        "attn.pattern": softmax.arguments[0],
        "attn.z": attention.arguments[0],
        "attn_out": attn_proj.arguments[0],
        "resid_mid": attn_proj.arguments[0],
        "ln_2": ln_2.arguments[0],
        "mlp.pre": mlp_fc.arguments[0],
        "mlp.post": mlp_proj.result[0],
        "mlp_out": mlp.arguments[0],
        "resid_post": block.arguments[0],
    }
