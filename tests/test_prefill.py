"""A prompt in chunks, in one thread and in several."""

import math
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2 import GPT2Config, KVCache, generate
from numpy_gpt2.prefill import ChunkCache, chunk_length, prefill
from numpy_gpt2.threads import thread_count

from .reference.seeded import seeded_tokens, seeded_weights

SHORT = GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=2, n_head=3)
LONG = GPT2Config(vocab_size=50, n_positions=700, n_embd=16, n_layer=3, n_head=2)


@pytest.fixture(autouse=True)
def small_models_use_threads(monkeypatch):
    monkeypatch.setattr("numpy_gpt2.prefill.SERIAL_MULTIPLY_ADDS", 0)


@pytest.mark.parametrize("T", [128, 129, 256, 600])
@pytest.mark.parametrize("rows", [1, 3])
def test_parallel_chunks_equal_one_pass(T, rows):
    """Ten tokens are in the cache before. The hidden states are equal, and the cache can be used afterwards."""
    weights = {name: array.astype(np.float64) for name, array in seeded_weights(LONG, 1, scale=0.4).items()}
    tokens = seeded_tokens(LONG, 1, (rows, T + 20))
    expected = gpt2.hidden_states(tokens, weights, LONG)
    cache = gpt2.KVCache(LONG, rows, np.float64)
    gpt2.hidden_states(tokens[:, :10], weights, LONG, cache)
    hidden = prefill(tokens[:, 10 : 10 + T], weights, LONG, cache)
    np.testing.assert_allclose(hidden, expected[:, 10 : 10 + T], atol=1e-11)
    assert cache.length == 10 + T
    rest = gpt2.hidden_states(tokens[:, 10 + T :], weights, LONG, cache)
    np.testing.assert_allclose(rest, expected[:, 10 + T :], atol=1e-11)


@pytest.mark.parametrize("where", [5, 200, 599])
def test_a_failing_chunk_stops_all_chunks(where):
    weights = seeded_weights(LONG, 1, scale=0.4)
    tokens = seeded_tokens(LONG, 1, (600,))
    tokens[where] = 50
    with pytest.raises(IndexError):
        prefill(tokens[None], weights, LONG, KVCache(LONG))


def test_a_long_prompt_leaves_the_number_of_threads_unchanged():
    before = thread_count()
    next(generate(seeded_tokens(LONG, 1, (600,)), seeded_weights(LONG, 1, scale=0.4), LONG, max_new_tokens=5))
    assert thread_count() == before


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 600])
def test_any_chunk_size_gives_the_same_hidden_states(chunk_size):
    weights = seeded_weights(SHORT, 1, scale=0.4)
    tokens = seeded_tokens(SHORT, 1, (1, 13))
    hidden = prefill(tokens, weights, SHORT, KVCache(SHORT), chunk_size)
    np.testing.assert_allclose(hidden, gpt2.hidden_states(tokens, weights, SHORT), atol=2e-5)


@pytest.mark.parametrize("n_threads", [1, 2, 3, 16])
def test_each_thread_gets_equally_many_chunks_or_all_threads_share_each_chunk(n_threads):
    for T in range(1, 1025):
        size = chunk_length(T, 192, n_threads)
        n = math.ceil(T / size)
        assert size <= 192
        if size >= 64 and n >= n_threads:
            assert n % n_threads == 0
        else:
            assert n < n_threads or n == 1
            assert n == math.ceil(T / 192)


def test_a_chunk_waits_for_the_chunk_before_in_each_layer():
    """The second chunk asks first. It waits for the first chunk's keys and gets both."""
    cache = KVCache(SHORT, dtype=np.float64)
    cache.reserve(5)
    first = ChunkCache(cache, None, 2)
    second = ChunkCache(cache, first, 3)
    assert (first.length, second.length) == (0, 2)
    k = np.arange(1 * 3 * 5 * 4, dtype=float).reshape(1, 3, 5, 4)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(second.update, 1, k[:, :, 2:], -k[:, :, 2:])
        with pytest.raises(TimeoutError):
            late.result(0.2)
        first.update(0, k[:, :, :2], k[:, :, :2])  # another layer
        with pytest.raises(TimeoutError):
            late.result(0.2)
        keys, _ = first.update(1, k[:, :, :2], -k[:, :, :2])
        np.testing.assert_array_equal(keys, k[:, :, :2])
        keys, values = late.result(10)
    np.testing.assert_array_equal(keys, k)
    np.testing.assert_array_equal(values, -k)
    assert cache.length == 0


def test_no_chunk_waits_for_a_closed_chunk():
    cache = KVCache(SHORT, dtype=np.float64)
    cache.reserve(5)
    first = ChunkCache(cache, None, 2)
    first.close()
    k = np.ones((1, 3, 1, 4))
    ChunkCache(cache, first, 1).update(0, k, k)


def test_a_closed_chunk_computes_no_further_layer():
    config = GPT2Config(n_embd=4, n_layer=2, n_head=2)
    cache = KVCache(config)
    cache.reserve(2)
    first = ChunkCache(cache, None, 1)
    second = ChunkCache(cache, first, 1)
    k = np.zeros((1, 2, 1, 2), np.float32)
    first.update(0, k, k)
    second.update(0, k, k)
    for chunk in (first, second):
        chunk.close()
        with pytest.raises(CancelledError):
            chunk.update(1, k, k)
