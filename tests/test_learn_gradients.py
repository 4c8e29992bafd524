"""Gradients in `numpy_gpt2.learn`: right code passes, and a wrong gradient is compared with the learner's forward."""

import pytest

from numpy_gpt2 import learn

from .learners import functions_in

VARIANTS = {
    "layer_norm_backward step by step": """
        def layer_norm_backward(dout, x, gamma, beta, eps):
            N = x.shape[-1]
            mu = x.mean(-1, keepdims=True)
            std = np.sqrt(x.var(-1, keepdims=True) + eps)
            xhat = (x - mu) / std
            dxhat = dout * gamma
            dvar = np.sum(dxhat * (x - mu) * -0.5 * std**-3, axis=-1, keepdims=True)
            dmu = np.sum(-dxhat / std, axis=-1, keepdims=True) + dvar * np.mean(-2 * (x - mu), axis=-1, keepdims=True)
            dx = dxhat / std + dvar * 2 * (x - mu) / N + dmu / N
            return dx, (dout * xhat).reshape(-1, N).sum(0), dout.reshape(-1, N).sum(0)
    """,
    "layer_norm_backward with sums and einsum": """
        def layer_norm_backward(dy, x, w, b, eps):
            C = x.shape[-1]
            s = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
            n = (x - x.mean(-1, keepdims=True)) * s
            g = dy * w
            dx = s / C * (C * g - g.sum(-1, keepdims=True) - n * np.einsum("...c,...c->...", g, n)[..., None])
            return [dx, np.einsum("btc,btc->c", dy, n), np.sum(dy, axis=(0, 1))]
    """,
    "gelu_backward with cosh and powers": """
        def gelu_backward(grad, x):
            k = (2 / math.pi) ** 0.5
            u = k * (x + 0.044715 * x**3)
            return grad * (0.5 * (1 + np.tanh(u)) + 0.5 * x / np.cosh(u) ** 2 * k * (1 + 0.134145 * x**2))
    """,
    "gelu_backward with a logistic function": """
        def gelu_backward(dy, x):
            k = 2 * math.sqrt(2 / math.pi)
            s = 1 / (1 + np.exp(-k * (x + 0.044715 * np.power(x, 3))))
            return dy * (s + x * s * (1 - s) * k * (1 + 3 * 0.044715 * np.square(x)))
    """,
    "softmax_backward with two products": """
        def softmax_backward(dy, y):
            g = dy * y
            return g - y * np.sum(g, axis=-1, keepdims=True)
    """,
    "softmax_backward with Jacobians": """
        def softmax_backward(dy, y):
            jacobian = y[..., :, None] * (np.eye(y.shape[-1], dtype=y.dtype) - y[..., None, :])
            return np.einsum("...ij,...j->...i", jacobian, dy)
    """,
    "softmax_backward with loops": """
        def softmax_backward(dy, y):
            dx = np.empty_like(dy)
            for i in np.ndindex(*y.shape[:-1]):
                dx[i] = (np.diag(y[i]) - np.outer(y[i], y[i])) @ dy[i]
            return dx
    """,
    "linear_backward with einsum": """
        def linear_backward(dy, x, weight, bias):
            return np.einsum("btn,cn->btc", dy, weight), np.einsum("btc,btn->cn", x, dy), np.einsum("btn->n", dy)
    """,
    "linear_backward with a loop over positions": """
        def linear_backward(dy, x, w, b):
            dw, db = np.zeros_like(w), np.zeros_like(b)
            for i in np.ndindex(*x.shape[:-1]):
                dw += np.outer(x[i], dy[i])
                db += dy[i]
            return dy @ w.T, dw, db
    """,
    "attention_backward with einsum and softmax's gradient inside": """
        def attention_backward(grad, q, k, v, scale, trace):
            p = trace["attn.pattern"]
            dp = np.einsum("bhtd,bhsd->bhts", grad, v)
            ds = p * (dp - (p * dp).sum(-1, keepdims=True))
            ds = np.where(p == 0, 0, ds)
            dq = np.einsum("bhts,bhsd->bhtd", ds, k) * scale
            dk = np.einsum("bhts,bhtd->bhsd", ds, q) * scale
            return dq, dk, np.einsum("bhts,bhtd->bhsd", p, grad)
    """,
    "attention_backward with a loop over heads": """
        def attention_backward(dz, q, k, v, scale, trace, dropout=identity):
            pattern = trace["attn.pattern"]
            dropped = dropout("attn.pattern", pattern)
            dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
            mask = dropout("attn.pattern", np.ones_like(pattern))
            for b in range(q.shape[0]):
                for h in range(q.shape[1]):
                    dscores = softmax_backward(dz[b, h] @ v[b, h].T * mask[b, h], pattern[b, h])
                    dq[b, h] = scale * dscores @ k[b, h]
                    dk[b, h] = dscores.T @ (scale * q[b, h])
                    dv[b, h] = dropped[b, h].T @ dz[b, h]
            return dq, dk, dv
    """,
    "block_backward in small steps": """
        def block_backward(dy, w, config, layer, trace):
            g = {}

            def back(d, x, name):
                d, g[name + ".weight"], g[name + ".bias"] = linear_backward(
                    d, x, w[name + ".weight"], w[name + ".bias"]
                )
                return d

            def norm(d, x, name):
                d, g[name + ".weight"], g[name + ".bias"] = layer_norm_backward(
                    d, x, w[name + ".weight"], w[name + ".bias"], config.layer_norm_epsilon
                )
                return d

            B, T, C = dy.shape
            H = config.n_head
            d, mlp = mlp_backward(dy, trace["ln_2"], w, ACTIVATIONS[config.activation_function], trace)
            g.update(mlp)
            dmid = dy + norm(d, trace["resid_mid"], "ln_2")
            d = back(dmid, trace["attn.z"].transpose(0, 2, 1, 3).reshape(B, T, C), "attn.c_proj")
            d = d.reshape(B, T, H, C // H).transpose(0, 2, 1, 3)
            qkv = [trace["attn." + name] for name in "qkv"]
            d = attention_backward(d, *qkv, config.attention_scale(layer), trace)
            d = np.concatenate([x.transpose(0, 2, 1, 3).reshape(B, T, C) for x in d], axis=-1)
            return norm(back(d, trace["ln_1"], "attn.c_attn"), trace["resid_pre"], "ln_1") + dmid, g
    """,
    "hidden_states_backward with a one-hot matrix": """
        def hidden_states_backward(dy, ids, weights, config, trace):
            dx = dy[None] if dy.ndim == 2 else dy
            grads, names = {}, ("ln_f.weight", "ln_f.bias")
            x = trace[f"h.{config.n_layer - 1}.resid_post"]
            dx, *ln_f = layer_norm_backward(dx, x, *(weights[name] for name in names), config.layer_norm_epsilon)
            grads.update(zip(names, ln_f))
            for i in range(config.n_layer - 1, -1, -1):
                h = f"h.{i}."
                w, t = ({k[len(h):]: v for k, v in d.items() if k.startswith(h)} for d in (weights, trace))
                dx, block = block_backward(dx, w, config, i, t)
                grads.update((h + k, v) for k, v in block.items())
            one_hot = np.eye(config.vocab_size, dtype=dx.dtype)[np.atleast_2d(ids)]
            grads["wte.weight"] = np.einsum("btv,btc->vc", one_hot, dx)
            unused = config.n_positions - dx.shape[1]
            grads["wpe.weight"] = np.pad(dx.sum(0), ((0, unused), (0, 0)))
            return grads
    """,
    "hidden_states_backward with a loop over ids": """
        def hidden_states_backward(dy, tokens, weights, config, trace, dropout=identity):
            dw = {name: np.zeros_like(w) for name, w in weights.items() if name != "lm_head.weight"}
            dx, dw["ln_f.weight"], dw["ln_f.bias"] = layer_norm_backward(
                dy.reshape(-1, *dy.shape[-2:]), trace[f"h.{config.n_layer - 1}.resid_post"], weights["ln_f.weight"],
                weights["ln_f.bias"], config.layer_norm_epsilon
            )
            for i in reversed(range(config.n_layer)):
                w = {name: weights[f"h.{i}.{name}"] for name in config.block_shapes()}
                t = {name[4:]: array for name, array in trace.items() if name[:4] == f"h.{i}."}
                dx, block = block_backward(dx, w, config, i, t, lambda name, x: dropout(f"h.{i}.{name}", x))
                for name in block:
                    dw[f"h.{i}.{name}"] = block[name]
            for row, text in zip(dx, tokens.reshape(-1, tokens.shape[-1])):
                for position, token in enumerate(text):
                    dw["wpe.weight"][position] += row[position]
                    dw["wte.weight"][token] += row[position]
            return dw
    """,
    "logits_backward with einsum": """
        def logits_backward(dy, x, weights):
            head = weights.get("lm_head.weight", weights["wte.weight"])
            letters = "btv,btc->vc" if dy.ndim == 3 else "tv,tc->vc"
            return np.einsum("...v,vc->...c", dy, head), np.einsum(letters, dy, x)
    """,
    "logits_backward as a linear layer": """
        def logits_backward(dy, x, weights):
            E = output_head(weights)
            dx, dE, _ = linear_backward(dy, x, E.T, 0)
            return dx, dE.T
    """,
    "forward_backward with other names": """
        def forward_backward(grad, ids, params, cfg, saved, drop=identity):
            grad, head = logits_backward(grad, saved["ln_f"], params)
            grads = hidden_states_backward(grad, ids, params, cfg, saved, drop)
            if "lm_head.weight" in params:
                return {**grads, "lm_head.weight": head}
            return {**grads, "wte.weight": head + grads["wte.weight"]}
    """,
    "cross_entropy_backward with a one-hot matrix": """
        def cross_entropy_backward(dy, logits, targets):
            valid = (targets >= 0)[..., None]
            one_hot = np.arange(logits.shape[-1]) == targets[..., None]
            return np.where(valid, softmax(logits) - one_hot, 0) * dy / valid.sum().astype(logits.dtype)
    """,
    "cross_entropy_backward with log-softmax and flat rows": """
        def cross_entropy_backward(dy, logits, targets):
            x, t = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
            log_p = x - x.max(1, keepdims=True)
            log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
            dx = np.exp(log_p) * (t != -1)[:, None]
            for row in np.flatnonzero(t != -1):
                dx[row, t[row]] -= 1
            return (dx * (dy / float((t != -1).sum()))).reshape(logits.shape)
    """,
}


