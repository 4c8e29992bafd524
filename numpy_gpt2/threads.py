"""Threads: a pool that uses all cores for elementwise work, and single-threaded matrix products inside it."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
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
        try:
            end_limit(entry)
        except KeyboardInterrupt:
            end_limit(entry)  # again, because Ctrl-C may have come before the end
            raise


def end_limit(entry: object) -> None:
    """Remove one limit. If this is interrupted, the same call completes it."""
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


class SerialExecutor(Executor):
    """A pool without threads. Its only method is `map`, which computes each result when it is taken."""

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], **_: Any) -> Iterator[Any]:
        return map(fn, *iterables)


def started_pool(n_threads: int) -> Executor:
    """A pool whose threads have started, or a `SerialExecutor` if the system has no threads or memory left."""
    pool = ThreadPoolExecutor(n_threads, "", np.seterr, ("ignore",))
    started = threading.Event()
    try:
        for _ in range(n_threads):
            pool.submit(started.wait)  # each one starts a thread, because the others are waiting
    except RuntimeError:  # can't start new thread
        pool.shutdown(wait=False, cancel_futures=True)
        return SerialExecutor()
    finally:
        started.set()
    return pool


@functools.cache
def helpers() -> Executor:
    """The threads that help this one in `run_in_threads`. They live as long as the process."""
    return started_pool(thread_count() - 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=helpers.cache_clear)  # a forked process has the object but not the threads


def run_in_threads(work: Callable[[], Any], n_threads: int, products_are_small: bool = False) -> None:
    """Run `work` in this thread and in up to n_threads − 1 others. All of them take tasks from the same iterator.

    Each matrix product inside uses one thread. BLAS does so by itself if `products_are_small`, which saves the time of
    setting a limit. A thread that has not started when this one has finished is not waited for. Inside
    `single_threaded_products`, and if no thread can be started, this thread does all the work.
    """
    n_threads = 1 if active_limits else min(n_threads, thread_count())
    if n_threads < 2 or isinstance(pool := helpers(), SerialExecutor):
        return work()
    with nullcontext() if products_are_small else single_threaded_products():
        futures = [pool.submit(work) for _ in range(n_threads - 1)]
        try:
            work()
        finally:
            for future in futures:
                if not future.cancel():
                    future.result()


@contextmanager
def thread_pool() -> Iterator[Executor]:
    """A pool with as many threads as a matrix product has. Inside this block, each product uses one thread.

    NumPy's elementwise functions are single-threaded. When each thread of the pool computes a part of the batch, all
    cores share the elementwise work too. NumPy's floating-point warnings, such as overflow, are off inside this block.
    Where no thread can be started, this thread does all the work. After Ctrl-C, the block does not wait for the tasks.
    """
    with single_threaded_products(), np.errstate(all="ignore"):
        pool, wait = started_pool(thread_count()), True
        try:
            yield pool
        except KeyboardInterrupt:
            wait = False
            raise
        finally:
            pool.shutdown(wait, cancel_futures=True)
