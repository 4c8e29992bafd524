"""Upper limits of speed: how fast the machine reads and multiplies, and how much of both a model needs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from numpy_gpt2 import GPT2Config

BYTES = 512 << 20  # read in one pass: far more than the caches of a processor hold
WIDTH = 4096  # of the matrix-vector product that reads memory
REPEATS = 3  # the fastest one counts


def seconds(function: Callable[[], object]) -> float:
    """The duration of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Limits:
    """The machine's speeds, measured with NumPy."""

    def __init__(self) -> None:
        cores = os.cpu_count() or 1
        self.rows = np.ones((cores, BYTES // 4 // cores), np.float32)  # one row per core
        self.x, self.w = np.ones((1024, 3072), np.float32), np.ones((3072, 3072), np.float32)

    def bandwidth(self) -> float:
        """Bytes read per second: the best of three ways to read a large array with all cores."""
        vector = np.ones(WIDTH, np.float32)

        def matrix_times_vector(row: np.ndarray) -> np.ndarray:
            return row[: row.size // WIDTH * WIDTH].reshape(-1, WIDTH) @ vector

        times = []
        with threadpool_limits(1), ThreadPoolExecutor(len(self.rows)) as pool:
            for read in (np.max, lambda row: row @ row, matrix_times_vector) * REPEATS:
                times.append(seconds(lambda read=read: list(pool.map(read, self.rows))))  # type: ignore[misc]
        return self.rows.nbytes / min(times)

    def products(self) -> float:
        """Floating-point operations per second of a product (1024, 3072) @ (3072, 3072)."""
        operations = 2 * self.x.size * self.w.shape[1]
        return operations / min(seconds(lambda: self.x @ self.w) for _ in range(REPEATS))


def weights_per_token(config: GPT2Config) -> int:
    """How many weights a decode step reads. An embedding table counts only if it is also the output head."""
    shapes = config.parameter_shapes()
    tables = ["wpe.weight", "wte.weight"] if "lm_head.weight" in shapes else ["wpe.weight"]
    return config.num_parameters() - sum(math.prod(shapes[name]) for name in tables)


def prefill_operations(T: int, config: GPT2Config) -> int:
    """Floating-point operations of a prefill of T tokens and one prediction.

    A multiply-add counts as 2. Each token is multiplied with the matrices of every block. In attention, each pair of a
    query and a key that it may see takes 2 C multiply-adds per block: C for the score and C for the value. Only the
    last token needs the output head.
    """
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    matrices = L * sum(math.prod(shape) for shape in config.block_shapes().values() if len(shape) == 2)
    return 2 * matrices * T + 4 * L * C * (T * (T + 1) // 2) + 2 * V * C
