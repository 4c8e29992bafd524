"""What learners write: mistakes that are named, others that must not be, and the parameters of adamw."""

import pytest

from .learners import check_code

NOT_MISNAMED = {
    "layer_norm: a limit": """
        def layer_norm(x, w, b, eps):
            return (x - x.mean(-1, keepdims=True)) / np.sqrt(np.maximum(x.var(-1, keepdims=True), eps)) * w + b
    """,
    "attention: nan": """
        def attention(q, k, v, mask, scale):
            return softmax(np.log(mask * 0.0 - 1) + q @ k.swapaxes(-1, -2)) @ v
    """,
    "block: an error with a cache": """
        def block(x, w, config, layer, cache=None):
            if cache is not None:
                cache[layer]
            return numpy_gpt2.model.block(x, w, config, layer)
    """,
    "penalize_repetition: at 1": """
        def penalize_repetition(logits, text, penalty):
            z = np.take_along_axis(logits, text, -1)
            out = logits.copy()
            np.put_along_axis(out, text, np.where(z >= 1, z / penalty, z * penalty), -1)
            return out
    """,
}


@pytest.mark.parametrize("code", NOT_MISNAMED.values(), ids=NOT_MISNAMED)
def test_what_is_not_known_is_not_named(code):
    report = check_code(code)
    assert not report
    assert report.mistake is None


NAMED = {
    "softmax/in_place": """
        def softmax(x):
            np.exp(x - x.max(-1, keepdims=True), out=x)
            return x / x.sum(-1, keepdims=True)
    """,
    "gelu/dtype": """
        def gelu(x):
            return x * (0.5 + 0.5 * np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    """,
    "sample/always_0": """
        def sample(p, rng):
            return (np.cumsum(p, -1) < rng.random((*p.shape[:-1], 1))).argmin(-1) * 0
    """,
    "keep_top_k/k_minus_1_clamped": """
        def keep_top_k(logits, k):
            kth = np.sort(logits, axis=-1)[..., -min(k, logits.shape[-1]), None]
            return np.where(logits > kth, logits, -np.inf)
    """,
    "cross_entropy/clipped_at_1e-9": """
        def cross_entropy(logits, targets):
            t = np.asarray(targets)
            return -np.log(np.maximum(softmax(logits)[t != -1, t[t != -1]], 1e-9)).mean()
    """,
}


@pytest.mark.parametrize(("mistake", "code"), NAMED.items(), ids=NAMED)
def test_a_mistake_that_others_write_is_named(mistake, code):
    assert check_code(code).mistake == mistake


def test_pytorch_is_told_from_numpy():
    report = str(check_code("def merge_heads(z):\n    return z.transpose(1, 2).view(2, 5, 44)"))
    assert "view(…) is reshape(…); transpose(i, j) is swapaxes(i, j)" in report
    tensor = "class Tensor:\n        __array__ = None\n    return Tensor()"
    report = str(check_code(f"def gelu(x):\n    {tensor}".replace("gelu(x):\n    class", "gelu(x):\n    class")))
    assert "Tensor came out; it must be a NumPy array" in report


ADAMW = """
        def adamw(w, g, m, v, PARAMETERS):
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g * g - v)
            w *= 1 - lr * weight_decay
            w -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + 1e-8)
"""


@pytest.mark.parametrize(
    "parameters",
    [
        "step, lr, beta1, beta2, weight_decay",
        "*, lr, beta1, beta2, eps=1e-8, weight_decay, step",
        "*, t, a, b1, b2, wd",
        "**o",
    ],
)
def test_the_parameters_of_adamw_may_be_written_otherwise(parameters):
    code = ADAMW.replace("PARAMETERS", parameters)
    first = {
        "**o": "step, lr, beta1, beta2, weight_decay = (o[k] for k in ('step', 'lr', 'beta1', 'beta2', 'weight_decay'))"
    }
    first["*, t, a, b1, b2, wd"] = "step, lr, beta1, beta2, weight_decay = t, a, b1, b2, wd"
    code = code.replace("            m +=", f"            {first.get(parameters, 'pass')}\n            m +=")
    assert check_code(code)
