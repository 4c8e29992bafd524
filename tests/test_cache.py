"""The cache by itself; that it changes no result is tested in test_model.py."""

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, KVCache, forward, init_weights

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
