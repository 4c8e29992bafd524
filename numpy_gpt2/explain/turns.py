"""Long computations of the explain page: they take turns, and stop between two results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..threads import thread_count, thread_pool


class FairLock:
    """A lock that threads get in the order in which they asked for it.

    `threading.Lock` may go to the thread that has just released it, again and again, while others wait.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.n_asked = self.n_served = 0

    def __enter__(self) -> None:
        with self.changed:
            ticket = self.n_asked
            self.n_asked += 1
            self.changed.wait_for(lambda: ticket == self.n_served)

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.n_served += 1
            self.changed.notify_all()


def map_in_steps(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """`map`, with one item for each core at a time. Nothing runs while the caller handles a result.

    So between two results, the caller can stop, or let others compute.

    >>> [*map_in_steps(abs, [-3, 2, -1])]
    [3, 2, 1]
    """
    n = thread_count()
    for start in range(0, len(items), n):
        with thread_pool() as pool:
            results = [*pool.map(function, items[start : start + n])]
        yield from results
