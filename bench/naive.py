"""The baseline: GPT-2 in plain NumPy as one writes it first, the whole text computed anew for each token."""

from __future__ import annotations

import numpy as np

from numpy_gpt2 import GPT2Config


def normalized(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Each row with mean 0 and variance 1, scaled and shifted."""
    standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return standard * w[name + ".weight"] + w[name + ".bias"]


def projected(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    """x W + b."""
    return x @ w[name + ".weight"] + w[name + ".bias"]


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One head's attention of each row to itself and to those before it."""
    scores = q @ k.T / q.shape[-1] ** 0.5
    scores[np.triu_indices(len(q), 1)] = -1e10
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    return pattern / pattern.sum(-1, keepdims=True) @ v


def next_token(tokens: list[int], w: dict[str, np.ndarray], config: GPT2Config) -> int:
    """The most probable continuation of a text."""
    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for layer in range(config.n_layer):
        h = f"h.{layer}."
        qkv = projected(normalized(x, w, h + "ln_1"), w, h + "attn.c_attn")
        heads = zip(*np.reshape(np.split(qkv, 3, -1), (3, len(x), config.n_head, -1)).swapaxes(1, 2), strict=True)
        x = x + projected(np.hstack([attended(*head) for head in heads]), w, h + "attn.c_proj")
        y = projected(normalized(x, w, h + "ln_2"), w, h + "mlp.c_fc")
        y = 0.5 * y * (1 + np.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3)))
        x = x + projected(y, w, h + "mlp.c_proj")
    logits = normalized(x, w, "ln_f") @ w["wte.weight"].T
    return int(logits[-1].argmax())
