"""The cache by itself; that it changes no result is tested in test_model.py."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, KVCache, forward, init_weights
from numpy_gpt2.cache import ChunkCache

CONFIG = GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=2, n_head=3)
WEIGHTS = {
    name: 10 * array.astype(np.float64) for name, array in init_weights(CONFIG, np.random.default_rng(0)).items()
}


def test_update_returns_all_so_far_and_length_is_not_its_business():
    cache = KVCache(CONFIG, 2, np.float64)
    k = np.arange(2 * 3 * 5 * 4, dtype=float).reshape(2, 3, 5, 4)
    keys, values = cache.update(1, k, -k)
    np.testing.assert_array_equal(keys, k)
    np.testing.assert_array_equal(values, -k)
    assert cache.length == 0
    cache.length = 5
    keys, _ = cache.update(1, k[:, :, :1], k[:, :, :1])
    assert keys.dtype == np.float64
    np.testing.assert_array_equal(keys, np.concatenate([k, k[:, :, :1]], axis=2))


def test_truncate_goes_back_in_time():
    tokens = np.arange(9)
    cache = KVCache(CONFIG, dtype=np.float64)
    expected = forward(tokens, WEIGHTS, CONFIG, cache)
    cache.truncate(4)
    np.testing.assert_allclose(forward(tokens[4:], WEIGHTS, CONFIG, cache), expected[4:], atol=1e-12)
    for n in (10, -1):
        with pytest.raises(ValueError, match=f"9 positions to {n}"):
            cache.truncate(n)


def test_repeat_serves_a_batch_from_one_prefill():
    prompt, continuations = np.arange(5), np.array([[7, 8], [9, 10], [11, 12]])
    one = KVCache(CONFIG, dtype=np.float64)
    forward(prompt, WEIGHTS, CONFIG, one)
    three = one.repeat(3)
    actual = forward(continuations, WEIGHTS, CONFIG, three)
    whole = np.concatenate([np.tile(prompt, (3, 1)), continuations], axis=1)
    np.testing.assert_allclose(actual, forward(whole, WEIGHTS, CONFIG)[:, 5:], atol=1e-12)
    assert (one.length, three.length) == (5, 7)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (KVCache(CONFIG, 1, np.float64), "batch of 1, the tokens are a batch of 2"),
        (KVCache(CONFIG, 3, np.float64), "batch of 3, the tokens are a batch of 2"),
        (KVCache(CONFIG, 2, np.float32), "holds float32, the model computes in float64"),
    ],
)
def test_what_does_not_fit_is_refused(cache, message):
    with pytest.raises(ValueError, match=message):
        forward(np.zeros((2, 3), int), WEIGHTS, CONFIG, cache)


def test_chunks_take_turns_layer_by_layer():
    """The second chunk asks first: it waits for the first one's keys, and gets both."""
    cache = KVCache(CONFIG, dtype=np.float64)
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


def test_nobody_waits_for_a_chunk_that_has_failed():
    cache = KVCache(CONFIG, dtype=np.float64)
    first = ChunkCache(cache, None, 2)
    first.close()
    k = np.ones((1, 3, 1, 4))
    ChunkCache(cache, first, 1).update(0, k, k)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_taken_as_positions_are_filled():
    """A cache of 630 MB with four positions in it takes a few MB, however large the system's pages may be."""
    script = """
import mmap
import numpy as np
from numpy_gpt2 import GPT2Config, KVCache

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE

config = GPT2Config.preset("gpt2-xl")
before = resident()
cache = KVCache(config)
k = np.ones((1, 25, 4, 64), np.float32)
for layer in range(48):
    cache.update(layer, k, k)
cache.length = 4
taken = resident() - before
twice = cache.repeat(2)
print(cache.keys.nbytes + cache.values.nbytes, taken, resident() - before - taken)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    total, taken, repeated = map(int, result.stdout.split())
    assert total > 600e6
    assert taken < 40e6
    assert repeated < 80e6


def test_what_is_too_much_is_a_memory_error_with_the_number():
    with pytest.raises(MemoryError, match=r"no memory for [0-9,]{20,} bytes"):
        KVCache(GPT2Config.preset("gpt2"), 10**9)
