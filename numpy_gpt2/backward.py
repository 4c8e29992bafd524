"""The gradients of GPT-2: for each function of `model.py` its backward pass, in the same order.

For each weight, training asks: how does the loss change when this weight changes a little? The chain rule answers
this for all weights in one pass, from the loss back to the tokens. Here dx is the derivative of the loss with respect
to x, with the shape of x. Each function y = f(x) has a partner f_backward that turns dy into dx:

    dxᵢ = Σⱼ dyⱼ ∂yⱼ/∂xᵢ

    y = a + b          da = dy, db = dy             a sum passes its gradient to both terms
    y = f(a) + g(a)    da = f's part + g's part     a value that is used twice gets both gradients
    y = x W            dx = dy Wᵀ, dW = xᵀ dy       since yⱼ = Σᵢ xᵢ Wᵢⱼ: ∂yⱼ/∂xᵢ = Wᵢⱼ and ∂yⱼ/∂Wᵢⱼ = xᵢ

Read this beside `model.py`. `f_backward(dy, *inputs of f)` returns the gradients of those inputs, in the same order.
For a dict of weights, it returns a dict. `softmax_backward` takes softmax's output: the derivative needs only that.
`trace` holds what the forward pass gave to the `hook`. `dropout` is a hook for training: it multiplies arrays by random
masks. Their gradients need the same masks, so the backward pass calls `dropout` with the same names.
"""

import math

import numpy as np

from .model import (
    ACTIVATIONS,
    cross_entropy,
    forward,
    gelu,
    gelu_exact,
    identity,
    merge_heads,
    output_head,
    relu,
    softmax,
    within,
)
from .special import erf

NOT_NEEDED = ("embed", "attn.scores", "attn_out", "mlp_out")  # backward needs all other named results


def layer_norm_backward(dy, x, weight, bias, eps):
    """y = n · weight + bias, where n = (x − mean) / √(variance + ε)  ->  dx, dweight, dbias.

    All positions share weight and bias, so dweight = Σ dy · n and dbias = Σ dy over positions. With dn = dy · weight,
    dx = (dn − mean(dn) − n · mean(dn · n)) / √(variance + ε), with means over channels. Shifting all of x does not
    change n, so mean(dn) is subtracted. Scaling x does not change n (for small ε), so n · mean(dn · n) is subtracted.

    >>> x, dy = np.array([1.0, 1.0, -1.0, -1.0]), np.array([2.0, 0.0, 1.0, 1.0])  # x has mean 0 and variance 1: n = x
    >>> dx, dweight, dbias = layer_norm_backward(dy, x, weight=1, bias=0, eps=0)
    >>> dx, dweight  # the mean of dy is 1, that of dy · n is 0
    (array([ 1., -1.,  0.,  0.]), array([ 2.,  0., -1., -1.]))
    """
    n = x - x.mean(axis=-1, keepdims=True)
    inverse_deviation = 1 / np.sqrt((n * n).mean(axis=-1, keepdims=True) + eps)
    n *= inverse_deviation
    dn = dy * weight
    dx = (dn - dn.mean(axis=-1, keepdims=True) - n * (dn * n).mean(axis=-1, keepdims=True)) * inverse_deviation
    positions = tuple(range(x.ndim - 1))
    return dx, (dy * n).sum(axis=positions), dy.sum(axis=positions)


def gelu_backward(dy, x):
    """y = x/2 · (1 + t), where t = tanh(√(2/π) (x + 0.044715 x³))  ->  dx.

    By the product rule and tanh′ = 1 − tanh²: dx = dy · ½ (1 + t + x (1 − t²) √(2/π) (1 + 3 · 0.044715 x²)).

    >>> gelu_backward(np.ones(3), np.array([-10.0, 0.0, 10.0]))  # the slope rises from 0 to 1
    array([0. , 0.5, 1. ])
    """
    a, b = math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * 0.044715
    t = np.tanh(x * (a + b * x * x))
    return dy * 0.5 * (1 + t + x * (1 - t * t) * (a + 3 * b * x * x))


def gelu_exact_backward(dy, x):
    """y = x Φ(x)  ->  dx = dy · (Φ(x) + x φ(x)), where φ(x) = Φ′(x) = exp(−x²/2) / √(2π) is the normal density.

    >>> gelu_exact_backward(np.ones(3), np.array([-10.0, 0.0, 10.0])).round(9) + 0
    array([0. , 0.5, 1. ])
    """
    return dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def relu_backward(dy, x):
    """y = max(x, 0)  ->  dx = dy where x > 0, and 0 elsewhere.

    >>> relu_backward(np.array([5.0, 5.0]), np.array([-2.0, 3.0]))
    array([0., 5.])
    """
    return dy * (x > 0)


ACTIVATIONS_BACKWARD = {gelu: gelu_backward, gelu_exact: gelu_exact_backward, relu: relu_backward}


