"""Part 3: the methods of `KVCache`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...config import GPT2Config
from ..exercise import Exercise, Inputs, Probe


def run_update(cache_class: Any, config: GPT2Config, calls: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    """How `KVCache.update` is checked: several calls, each for all layers, as `hidden_states` makes them."""
    cache = cache_class(config, len(calls[0][0]), calls[0][0].dtype)
    results = {}
    for number, (k, v) in enumerate(calls, start=1):
        views = [np.stack(cache.update(layer, k + layer, v + layer)) for layer in range(config.n_layer)]
        results[f"call {number}"] = np.stack(views)
        cache.length += k.shape[2]
    return results


def update_probe(*lengths: int) -> Callable[[Inputs], tuple[Any, ...]]:
    """Calls of `update` with these numbers of new positions."""
    return lambda n: (
        n.config(),
        [(n.normal(n.B, n.H, T, n.D), n.normal(n.B, n.H, T, n.D)) for T in lengths],
    )


EXERCISES: list[Exercise] = [
    Exercise(
        "KVCache.update",
        "cache",
        (
            "The first call stores T positions, the next one follows them. Each layer has its own place.",
            "The new positions are self.length to self.length + T on axis 3 of self.keys and self.values.",
            "self.keys[layer, :, :, self.length : S] = k",
        ),
        [Probe(update_probe(5, 1)), Probe(update_probe(1, 1, 4), "single tokens")],
        run=run_update,
    ),
]
