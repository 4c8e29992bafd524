"""The gradients of GPT-2: every function of `model.py` undone, in the same order.

Training asks of each weight: how does the loss change when this number changes a little? The chain rule answers for all
of them in one walk, from the loss back to the tokens. Write dx for the derivative of the loss with respect to x, an
array of x's shape. Then y = f(x) has a partner f_backward that turns dy into dx:

    dxᵢ = Σⱼ dyⱼ ∂yⱼ/∂xᵢ

    y = a + b          da = dy, db = dy             a sum hands its gradient to both terms
    y = f(a) + g(a)    da = f's share + g's share   what is used twice collects from both uses
    y = x W            dx = dy Wᵀ, dW = xᵀ dy       as yⱼ = Σᵢ xᵢ Wᵢⱼ: ∂yⱼ/∂xᵢ = Wᵢⱼ, ∂yⱼ/∂Wᵢⱼ = xᵢ

The rest is a handful of derivatives. Read this beside `model.py`: each docstring quotes the line that it undoes.

A backward takes dy and what its function took, as far as it matters, and returns the gradients in the same order, those
of weights by name. Softmax alone takes its output, of which its derivative is made. Where a function has the `hook`,
its backward has the `trace`: what the hook recorded in the one forward pass there is. Dropout, a hook of training's own
(`train.py`), multiplies an array by a mask; its gradient is multiplied by the same mask, so the way back calls
`dropout` with the same names. `identity`, `within`, `causal_mask` and `record` have nothing to differentiate.
"""

import math

import numpy as np

from .model import ACTIVATIONS, cross_entropy, forward, gelu, gelu_exact, identity, output_head, relu, softmax, within
from .special import erf

# What the way back needs of what the hook sees in a block, and after the last one. The rest is not kept.
BLOCK_TRACE = (
    "resid_pre",
    "ln_1",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.pattern",
    "attn.z",
    "resid_mid",
    "ln_2",
    "mlp.pre",
    "mlp.post",
    "resid_post",
)
TRACE = (*BLOCK_TRACE, "ln_f")


def layer_norm_backward(dy, x, weight, bias, eps):
    """y = n · weight + bias, where n = (x − mean) / √(variance + ε)  ->  dx, dweight, dbias.

    All positions share weight and bias, so their gradients are sums over positions: of dy · n, and of dy. With
    dn = dy · weight, dx = (dn − mean(dn) − n · mean(dn · n)) / √(variance + ε): shifting or stretching all of x's
    channels leaves n as it was, so those two parts of dn are taken out. Ba et al. 2016, section 3.
    """
    n = x - x.mean(axis=-1, keepdims=True)
    inverse_deviation = 1 / np.sqrt((n * n).mean(axis=-1, keepdims=True) + eps)
    n *= inverse_deviation
    dn = dy * weight
    dx = dn - dn.mean(axis=-1, keepdims=True)
    dx -= n * (dn * n).mean(axis=-1, keepdims=True)
    dx *= inverse_deviation
    positions = tuple(range(x.ndim - 1))
    return dx, (dy * n).sum(axis=positions), dy.sum(axis=positions)


def gelu_backward(dy, x):
    """y = x/2 · (1 + t), where t = tanh(√(2/π) (x + 0.044715 x³))  ->  dx.

    The product rule, with tanh′ = 1 − t²: dx = dy · ½ (1 + t + x (1 − t²) · √(2/π) (1 + 3 · 0.044715 x²)).
    """
    a, b = math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * 0.044715
    square = x * x
    t = np.tanh(x * (a + b * square))
    dx = x * (1 - t * t) * (a + 3 * b * square)
    dx += 1 + t
    dx *= 0.5 * dy
    return dx


def gelu_exact_backward(dy, x):
    """y = x Φ(x)  ->  dx = dy · (Φ(x) + x φ(x)), where φ = Φ′ is the bell curve exp(−x²/2) / √(2π)."""
    return dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def relu_backward(dy, x):
    """y = max(x, 0)  ->  dx = dy where x > 0, and 0 elsewhere."""
    return dy * (x > 0)


ACTIVATIONS_BACKWARD = {gelu: gelu_backward, gelu_exact: gelu_exact_backward, relu: relu_backward}


