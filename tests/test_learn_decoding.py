"""Decoding and the optimizer as learners write them: right functions pass, and mistakes are named."""

import pytest

from numpy_gpt2.learn.checking import check_all
from numpy_gpt2.learn.own import Own

from .learners import check_code, functions_in

RIGHT = {
    "penalize_repetition with a set of tokens": """
        def penalize_repetition(logits, text, penalty):
            out = logits.copy()
            for row, ids in zip(out.reshape(-1, out.shape[-1]), text.reshape(-1, text.shape[-1])):
                for i in set(ids.tolist()):
                    row[i] = row[i] / penalty if row[i] > 0 else row[i] * penalty
            return out
    """,
    "penalize_repetition with a mask": """
        def penalize_repetition(z, ids, theta):
            seen = (ids[..., None] == np.arange(z.shape[-1])).any(axis=-2)
            return np.where(seen, np.where(z < 0, z * theta, z / theta), z)
    """,
    "keep_top_k with sort": """
        def keep_top_k(logits, k):
            threshold = np.sort(logits, axis=-1)[..., -min(k, logits.shape[-1])][..., None]
            return np.where(logits >= threshold, logits, -np.inf)
    """,
    "keep_top_k with assignment to a mask": """
        def keep_top_k(logits, k):
            out = logits.copy()
            if k < logits.shape[-1]:
                out[out < -np.sort(-out, axis=-1)[..., k - 1 : k]] = float("-inf")
            return out
    """,
    "keep_top_p with put_along_axis": """
        def keep_top_p(logits, p):
            order = np.argsort(-logits, axis=-1)
            sorted_p = np.take_along_axis(softmax(logits), order, -1)
            keep = np.zeros(logits.shape, bool)
            np.put_along_axis(keep, order, np.cumsum(sorted_p, axis=-1) - sorted_p < p, -1)
            return np.where(keep, logits, -np.inf)
    """,
    "keep_top_p in rising order": """
        def keep_top_p(logits, top_p):
            order = np.argsort(logits, axis=-1)
            remove = np.cumsum(np.take_along_axis(softmax(logits), order, -1), axis=-1) <= 1 - top_p
            remove[..., -1] = False
            mask = np.empty_like(remove)
            np.put_along_axis(mask, order, remove, -1)
            return np.where(mask, -np.inf, logits)
    """,
    "keep_top_p with loops": """
        def keep_top_p(logits, p):
            out = np.full_like(logits, -np.inf)
            for row in np.ndindex(logits.shape[:-1]):
                q, total = softmax(logits[row]), 0.0
                for token in np.argsort(-q):
                    out[(*row, token)] = logits[(*row, token)]
                    total += q[token]
                    if total >= p:
                        break
            return out
    """,
    "keep_min_p with probabilities": """
        def keep_min_p(logits, p):
            q = softmax(logits)
            return np.where(q >= p * q.max(axis=-1, keepdims=True), logits, -np.inf)
    """,
    "keep_min_p with exp": """
        def keep_min_p(logits, p):
            return np.where(np.exp(logits - logits.max(-1)[..., None]) < p, -np.inf, logits)
    """,
    "probabilities with temperature before top-k": """
        def probabilities(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
            if temperature == 0:
                return np.eye(logits.shape[-1], dtype=logits.dtype)[logits.argmax(-1)]
            logits = logits / temperature
            if top_k:
                logits = keep_top_k(logits, top_k)
            if top_p:
                logits = keep_top_p(logits, top_p)
            if min_p:
                logits = keep_min_p(logits, min_p)
            return softmax(logits)
    """,
    "probabilities, cut and normalized again": """
        def probabilities(x, T=1.0, top_k=None, top_p=None, min_p=None):
            if T == 0:
                p = np.zeros_like(x)
                np.put_along_axis(p, np.argmax(x, -1)[..., None], 1, -1)
                return p
            p = softmax(x / T)
            for value, keep in ((top_k, keep_top_k), (top_p, keep_top_p), (min_p, keep_min_p)):
                if value:
                    with np.errstate(divide="ignore"):
                        p = np.where(keep(np.log(p), value) > -np.inf, p, 0)
                    p /= p.sum(-1, keepdims=True)
            return p
    """,
    "sample with a sum of comparisons": """
        def sample(probabilities, rng):
            cumulative = np.cumsum(probabilities, axis=-1, dtype=np.float64)
            u = rng.random(probabilities.shape[:-1])
            return (cumulative <= (u * cumulative[..., -1])[..., None]).sum(-1)
    """,
    "sample with choice": """
        def sample(probabilities, rng):
            if probabilities.ndim == 1:
                return rng.choice(len(probabilities), p=probabilities)
            return np.array([sample(row, rng) for row in probabilities])
    """,
    "sample with Gumbel noise": """
        def sample(probabilities, rng):
            with np.errstate(divide="ignore"):
                return np.argmax(np.log(probabilities) + rng.gumbel(size=probabilities.shape), axis=-1)
    """,
    "generate_plainly with a list": """
        def generate_plainly(tokens, weights, config, max_new_tokens, rng):
            tokens = list(tokens)
            for _ in range(max_new_tokens):
                tokens.append(sample(softmax(forward(np.array(tokens), weights, config)[-1]), rng).item())
                yield tokens[-1]
    """,
    "generate_plainly with a batch of one": """
        def generate_plainly(ids, weights, config, n, rng):
            ids, new = np.array([ids]), []
            while len(new) < n:
                token = sample(probabilities(forward(ids, weights, config)[:, -1]), rng)
                ids = np.concatenate([ids, token[:, None]], axis=1)
                new.append(int(token[0]))
            return new
    """,
    "update with concatenate": """
        class KVCache(numpy_gpt2.cache.KVCache):
            def update(self, layer, k, v):
                k = np.concatenate([self.keys[layer, :, :, : self.length], k], axis=2)
                v = np.concatenate([self.values[layer, :, :, : self.length], v], axis=2)
                if self.keys.shape[3] < k.shape[2]:
                    self.reserve(k.shape[2])
                self.keys[layer, :, :, : k.shape[2]], self.values[layer, :, :, : k.shape[2]] = k, v
                return k, v
    """,
    "update with all memory from the start": """
        class KVCache(numpy_gpt2.cache.KVCache):
            def __init__(self, config, batch_size=1, dtype=np.float32):
                shape = config.n_layer, batch_size, config.n_head, config.n_positions, config.n_embd // config.n_head
                self.keys, self.values = np.zeros(shape, dtype), np.zeros(shape, dtype)
                self.length, self.n_positions = 0, config.n_positions

            def update(self, layer, k, v):
                end = self.length + k.shape[-2]
                self.keys[layer, ..., self.length : end, :] = k
                self.values[layer, ..., self.length : end, :] = v
                return self.keys[layer, ..., :end, :], self.values[layer, ..., :end, :]
    """,
    "reserve with repeat": """
        class KVCache(numpy_gpt2.cache.KVCache):
            def reserve(self, n, repeats=1):
                L, B, H, _, D = self.keys.shape
                keys, values = np.zeros((2, L, B * repeats, H, n, D), self.keys.dtype)
                keys[:, :, :, : self.length] = self.keys[:, :, :, : self.length].repeat(repeats, axis=1)
                values[:, :, :, : self.length] = self.values[:, :, :, : self.length].repeat(repeats, axis=1)
                self.keys, self.values = keys, values
    """,
    "reserve with pad and take": """
        class KVCache(numpy_gpt2.cache.KVCache):
            def reserve(self, n, repeats=1):
                for name in ("keys", "values"):
                    old = np.repeat(getattr(self, name)[:, :, :, : self.length], repeats, 1)
                    setattr(self, name, np.pad(old, [(0, 0)] * 3 + [(0, n - self.length), (0, 0)]))
    """,
    "decode without drafts": """
        def decode(text, n_new, weights, config, choose, stops, longest_draft, observe):
            cache = KVCache(config, len(text), weights["wte.weight"].dtype)
            done, unread = np.zeros(len(text), bool), text
            for _ in range(n_new):
                if cache.length + unread.shape[1] > config.n_positions:
                    cache.truncate(0)
                    unread = text[:, -(config.n_positions // 2) :]
                scores = logits(hidden_states(unread, weights, config, cache)[:, -1], weights)
                tokens = choose(scores, text)
                if observe is not None:
                    observe(scores, tokens)
                done = done | stops[tokens]
                if done.all():
                    return
                yield np.where(done, -1, tokens)
                unread = tokens[:, None]
                text = np.concatenate([text, unread], axis=1)
    """,
    "learning_rate with several returns": """
        def learning_rate(step, options):
            last = options.max_steps - 1
            if step >= last:
                return options.min_lr
            if step < options.warmup:
                return options.lr * (step + 1) / options.warmup
            ratio = (step - options.warmup) / (last - options.warmup)
            return options.min_lr + (options.lr - options.min_lr) * (1 + np.cos(np.pi * ratio)) / 2
    """,
    "learning_rate with a squared cosine": """
        def learning_rate(t, o):
            if t < min(o.warmup, o.max_steps - 1):
                return o.lr / o.warmup * (t + 1)
            end = max(o.max_steps - 1, o.warmup)
            c = math.cos(math.pi / 2 * (t - o.warmup) / (end - o.warmup)) ** 2 if o.warmup < o.max_steps - 1 else 0
            return c * o.lr + (1 - c) * o.min_lr
    """,
    "adamw by its equations": """
        def adamw(weights, gradient, m, v, *, step, lr, beta1, beta2, weight_decay):
            m[:] = beta1 * m + (1 - beta1) * gradient
            v[:] = beta2 * v + (1 - beta2) * gradient**2
            m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
            weights[:] = weights - lr * (m_hat / (np.sqrt(v_hat) + 1e-8) + weight_decay * weights)
    """,
    "adamw in torch's order and words": """
        def adamw(param, grad, exp_avg, exp_avg_sq, *, t, lr, b1, b2, decay):
            param *= 1 - lr * decay
            exp_avg *= b1
            exp_avg += (1 - b1) * grad
            exp_avg_sq *= b2
            exp_avg_sq += (1 - b2) * np.square(grad)
            denominator = np.sqrt(exp_avg_sq) / math.sqrt(1 - b2**t) + 1e-8
            param -= lr / (1 - b1**t) * exp_avg / denominator
    """,
    "adamw with a loop": """
        def adamw(w, g, m, v, step, lr, beta1, beta2, weight_decay):
            for i in range(len(w)):
                m[i] = beta1 * m[i] + (1 - beta1) * g[i]
                v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2
                m_hat, v_hat = m[i] / (1 - beta1**step), v[i] / (1 - beta2**step)
                w[i] -= lr * m_hat / (math.sqrt(v_hat) + 1e-8) + lr * weight_decay * w[i]
    """,
}

