"""What heads, MLPs and neurons contribute to a token's logit, which tokens they promote, and where heads look.

A logit is linear in the vector that the last layer norm returns, and that vector is linear in the residual stream once
the standard deviation of the stream is known. So a logit is the exact sum of what each part of the model adds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..config import GPT2Config
from ..model import output_head
from ..weights import Weights

N_PROMOTED = 5
ROWS = 256  # vectors that go through the output head together; each product takes the time of 60 more, to read the head
BLOCK = 128  # numbers of a long row that are first compared by their maximum
KINDS = ("previous", "first", "duplicate", "induction")


def largest(x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and values of the n largest along the last axis, in descending order. Equal values keep their order."""
    V = x.shape[-1]
    n = min(n, V)
    if n * BLOCK < V // 4:
        places = blocks_of_largest(x, n)
        values = np.take_along_axis(x, np.minimum(places, V - 1), axis=-1)
        order, values = largest(np.where(places < V, values, -np.inf), n)
        return np.take_along_axis(places, order, axis=-1), values
    places = np.sort(np.argpartition(x, -n, axis=-1)[..., -n:])
    order = np.argsort(-np.take_along_axis(x, places, axis=-1), axis=-1, kind="stable")
    places = np.take_along_axis(places, order, axis=-1)
    return places, np.take_along_axis(x, places, axis=-1)


def blocks_of_largest(x: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n blocks with the largest maxima: the n largest numbers are in them. (..., V) -> (..., n · BLOCK).

    Finding maxima is much faster than sorting. The last block may reach beyond V.
    """
    maxima = np.maximum.reduceat(x, range(0, x.shape[-1], BLOCK), axis=-1)
    blocks = np.sort(np.argpartition(maxima, -n, axis=-1)[..., -n:])
    return (BLOCK * blocks[..., None] + np.arange(BLOCK)).reshape(*x.shape[:-1], -1)


def readers(x: np.ndarray, following: np.ndarray, weights: Weights, config: GPT2Config) -> np.ndarray:
    """u = (d − mean(d)) / σ with d = ln_f.weight · E[token]: the inner product of a part and u is what it contributes.

    `x` (T, C) is the residual stream before the last layer norm, σ = √(variance(x) + ε) its standard deviation, E the
    output head, and `following` (T,) the token whose logit is explained at each position. Returns (T, C). Layer norm
    subtracts the mean of each part; subtracting the mean of d does the same. σ is that of the whole stream: it stays
    as it was in the forward pass. Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
    """
    d = np.asarray(output_head(weights)[following]) * weights["ln_f.weight"]
    sigma = np.sqrt(x.var(axis=-1, keepdims=True) + config.layer_norm_epsilon)
    return (d - d.mean(axis=-1, keepdims=True)) / sigma


def contributions(
    arrays: dict[str, np.ndarray], following: np.ndarray, weights: Weights, config: GPT2Config
) -> dict[str, np.ndarray]:
    """The terms whose sum is each position's logit of its `following` token, by name.

    `direct.heads` (L, H, T), `direct.mlps` (L, T), `direct.embed`, `direct.pos_embed` and `direct.biases` (T,). The
    last one sums the biases of all `attn.c_proj` and of `ln_f`. `direct.neurons` (L, T, 8) are parts of `direct.mlps`.
    """
    L, H, T = config.n_layer, config.n_head, len(following)
    u = readers(arrays[f"h.{L - 1}.resid_post"][0], following, weights, config)
    heads, mlps, neurons = [], [], []
    biases = np.vecdot(np.asarray(output_head(weights)[following]), weights["ln_f.bias"])
    for layer in range(L):
        read = u @ np.asarray(weights[f"h.{layer}.attn.c_proj.weight"]).T  # (T, C): what one unit of each channel adds
        heads.append(np.vecdot(arrays[f"h.{layer}.attn.z"][0], read.reshape(T, H, -1).swapaxes(0, 1)))
        biases = biases + u @ weights[f"h.{layer}.attn.c_proj.bias"]
        mlps.append(np.vecdot(arrays[f"h.{layer}.mlp_out"][0], u))
        added = arrays[f"h.{layer}.mlp.post"][0] * (u @ np.asarray(weights[f"h.{layer}.mlp.c_proj.weight"]).T)
        neurons.append(np.take_along_axis(added, arrays["neurons"][layer], axis=-1))
    terms = {"heads": np.array(heads), "mlps": np.array(mlps), "neurons": np.array(neurons), "biases": biases}
    terms |= {name: np.vecdot(arrays[name], u) for name in ("embed", "pos_embed")}
    return {f"direct.{name}": values for name, values in terms.items()}


def promoted(vectors: np.ndarray, weights: Weights) -> np.ndarray:
    """The tokens whose logits grow most when a vector is added to the residual stream. (N, C) -> (N, 5).

    The vector's mean is subtracted, and the rest goes through the weight of the last layer norm and the output head.
    The standard deviation of the last layer norm does not change the order. Geva et al. 2022, "Transformer Feed-Forward
    Layers Build Predictions by Promoting Concepts in the Vocabulary Space".
    """
    head = output_head(weights).T
    read = (vectors - vectors.mean(axis=-1, keepdims=True)) * weights["ln_f.weight"]
    return np.concatenate([largest(rows @ head, N_PROMOTED)[0] for rows in row_chunks(read)])


def row_chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of x (N, C), `ROWS` at a time."""
    return (x[start : start + ROWS] for start in range(0, len(x), ROWS))


def promoted_in_block(
    layer: int, arrays: dict[str, np.ndarray], weights: Weights, config: GPT2Config
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that each head's output at the last position promotes, (H, 5), and those of neurons, (T, 8, 5).

    The tokens of a neuron are those of its output weights, a row of `mlp.c_proj`. They are the same at all positions.
    """
    H, C = config.n_head, config.n_embd
    projection = np.asarray(weights[f"h.{layer}.attn.c_proj.weight"]).reshape(H, C // H, C)
    heads = np.vecmat(arrays[f"h.{layer}.attn.z"][0, :, -1], projection)
    chosen, places = np.unique(arrays["neurons"][layer], return_inverse=True)
    neurons = np.asarray(weights[f"h.{layer}.mlp.c_proj.weight"])[chosen]
    tokens = promoted(np.concatenate([heads, neurons]), weights)
    return tokens[:H], tokens[H:][places]


def head_kinds(pattern: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """How much each head looks at four kinds of keys, from 0 to 1. (..., T, T) and (T,) -> (..., 4).

    The mean weight on the previous token, on the first token, on earlier copies of the query's token (duplicate), and
    on the tokens that follow these copies (induction). The first two are means over all positions but the first. The
    last two are means over the positions whose token occurs before, and 0 if there is none.
    Olsson et al. 2022, "In-context Learning and Induction Heads"; Wang et al. 2022, "Interpretability in the Wild".
    """
    T = len(tokens)
    copies = np.tril(tokens[:, None] == tokens, k=-1)
    after_copies = np.zeros_like(copies)
    after_copies[:, 1:] = copies[:, :-1]
    first = np.zeros_like(copies)
    first[1:, 0] = True
    masks = np.array([np.eye(T, k=-1, dtype=bool), first, copies, after_copies])
    queries = masks.any(axis=-1).sum(axis=-1)
    return np.einsum("...ts,kts->...k", pattern, masks.astype(pattern.dtype)) / np.maximum(queries, 1)
