"""The limit of one thread a product, and the pool that takes the others' place."""

import sys
import threading
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from numpy_gpt2 import GPT2Config, generate
from numpy_gpt2.threads import one_thread_a_product, thread_count, thread_pool

from .reference.seeded import seeded_tokens, seeded_weights

pytestmark = pytest.mark.skipif(not threadpool_info(), reason="NumPy's products cannot be limited here")


def threads_now():
    return max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")


@pytest.fixture(autouse=True)
def two_threads():
    """On a machine of one core, too."""
    with threadpool_limits(2):
        yield
        assert threads_now() == 2


def test_the_limit_lasts_as_long_as_anyone_wants_it():
    first, second = one_thread_a_product(), one_thread_a_product()
    assert (threads_now(), thread_count()) == (2, 2)
    first.__enter__()
    second.__enter__()
    assert (threads_now(), thread_count()) == (1, 2)
    first.__exit__(None, None, None)
    assert (threads_now(), thread_count()) == (1, 2)
    second.__exit__(None, None, None)
    assert (threads_now(), thread_count()) == (2, 2)


def test_it_ends_with_an_error_too():
    with pytest.raises(KeyError), one_thread_a_product():
        raise KeyError
    assert threads_now() == 2


def test_a_pool_has_all_threads_and_each_product_one():
    with thread_pool() as pool:
        assert threads_now() == 1
        barrier = threading.Barrier(2, timeout=10)
        assert len(list(pool.map(lambda _: barrier.wait(), range(2)))) == 2
        with thread_pool() as inner:
            assert list(inner.map(abs, [-1])) == [1]


def test_overflow_in_a_pool_is_not_warned_of():
    large = np.full(10, 1e38, np.float32)
    with warnings.catch_warnings(action="error"), thread_pool() as pool:
        assert np.isinf(pool.submit(lambda: large * large).result()).all()
        assert np.isinf(large * large).all()


def test_calls_that_overlap_leave_the_threads_as_they_were():
    """Prompts long enough to be read by several threads, in several threads."""
    config = GPT2Config(vocab_size=50, n_positions=300, n_embd=16, n_layer=2, n_head=2)
    weights = seeded_weights(config, 1, scale=0.4)
    prompt = seeded_tokens(config, 1, (280,))
    options = {"max_new_tokens": 5, "temperature": 0}
    expected, found = list(generate(prompt, weights, config, **options)), []

    def work():
        for _ in range(5):
            found.append(list(generate(prompt, weights, config, **options)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert found == [expected] * 20
    assert threads_now() == 2
