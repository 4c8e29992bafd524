"""All cores for what NumPy does on one: a pool of threads, each of which computes a part from end to end."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np


@functools.cache
def blas() -> Any:
    """The libraries that multiply matrices for NumPy: a ThreadpoolController."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def thread_count() -> int:
    """The threads of a matrix product: one a core, unless it is limited."""
    return max((library.num_threads for library in blas().lib_controllers), default=1)


@contextmanager
def thread_pool() -> Iterator[Executor]:
    """As many threads as the matrix products use, which in turn use one each while this lasts.

    NumPy's elementwise functions know one thread only. With a part of the batch in each, all of the work is shared out.
    What overflows in them shows in the result, and is not warned of.
    """
    pool = ThreadPoolExecutor(thread_count(), "", np.seterr, ("ignore",))
    with blas().limit(limits=1), np.errstate(all="ignore"), pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # nothing that is queued holds up Ctrl-C