def softmax_backward(dy, y):
    """yᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)  ->  dx = y · (dy − Σⱼ dyⱼ yⱼ), from the probabilities y: what softmax gave.

    From ∂yⱼ/∂xᵢ = yⱼ (δᵢⱼ − yᵢ). What all of dy have in common cancels: probabilities cannot all rise at once.
    """
    dx = dy - np.vecdot(dy, y)[..., None]
    dx *= y
    return dx


def linear_backward(dy, x, weight, bias):
    """y = x W + b  ->  dx = dy Wᵀ, dW = xᵀ dy, db = Σ dy: sums over all positions, which share W and b."""
    dy = dy.reshape(-1, dy.shape[-1])
    dx = (dy @ weight.T).reshape(x.shape)
    return dx, x.reshape(-1, x.shape[-1]).T @ dy, dy.sum(axis=0)


def attention_backward(dz, q, k, v, scale, trace, dropout=identity):
    """z = pattern v, where pattern = softmax(scores) and scores = q kᵀ · scale  ->  dq, dk, dv.

    dv = patternᵀ dz and dpattern = dz vᵀ; through the softmax to dscores; dq = dscores k · scale and
    dk = dscoresᵀ q · scale. The mask is in the pattern already: where it forbids to look, the pattern is 0, and so is
    the gradient of the score.
    """
    pattern = trace["attn.pattern"]  # (B, H, T, S)
    dv = dropout("attn.pattern", pattern).swapaxes(-1, -2) @ dz
    dpattern = dropout("attn.pattern", dz @ v.swapaxes(-1, -2))
    dscores = softmax_backward(dpattern, pattern)
    dscores *= scale
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv  # (B, H, T, D) each


