"""A long prompt, in chunks that threads compute in parallel.

NumPy uses several threads for matrix products only, and one thread for everything else. Here each thread computes a
chunk of the prompt, so all cores share all of the work.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import CancelledError

import numpy as np

from .cache import KVCache
from .config import GPT2Config
from .model import hidden_states
from .threads import single_threaded_products, thread_count, thread_pool
from .weights import Weights

CHUNK = 192  # tokens per chunk, at most: so few that its intermediate results stay in the processor's cache
SHORTEST = 64  # tokens per chunk: with fewer, products are slow, because each one reads all the weights
SERIAL_MULTIPLY_ADDS = 3 << 20  # products with fewer multiply-adds finish before a second thread wakes up


def chunk_length(T: int, longest: int, n_threads: int) -> int:
    """Tokens per chunk of a prompt of T tokens, at most `longest`: equally many chunks for each thread.

    Two threads compute 300 tokens in two chunks of 150. With three chunks, one thread would wait for the third one.
    If these would be shorter than SHORTEST, there are as few chunks as possible, and all threads share each product.

    >>> chunk_length(300, longest=192, n_threads=2)
    150
    >>> chunk_length(1000, longest=192, n_threads=2)  # 6 chunks
    167
    >>> chunk_length(100, longest=192, n_threads=2)  # 1 chunk
    100
    """
    n = n_threads * math.ceil(T / (n_threads * longest))
    size = math.ceil(T / n)
    return size if size >= min(SHORTEST, longest) else math.ceil(T / math.ceil(T / longest))


def prefill(
    tokens: np.ndarray, weights: Weights, config: GPT2Config, cache: KVCache, chunk_size: int = CHUNK
) -> np.ndarray:
    """`hidden_states` of tokens (B, T), computed chunk by chunk: (B, T, C). The tokens are added to the cache.

    With at least one chunk for each thread, chunks run in parallel. Each one is a layer behind the chunk before it.
    """
    T = tokens.shape[1]
    if T > 1 and T * config.n_embd**2 < SERIAL_MULTIPLY_ADDS:
        with single_threaded_products():
            return hidden_states(tokens, weights, config, cache)
    if min(SHORTEST, chunk_size) >= T:  # decoding comes here: it does not need the number of threads
        return hidden_states(tokens, weights, config, cache)
    size = chunk_length(T, chunk_size, thread_count())
    chunks = np.split(tokens, range(size, T, size), axis=1)
    if len(chunks) == 1 or len(chunks) < thread_count():
        return np.concatenate([hidden_states(chunk, weights, config, cache) for chunk in chunks], axis=1)

    if cache.keys.shape[3] < cache.length + T:
        cache.reserve(cache.length + T)  # now, because the chunks share these arrays
    chunk_caches: list[ChunkCache] = []
    for chunk in chunks:
        chunk_caches.append(ChunkCache(cache, chunk_caches[-1] if chunk_caches else None, chunk.shape[1]))
    with thread_pool() as pool:
        try:
            hidden = list(pool.map(lambda chunk, c: hidden_states(chunk, weights, config, c), chunks, chunk_caches))
        finally:
            for chunk_cache in chunk_caches:
                chunk_cache.close()
    cache.length += T
    return np.concatenate(hidden, axis=1)


class ChunkCache(KVCache):
    """The cache as one chunk sees it, while other threads compute the chunks before and after it.

    A chunk needs the keys and values of the chunks before it. So in each layer, it waits until the chunk before it has
    written its keys and values.
    """

    def __init__(self, cache: KVCache, before: ChunkCache | None, T: int) -> None:
        self.keys, self.values = cache.keys, cache.values
        self.length = before.end if before else cache.length
        self.end: int = self.length + T
        self.before = before
        self.written = [threading.Event() for _ in cache.keys]
        self.closed = False

    def update(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Like `KVCache.update`, but first wait until the chunk before this one has written this layer.

        Raises CancelledError if this chunk was closed.
        """
        if self.before:
            self.before.written[layer].wait()
        if self.closed:
            raise CancelledError
        views = super().update(layer, k, v)
        self.written[layer].set()
        return views

    def close(self) -> None:
        """Stop this chunk at its next layer, and release the thread that waits for it."""
        self.closed = True
        for written in self.written:
            written.set()
