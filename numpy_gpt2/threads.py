"""All cores for what NumPy does on one: a pool of threads, each of which computes a part from end to end."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

lock = threading.Lock()
limits: set[object] = set()  # an entry for each `one_thread_a_product` that lasts
unlimited: list[int] = []  # the threads of each library before the first of them


@functools.cache
def blas() -> list[Any]:
    """The libraries that multiply matrices for NumPy."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


def thread_count() -> int:
    """The threads of a matrix product, as long as `one_thread_a_product` does not limit it to one."""
    return max(unlimited or [library.num_threads for library in blas()], default=1)


@contextmanager
def one_thread_a_product() -> Iterator[None]:
    """Matrix products use one thread each while this, or another of its kind in any thread, lasts."""
    entry = object()
    try:
        limits.add(entry)
        apply_limits()
        yield
    finally:
        limits.discard(entry)
        apply_limits()


def apply_limits() -> None:
    """Limit the libraries if anyone wants it, or give them back the threads that they had."""
    with lock:
        if limits and not unlimited:
            unlimited[:] = [library.num_threads for library in blas()]
            for library in blas():
                library.set_num_threads(1)
        elif unlimited and not limits:
            for library, n in zip(blas(), unlimited, strict=True):
                library.set_num_threads(n)
            unlimited.clear()


@contextmanager
def thread_pool() -> Iterator[Executor]:
    """As many threads as the matrix products use, which in turn use one each while this lasts.

    NumPy's elementwise functions know one thread only. With a part of the batch in each, all of the work is shared out.
    What overflows in them shows in the result, and is not warned of.
    """
    pool = ThreadPoolExecutor(thread_count(), "", np.seterr, ("ignore",))
    with one_thread_a_product(), np.errstate(all="ignore"), pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # nothing that is queued holds up Ctrl-C
