"""The baseline: GPT-2 in simple NumPy without a cache. Every new token recomputes the whole text."""

from __future__ import annotations

import numpy as np

from numpy_gpt2 import GPT2Config


def layer_norm(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Scale each row to mean 0 and variance 1, then apply weight and bias."""
    standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return standard * w[name + ".weight"] + w[name + ".bias"]


def linear(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    """x W + b"""
    return x @ w[name + ".weight"] + w[name + ".bias"]


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal attention of one head: q, k and v are (T, D)."""
    scores = q @ k.T / q.shape[-1] ** 0.5
    scores[np.triu_indices(len(q), 1)] = -1e10
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    return pattern / pattern.sum(-1, keepdims=True) @ v


def next_token(tokens: list[int], w: dict[str, np.ndarray], config: GPT2Config) -> int:
    """The most probable next token."""
    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for layer in range(config.n_layer):
        h = f"h.{layer}."
        qkv = linear(layer_norm(x, w, h + "ln_1"), w, h + "attn.c_attn")
        heads = zip(*np.reshape(np.split(qkv, 3, -1), (3, len(x), config.n_head, -1)).swapaxes(1, 2), strict=True)
        x = x + linear(np.hstack([attention(*head) for head in heads]), w, h + "attn.c_proj")
        y = linear(layer_norm(x, w, h + "ln_2"), w, h + "mlp.c_fc")
        y = 0.5 * y * (1 + np.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3)))
        x = x + linear(y, w, h + "mlp.c_proj")
    logits = layer_norm(x, w, "ln_f") @ w["wte.weight"].T
    return int(logits[-1].argmax())
