"""Single-threaded products, and the thread pool."""

import sys
import threading
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from numpy_gpt2 import GPT2Config, generate
from numpy_gpt2.threads import single_threaded_products, thread_count, thread_pool

from .reference.seeded import seeded_tokens, seeded_weights

pytestmark = pytest.mark.skipif(not threadpool_info(), reason="NumPy's BLAS has no thread limit here")


def threads_now():
    return max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")


@pytest.fixture(autouse=True)
def two_threads():
    """Two BLAS threads, even on a machine with one core."""
    with threadpool_limits(2):
        yield
        assert threads_now() == 2


def test_overlapping_limits_end_with_the_last():
    first, second = single_threaded_products(), single_threaded_products()
    assert (threads_now(), thread_count()) == (2, 2)
    first.__enter__()
    second.__enter__()
    assert (threads_now(), thread_count()) == (1, 2)
    first.__exit__(None, None, None)
    assert (threads_now(), thread_count()) == (1, 2)
    second.__exit__(None, None, None)
    assert (threads_now(), thread_count()) == (2, 2)


def test_an_error_ends_the_limit():
    with pytest.raises(KeyError), single_threaded_products():
        raise KeyError
    assert threads_now() == 2


def test_a_pool_has_all_threads_and_products_have_one():
    with thread_pool() as pool:
        assert threads_now() == 1
        barrier = threading.Barrier(2, timeout=10)
        assert len(list(pool.map(lambda _: barrier.wait(), range(2)))) == 2
        with thread_pool() as inner:
            assert list(inner.map(abs, [-1])) == [1]


def test_overflow_in_a_pool_gives_no_warning():
    large = np.full(10, 1e38, np.float32)
    with warnings.catch_warnings(action="error"), thread_pool() as pool:
        assert np.isinf(pool.submit(lambda: large * large).result()).all()
        assert np.isinf(large * large).all()


def test_overlapping_calls_of_generate_restore_the_number_of_threads():
    """Four threads generate at once, each from a prompt that is long enough to be processed by several threads."""
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
