"""Part 1: the functions of `model.py`, in its order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...model import causal_mask, gelu, relu
from ..exercise import Exercise, Inputs, Probe

Arguments = tuple[Any, ...]


def rows_sum_to_1(y: np.ndarray) -> bool:
    """Whether each row is a distribution."""
    return bool(np.allclose(y.sum(axis=-1), 1))


def attention_scale(config_class: Any, fields: dict[str, Any], layer: int) -> dict[str, Any]:
    """How `GPT2Config.attention_scale` is checked. A NumPy float64 would make float32 scores float64."""
    scale = config_class(**{"n_embd": Inputs.H * Inputs.D, "n_head": Inputs.H, **fields}).attention_scale(layer)
    return {"the scale": scale, "a float32 array times the scale": np.ones(2, np.float32) * scale}


def attention_probe(T: int, S: int, size: float = 1.0) -> Callable[[Inputs], Arguments]:
    """Random q, k and v for T queries and S keys; `size` is that of q. The scale is not 1/√D: it is an argument."""

    def make(n: Inputs) -> Arguments:
        q, k, v = size * n.normal(n.B, n.H, T, n.D), n.normal(n.B, n.H, S, n.D), n.normal(n.B, n.H, S, n.D)
        return q.astype(n.dtype), k, v, causal_mask(T, S), 0.4

    return make


def random_mask(n: Inputs) -> Arguments:
    """Attention with a mask that is not causal, and other numbers of texts and heads. Each query sees a key."""
    q, k, v, mask, scale = attention_probe(n.T, n.S)(n)
    mask = n.rng.random(mask.shape) < 0.5
    mask[:, 3] = True
    return *(x.swapaxes(0, 1) for x in (q, k, v)), mask, scale


def mlp_probe(activation: Callable[[np.ndarray], np.ndarray]) -> Callable[[Inputs], Arguments]:
    """The arguments of `mlp`."""

    def make(n: Inputs) -> Arguments:
        shapes = {name: shape for name, shape in n.config().block_shapes().items() if name.startswith("mlp.")}
        return n.normal(n.B, n.T, n.C), n.weights(shapes), activation

    return make


def block_probe(
    layer: int, cached: int | None = None, T: int | None = None, **fields: Any
) -> Callable[[Inputs], Arguments]:
    """The arguments of `block`, with `cached` positions in a cache."""

    def make(n: Inputs) -> Arguments:
        config = n.config(**fields)
        arguments = n.normal(n.B, T or n.T, n.C), n.weights(config.block_shapes()), config, layer
        return arguments if cached is None else (*arguments, n.cache(config, cached))

    return make


def run_block(block: Callable[..., Any], x: Any, w: Any, config: Any, layer: int, cache: Any = None, *hook: Any) -> Any:
    """How `block` is checked. It must not change the length of the cache."""
    if cache is None:
        return block(x, w, config, layer, *((cache, *hook) if hook else ()))
    return {"the result": block(x, w, config, layer, cache, *hook), "cache.length": cache.length}


def hidden_states_probe(
    ids: Callable[[Inputs], Any], cached: int | None = None, **fields: Any
) -> Callable[[Inputs], Arguments]:
    """The arguments of `hidden_states`, with `cached` positions in a cache."""

    def make(n: Inputs) -> Arguments:
        config = n.config(**fields)
        weights, tokens = n.weights(config.parameter_shapes()), ids(n)
        return (tokens, weights, config) if cached is None else (tokens, weights, config, n.cache(config, cached))

    return make


def run_hidden_states(
    hidden_states: Callable[..., Any], tokens: Any, weights: Any, config: Any, cache: Any = None, *hook: Any
) -> Any:
    """How `hidden_states` is checked: with a cache, the tokens come in two calls, and its length counts, too."""
    if cache is None:
        return hidden_states(tokens, weights, config, *((cache, *hook) if hook else ()))
    x = [hidden_states(chunk, weights, config, cache, *hook) for chunk in (tokens[:, :3], tokens[:, 3:]) if chunk.size]
    return {"first call": x[0], "second call": x[-1], "cache.length": cache.length}


def logits_probe(*head: str) -> Callable[[Inputs], Arguments]:
    """The arguments of `logits`, with the embedding and with these other matrices."""
    return lambda n: (n.normal(n.B, n.T, n.C), {name: n.normal(n.V, n.C) for name in ("wte.weight", *head)})


def uneven_targets(n: Inputs, *shape: int) -> np.ndarray:
    """Random targets, one of which is 0. Rows differ in how many of them are −1."""
    targets = n.ids(*shape)
    targets[..., 0, 3] = 0
    targets[..., 0, :3] = targets[..., -1, 1:2] = -1
    return targets


EXERCISES = [
    Exercise(
        "layer_norm",
        "model",
        (
            "Without weight and bias, each position's C numbers have mean 0, and variance 1 if eps is small.",
            "x.mean(axis=-1, keepdims=True) is the mean over channels. eps is added to the variance, under the root.",
            "centered / np.sqrt",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.T, n.C), n.normal(n.C), n.normal(n.C), 0.1)),
            Probe(lambda n: (n.normal(9, 9), n.normal(9), n.normal(9), 0.1), "a square array"),
            Probe(lambda n: (n.normal(n.C), n.normal(n.C), n.normal(n.C), 0.1), "a single position"),
            Probe(
                lambda n: (n.normal(3, n.C) * n.array([[1], [0.01], [0]]), n.normal(n.C), n.normal(n.C), 0.1),
                "rows with little or no variance",
            ),
        ],
    ),
    Exercise(
        "gelu",
        "model",
        (
            "gelu(0) is 0, gelu(1) is 0.8412, and gelu(-10) is almost 0. Compute your three numbers.",
            "np.tanh and math.sqrt(2 / math.pi). The cube of x is inside tanh; the factor x / 2 is outside.",
            "np.tanh",
        ),
        [
            Probe(lambda n: (2 * n.normal(n.B, n.T, n.M),)),
            Probe(lambda n: (n.array([-10.0, -2.7, -1.0, 0.0, 1.0, 2.7, 10.0]),), "x = ±1, ±2.7 and ±10"),
            Probe(lambda n: (n.array([-100.0, 100.0]),), "x = ±100"),
        ],
    ),
    Exercise(
        "softmax",
        "model",
        (
            "Each row, along the last axis, sums to 1. Scores of 1,000 must work, too: exp(1000) is inf.",
            "Subtract x.max(axis=-1, keepdims=True) before np.exp: the result is the same, and nothing overflows.",
            "x.max",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.H, n.T, n.S),)),
            Probe(
                lambda n: (n.array([[1000.0, 999, -math.inf, 998], [-1000, -1001, -999, -1000], [0, 0, 0, 720]]),),
                "scores of ±1,000 and −inf",
            ),
            Probe(lambda n: (n.normal(9, 9),), "a square array"),
        ],
        invariants=(("each row must sum to 1", rows_sum_to_1),),
    ),
    Exercise(
        "linear",
        "model",
        (
            "weight is (C, N): GPT-2 stores matrices as (in, out). Output n is the sum of x[c] * weight[c, n], plus"
            " bias[n].",
            "The operator @ multiplies the last axis of x with the first axis of weight. Nothing is transposed.",
            "@ weight",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.T, n.C), n.normal(n.C, n.N), n.normal(n.N))),
            Probe(lambda n: (n.normal(9, 9), n.normal(9, 9), n.normal(9)), "a square matrix"),
            Probe(lambda n: (n.normal(n.C), n.normal(n.C, n.N), n.normal(n.N)), "a single position"),
        ],
    ),
    Exercise(
        "causal_mask",
        "model",
        (
            "The T new positions are the last of S. The last row is all True: the newest position sees every key.",
            "Query i is at position S - T + i. Compare np.arange(S) with the positions of the queries as a column.",
            "np.arange(S - T, S)",
        ),
        [
            Probe(lambda n: (n.T, n.S), "T < S, as with a cache"),
            Probe(lambda n: (n.T, n.T), "T = S, a whole prompt"),
            Probe(lambda n: (1, n.S), "T = 1, one new token"),
        ],
    ),
    Exercise(
        "GPT2Config.attention_scale",
        "config",
        (
            "For gpt2, C is 768 and H is 12, so D is 64 and the scale is 1/8. Two settings change this.",
            "D is self.n_embd // self.n_head, and math.sqrt gives a Python number. Look at the two settings"
            " scale_attn_….",
            "math.sqrt",
        ),
        [
            Probe(lambda n: ({}, 2), "the default settings"),
            Probe(lambda n: ({"scale_attn_by_inverse_layer_idx": True}, 2), "scale_attn_by_inverse_layer_idx=True"),
            Probe(
                lambda n: ({"scale_attn_by_inverse_layer_idx": True, "n_embd": 36}, 0),
                "layer 0, with scale_attn_by_inverse_layer_idx=True",
            ),
            Probe(lambda n: ({"scale_attn_weights": False}, 2), "scale_attn_weights=False"),
            Probe(
                lambda n: ({"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, 2),
                "scale_attn_weights=False with scale_attn_by_inverse_layer_idx=True",
            ),
        ],
        run=attention_scale,
    ),
    Exercise(
        "attention",
        "model",
        (
            "Row 0 of a whole prompt sees one key only: its result is v[..., 0, :], whatever the scores are.",
            "k.swapaxes(-1, -2) is kᵀ for each head. Set scores to -math.inf where the mask is False, before softmax.",
            "where=~mask",
        ),
        [
            Probe(lambda n: attention_probe(n.T, n.S)(n)),
            Probe(lambda n: attention_probe(9, 9)(n), "T = S, a whole prompt"),
            Probe(lambda n: attention_probe(n.T, n.S, 1e5)(n), "scores of ±100,000"),
            Probe(random_mask, "a mask that is not causal"),
        ],
    ),
    Exercise(
        "split_heads",
        "model",
        (
            "Of the 3C columns, the first C are q. Of these, the first D are head 0. No number changes; only axes do.",
            "Columns are split by reshape, in the order (3, H, D). transpose then moves the axes.",
            "transpose",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.T, 3 * n.C), n.H)),
            Probe(lambda n: (n.normal(1, n.T, 3 * n.C), n.H), "a batch of 1"),
        ],
        outputs=("q", "k", "v"),
    ),
    Exercise(
        "merge_heads",
        "model",
        (
            "Position t's C numbers are head 0's D numbers, then head 1's D numbers, and so on.",
            "swapaxes brings H next to D. Only then may reshape join the two.",
            "swapaxes",
        ),
        [Probe(lambda n: (n.normal(n.B, n.H, n.T, n.D),)), Probe(lambda n: (n.normal(1, 4, 9, 9),), "a square array")],
    ),
    Exercise(
        "mlp",
        "model",
        (
            "There are two linear layers, with the activation between them and nowhere else.",
            "linear(x, w['mlp.c_fc.weight'], w['mlp.c_fc.bias']) is the first of them. `activation` is a function.",
            "activation(pre)",
        ),
        [
            Probe(mlp_probe(gelu)),
            Probe(mlp_probe(relu), "relu as the activation"),
        ],
    ),
    Exercise(
        "block",
        "model",
        (
            "x is changed by two sums only. What is added is computed from layer_norm(x); what it is added to is x.",
            "linear, split_heads, cache.update if there is a cache, attention, merge_heads, linear: this is"
            " attention's part.",
            'hook("resid_mid"',
        ),
        [
            Probe(block_probe(2, scale_attn_by_inverse_layer_idx=True)),
            Probe(block_probe(2, 2, T=5, scale_attn_by_inverse_layer_idx=True), "a cache with 2 positions"),
            Probe(block_probe(0, activation_function="relu"), 'activation_function="relu"'),
        ],
        run=run_block,
    ),
    Exercise(
        "hidden_states",
        "model",
        (
            "Without blocks and ln_f, the result at position t is wte[token] + wpe[t]. With a cache, t does not"
            " begin at 0.",
            "A table is indexed by an array of ids: weights['wte.weight'][tokens]. Block l's weights begin with"
            " 'h.{l}.'.",
            "weights[f",
        ),
        [
            Probe(hidden_states_probe(lambda n: n.ids(n.B, n.T))),
            Probe(hidden_states_probe(lambda n: n.ids(n.B, n.T), 2), "a cache with 2 positions"),
            Probe(hidden_states_probe(lambda n: n.ids(n.T).tolist()), "a list of ids"),
            Probe(
                hidden_states_probe(lambda n: n.ids(n.B, n.T), scale_attn_by_inverse_layer_idx=True),
                "scale_attn_by_inverse_layer_idx=True",
            ),
            Probe(hidden_states_probe(lambda n: n.ids(n.P)), "a text of n_positions tokens"),
            Probe(
                hidden_states_probe(lambda n: n.ids(n.B, 3), Inputs.P - 1),  # NumPy repeats the one row of wpe
                "3 tokens after n_positions - 1 in the cache",
                ValueError,
            ),
            Probe(hidden_states_probe(lambda n: [3, -1]), "a negative id", IndexError),
            Probe(hidden_states_probe(lambda n: [3, n.V]), "the id V, which does not exist", IndexError),
        ],
        run=run_hidden_states,
    ),
    Exercise(
        "logits",
        "model",
        (
            "Token i's score is the dot product of x with row i of the head. There is no bias and no softmax.",
            "output_head(weights) is the head, (V, C). x @ head.T has the right shape.",
            "head.T",
        ),
        [
            Probe(logits_probe()),
            Probe(logits_probe("lm_head.weight"), "a head that is not tied: lm_head.weight"),
            Probe(lambda n: (n.normal(n.C), {"wte.weight": n.normal(n.V, n.C)}), "a single position"),
        ],
    ),
    Exercise(
        "cross_entropy",
        "model",
        (
            "If all V logits are equal, the loss is ln V. Targets of -1 do not count, in the sum and in N.",
            "x[np.arange(N), targets] picks one logit from each row. Subtract the row's maximum before np.exp.",
            "x[np.arange",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.T, n.V), uneven_targets(n, n.B, n.T))),
            Probe(lambda n: (1000 * n.normal(n.B, n.T, n.V), uneven_targets(n, n.B, n.T)), "logits of ±1,000"),
            Probe(lambda n: (10 * n.normal(n.B, n.T, n.V), uneven_targets(n, n.B, n.T)), "logits of ±10"),
            Probe(lambda n: (1000 + n.normal(n.T, n.V), n.ids(n.T)), "logits that are all about 1,000"),
            Probe(lambda n: (n.normal(n.T, n.V), n.ids(n.T).tolist()), "a list of targets"),
            Probe(lambda n: (n.normal(2, n.V), [3, -2]), "a target of -2", IndexError),
            Probe(lambda n: (n.normal(2, n.V), [3, n.V]), "the target V, which does not exist", IndexError),
        ],
    ),
]