def softmax_backward(dy, y):
    """yᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)  ->  dx = y · (dy − Σⱼ dyⱼ yⱼ), from softmax's output y.

    This follows from ∂yⱼ/∂xᵢ = yⱼ (δᵢⱼ − yᵢ), where δᵢⱼ is 1 if i = j, else 0. A constant added to dy cancels: Σ y = 1.

    >>> softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    array([ 0.25, -0.25])
    """
    return y * (dy - np.vecdot(dy, y)[..., None])


def linear_backward(dy, x, weight, bias):
    """y = x W + b  ->  dx = dy Wᵀ, dW = xᵀ dy, db = Σ dy: sums over all positions, which share W and b.

    >>> linear_backward(np.array([1.0]), np.array([2.0, 3.0]), np.array([[5.0], [7.0]]), np.array([0.0]))
    (array([5., 7.]), array([[2.],
           [3.]]), array([1.]))
    """
    dy = dy.reshape(-1, dy.shape[-1])
    dx = (dy @ weight.T).reshape(x.shape)
    return dx, x.reshape(-1, x.shape[-1]).T @ dy, dy.sum(axis=0)


def attention_backward(dz, q, k, v, scale, trace, dropout=identity):
    """z = pattern v, where pattern = softmax(scores) and scores = q kᵀ · scale  ->  dq, dk, dv.

    dv = patternᵀ dz, dpattern = dz vᵀ, dscores = softmax_backward(dpattern, pattern), dq = dscores k · scale and
    dk = dscoresᵀ q · scale. The mask is not needed: a masked score has a pattern of 0, and so a gradient of 0.

    >>> q, k, v = np.array([[0.0]]), np.array([[1.0], [3.0]]), np.array([[10.0], [20.0]])  # T = 1, S = 2, D = 1
    >>> dq, dk, dv = attention_backward(np.array([[1.0]]), q, k, v, 1, {"attn.pattern": np.array([[0.5, 0.5]])})
    >>> dq.item(), dk.tolist(), dv.tolist()  # dpattern = (10, 20), dscores = (−2.5, 2.5)
    (5.0, [[0.0], [0.0]], [[0.5], [0.5]])
    """
    pattern = trace["attn.pattern"]  # (B, H, T, S)
    dv = dropout("attn.pattern", pattern).swapaxes(-1, -2) @ dz
    dpattern = dropout("attn.pattern", dz @ v.swapaxes(-1, -2))
    dscores = softmax_backward(dpattern, pattern) * scale  # the factor `scale` of both dq and dk
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv  # (B, H, T, D) each


def split_heads_backward(dq, dk, dv):
    """The gradients go back to the columns that q, k and v came from: (B, H, T, D) each -> (B, T, 3C).

    >>> split_heads_backward(*(np.array([[[[i]], [[i + 1]]]]) for i in (0, 2, 4))).tolist()  # H = 2, T = 1, D = 1
    [[[0, 1, 2, 3, 4, 5]]]
    """
    B, H, T, D = dq.shape
    return np.stack([dq, dk, dv]).transpose(1, 3, 0, 2, 4).reshape(B, T, 3 * H * D)


def merge_heads_backward(dy, n_head):
    """Each head gets the gradient of its own columns: (B, T, C) -> (B, H, T, D).

    >>> merge_heads_backward(np.array([[[0, 1, 2, 3]]]), n_head=2).tolist()
    [[[[0, 1]], [[2, 3]]]]
    """
    B, T, _ = dy.shape
    return dy.reshape(B, T, n_head, -1).swapaxes(1, 2)


