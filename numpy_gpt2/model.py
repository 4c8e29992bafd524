"""GPT-2's forward pass: token ids in, a score for every possible next token out.

    tokens (B, T)
       |       wte[token] + wpe[position]           two learned tables: what the token is, and where it stands
    x (B, T, C)                                     the residual stream: one vector per position
       |       L blocks, each adds twice to it:
       |           x + attention(layer_norm(x))     each position reads from itself and earlier positions
       |           x + mlp(layer_norm(x))           each position is processed by itself
       |       layer_norm, then logits: the dot product with every token's embedding
    scores (B, T, V)                                softmax of row t: the distribution of token t + 1

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3. It is the decoder of Vaswani et
al. 2017, "Attention Is All You Need", without the encoder. Layer norm comes before attention, the MLP and the logits.

Each function is one equation. Small ones come first, and `forward` puts them together. `weights` is a dict from Hugging
Face's names to arrays. `__init__.py` explains the letters B, T, S, C, H, D, V and L. Named intermediate results pass
through a hook, `x = hook(name, x)`, and the computation continues with the value that it returns. The default hook
returns its input; `record`, at the end of this file, also keeps it.
"""

import math

import numpy as np

from .special import erf


def identity(name, value):
    """The default hook: it returns the value unchanged.

    >>> identity("mlp.pre", 7)
    7
    """
    return value


def within(prefix, hook):
    """The same hook with `prefix` before each name: a block passes the name "ln_1", `hook` gets "h.0.ln_1".

    >>> within("h.0.", lambda name, value: name)("ln_1", 7)
    'h.0.ln_1'
    """
    return lambda name, value: hook(prefix + name, value)


def layer_norm(x, weight, bias, eps):
    """(x − mean) / √(variance + ε) · weight + bias, with the mean and variance over the C channels of each position.

    (..., C) -> (..., C). The variance is divided by C, not C − 1. Ba et al. 2016, "Layer Normalization", section 3.

    >>> layer_norm(np.array([1.0, 3.0]), weight=10, bias=5, eps=0)  # the mean is 2, the variance 1
    array([-5., 15.])
    """
    centered = x - x.mean(axis=-1, keepdims=True)
    variance = (centered * centered).mean(axis=-1, keepdims=True)
    return centered / np.sqrt(variance + eps) * weight + bias


