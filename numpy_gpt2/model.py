"""GPT-2, the whole forward pass: token ids in, a score for every possible next token out.

    tokens (B, T)
       |       wte[token] + wpe[position]           what is there, and where it stands
    x (B, T, C)                                     the residual stream: one vector a position, which all below adds to
       |       L times, a block:
       |           x + attention(layer_norm(x))     positions look back at each other
       |           x + mlp(layer_norm(x))           each position is worked on by itself
       |       layer_norm
       |       logits: compare with every token's embedding
    scores (B, T, V)                                softmax of row t: how probable is each token as number t + 1?

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3, as in its released code. It is
the decoder of Vaswani et al. 2017, "Attention Is All You Need", without its attention to an encoder, with learned
positions, layer norms in front of each sub-block, and one more at the end. Dropout belongs to training and is not here.

Read from top to bottom: each function is one equation, small ones first, and `forward` puts them together. `weights` is
a flat dict of arrays with Hugging Face's names. B, T, S, C, H, D, V, L are explained in `__init__.py`.

Wherever an intermediate result has a name, the code reads `x = hook(name, x)`: the hook sees it, and what it returns is
what the computation goes on with. The default does nothing; `record`, at the end, keeps what it sees. An array that
went through the hook is not written to afterwards.
"""

import math

import numpy as np

from .special import erf


def identity(name, value):
    """The hook that neither looks nor touches."""
    return value


def within(prefix, hook):
    """The same hook, for a part of the model whose names begin with `prefix`."""
    return lambda name, value: hook(prefix + name, value)


def layer_norm(x, weight, bias, eps):
    """(x − mean) / √(variance + ε) · weight + bias, with mean and variance of each position's own C channels.

    (..., C) -> (..., C). Ba et al. 2016, "Layer Normalization", section 3. The variance is the biased one, over C.
    """
    y = x - x.mean(axis=-1, keepdims=True)
    variance = np.vecdot(y, y)[..., None] / x.shape[-1]  # y · y / C, the mean of y²
    y /= np.sqrt(variance + eps)
    y *= weight
    y += bias
    return y


