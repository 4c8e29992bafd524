"""Part 4: the functions of `backward.py`, in its order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backward import NOT_NEEDED
from ...config import GPT2Config
from ...model import attention, block, causal_mask, forward, hidden_states, record, softmax
from ...weights import Weights
from ..exercise import Exercise, Inputs, Loss, Probe
from .forward import Arguments, uneven_targets

Function = Callable[..., Any]


def traced(function: Function, *arguments: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The result of a forward function, and the trace that its backward function gets in training."""
    trace: dict[str, np.ndarray] = {}
    result = function(*arguments, hook=record(trace))
    return result, {name: array for name, array in trace.items() if not name.endswith(NOT_NEEDED)}


def attention_probe(T: int, S: int, D: int | None = None, causal: bool = True) -> Callable[[Inputs], Arguments]:
    """The arguments of `attention_backward`. The scale is not 1/√D: it is an argument."""

    def make(n: Inputs) -> Arguments:
        q, k, v = (n.normal(n.B, n.H, size, D or n.D) for size in (T, S, S))
        mask = causal_mask(T, S) if causal else n.rng.random((T, S)) < 0.7
        mask[:, 3] |= not causal
        z, trace = traced(attention, q, k, v, mask, 0.4)
        return n.normal(*z.shape), q, k, v, 0.4, trace

    return make


def block_probe(layer: int, **fields: Any) -> Callable[[Inputs], Arguments]:
    """The arguments of `block_backward`."""

    def make(n: Inputs) -> Arguments:
        config = n.config(**fields)
        w = n.weights(config.block_shapes())
        y, trace = traced(block, n.normal(n.B, n.T, n.C), w, config, layer, None)
        return n.normal(*y.shape), w, config, layer, trace

    return make


def model_probe(
    function: Function, ids: Callable[[Inputs], np.ndarray], **fields: Any
) -> Callable[[Inputs], Arguments]:
    """The arguments of `hidden_states_backward` or `forward_backward`, from those of the forward function."""

    def make(n: Inputs) -> Arguments:
        config, tokens = n.config(**fields), ids(n)
        weights = n.weights(config.parameter_shapes())
        y, trace = traced(function, tokens, weights, config, None)
        return n.normal(*y.shape), tokens, weights, config, trace

    return make


def distinct_ids(n: Inputs) -> np.ndarray:
    """B texts, in which no token occurs twice."""
    return n.rng.permutation(n.V)[: n.B * n.T].reshape(n.B, n.T)


def few_ids(n: Inputs) -> np.ndarray:
    """As many texts as positions, of three tokens only. Each occurs several times."""
    return n.rng.integers(4, 7, size=(4, 4))


def logits_probe(*head: str) -> Callable[[Inputs], Arguments]:
    """The arguments of `logits_backward`, with the embedding and with these other matrices."""
    return lambda n: (
        n.normal(n.B, n.T, n.V),
        n.normal(n.B, n.T, n.C),
        {name: n.normal(n.V, n.C) for name in ("wte.weight", *head)},
    )


def layer_norm_loss(layer_norm: Function, dy: Any, x: Any, weight: Any, bias: Any, eps: float) -> Loss:
    """What `layer_norm_backward` differentiates."""
    arrays = {"dx": x, "dweight": weight, "dbias": bias}
    return Loss(lambda: (dy * layer_norm(x, weight, bias, eps)).sum(), arrays)


def gelu_loss(gelu: Function, dy: Any, x: Any) -> Loss:
    """What `gelu_backward` differentiates."""
    return Loss(lambda: (dy * gelu(x)).sum(), {"": x})


def softmax_loss(softmax: Function, dy: Any, y: Any) -> Loss:
    """What `softmax_backward` differentiates: y is the softmax of its logarithm."""
    with np.errstate(divide="ignore"):
        x = np.log(y)
    return Loss(lambda: (dy * softmax(x)).sum(), {"": x})


def linear_loss(linear: Function, dy: Any, x: Any, weight: Any, bias: Any) -> Loss:
    """What `linear_backward` differentiates."""
    return Loss(lambda: (dy * linear(x, weight, bias)).sum(), {"dx": x, "dW": weight, "db": bias})


def attention_loss(attention: Function, dz: Any, q: Any, k: Any, v: Any, scale: float, trace: Any) -> Loss:
    """What `attention_backward` differentiates. The mask is where the pattern is not 0."""
    mask = (trace["attn.pattern"] != 0).any(axis=(0, 1))
    return Loss(lambda: (dz * attention(q, k, v, mask, scale)).sum(), {"dq": q, "dk": k, "dv": v})