def gelu(x):
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), the tanh approximation of GELU. Any shape.

    GPT-2 was trained with this approximation, so its weights need it. It differs from `gelu_exact` most at x = ±2.70,
    by 4.7e-4. NumPy's `x**3` is over ten times slower than `x * x * x`. Hendrycks & Gimpel 2016, section 2.

    >>> gelu(np.array([-10.0, 0.0, 1.0, 10.0])).round(4)  # about 0 for x ≪ 0, about x for x ≫ 0
    array([-0.    ,  0.    ,  0.8412, 10.    ])
    """
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_exact(x):
    """x · Φ(x) = x/2 · (1 + erf(x/√2)). Any shape. Φ is the cumulative distribution function of the standard normal.

    >>> gelu_exact(np.array([-1.0, 0.0, 1.0])).round(4)  # 84.13 % of a normal distribution lies below 1
    array([-0.1587,  0.    ,  0.8413])
    """
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def relu(x):
    """max(x, 0). Any shape.

    >>> relu(np.array([-2.0, 3.0]))
    array([0., 3.])
    """
    return np.maximum(x, 0)


ACTIVATIONS = {"gelu_new": gelu, "gelu_pytorch_tanh": gelu, "gelu_fast": gelu, "gelu": gelu_exact, "relu": relu}


def softmax(x):
    """exp(xᵢ) / Σⱼ exp(xⱼ) over the last axis: scores -> probabilities that sum to 1. (..., N) -> (..., N).

    Subtracting the maximum keeps exp from overflowing. Reusing the array y makes a long prompt 4 % faster.

    >>> softmax(np.array([0, math.log(2), math.log(4)])) * 7  # 1/7, 2/7 and 4/7
    array([1., 2., 4.])
    """
    y = x - x.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def linear(x, weight, bias):
    """x W + b. (..., C), (C, N) and (N,) -> (..., N).

    x is reshaped to one matrix, so NumPy reads W once. For a batch of matrices, it would read W for each of them.

    >>> linear(np.array([1.0, 2.0]), np.array([[1.0, 0.0], [3.0, 1.0]]), np.array([10.0, 20.0]))
    array([17., 22.])
    """
    y = x.reshape(-1, x.shape[-1]) @ weight
    y += bias
    return y.reshape(*x.shape[:-1], -1)


def causal_mask(T, S):
    """Which of the S keys each of the T newest positions may see: its own and all earlier ones. Boolean (T, S).

    Query i is at position S − T + i. This covers a whole prompt (T = S), a chunk of a prompt, and one token (T = 1).

    >>> causal_mask(T=2, S=5).astype(int)  # 3 positions are in the cache, 2 are new
    array([[1, 1, 1, 1, 0],
           [1, 1, 1, 1, 1]])
    """
    return np.arange(S) <= np.arange(S - T, S)[:, None]


def attention(q, k, v, mask, scale, hook=identity):
    """softmax(q kᵀ · scale, −∞ where masked) v: each position takes a weighted average of the values it may see.

    (B, H, T, D), (B, H, S, D), (B, H, S, D) and a boolean mask (T, S) -> (B, H, T, D). A query says what a position
    looks for, a key what a position offers, a value what it passes on. A score is a sum of D products. If these are
    independent with mean 0 and variance 1, the sum has variance D: a typical score is √D. A scale of 1/√D undoes this.
    Without it, softmax would put almost all weight on one key. Vaswani et al. 2017, section 3.2.1.

    >>> q = np.log([[2, 1], [2, 1], [2, 1]])  # (ln 2, 0) at each of 3 positions, D = 2
    >>> k = np.array([[0, 9], [1, 9], [2, 9]])  # each query's scores with the 3 keys are 0, ln 2, ln 4
    >>> v = np.array([[21, 0], [0, 21], [0, 0]])
    >>> attention(q, k, v, causal_mask(3, 3), scale=1).round(9)  # weights (1), (1/3, 2/3), (1/7, 2/7, 4/7)
    array([[21.,  0.],
           [ 7., 14.],
           [ 3.,  6.]])
    """
    scores = (q * scale) @ k.swapaxes(-1, -2)  # (B, H, T, S)
    np.copyto(scores, -math.inf, where=~mask)  # exp(−∞) = 0: a masked key gets a weight of exactly 0
    pattern = hook("attn.pattern", softmax(hook("attn.scores", scores)))
    return hook("attn.z", pattern @ v)  # (B, H, T, D)


def split_heads(qkv, n_head):
    """The output of the linear layer `attn.c_attn` -> q, k, v: (B, T, 3C) -> (3, B, H, T, D).

    The first C columns are the queries, the next C the keys, the last C the values. In each of the three, head 0 has
    the first D columns, head 1 the next D, and so on. The result is a view: only strides change, nothing is copied.

    >>> q, k, v = split_heads(np.array([[range(12), range(12, 24)]]), n_head=2)  # (1, 2, 12): B = 1, T = 2, C = 4
    >>> q[0].tolist()  # per head, per position: D = 2 numbers
    [[[0, 1], [12, 13]], [[2, 3], [14, 15]]]
    >>> v[0, 1].tolist()  # head 1
    [[10, 11], [22, 23]]
    """
    B, T, _ = qkv.shape
    return qkv.reshape(B, T, 3, n_head, -1).transpose(2, 0, 3, 1, 4)


def merge_heads(z):
    """The heads' outputs, side by side again: (B, H, T, D) -> (B, T, C).

    The swap makes a view. The reshape copies, because z holds a position's C numbers in H separate places.

    >>> merge_heads(np.array([[[[0, 1], [12, 13]], [[2, 3], [14, 15]]]])).tolist()
    [[[0, 1, 2, 3], [12, 13, 14, 15]]]
    """
    B, H, T, D = z.shape
    return z.swapaxes(1, 2).reshape(B, T, H * D)


def mlp(x, w, activation, hook=identity):
    """f(x W₁ + b₁) W₂ + b₂: each position by itself, through a hidden layer, usually 4C wide. (..., C) -> (..., C).

    W₁ and b₁ are `mlp.c_fc`, W₂ and b₂ are `mlp.c_proj`, and f is `activation`. Vaswani et al. 2017, section 3.3.

    >>> w = {"mlp.c_fc.weight": np.array([[1, -1]]), "mlp.c_fc.bias": np.zeros(2),
    ...      "mlp.c_proj.weight": np.array([[1.0], [1.0]]), "mlp.c_proj.bias": np.zeros(1)}
    >>> mlp(np.array([[-3.0], [5.0]]), w, relu)  # max(x, 0) + max(−x, 0) = |x|
    array([[3.],
           [5.]])
    """
    pre = hook("mlp.pre", linear(x, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))  # (..., 4C), or n_inner
    post = hook("mlp.post", activation(pre))
    return linear(post, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])  # (..., C)


def block(x, w, config, layer, cache=None, hook=identity):
    """x ← x + attention(layer_norm(x)), then x ← x + mlp(layer_norm(x)).

    (B, T, C) -> (B, T, C). In this equation, attention includes the linear layers before and after it. `w` holds this
    block's weights without the prefix "h.{layer}.". Positions exchange information only in attention. With a `cache`,
    the T new positions also see the keys and values stored there. Radford et al. 2019, section 2.3.

    >>> from numpy_gpt2 import GPT2Config
    >>> config = GPT2Config(n_embd=2, n_head=1)
    >>> w = {name: np.zeros(shape) for name, shape in config.block_shapes().items()}
    >>> w["attn.c_proj.bias"] += 1  # with these weights, attention adds 1 to the residual stream
    >>> w["mlp.c_proj.bias"] += 10  # and the MLP adds 10
    >>> block(np.array([[[0.0, 5.0]]]), w, config, layer=0)
    array([[[11., 16.]]])
    """
    eps = config.layer_norm_epsilon
    x = hook("resid_pre", x)

    normalized = hook("ln_1", layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], eps))
    qkv = linear(normalized, w["attn.c_attn.weight"], w["attn.c_attn.bias"])  # (B, T, 3C)
    q, k, v = split_heads(qkv, config.n_head)  # (B, H, T, D) each
    q, k, v = hook("attn.q", q), hook("attn.k", k), hook("attn.v", v)
    if cache is not None:
        k, v = cache.update(layer, k, v)  # (B, H, S, D) each
    z = attention(q, k, v, causal_mask(x.shape[1], k.shape[2]), config.attention_scale(layer), hook)
    attn_out = linear(merge_heads(z), w["attn.c_proj.weight"], w["attn.c_proj.bias"])  # (B, T, C)
    x = hook("resid_mid", x + hook("attn_out", attn_out))

    normalized = hook("ln_2", layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], eps))
    mlp_out = mlp(normalized, w, ACTIVATIONS[config.activation_function], hook)
    return hook("resid_post", x + hook("mlp_out", mlp_out))


def hidden_states(tokens, weights, config, cache=None, hook=identity):
    """wte[tokens] + wpe[positions], through all L blocks and the last layer norm: one vector per position.

    (B, T) or (T,) ints -> (..., T, C). Both embedding tables are learned (Radford et al. 2018, section 4.1). With a
    `cache`, the tokens continue those already in it: positions start at `cache.length`, which then grows by T.
    Raises ValueError past `n_positions`, where the position embeddings end, and IndexError for ids that do not exist.

    >>> from numpy_gpt2 import GPT2Config
    >>> config = GPT2Config(vocab_size=2, n_embd=2, n_layer=1, n_head=1)
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> weights["wte.weight"][:] = [[4, 6], [8, 2]]
    >>> weights["ln_f.weight"] += 1
    >>> hidden_states([0, 1, 1], weights, config).round(3)  # blocks of zeros add nothing; layer norm gives ±1
    array([[-1.,  1.],
           [ 1., -1.],
           [ 1., -1.]])
    """
    tokens = np.asarray(tokens)
    T, C = tokens.shape[-1], config.n_embd
    start = 0 if cache is None else cache.length
    if start + T > config.n_positions:
        raise ValueError(f"the text has {start + T} positions; the model ends at n_positions = {config.n_positions}")
    if tokens.size and tokens.min() < 0:  # NumPy would count from the end
        raise IndexError(f"token id {tokens.min()} is negative")

    embed = hook("embed", weights["wte.weight"][tokens])
    pos_embed = hook("pos_embed", weights["wpe.weight"][start : start + T])
    x = (embed + pos_embed).reshape(-1, T, C)  # (B, T, C)
    for layer in range(config.n_layer):
        w = {name: weights[f"h.{layer}.{name}"] for name in config.block_shapes()}
        x = block(x, w, config, layer, cache, within(f"h.{layer}.", hook))
    if cache is not None:
        cache.length += T
    x = hook("ln_f", layer_norm(x, weights["ln_f.weight"], weights["ln_f.bias"], config.layer_norm_epsilon))
    return x.reshape(*tokens.shape, C)


def output_head(weights):
    """The matrix (V, C) that scores tokens: `lm_head`, or the embedding `wte` in a tied head (Press & Wolf 2017).

    >>> output_head({"wte.weight": "the token embedding"})
    'the token embedding'
    """
    return weights["lm_head.weight"] if "lm_head.weight" in weights else weights["wte.weight"]


def logits(x, weights):
    """x Eᵀ: the dot product of each position's vector with each token's row of the output head E. (..., C) -> (..., V).

    >>> logits(np.array([1.0, 2.0]), {"wte.weight": np.array([[1, 0], [0, 1], [1, 1]])})
    array([1., 2., 3.])
    """
    head = output_head(weights)  # (V, C)
    return (x.reshape(-1, x.shape[-1]) @ head.T).reshape(*x.shape[:-1], -1)


def forward(tokens, weights, config, cache=None, hook=identity):
    """GPT-2: logits(hidden_states(tokens)). (B, T) or (T,) ints -> (..., T, V). softmax of row t predicts token t + 1.

    >>> from numpy_gpt2 import GPT2Config
    >>> config = GPT2Config(vocab_size=3, n_embd=2, n_layer=1, n_head=1)
    >>> weights = {name: np.zeros(shape) for name, shape in config.parameter_shapes().items()}
    >>> softmax(forward([2, 0], weights, config)) * 3  # weights of 0 give each of 3 tokens 1/3
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    return logits(hidden_states(tokens, weights, config, cache, hook), weights)