def gelu(x):
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), the approximation of GELU that GPT-2 was trained with.

    Any shape. Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", section 2. It differs from `gelu_exact` by up to
    4.7e-4, a thousand times float32's rounding. `x * x * x` because NumPy's `x**3` takes ten times as long and more.
    """
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_exact(x):
    """x · Φ(x) = x/2 · (1 + erf(x/√2)), with Φ the normal distribution's cumulative function. Any shape.

    Hendrycks & Gimpel 2016, section 2.
    """
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def relu(x):
    """max(x, 0). Any shape."""
    return np.maximum(x, 0)


ACTIVATIONS = {"gelu_new": gelu, "gelu_pytorch_tanh": gelu, "gelu_fast": gelu, "gelu": gelu_exact, "relu": relu}


def softmax(x):
    """exp(xᵢ) / Σⱼ exp(xⱼ) over the last axis: scores -> probabilities that sum to 1. (..., N) -> (..., N).

    Subtracting the maximum cancels out of the fraction, and keeps exp from overflowing.
    """
    y = x - x.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def linear(x, weight, bias):
    """x W + b. (..., C) and (C, N) and (N,) -> (..., N).

    The leading axes become one because NumPy multiplies a stack of matrices one by one, and would read W for each.
    """
    y = x.reshape(-1, x.shape[-1]) @ weight
    y += bias
    return y.reshape(*x.shape[:-1], -1)


def causal_mask(T, S):
    """Which of S keys each of the last T positions may look at: itself and what came before. Boolean (T, S).

    Query i stands at position S − T + i, so that one mask serves a whole prompt (T = S), the next chunk of it, and a
    single new token (T = 1, which may look at everything).
    """
    return np.arange(S) <= np.arange(S - T, S)[:, None]


def attention(q, k, v, mask, scale, hook=identity):
    """softmax(q kᵀ · scale, where the mask allows) v: each position takes a weighted average of the values it may see.

    (B, H, T, D), (B, H, S, D), (B, H, S, D) and a boolean mask (T, S) -> (B, H, T, D). A query q says what a position
    looks for, a key k what it is found by, a value v what it hands on. Sums of D products grow like √D; the scale,
    usually 1/√D, keeps softmax from settling on a single key for that reason alone. Vaswani et al. 2017, section 3.2.1.
    """
    scores = (q * scale) @ k.swapaxes(-1, -2)  # (B, H, T, S)
    np.copyto(scores, -math.inf, where=~mask)  # of which softmax makes a weight of exactly 0
    pattern = hook("attn.pattern", softmax(hook("attn.scores", scores)))
    return hook("attn.z", pattern @ v)  # (B, H, T, D)


def mlp(x, w, activation, hook=identity):
    """f(x W₁ + b₁) W₂ + b₂: every position by itself, through a layer that is usually four times as wide.

    (..., C) -> (..., C). `w` is one block's weights, `activation` the function f. Vaswani et al. 2017, section 3.3.
    """
    pre = hook("mlp.pre", linear(x, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))  # (..., 4C), or n_inner
    post = hook("mlp.post", activation(pre))
    return linear(post, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])  # (..., C)


def block(x, w, config, layer, cache=None, hook=identity):
    """x ← x + attention(layer_norm(x)), then x ← x + mlp(layer_norm(x)).

    (B, T, C) -> (B, T, C). `w` is this block's weights, their prefix "h.{layer}." stripped. One product makes q, k and
    v of all heads; each head attends by itself, with D = C/H channels of its own. Attention is the only place where
    positions exchange anything: with a `cache`, the T new ones also see the keys and values that it holds.
    Radford et al. 2019, section 2.3.
    """
    B, T, C = x.shape
    H, eps = config.n_head, config.layer_norm_epsilon
    x = hook("resid_pre", x)

    normalized = hook("ln_1", layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], eps))
    qkv = linear(normalized, w["attn.c_attn.weight"], w["attn.c_attn.bias"])  # (B, T, 3C)
    q, k, v = qkv.reshape(B, T, 3, H, C // H).transpose(2, 0, 3, 1, 4)  # (B, H, T, D) each
    q, k, v = hook("attn.q", q), hook("attn.k", k), hook("attn.v", v)
    if cache is not None:
        k, v = cache.update(layer, k, v)  # (B, H, S, D) each
    z = attention(q, k, v, causal_mask(T, k.shape[-2]), config.attention_scale(layer), hook)
    z = z.swapaxes(1, 2).reshape(B, T, C)  # the heads side by side again
    attn_out = hook("attn_out", linear(z, w["attn.c_proj.weight"], w["attn.c_proj.bias"]))
    x = hook("resid_mid", x + attn_out)

    normalized = hook("ln_2", layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], eps))
    mlp_out = hook("mlp_out", mlp(normalized, w, ACTIVATIONS[config.activation_function], hook))
    return hook("resid_post", x + mlp_out)


def hidden_states(tokens, weights, config, cache=None, hook=identity):
    """wte[tokens] + wpe[positions], through all L blocks and a last layer norm: what the model makes of each position.

    (B, T) or (T,) ints -> (..., T, C). Both embeddings are learned tables (Radford et al. 2018, section 4.1). With a
    `cache`, the tokens continue those already in it: positions start at `cache.length`, which grows by T here and
    nowhere else.
    Raises ValueError past `n_positions`, where the position embeddings end, and IndexError for ids that do not exist.
    """
    tokens = np.asarray(tokens)
    T, C = tokens.shape[-1], config.n_embd
    start = 0 if cache is None else cache.length
    if start + T > config.n_positions:
        raise ValueError(f"{start + T} positions asked for, but the model ends at n_positions = {config.n_positions}")
    if tokens.size and tokens.min() < 0:  # NumPy would count from the end
        raise IndexError(f"token id {tokens.min()} is negative")

    embed = hook("embed", weights["wte.weight"][tokens])
    pos_embed = hook("pos_embed", weights["wpe.weight"][start : start + T])
    x = (embed + pos_embed).reshape(-1, T, C)  # (B, T, C)
    for layer in range(config.n_layer):
        prefix = f"h.{layer}."
        w = {name: weights[prefix + name] for name in config.block_shapes()}
        x = block(x, w, config, layer, cache, within(prefix, hook))
    if cache is not None:
        cache.length += T
    x = hook("ln_f", layer_norm(x, weights["ln_f.weight"], weights["ln_f.bias"], config.layer_norm_epsilon))
    return x.reshape(*tokens.shape, C)


def output_head(weights):
    """The matrix (V, C) whose row v gives token v its score: `lm_head.weight`, or wte where the head is tied to it."""
    return weights["lm_head.weight"] if "lm_head.weight" in weights else weights["wte.weight"]


def logits(x, weights):
    """x Eᵀ: how well each position's hidden state matches each token's embedding. (..., C) -> (..., V).

    The head is tied: E is the token embedding itself (Press & Wolf 2017), unless the checkpoint brings an `lm_head`.
    """
    return (x.reshape(-1, x.shape[-1]) @ output_head(weights).T).reshape(*x.shape[:-1], -1)


def forward(tokens, weights, config, cache=None, hook=identity):
    """GPT-2: logits(hidden_states(tokens)). (B, T) or (T,) ints -> (..., T, V), with `cache` and `hook` as above.

    softmax of row t is the model's distribution for token t + 1.
    """
    return logits(hidden_states(tokens, weights, config, cache, hook), weights)


def cross_entropy(logits, targets):
    """The mean of −ln softmax(logits)[target], in nats per token. (..., V) and (...) ints -> a number.

    Computed as ln Σⱼ exp(xⱼ) − x[target], with x for the logits. A target of −1 is left out of the mean; other
    negative ones raise IndexError.
    """
    targets = np.asarray(targets)
    counted = targets != -1
    x, targets = logits[counted], targets[counted]  # (N, V) and (N,)
    if (targets < 0).any():  # NumPy would count from the end
        raise IndexError(f"target {targets.min()} is negative, and not the -1 that is left out")
    x = x - x.max(axis=-1, keepdims=True)
    log_normalizer = np.log(np.exp(x).sum(axis=-1))
    return (log_normalizer - x[np.arange(len(targets)), targets]).mean()


def record(into):
    """The hook that keeps every named array: `forward(..., hook=record(trace))` fills the dict `trace`."""

    def hook(name, value):
        into[name] = value
        return value

    return hook