def mlp_backward(dy, x, w, activation, trace):
    """y = f(x W₁ + b₁) W₂ + b₂  ->  dx and the gradients of the MLP's weights, {name: gradient}.

    >>> w = {"mlp.c_fc.weight": np.array([[1, -1]]), "mlp.c_fc.bias": np.zeros(2),
    ...      "mlp.c_proj.weight": np.array([[1.0], [1.0]]), "mlp.c_proj.bias": np.zeros(1)}  # |x|, as in `mlp`
    >>> trace = {"mlp.pre": np.array([[-3.0, 3.0]]), "mlp.post": np.array([[0.0, 3.0]])}  # at x = −3
    >>> mlp_backward(np.array([[1.0]]), np.array([[-3.0]]), w, relu, trace)[0]  # |x| has slope −1 there
    array([[-1.]])
    """
    dw = {}
    dpost, dw["mlp.c_proj.weight"], dw["mlp.c_proj.bias"] = linear_backward(
        dy, trace["mlp.post"], w["mlp.c_proj.weight"], w["mlp.c_proj.bias"]
    )
    dpre = ACTIVATIONS_BACKWARD[activation](dpost, trace["mlp.pre"])
    dx, dw["mlp.c_fc.weight"], dw["mlp.c_fc.bias"] = linear_backward(dpre, x, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"])
    return dx, dw


def block_backward(dy, w, config, layer, trace, dropout=identity, cache=None):
    """x ← x + attention(layer_norm(x)), then x ← x + mlp(layer_norm(x))  ->  dx, {name: gradient}.

    This is `block`, from its last line to its first. At both sums, dy reaches x unchanged, and the gradient through the
    attention or the MLP is added to it. This direct path from the loss to every layer makes deep models trainable. With
    a `cache`, k and v of earlier positions get gradients too, which `cache.update_backward` hands on.

    >>> from numpy_gpt2 import GPT2Config
    >>> from numpy_gpt2.model import block, record
    >>> config, trace = GPT2Config(n_embd=2, n_head=1), {}
    >>> w = {name: np.zeros(shape) for name, shape in config.block_shapes().items()}
    >>> _ = block(np.array([[[0.0, 5.0]]]), w, config, layer=0, hook=record(trace))
    >>> block_backward(np.array([[[3.0, 4.0]]]), w, config, 0, trace)[0]  # weights of 0: only the direct path is left
    array([[[3., 4.]]])
    """
    eps, dw = config.layer_norm_epsilon, {}

    # resid_post = resid_mid + mlp(layer_norm(resid_mid))
    dmlp_out = dropout("mlp_out", dy)
    dnormalized, mlp_dw = mlp_backward(dmlp_out, trace["ln_2"], w, ACTIVATIONS[config.activation_function], trace)
    dx, dw["ln_2.weight"], dw["ln_2.bias"] = layer_norm_backward(
        dnormalized, trace["resid_mid"], w["ln_2.weight"], w["ln_2.bias"], eps
    )
    dy = dx + dy

    # resid_mid = resid_pre + linear(merge_heads(z)), where z = attention(q, k, v)
    dmerged, dw["attn.c_proj.weight"], dw["attn.c_proj.bias"] = linear_backward(
        dropout("attn_out", dy), merge_heads(trace["attn.z"]), w["attn.c_proj.weight"], w["attn.c_proj.bias"]
    )
    dz = merge_heads_backward(dmerged, config.n_head)
    q, k, v = trace["attn.q"], trace["attn.k"], trace["attn.v"]
    dq, dk, dv = attention_backward(dz, q, k, v, config.attention_scale(layer), trace, dropout)
    if cache is not None:
        dk, dv = cache.update_backward(dk, dv)

    # q, k, v = split_heads(linear(layer_norm(resid_pre)))
    dnormalized, dw["attn.c_attn.weight"], dw["attn.c_attn.bias"] = linear_backward(
        split_heads_backward(dq, dk, dv), trace["ln_1"], w["attn.c_attn.weight"], w["attn.c_attn.bias"]
    )
    x = dropout("resid_pre", trace["resid_pre"])
    dx, dw["ln_1.weight"], dw["ln_1.bias"] = layer_norm_backward(dnormalized, x, w["ln_1.weight"], w["ln_1.bias"], eps)
    return dropout("resid_pre", dx + dy), dw | mlp_dw


def hidden_states_backward(dy, tokens, weights, config, trace, dropout=identity):
    """wte[tokens] + wpe[positions], through all L blocks and the last layer norm  ->  {name: gradient}.

    Token ids have no gradient, so the pass ends here. A row of an embedding table gets the sum of the gradients from
    all places where it was used. The loop removes each block's arrays from `trace`, to free memory.

    >>> from numpy_gpt2 import GPT2Config
    >>> from numpy_gpt2.model import hidden_states, record
    >>> config, trace = GPT2Config(vocab_size=2, n_embd=4, n_layer=1, n_head=1), {}
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> weights["wte.weight"][1], weights["ln_f.weight"] = [1, 1, -1, -1], np.ones(4)
    >>> tokens, dy = np.array([1, 1]), np.array([[1.0, -1, 0, 0], [0, 0, 1, -1]])  # the same token twice
    >>> _ = hidden_states(tokens, weights, config, hook=record(trace))
    >>> hidden_states_backward(dy, tokens, weights, config, trace)["wte.weight"].round(3)
    array([[ 0.,  0.,  0.,  0.],
           [ 1., -1.,  1., -1.]])
    """
    T, C = tokens.shape[-1], config.n_embd
    dw, last = {}, trace[f"h.{config.n_layer - 1}.resid_post"]
    dx, dw["ln_f.weight"], dw["ln_f.bias"] = layer_norm_backward(
        dy.reshape(-1, T, C), last, weights["ln_f.weight"], weights["ln_f.bias"], config.layer_norm_epsilon
    )
    for layer in reversed(range(config.n_layer)):
        prefix = f"h.{layer}."
        w = {name: weights[prefix + name] for name in config.block_shapes()}
        block_trace = {name.removeprefix(prefix): trace.pop(name) for name in [*trace] if name.startswith(prefix)}
        dx, block_dw = block_backward(dx, w, config, layer, block_trace, within(prefix, dropout))
        dw |= {prefix + name: gradient for name, gradient in block_dw.items()}
    dw["wpe.weight"] = np.zeros_like(weights["wpe.weight"])
    dw["wpe.weight"][:T] = dx.sum(axis=0)
    dw["wte.weight"] = np.zeros_like(weights["wte.weight"])
    np.add.at(dw["wte.weight"], tokens.reshape(-1), dx.reshape(-1, C))
    return dw


def logits_backward(dy, x, weights):
    """y = x Eᵀ  ->  dx = dy E, dE = dyᵀ x, with the output head E (V, C) and dE summed over all positions.

    >>> logits_backward(np.array([1.0, 0.0]), np.array([2.0]), {"wte.weight": np.array([[5.0], [7.0]])})
    (array([5.]), array([[2.],
           [0.]]))
    """
    dy = dy.reshape(-1, dy.shape[-1])
    return (dy @ output_head(weights)).reshape(x.shape), dy.T @ x.reshape(-1, x.shape[-1])


def forward_backward(dy, tokens, weights, config, trace, dropout=identity):
    """logits(hidden_states(tokens))  ->  {name: gradient}. A tied head gets the sum of its gradients from both uses.

    >>> from numpy_gpt2 import GPT2Config
    >>> from numpy_gpt2.model import record
    >>> config, trace = GPT2Config(vocab_size=2, n_embd=2, n_layer=1, n_head=1), {}
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> weights["ln_f.bias"] += [1, 2]  # so the hidden state is (1, 2) at each position
    >>> _ = forward([0], weights, config, hook=record(trace))
    >>> forward_backward(np.array([[3.0, 5.0]]), np.array([0]), weights, config, trace)["wte.weight"]  # dyᵀ x
    array([[ 3.,  6.],
           [ 5., 10.]])
    """
    dx, dhead = logits_backward(dy, trace.pop("ln_f"), weights)
    dw = hidden_states_backward(dx, tokens, weights, config, trace, dropout)
    if "lm_head.weight" in weights:
        dw["lm_head.weight"] = dhead
    else:
        dw["wte.weight"] += dhead
    return {name: dw[name] for name in weights}


def cross_entropy_backward(dy, logits, targets):
    """y = mean of ln Σⱼ exp(xⱼ) − x[target]  ->  dx = dy/N · (softmax(x) − (1 at the target, 0 elsewhere)).

    This follows from ∂/∂xᵢ ln Σⱼ exp(xⱼ) = softmax(x)ᵢ: predicted probability minus the right one, which is 1 or 0. N
    is the number of targets that are not −1. Where the target is −1, dx is 0.

    >>> cross_entropy_backward(1, np.log([[1, 2, 1], [9, 9, 9]]), np.array([1, -1])).round(9)
    array([[ 0.25, -0.5 ,  0.25],
           [ 0.  ,  0.  ,  0.  ]])
    """
    counted = targets != -1
    dx = softmax(logits)
    dx[(*np.nonzero(counted), targets[counted])] -= 1
    dx[~counted] = 0
    dx *= dy / np.count_nonzero(counted)
    return dx


def loss_and_gradients(tokens, targets, weights, config, dropout=identity):
    """loss = cross_entropy(forward(tokens), targets), and the gradient of each weight: a number, {name: gradient}.

    Tokens and targets are (B, T) or (T,) ints, the loss is in nats per token, and gradients have the names, shapes and
    dtype of `weights`. Raises what `forward` and `cross_entropy` raise. Rumelhart et al. 1986.

    >>> from numpy_gpt2 import GPT2Config
    >>> config = GPT2Config(vocab_size=2, n_embd=2, n_layer=1, n_head=1)
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> weights["ln_f.bias"] += [1, 2]
    >>> loss, gradients = loss_and_gradients([0], [1], weights, config)
    >>> print(loss.round(6))  # both tokens have probability 1/2, so −ln(1/2) = ln 2
    0.693147
    >>> gradients["wte.weight"].round(9)  # (1/2, 1/2) − (0, 1), times the hidden state (1, 2)
    array([[ 0.5,  1. ],
           [-0.5, -1. ]])
    """
    tokens, targets = np.asarray(tokens), np.asarray(targets)
    trace = {}

    def hook(name, value):
        if not name.endswith(NOT_NEEDED):
            trace[name] = value  # without dropout
        return dropout(name, value)

    scores = forward(tokens, weights, config, hook=hook)
    loss = cross_entropy(scores, targets)
    dscores = cross_entropy_backward(1, scores, targets)
    return loss, forward_backward(dscores, tokens, weights, config, trace, dropout)