def mlp_backward(dy, x, w, activation, trace):
    """y = f(x W₁ + b₁) W₂ + b₂  ->  dx and the gradients of the MLP's weights, {name: gradient}."""
    dw = {}
    dpost, dw["mlp.c_proj.weight"], dw["mlp.c_proj.bias"] = linear_backward(
        dy, trace["mlp.post"], w["mlp.c_proj.weight"], w["mlp.c_proj.bias"]
    )
    dpre = ACTIVATIONS_BACKWARD[activation](dpost, trace["mlp.pre"])
    dx, dw["mlp.c_fc.weight"], dw["mlp.c_fc.bias"] = linear_backward(dpre, x, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"])
    return dx, dw


def block_backward(dy, w, config, layer, trace, dropout=identity):
    """x ← x + attention(layer_norm(x)), then x ← x + mlp(layer_norm(x))  ->  dx, {name: gradient}.

    `block`, from its last line to its first. At both sums the gradient goes on along the residual stream as it is, and
    what has come through the sub-block is added: that short way from the loss to every layer is why deep models learn.
    """
    B, T, C = dy.shape
    H, eps = config.n_head, config.layer_norm_epsilon
    dw = {}

    # resid_post = resid_mid + mlp(layer_norm(resid_mid))
    dmlp_out = dropout("mlp_out", dy)
    dnormalized, mlp_dw = mlp_backward(dmlp_out, trace["ln_2"], w, ACTIVATIONS[config.activation_function], trace)
    dx, dw["ln_2.weight"], dw["ln_2.bias"] = layer_norm_backward(
        dnormalized, trace["resid_mid"], w["ln_2.weight"], w["ln_2.bias"], eps
    )
    dy = dx + dy

    # resid_mid = resid_pre + linear(z), where z = attention(q, k, v), the heads side by side again
    dattn_out = dropout("attn_out", dy)
    z = trace["attn.z"].swapaxes(1, 2).reshape(B, T, C)
    dz, dw["attn.c_proj.weight"], dw["attn.c_proj.bias"] = linear_backward(
        dattn_out, z, w["attn.c_proj.weight"], w["attn.c_proj.bias"]
    )
    dz = dz.reshape(B, T, H, C // H).swapaxes(1, 2)  # (B, H, T, D)

    # q, k, v = linear(layer_norm(resid_pre)), cut in three and into heads
    q, k, v = trace["attn.q"], trace["attn.k"], trace["attn.v"]
    dq, dk, dv = attention_backward(dz, q, k, v, config.attention_scale(layer), trace, dropout)
    dqkv = np.stack([dq, dk, dv]).transpose(1, 3, 0, 2, 4).reshape(B, T, 3 * C)
    dnormalized, dw["attn.c_attn.weight"], dw["attn.c_attn.bias"] = linear_backward(
        dqkv, trace["ln_1"], w["attn.c_attn.weight"], w["attn.c_attn.bias"]
    )
    x = dropout("resid_pre", trace["resid_pre"])
    dx, dw["ln_1.weight"], dw["ln_1.bias"] = layer_norm_backward(dnormalized, x, w["ln_1.weight"], w["ln_1.bias"], eps)
    return dropout("resid_pre", dx + dy), dw | mlp_dw


def hidden_states_backward(dy, tokens, weights, config, trace, dropout=identity):
    """wte[tokens] + wpe[positions], through all L blocks and a last layer norm  ->  {name: gradient}.

    Here the walk ends, as a token id cannot change a little. A row of an embedding table collects from every place
    where it was looked up. `trace` is emptied on the way: a block's arrays are let go when its gradients are there.
    """
    T, C = tokens.shape[-1], config.n_embd
    dw = {}
    dx, dw["ln_f.weight"], dw["ln_f.bias"] = layer_norm_backward(
        dy.reshape(-1, T, C),
        trace[f"h.{config.n_layer - 1}.resid_post"],
        weights["ln_f.weight"],
        weights["ln_f.bias"],
        config.layer_norm_epsilon,
    )
    for layer in reversed(range(config.n_layer)):
        prefix = f"h.{layer}."
        w = {name: weights[prefix + name] for name in config.block_shapes()}
        block_trace = {name: trace.pop(prefix + name) for name in BLOCK_TRACE}
        dx, block_dw = block_backward(dx, w, config, layer, block_trace, within(prefix, dropout))
        dw |= {prefix + name: gradient for name, gradient in block_dw.items()}
    dw["wpe.weight"] = np.zeros_like(weights["wpe.weight"])
    dw["wpe.weight"][:T] = dx.sum(axis=0)
    dw["wte.weight"] = np.zeros_like(weights["wte.weight"])
    np.add.at(dw["wte.weight"], tokens.reshape(-1), dx.reshape(-1, C))
    return dw


def logits_backward(dy, x, weights):
    """y = x Eᵀ  ->  dx = dy E, dE = dyᵀ x: `linear` without a bias, and with the weight transposed."""
    dy = dy.reshape(-1, dy.shape[-1])
    return (dy @ output_head(weights)).reshape(x.shape), dy.T @ x.reshape(-1, x.shape[-1])


def forward_backward(dy, tokens, weights, config, trace, dropout=identity):
    """logits(hidden_states(tokens))  ->  {name: gradient}, with the names and shapes of `weights`.

    A tied head is the token embedding, used a second time: one gradient, the sum of both.
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

    As ∂/∂xᵢ ln Σⱼ exp(xⱼ) = softmax(x)ᵢ: the probability that a token was given, less the one that it should have been
    given. N counts the targets that are not −1; where they are, dx is 0.
    """
    counted = targets != -1
    dx = softmax(logits)
    dx[(*np.nonzero(counted), targets[counted])] -= 1
    dx[~counted] = 0
    dx *= dy / np.count_nonzero(counted)
    return dx


def loss_and_gradients(tokens, targets, weights, config, dropout=identity):
    """The loss, and how it changes with every weight: (B, T) or (T,) ints, twice -> a number, {name: gradient}.

    loss = cross_entropy(forward(tokens), targets) in nats per token; targets of −1 count for nothing. The gradients
    have the names, shapes and dtype of `weights`. Rumelhart et al. 1986, "Learning representations by back-propagating
    errors". Raises what `forward` and `cross_entropy` raise.
    """
    tokens, targets = np.asarray(tokens), np.asarray(targets)
    trace = {}

    def hook(name, value):
        if name.split(".", 2)[-1] in TRACE:
            trace[name] = value  # as it was before dropout
        return dropout(name, value)

    scores = forward(tokens, weights, config, hook=hook)
    loss = cross_entropy(scores, targets)
    dscores = cross_entropy_backward(1, scores, targets)
    return loss, forward_backward(dscores, tokens, weights, config, trace, dropout)