def cross_entropy(logits, targets):
    """The mean of −ln softmax(logits)[target], in nats per token. (..., V) and (...) ints -> a number.

    For a row x of logits this is ln Σⱼ exp(xⱼ) − x[target]. Targets of −1 are ignored; others below 0 raise IndexError.

    >>> print(cross_entropy(np.log([[1, 2, 1], [9, 9, 9]]), [1, -1]).round(6))  # −ln(2/4) = ln 2
    0.693147
    """
    targets = np.asarray(targets)
    counted = targets != -1
    x, targets = logits[counted], targets[counted]  # (N, V) and (N,)
    if (targets < 0).any():  # NumPy would count from the end
        raise IndexError(f"target {targets.min()} is negative; it must be a token id, or -1 to be ignored")
    x = x - x.max(axis=-1, keepdims=True)
    log_normalizer = np.log(np.exp(x).sum(axis=-1))
    return (log_normalizer - x[np.arange(len(targets)), targets]).mean()


def record(into):
    """The hook that keeps every named array: `forward(..., hook=record(trace))` fills the dict `trace`.

    >>> trace = {}
    >>> record(trace)("ln_f", 7)
    7
    >>> trace
    {'ln_f': 7}
    """

    def hook(name, value):
        into[name] = value
        return value

    return hook