WRONG = {
    "penalize_repetition/all_rows": """
        def penalize_repetition(logits, text, penalty):
            out = logits.copy()
            out[..., text] = np.where(out[..., text] > 0, out[..., text] / penalty, out[..., text] * penalty)
            return out
    """,
    "keep_top_k/ties_last": """
        def keep_top_k(logits, k):
            largest = np.argsort(logits, axis=-1, kind="stable")[..., -k:]
            out = np.full_like(logits, -np.inf)
            np.put_along_axis(out, largest, np.take_along_axis(logits, largest, -1), -1)
            return out
    """,
    "keep_top_p/crossing_dropped_but_first": """
        def keep_top_p(logits, p):
            order = np.argsort(-logits, axis=-1)
            keep_sorted = np.cumsum(np.take_along_axis(softmax(logits), order, -1), axis=-1) <= p
            keep_sorted[..., 0] = True
            keep = np.zeros(logits.shape, bool)
            np.put_along_axis(keep, order, keep_sorted, -1)
            return np.where(keep, logits, -np.inf)
    """,
    "keep_top_p/sum_goes_on": """
        def keep_top_p(logits, p):
            order = np.argsort(-logits, axis=-1)
            sorted_p = np.take_along_axis(softmax(logits), order, -1)
            before = np.cumsum(sorted_p).reshape(sorted_p.shape) - sorted_p
            keep = np.zeros(logits.shape, bool)
            np.put_along_axis(keep, order, before < p, -1)
            return np.where(keep, logits, -np.inf)
    """,
    "keep_top_p/ties": """
        def keep_top_p(logits, p):
            falling = -np.sort(-logits, axis=-1)
            n = (np.cumsum(softmax(falling), axis=-1) < p).sum(-1)
            return np.where(logits < np.take_along_axis(falling, n[..., None], -1), -np.inf, logits)
    """,
    "probabilities/zero_is_one": """
        def probabilities(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
            logits = logits / (temperature or 1)
            for value, keep in ((top_k, keep_top_k), (top_p, keep_top_p), (min_p, keep_min_p)):
                logits = keep(logits, value) if value else logits
            return softmax(logits)
    """,
    "sample/one_number_u": """
        def sample(probabilities, rng):
            return (np.cumsum(probabilities, axis=-1, dtype=np.float64) > rng.random()).argmax(-1)
    """,
    "sample/greedy": """
        def sample(probabilities, rng):
            return probabilities.argmax(-1)
    """,
    "sample/float32_sums": """
        def sample(probabilities, rng):
            u = rng.random((*probabilities.shape[:-1], 1))
            return (np.cumsum(probabilities, axis=-1) > u).argmax(-1)
    """,
    "sample/not_rng": """
        def sample(probabilities, rng):
            return (np.cumsum(probabilities, -1) > np.random.random((*probabilities.shape[:-1], 1))).argmax(-1)
    """,
    "generate_plainly/not_appended": """
        def generate_plainly(tokens, weights, config, max_new_tokens, rng):
            for _ in range(max_new_tokens):
                token = int(sample(probabilities(forward(tokens, weights, config)[-1]), rng))
                np.append(tokens, token)
                yield token
    """,
    "decode/no_cache": """
        def decode(text, n_new, weights, config, choose, stops, longest_draft, observe):
            done, start = set(), 0
            for _ in range(n_new):
                if text.shape[1] - start > config.n_positions:
                    start = text.shape[1] - config.n_positions // 2
                scores = forward(text[:, start:], weights, config)[:, -1]
                tokens = choose(scores, text)
                if observe:
                    observe(scores, tokens)
                done |= {row for row, token in enumerate(tokens) if stops[token]}
                if len(done) == len(text):
                    break
                yield np.array([-1 if row in done else token for row, token in enumerate(tokens)])
                text = np.append(text, tokens[:, None], axis=1)
    """,
    "KVCache.update/length_ignored": """
        class KVCache(numpy_gpt2.cache.KVCache):
            def update(self, layer, k, v):
                self.past = getattr(self, "past", {})
                if layer in self.past:
                    k = np.concatenate([self.past[layer][0], k], axis=2)
                    v = np.concatenate([self.past[layer][1], v], axis=2)
                self.past[layer] = k, v
                return k, v
    """,
    "KVCache.reserve/tiled": """
        class KVCache(numpy_gpt2.cache.KVCache):
            def reserve(self, n, repeats=1):
                for name in ("keys", "values"):
                    old = np.tile(getattr(self, name)[:, :, :, : self.length], (1, repeats, 1, 1, 1))
                    setattr(self, name, np.pad(old, [(0, 0)] * 3 + [(0, n - self.length), (0, 0)]))
    """,
    "decode/whole_text_again": """
        def decode(text, n_new, weights, config, choose, stops, longest_draft, observe):
            cache = KVCache(config, len(text), weights["wte.weight"].dtype)
            done, unread = np.zeros(len(text), bool), text
            for _ in range(n_new):
                if cache.length + unread.shape[1] > config.n_positions:
                    cache.truncate(0)
                    unread = text[:, -(config.n_positions // 2) :]
                scores = logits(hidden_states(unread, weights, config, cache)[:, -1], weights)
                tokens = choose(scores, text)
                if observe:
                    observe(scores, tokens)
                done |= stops[tokens]
                if done.all():
                    return
                yield np.where(done, -1, tokens)
                unread = text = np.concatenate([text, tokens[:, None]], axis=1)
    """,
    "learning_rate/max_steps_everywhere": """
        def learning_rate(it, config):
            if it < config.warmup:
                return config.lr * (it + 1) / config.warmup
            ratio = (it - config.warmup) / (config.max_steps - config.warmup)
            return config.min_lr + 0.5 * (1 + math.cos(math.pi * ratio)) * (config.lr - config.min_lr)
    """,
    "adamw/eps_scaled": """
        def adamw(w, g, m, v, *, step, lr, beta1, beta2, weight_decay):
            w -= lr * weight_decay * w
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g * g - v)
            w -= lr * math.sqrt(1 - beta2**step) / (1 - beta1**step) * m / (np.sqrt(v) + 1e-8)
    """,
    "adamw/l2": """
        def adamw(weights, gradient, m, v, *, step, lr, beta1, beta2, weight_decay):
            g = gradient + weight_decay * weights
            m[:] = beta1 * m + (1 - beta1) * g
            v[:] = beta2 * v + (1 - beta2) * g**2
            weights -= lr * (m / (1 - beta1**step)) / ((v / (1 - beta2**step)) ** 0.5 + 1e-8)
    """,
    "adamw/decay_after+eps_inside": """
        def adamw(weights, gradient, m, v, *, step, lr, beta1, beta2, weight_decay):
            m += (1 - beta1) * (gradient - m)
            v += (1 - beta2) * (gradient**2 - v)
            weights -= lr * (m / (1 - beta1**step)) / np.sqrt(v / (1 - beta2**step) + 1e-8)
            weights -= lr * weight_decay * weights
    """,
}


@pytest.mark.parametrize("code", RIGHT.values(), ids=RIGHT)
def test_right_code_passes(code):
    report = check_code(code)
    assert report, report


@pytest.mark.parametrize(("mistake", "code"), WRONG.items(), ids=WRONG)
def test_the_mistake_in_a_learner_s_code_is_named(mistake, code):
    assert check_code(code).mistake == mistake


def test_equal_kinds_of_errors_are_no_evidence_for_a_mistake():
    report = check_code("""
        def sample(probabilities, rng):
            return rng.choice(probabilities.shape[-1], p=probabilities)
    """)
    assert "p must be 1-dimensional" in str(report)
    assert report.mistake is None


def test_random_results_are_seen():
    report = check_code("""
        def generate_plainly(tokens, weights, config, max_new_tokens, rng):
            for _ in range(max_new_tokens):
                yield np.random.randint(config.vocab_size)
    """)
    assert "A second call with the same arguments gives other numbers." in str(report)


def test_a_sample_that_draws_otherwise_does_not_make_its_callers_wrong():
    names = functions_in(RIGHT["sample with choice"] + RIGHT["generate_plainly with a list"])
    assert check_all(Own(names)).right == ["sample", "generate_plainly"]
