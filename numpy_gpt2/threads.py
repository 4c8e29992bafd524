"""Threads: a pool that uses all cores for elementwise work, and single-threaded matrix products inside it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

lock = threading.Lock()
active_limits: set[object] = set()  # one entry for each `single_threaded_products` block that is running
original_counts: list[int] = []  # each BLAS library's number of threads before the first of these blocks


@functools.cache
def blas() -> list[Any]:
    """The BLAS libraries that multiply matrices for NumPy."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


def thread_count() -> int:
    """The number of threads of a matrix product outside `single_threaded_products`."""
    return max(original_counts or [library.num_threads for library in blas()], default=1)


@contextmanager
def single_threaded_products() -> Iterator[None]:
    """Inside this block, each matrix product uses one thread.

    The limit holds for the whole process. Blocks may overlap, in the same thread or in different threads. The limit
    ends when all of them have ended.
    """
    entry = object()
    try:
        active_limits.add(entry)
        apply_limits()
        yield
    finally:
        active_limits.discard(entry)
        apply_limits()


def apply_limits() -> None:
    """Set every BLAS library to one thread if any limit is active; otherwise restore its number of threads."""
    with lock:
        if active_limits and not original_counts:
            original_counts[:] = [library.num_threads for library in blas()]
            for library in blas():
                library.set_num_threads(1)
        elif original_counts and not active_limits:
            for library, n in zip(blas(), original_counts, strict=True):
                library.set_num_threads(n)
            original_counts.clear()


@contextmanager
def thread_pool() -> Iterator[Executor]:
    """A pool with as many threads as a matrix product has. Inside this block, each product uses one thread.

    NumPy's elementwise functions are single-threaded. When each thread of the pool computes a part of the batch, all
    cores share the elementwise work too. NumPy's floating-point warnings, such as overflow, are off inside this block.
    """
    pool = ThreadPoolExecutor(thread_count(), "", np.seterr, ("ignore",))
    with single_threaded_products(), np.errstate(all="ignore"), pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not wait for queued tasks
