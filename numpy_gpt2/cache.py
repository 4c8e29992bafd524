"""The KV cache: what attention remembers of the tokens that it has already seen."""

from __future__ import annotations

import copy
import math
import mmap

import numpy as np
from numpy.typing import DTypeLike

from .config import GPT2Config


class KVCache:
    """Keys and values of every layer for the first `length` positions.

    With it, a new token costs one position's work instead of the whole sequence's: queries look back at stored keys and
    values, which causal attention never changes once they are computed. It holds up to `n_positions` positions,
    2 · L · C numbers each; memory is taken as positions are filled.

    `hidden_states` advances `length` after all layers have written, so a cache is changed by a forward pass as a whole.
    """

    def __init__(self, config: GPT2Config, batch_size: int = 1, dtype: DTypeLike = np.float32) -> None:
        L, H, D = config.n_layer, config.n_head, config.n_embd // config.n_head
        self.keys = lazy_empty((L, batch_size, H, config.n_positions, D), dtype)
        self.values = lazy_empty(self.keys.shape, dtype)
        self.length = 0

    def update(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store a layer's k and v of the new tokens, (B, H, T, D); return views of all so far, (B, H, S, D)."""
        S = self.length + k.shape[-2]
        if k.dtype != self.keys.dtype:
            raise ValueError(f"the cache holds {self.keys.dtype}, the model computes in {k.dtype}")
        if k.shape[0] != self.keys.shape[1]:
            raise ValueError(
                f"the cache is for a batch of {self.keys.shape[1]}, the tokens are a batch of {k.shape[0]}"
            )
        self.keys[layer, :, :, self.length : S] = k
        self.values[layer, :, :, self.length : S] = v
        return self.keys[layer, :, :, :S], self.values[layer, :, :, :S]

    def truncate(self, n: int) -> None:
        """Forget everything after the first n positions. Raises ValueError if there are fewer."""
        if not 0 <= n <= self.length:
            raise ValueError(f"cannot cut a cache of {self.length} positions to {n}")
        self.length = n

    def repeat(self, n: int) -> KVCache:
        """A cache for n times the batch: every row n times, as `np.repeat` orders them."""
        repeated = copy.copy(self)
        L, B, *shape = self.keys.shape
        repeated.keys = lazy_empty((L, B * n, *shape), self.keys.dtype)
        repeated.values = lazy_empty(repeated.keys.shape, self.keys.dtype)
        for new, old in ((repeated.keys, self.keys), (repeated.values, self.values)):
            new.reshape(L, B, n, *shape)[..., : self.length, :] = old[:, :, None, :, : self.length]
        return repeated


def lazy_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array that takes memory as it is filled, a few KB at a time. That of `np.empty` may come in pages of 2 MB, of
    which each would hold a little of many heads, so that the first positions would take all of it."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        memory = mmap.mmap(-1, n_bytes, access=mmap.ACCESS_COPY)
    except (OSError, OverflowError, ValueError):
        raise MemoryError(f"no memory for {n_bytes:,} bytes of keys or values; make the batch smaller") from None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.ndarray(shape, dtype, memory)