def block_loss(block: Function, dy: Any, w: Weights, config: GPT2Config, layer: int, trace: Any) -> Loss:
    """What `block_backward` differentiates."""
    x = trace["resid_pre"]
    return Loss(lambda: (dy * block(x, w, config, layer)).sum(), {"dx": x, **w})


def hidden_states_loss(
    hidden_states: Function, dy: Any, tokens: Any, weights: Weights, config: GPT2Config, trace: Any
) -> Loss:
    """What `hidden_states_backward` differentiates."""
    return Loss(lambda: (dy * hidden_states(tokens, weights, config)).sum(), weights)


def logits_loss(logits: Function, dy: Any, x: Any, weights: Weights) -> Loss:
    """What `logits_backward` differentiates."""
    head = weights.get("lm_head.weight", weights["wte.weight"])
    return Loss(lambda: (dy * logits(x, weights)).sum(), {"dx": x, "dE": head})


def cross_entropy_loss(cross_entropy: Function, dy: float, logits: Any, targets: Any) -> Loss:
    """What `cross_entropy_backward` differentiates."""
    return Loss(lambda: dy * cross_entropy(logits, targets), {"": logits})


def sums_to_0(dx: np.ndarray) -> bool:
    """Whether the last axis sums to 0."""
    return bool(np.allclose(dx.sum(axis=-1), 0))