@pytest.mark.parametrize("title", VARIANTS)
def test_right_code_passes(title):
    name = title.split()[0]
    report = learn.check(functions_in(VARIANTS[title])[name])
    assert report, report


GELU = """
    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**{n})))

    def gelu_backward(dy, x):
        k = math.sqrt(2 / math.pi)
        t = np.tanh(k * (x + 0.044715 * x**{m}))
        return dy / 2 * (1 + t + x * (1 - t**2) * k * (1 + {m} * 0.044715 * x ** ({m} - 1)))
"""


@pytest.mark.parametrize(
    ("n", "m", "text"),
    [
        (2, 2, "It is the gradient of your gelu, which is not right yet. Correct gelu first."),
        (4, 2, "The numerical gradient of your gelu, which is not right yet, is 0.1335 there."),
        (3, 2, "it should be 0.1348\n   The numerical gradient of your gelu is 0.1348 there."),
    ],
)
def test_a_wrong_gradient_is_compared_with_the_learner_s_own_forward(n, m, text):
    assert text in str(learn.check(functions_in(GELU.format(n=n, m=m))["gelu_backward"]))


ATTENTION = """
    def attention_backward(dz, q, k, v, scale, trace, dropout=identity):
        pattern = trace["attn.pattern"]
        dv = {0} @ dz
        dpattern = {1}
        dscores = {2}
        return dscores @ k * scale, dscores.swapaxes(2, 3) @ q * scale, dv
"""


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            (
                'dropout("attn.pattern", pattern).swapaxes(2, 3)',
                'dropout("attn.pattern", dz @ v.swapaxes(2, 3))',
                "softmax_backward(dpattern, pattern)",
            ),
            "",
        ),
        (
            (
                'dropout("attn.pattern", pattern).swapaxes(2, 3)',
                "dz @ v.swapaxes(2, 3)",
                'dropout("attn.pattern", softmax_backward(dpattern, pattern))',
            ),
            "It calls dropout, but what dropout returns for attn.pattern is not used where it must be: train needs it.",
        ),
        (
            ("pattern.swapaxes(2, 3)", "dz @ v.swapaxes(2, 3)", "softmax_backward(dpattern, pattern)"),
            "It does not call dropout for attn.pattern: train needs it.",
        ),
    ],
)
def test_dropout_must_be_where_its_mask_belongs(lines, problem):
    report = learn.check(functions_in(ATTENTION.format(*lines))["attention_backward"])
    assert str(report) == f"attention_backward: right. {problem}".rstrip()


WRONG = {
    "def softmax_backward(dy, y):\n    return y * (1 - y) * dy": "softmax_backward/diagonal",
    "def linear_backward(dy, x, w, b):\n"
    "    return dy.reshape(-1, len(b)).sum(0), dy @ w.T, x.reshape(-1, len(w)).T @ dy.reshape(-1, len(b))": (
        "The results are right, but their order is db, dx, dW; it must be dx, dW, db."
    ),
    "def gelu_backward(dy, x):\n    return dy * (gelu(x + 1e-3) - gelu(x - 1e-3)) / 2e-3": "a derivative numerical,",
    "def attention_backward(dz, q, k, v, scale, trace):\n"
    "    dv = trace['attn.pattern'].swapaxes(2, 3) @ dz\n"
    "    return np.cos(q), np.cos(k), dv": "Right: dv. All others are wrong.",
}


@pytest.mark.parametrize(("code", "text"), WRONG.items())
def test_a_diagnosis_of_a_gradient_says_what_can_be_seen(code, text):
    report = learn.check(functions_in(code)[code.split("(")[0].removeprefix("def ")])
    assert not report
    assert text in f"{report} {report.mistake}"
