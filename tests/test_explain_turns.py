"""explain/turns.py: long computations of the explain page take turns."""

import threading
import time

import pytest

from numpy_gpt2.explain.turns import FairLock, map_in_steps
from numpy_gpt2.threads import thread_count


def test_a_fair_lock_goes_to_the_thread_that_has_waited_longest():
    """A thread that takes the lock again and again lets the other one take every second turn."""
    lock, turns, both_wait = FairLock(), [], threading.Barrier(2)

    def work(name):
        both_wait.wait()
        for _ in range(20):
            with lock:
                turns.append(name)
                while len(turns) < 20 and lock.n_asked - lock.n_served < 2:
                    time.sleep(1e-4)  # until the other one waits

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert "".join(turns[:20]) in ("ab" * 10, "ba" * 10)
    assert len(turns) == 40


def test_nothing_runs_between_two_results():
    """Each thread computes one item, and then waits until its result was taken."""
    n, started = thread_count(), []
    results = map_in_steps(lambda i: started.append(i) or i, range(3 * n))
    for i in range(3 * n):
        assert next(results) == i
        time.sleep(0.01)
        assert len(started) == n * (i // n + 1)


def test_an_error_in_a_step_reaches_the_caller():
    results = map_in_steps(lambda i: 1 / i, [1, 2, 0, 3, 4])
    with pytest.raises(ZeroDivisionError):
        list(results)
