"""The methods of KVCache. test_model.py tests that a cache changes no result."""

import subprocess
import sys

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, KVCache, forward, init_weights

CONFIG = GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=2, n_head=3)
WEIGHTS = {
    name: 10 * array.astype(np.float64) for name, array in init_weights(CONFIG, np.random.default_rng(0)).items()
}


def test_update_returns_all_positions_so_far_and_leaves_length_alone():
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


def test_truncate_forgets_the_last_positions():
    tokens = np.arange(9)
    cache = KVCache(CONFIG, dtype=np.float64)
    expected = forward(tokens, WEIGHTS, CONFIG, cache)
    cache.truncate(4)
    np.testing.assert_allclose(forward(tokens[4:], WEIGHTS, CONFIG, cache), expected[4:], atol=1e-12)
    for n in (10, -1):
        with pytest.raises(ValueError, match=f"n is {n}; .* 9 positions"):
            cache.truncate(n)


def test_repeat_makes_a_batch_from_one_prefill():
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
        (KVCache(CONFIG, 1, np.float64), "batch of 2 in float64 .* cache, for 1 in float64"),
        (KVCache(CONFIG, 3, np.float64), "batch of 2 in float64 .* cache, for 3 in float64"),
        (KVCache(CONFIG, 2, np.float32), "batch of 2 in float64 .* cache, for 2 in float32"),
    ],
)
def test_another_batch_size_or_dtype_is_refused(cache, message):
    with pytest.raises(ValueError, match=message):
        forward(np.zeros((2, 3), int), WEIGHTS, CONFIG, cache)


def test_memory_is_allocated_only_for_filled_positions():
    """A cache of gpt2-xl's size for all 1,024 positions would take 630 MB. With four positions it takes 2.5 MB."""
    cache = KVCache(GPT2Config.preset("gpt2-xl"))
    k = np.ones((1, 25, 4, 64), np.float32)
    for layer in range(48):
        cache.update(layer, k, k)
    cache.length = 4
    assert cache.keys.nbytes + cache.values.nbytes == 2 * 48 * 4 * 1600 * 4
    assert cache.repeat(2).keys.nbytes == 4 * cache.keys.nbytes  # twice the rows, and room for as many new positions


def test_the_capacity_doubles_when_it_is_full():
    cache, sizes = KVCache(CONFIG, dtype=np.float64), []
    for token in range(16):
        forward([token], WEIGHTS, CONFIG, cache)
        sizes.append(cache.keys.shape[3])
    assert sizes == [1, 2, 4, 4, *[8] * 4, *[16] * 8]


def test_too_much_memory_is_an_error_with_the_number():
    cache = KVCache(GPT2Config.preset("gpt2"), 10**9)
    with pytest.raises(MemoryError, match=r"[0-9.]+ PiB"):
        cache.reserve(1024)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_generating_takes_memory_for_the_text_so_far():
    """16 texts of at most 1,000 tokens could fill 1.2 GB. After four tokens they have taken a few MB."""
    script = """
import mmap
import subprocess
import sys

import numpy as np
from numpy_gpt2 import GPT2Config, generate

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE

config = GPT2Config(vocab_size=100, n_layer=4)
weights = {name: np.full(shape, 0.01, np.float32) for name, shape in config.parameter_shapes().items()}
prompts = np.ones((16, 3), int)
list(generate(prompts, weights, config, max_new_tokens=2, temperature=0))
before = resident()
tokens = generate(prompts, weights, config, max_new_tokens=1000, temperature=0)
for _ in range(4):
    next(tokens)
print(resident() - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 40e6
