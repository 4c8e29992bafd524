"""The KV cache: the keys and values of all tokens so far, so that attention does not compute them again."""

import copy
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from .config import GPT2Config


class KVCache:
    """Keys and values of every layer for the first `length` positions, 2 · L · C numbers per position.

    A position's key and value depend on its own and earlier tokens. So later tokens never change them, and a forward
    pass computes only new positions. After the last layer, `hidden_states` adds T to `length`.

    >>> cache = KVCache(GPT2Config(n_embd=4, n_layer=1, n_head=2))
    >>> k, v = cache.update(0, np.ones((1, 2, 3, 2), np.float32), np.zeros((1, 2, 3, 2), np.float32))  # 3 new tokens
    >>> cache.length = 3
    >>> k, v = cache.update(0, np.ones((1, 2, 1, 2), np.float32), np.zeros((1, 2, 1, 2), np.float32))  # and one more
    >>> k.shape  # (B, H, S, D)
    (1, 2, 4, 2)
    """

    def __init__(self, config: GPT2Config, batch_size: int = 1, dtype: DTypeLike = np.float32) -> None:
        L, H, D = config.n_layer, config.n_head, config.n_embd // config.n_head
        self.keys, self.values = np.empty((2, L, batch_size, H, 0, D), dtype)
        self.length, self.n_positions = 0, config.n_positions

    def update(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store a layer's k and v of the new tokens, (B, H, T, D). Return views of all k and v so far, (B, H, S, D)."""
        S, B = self.length + k.shape[2], self.keys.shape[1]
        if len(k) != B or k.dtype != self.keys.dtype:
            raise ValueError(f"a batch of {len(k)} in {k.dtype} does not fit the cache, for {B} in {self.keys.dtype}")
        if self.keys.shape[3] < S:
            self.reserve(max(S, min(2 * self.length, self.n_positions)))  # doubling: memory grows with the text
        self.keys[layer, :, :, self.length : S] = k
        self.values[layer, :, :, self.length : S] = v
        return self.keys[layer, :, :, :S], self.values[layer, :, :, :S]

    def reserve(self, n: int, repeats: int = 1) -> None:
        """Allocate arrays for n positions. Copy the stored keys and values to them, every row `repeats` times."""
        L, B, H, _, D = self.keys.shape
        for name in ("keys", "values"):
            old, new = getattr(self, name), np.empty((L, B, repeats, H, n, D), self.keys.dtype)
            new[..., : self.length, :] = old[:, :, None, :, : self.length]
            setattr(self, name, new.reshape(L, B * repeats, H, n, D))

    def truncate(self, n: int) -> None:
        """Forget everything after the first n positions. Raises ValueError if the cache has fewer."""
        if not 0 <= n <= self.length:
            raise ValueError(f"n is {n}; it must be from 0 to the cache's {self.length} positions")
        self.length = n

    def repeat(self, n: int) -> Self:
        """A new cache that has every row of the batch n times, in the order of `np.repeat`."""
        repeated = copy.copy(self)
        repeated.reserve(min(2 * self.length, self.n_positions), repeats=n)
        return repeated