EXERCISES = [
    Exercise(
        "layer_norm_backward",
        "backward",
        (
            "A constant that is added to x changes nothing. So each position's dx sums to 0, whatever dy is.",
            "Compute n and 1/deviation again, then dn = dy * weight. Two means over channels are subtracted from dn.",
            "dn.mean",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.T, n.C), n.normal(n.B, n.T, n.C), n.normal(n.C), n.normal(n.C), 0.1)),
            Probe(lambda n: (n.normal(9, 9, 9), n.normal(9, 9, 9), n.normal(9), n.normal(9), 0.1), "B = T = C"),
        ],
        outputs=("dx", "dweight", "dbias"),
        invariants=(("each position's dx must sum to 0", sums_to_0),),
        forward="layer_norm",
        loss=layer_norm_loss,
    ),
    Exercise(
        "gelu_backward",
        "backward",
        (
            "With dy = 1, the gradient is the slope of gelu: 0 at x = -10, 0.5 at 0, 1 at 10. At 1 it is 1.083.",
            "y is a product, x/2 times (1 + t), so there are two terms. The second has the slope of t, which is"
            " 1 - t * t times the slope of what is inside tanh.",
            "return dy",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.T, n.M), 2 * n.normal(n.B, n.T, n.M))),
            Probe(
                lambda n: (n.normal(9), n.array([-40.0, -10, -2.7, -1, 0, 1, 2.7, 10, 40])),
                "x = 0, ±1, ±2.7, ±10 and ±40",
            ),
        ],
        forward="gelu",
        loss=gelu_loss,
    ),
    Exercise(
        "softmax_backward",
        "backward",
        (
            "Each y depends on all x of its row. So if all dy of a row are equal, dx is 0: the sum of y stays 1.",
            "(dy * y).sum(axis=-1, keepdims=True) is one number for each row. It is subtracted from dy.",
            "np.vecdot",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.H, n.T, n.S), softmax(n.normal(n.B, n.H, n.T, n.S)))),
            Probe(
                lambda n: (
                    n.normal(6, 6, 6, 6),
                    softmax(np.where(causal_mask(6, 6), n.normal(6, 6, 6, 6), n.array(-np.inf))),
                ),
                "a causal mask, and B = H = T = S",
            ),
        ],
        invariants=(("each row must sum to 0", sums_to_0),),
        forward="softmax",
        loss=softmax_loss,
    ),
    Exercise(
        "linear_backward",
        "backward",
        (
            "Each gradient has the shape of its array. W and b are used at every position, so theirs are sums over"
            " positions.",
            "With x as (positions, C) and dy as (positions, N), the shapes leave one way to multiply: dy @ weight.T"
            " and x.T @ dy.",
            "weight.T",
        ),
        [
            Probe(
                lambda n: (n.normal(n.B, n.T, n.N), n.normal(n.B, n.T, n.C), n.normal(n.C, n.N), n.normal(n.N)),
            ),
            Probe(lambda n: (n.normal(3, 3, 9), n.normal(3, 3, 9), n.normal(9, 9), n.normal(9)), "a square matrix"),
        ],
        outputs=("dx", "dW", "db"),
        forward="linear",
        loss=linear_loss,
    ),
    Exercise(
        "attention_backward",
        "backward",
        (
            "Go from the last step to the first: z = pattern v, then softmax, then scores = q kᵀ scale. Each of the"
            " four arrays gets the gradient of its own shape.",
            "A product a @ b has da = dy @ bᵀ and db = aᵀ @ dy. .swapaxes(-1, -2) is the transpose for each head.",
            "softmax_backward(",
        ),
        [
            Probe(lambda n: attention_probe(n.T, n.S)(n)),
            Probe(attention_probe(9, 9, 9), "T = S = D, where every product has a result"),
            Probe(lambda n: attention_probe(n.T, n.S, causal=False)(n), "a mask that is not causal"),
        ],
        outputs=("dq", "dk", "dv"),
        forward="attention",
        loss=attention_loss,
    ),
    Exercise(
        "block_backward",
        "backward",
        (
            "x reaches the result in two ways at each sum: directly, and through attention or the MLP. The gradients of"
            " both ways are added.",
            "For each line of `block`, from the last to the first, call its backward function. The trace holds what"
            " the forward function got.",
            "dy = dx + dy",
        ),
        [
            Probe(block_probe(2, scale_attn_by_inverse_layer_idx=True)),
            Probe(block_probe(0, activation_function="relu"), 'activation_function="relu"'),
            Probe(
                block_probe(1, activation_function="gelu", scale_attn_weights=False),
                'activation_function="gelu", the exact one, and scale_attn_weights=False',
            ),
        ],
        outputs=("dx", "dw"),
        forward="block",
        loss=block_loss,
    ),
    Exercise(
        "hidden_states_backward",
        "backward",
        (
            "The row of a token in wte's gradient is the sum over all places where the token is. Rows of other tokens"
            " are 0.",
            "dw[tokens] += dx keeps one of the places where a token is. np.add.at(dw, tokens, dx) adds them all.",
            "np.add.at",
        ),
        [
            Probe(model_probe(hidden_states, distinct_ids, scale_attn_by_inverse_layer_idx=True), "ids that differ"),
            Probe(model_probe(hidden_states, few_ids), "ids that occur several times"),
            Probe(model_probe(hidden_states, lambda n: distinct_ids(n)[0]), "a single text"),
        ],
        may_change=("trace",),
        forward="hidden_states",
        loss=hidden_states_loss,
    ),
    Exercise(
        "logits_backward",
        "backward",
        (
            "y = x Eᵀ is a linear layer without a bias, whose matrix is Eᵀ. The gradient of E has E's shape, (V, C).",
            "output_head(weights) is E. With all positions in one axis, the two products are dy @ E and dy.T @ x.",
            "output_head",
        ),
        [
            Probe(logits_probe()),
            Probe(logits_probe("lm_head.weight"), "a head that is not tied: lm_head.weight"),
            Probe(lambda n: (n.normal(9, 9), n.normal(9, 9), {"wte.weight": n.normal(9, 9)}), "a single text"),
        ],
        outputs=("dx", "dE"),
        forward="logits",
        loss=logits_loss,
    ),
    Exercise(
        "forward_backward",
        "backward",
        (
            "A tied head uses wte twice: for the ids that come in, and for the logits. Its gradient has two parts.",
            'logits_backward needs the result of the last layer norm, trace["ln_f"]. hidden_states_backward gets its'
            " dx.",
            "+= dhead",
        ),
        [
            Probe(model_probe(forward, distinct_ids), "a tied head"),
            Probe(model_probe(forward, few_ids, tie_word_embeddings=False), "a head that is not tied: lm_head.weight"),
            Probe(model_probe(forward, lambda n: distinct_ids(n)[0]), "a single text"),
        ],
        may_change=("trace",),
    ),
    Exercise(
        "cross_entropy_backward",
        "backward",
        (
            "Where the target is not -1, a row of dx is softmax minus a 1 at the target. Each row sums to 0.",
            "np.nonzero(targets != -1) gives the indices of the rows that count. Their number is N, which divides all.",
            "np.count_nonzero",
        ),
        [
            Probe(lambda n: (0.7, n.normal(n.B, n.T, n.V), uneven_targets(n, n.B, n.T))),
            Probe(
                lambda n: (0.7, 1000 * n.normal(n.B, n.T, n.V), uneven_targets(n, n.B, n.T)),
                "logits of ±1,000",
            ),
            Probe(lambda n: (0.7, n.normal(9, 9), n.rng.integers(9, size=9)), "a single text"),
        ],
        invariants=(("each row must sum to 0", sums_to_0),),
        forward="cross_entropy",
        loss=cross_entropy_loss,
    ),
]
