"""A long prompt, in chunks that run side by side."""

from __future__ import annotations

import math
import threading

import numpy as np

from .cache import KVCache
from .config import GPT2Config
from .model import hidden_states
from .threads import single_threaded_products, thread_count, thread_pool
from .weights import Weights

CHUNK = 128  # tokens of a prompt at a time: what they need in between stays in the processor's cache
SERIAL_MULTIPLY_ADDS = (
    3 << 20
)  # of a product: it is done before another thread, on a busy machine, has come to its part


def prefill(tokens: np.ndarray, weights: Weights, config: GPT2Config, cache: KVCache) -> np.ndarray:
    """Take (B, T) tokens into the cache; their hidden states, (B, T, C).

    A long prompt goes in chunk by chunk. If there are enough for all threads, they run side by side, each one layer
    behind the one before.
    """
    T = tokens.shape[1]
    if T > 1 and T * config.n_embd**2 < SERIAL_MULTIPLY_ADDS:
        with single_threaded_products():
            return hidden_states(tokens, weights, config, cache)
    size = min(CHUNK, max(CHUNK // 2, math.ceil(T / 2)))
    chunks = np.split(tokens, range(size, T, size), axis=1)
    if len(chunks) == 1 or len(chunks) < thread_count():
        return np.concatenate([hidden_states(chunk, weights, config, cache) for chunk in chunks], axis=1)
    turns: list[ChunkCache] = []
    for chunk in chunks:
        turns.append(ChunkCache(cache, turns[-1] if turns else None, chunk.shape[1]))
    with thread_pool() as pool:
        try:
            hidden = list(pool.map(lambda chunk, turn: hidden_states(chunk, weights, config, turn), chunks, turns))
        finally:
            for turn in turns:
                turn.close()
    cache.length += T
    return np.concatenate(hidden, axis=1)


class ChunkCache(KVCache):
    """A cache as one chunk of a text sees it, while other threads compute the chunks before and after.

    All that a chunk needs of those before it are their keys and values, layer by layer: it waits for a layer's until
    the chunk before has written its own, and so comes one layer behind.
    """

    def __init__(self, cache: KVCache, before: ChunkCache | None, T: int) -> None:
        self.keys, self.values = cache.keys, cache.values
        self.length = before.end if before else cache.length
        self.end: int = self.length + T
        self.before = before
        self.written = [threading.Event() for _ in cache.keys]

    def update(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As a cache does, once all that comes before is there."""
        if self.before:
            self.before.written[layer].wait()
        views = super().update(layer, k, v)
        self.written[layer].set()
        return views

    def close(self) -> None:
        """This chunk is done, or has failed: nobody waits for it any longer."""
        for written in self.written:
            written.set()
