"""All cores for what NumPy does on one: a pool of threads, each of which computes a part from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np


@contextmanager
def thread_pool() -> Iterator[Executor]:
    """As many threads as the matrix products use, which in turn use one each while this lasts.

    NumPy's elementwise functions know one thread only. With a part of the batch in each, all of the work is shared out.
    What overflows in them shows in the loss, and is not warned of.
    """
    from threadpoolctl import threadpool_limits

    n = thread_count()
    with threadpool_limits(1), np.errstate(all="ignore"), ThreadPoolExecutor(n, "", np.seterr, ("ignore",)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # nothing that is queued holds up Ctrl-C


def thread_count() -> int:
    """The threads that matrix products use: one a core, or what `--threads` says."""
    from threadpoolctl import threadpool_info

    return max((library["num_threads"] for library in threadpool_info()), default=1)
