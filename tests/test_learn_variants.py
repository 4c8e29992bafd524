"""Right code that is written in another way than the package's passes the checks of `numpy_gpt2.learn`."""

import pytest

from .learners import check_code

VARIANTS = {
    "layer_norm with var": """
        def layer_norm(x, weight, bias, eps):
            return weight * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) + bias
    """,
    "layer_norm in torch's words": """
        def layer_norm(input, gamma, beta, epsilon):
            mu = np.mean(input, axis=-1)[..., None]
            sigma2 = np.mean(input**2, axis=-1)[..., None] - mu**2
            return gamma * ((input - mu) / (sigma2 + epsilon) ** 0.5) + beta
    """,
    "gelu with a power": """
        def gelu(x):
            return x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    """,
    "gelu with a logistic function": """
        def gelu(x):
            return x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * np.power(x, 3))))
    """,
    "softmax without steps in place": """
        def softmax(x):
            e = np.exp(x - np.max(x, axis=-1, keepdims=True))
            return e / np.sum(e, axis=-1, keepdims=True)
    """,
    "softmax as exp of log-softmax": """
        def softmax(x):
            x = x - x.max(-1)[..., None]
            return np.exp(x - np.log(np.exp(x).sum(-1))[..., None])
    """,
    "linear with einsum": """
        def linear(x, weight, bias):
            return np.einsum("...c,cn->...n", x, weight) + bias
    """,
    "linear with a plain product": """
        def linear(x, w, b):
            return x @ w + b
    """,
    "causal_mask with tril": """
        def causal_mask(T, S):
            return np.tril(np.ones((T, S), dtype=bool), k=S - T)
    """,
    "causal_mask with loops": """
        def causal_mask(T, S):
            return np.array([[key <= S - T + query for key in range(S)] for query in range(T)])
    """,
    "causal_mask as the end of a square one": """
        def causal_mask(T, S):
            return np.logical_not(np.triu(np.ones((S, S)), 1))[-T:]
    """,
    "attention_scale with a power": """
        class GPT2Config:
            def attention_scale(self, layer):
                scale = (self.n_embd / self.n_head) ** -0.5 if self.scale_attn_weights else 1
                if self.scale_attn_by_inverse_layer_idx:
                    scale /= layer + 1
                return scale
    """,
    "attention with where": """
        def attention(q, k, v, mask, scale):
            scores = np.where(mask, q @ k.transpose(0, 1, 3, 2) * scale, -np.inf)
            return softmax(scores) @ v
    """,
    "attention with einsum and a hook": """
        def attention(query, key, value, allowed, factor, hook=identity):
            scores = np.einsum("bhtd,bhsd->bhts", query, key) * factor
            scores[..., ~allowed] = -np.inf
            pattern = hook("attn.pattern", softmax(hook("attn.scores", scores)))
            return hook("attn.z", np.einsum("bhts,bhsd->bhtd", pattern, value))
    """,
    "attention with loops over heads and positions": """
        def attention(q, k, v, mask, scale):
            z = np.zeros(q.shape, q.dtype)
            for b in range(q.shape[0]):
                for h in range(q.shape[1]):
                    for t in range(q.shape[2]):
                        seen = mask[t]
                        z[b, h, t] = softmax(scale * (k[b, h, seen] @ q[b, h, t])) @ v[b, h, seen]
            return z
    """,
    "attention with an added mask": """
        def attention(q, k, v, mask, scale):
            bias = np.zeros(mask.shape, q.dtype)
            bias[~mask] = -np.inf
            return softmax(q @ k.swapaxes(2, 3) * scale + bias) @ v
    """,
    "attention with a very small number": """
        def attention(q, k, v, mask, scale):
            return softmax(np.where(mask, scale * (q @ k.swapaxes(2, 3)), np.finfo(q.dtype).min)) @ v
    """,
    "split_heads with split": """
        def split_heads(qkv, n_head):
            B, T, _ = qkv.shape
            return [x.reshape(B, T, n_head, -1).transpose(0, 2, 1, 3) for x in np.split(qkv, 3, axis=-1)]
    """,
    "split_heads with slices of columns": """
        def split_heads(qkv, H):
            B, T, C3 = qkv.shape
            D = C3 // 3 // H
            columns = np.arange(C3).reshape(3, H, D)
            return np.array([[[qkv[b][:, c] for c in part] for b in range(B)] for part in columns])
    """,
    "merge_heads with concatenate": """
        def merge_heads(z):
            return np.concatenate([z[:, h] for h in range(z.shape[1])], axis=-1)
    """,
    "merge_heads with einsum": """
        def merge_heads(z):
            return np.einsum("bhtd->bthd", z).reshape(z.shape[0], z.shape[2], -1)
    """,
    "mlp without linear": """
        def mlp(x, w, f):
            hidden = f(x @ w["mlp.c_fc.weight"] + w["mlp.c_fc.bias"])
            return hidden @ w["mlp.c_proj.weight"] + w["mlp.c_proj.bias"]
    """,
    "block in small steps": """
        def block(x, w, cfg, i, past=None, hook=identity):
            def norm(x, name):
                return layer_norm(x, w[name + ".weight"], w[name + ".bias"], cfg.layer_norm_epsilon)

            qkv = norm(x, "ln_1") @ w["attn.c_attn.weight"] + w["attn.c_attn.bias"]
            q, k, v = split_heads(qkv, cfg.n_head)
            if past:
                k, v = past.update(i, k, v)
            z = attention(q, k, v, causal_mask(q.shape[-2], k.shape[-2]), cfg.attention_scale(i))
            h = x + linear(merge_heads(z), w["attn.c_proj.weight"], w["attn.c_proj.bias"])
            return h + mlp(norm(h, "ln_2"), w, ACTIVATIONS[cfg.activation_function])
    """,
    "hidden_states with take": """
        def hidden_states(ids, weights, config, cache=None, hook=identity):
            ids = np.array(ids)
            n = ids.shape[-1]
            first = cache.length if cache else 0
            x = np.take(weights["wte.weight"], np.atleast_2d(ids), axis=0)
            x = x + weights["wpe.weight"][np.arange(first, first + n)]
            for i in range(config.n_layer):
                prefix = f"h.{i}."
                own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
                x = block(x, own, config, i, cache)
            if cache:
                cache.length = first + n
            x = layer_norm(x, weights["ln_f.weight"], weights["ln_f.bias"], config.layer_norm_epsilon)
            return x if ids.ndim == 2 else x[0]
    """,
    "logits with einsum": """
        def logits(x, weights):
            return np.einsum("...c,vc->...v", x, weights.get("lm_head.weight", weights["wte.weight"]))
    """,
    "cross_entropy with log-softmax": """
        def cross_entropy(input, target):
            target = np.array(target).reshape(-1)
            x = input.reshape(-1, input.shape[-1])[target != -1]
            log_p = x - x.max(1, keepdims=True)
            log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
            return -np.take_along_axis(log_p, target[target != -1][:, None], 1).mean()
    """,
    "cross_entropy with a loop and math": """
        def cross_entropy(logits, targets):
            total, n = 0.0, 0
            rows = logits.reshape(-1, logits.shape[-1])
            for row, target in zip(rows, np.ravel(targets)):
                if target >= 0:
                    largest = float(row.max())
                    total += largest + math.log(sum(math.exp(x - largest) for x in row)) - row[target]
                    n += 1
            return float(total / n)
    """,
}


@pytest.mark.parametrize("code", VARIANTS.values(), ids=VARIANTS.keys())
def test_right_code_passes(code):
    report = check_code(code)
    assert report, report
