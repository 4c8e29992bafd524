"""What no implementation can pass: how fast the machine reads and multiplies, over what a model needs of both."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from numpy_gpt2 import GPT2Config

BYTES = 512 << 20  # read at a time: far more than any processor's cache holds
REPEATS = 3  # of which the fastest counts


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Limits:
    """The machine's speeds, measured with NumPy in turn with the implementations."""

    def __init__(self) -> None:
        cores = os.cpu_count() or 1
        self.rows = np.ones((cores, BYTES // 4 // cores), np.float32)  # one for each core
        self.x, self.w = np.ones((1024, 3072), np.float32), np.ones((3072, 3072), np.float32)

    def bandwidth(self) -> float:
        """Bytes read a second: the best of three ways to go through a large array with all cores."""
        vector = np.ones(4096, np.float32)
        ways = [np.max, lambda row: row @ row, lambda row: row[: row.size // 4096 * 4096].reshape(-1, 4096) @ vector]
        with threadpool_limits(1), ThreadPoolExecutor(len(self.rows)) as pool:
            times = [seconds(lambda way=way: list(pool.map(way, self.rows))) for way in ways * REPEATS]
        return self.rows.nbytes / min(times)

    def products(self) -> float:
        """Floating-point operations a second in a product of 1024 × 3072 by 3072 × 3072, the best of some."""
        operations = 2 * self.x.size * self.w.shape[1]
        return operations / min(seconds(lambda: self.x @ self.w) for _ in range(REPEATS))


def weights_a_token(config: GPT2Config) -> int:
    """How many weights a new token is computed from: all, but for embeddings of which it takes only a row."""
    shapes = config.parameter_shapes()
    tables = ["wpe.weight", "wte.weight"] if "lm_head.weight" in shapes else ["wpe.weight"]
    return config.num_parameters() - sum(math.prod(shapes[name]) for name in tables)


def prefill_operations(T: int, config: GPT2Config) -> int:
    """Floating-point operations from T tokens to the next: 2 for each weight that a number is multiplied with.

    Each position goes through the blocks' matrices and attends to itself and all before it, once for the scores and
    once for the values. Only the last goes through the head.
    """
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    matrices = L * sum(math.prod(shape) for shape in config.block_shapes().values() if len(shape) == 2)
    return 2 * matrices * T + 4 * L * C * (T * (T + 1) // 2) + 2 * V * C
