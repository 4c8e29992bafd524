"""Mistakes in part 1: from `attention_scale` to `mlp`."""

from __future__ import annotations

from ..source import Mistake, mistake

MASKED = "np.copyto(scores, -math.inf, where=~mask)"
SPLIT = "qkv.reshape(B, T, 3, n_head, -1).transpose(2, 0, 3, 1, 4)"
MERGE = "z.swapaxes(1, 2).reshape(B, T, H * D)"
ROOT = "1 / math.sqrt(self.n_embd // self.n_head)"
SCORES = "(q * scale) @ k.swapaxes(-1, -2)"
SOFTMAX = 'softmax(hook("attn.scores", scores))'

MISTAKES: dict[str, list[Mistake]] = {
    "GPT2Config.attention_scale": [
        mistake(
            "no_options",
            "The two settings scale_attn_weights and scale_attn_by_inverse_layer_idx are not used.",
            (" if self.scale_attn_weights else 1.0", ""),
            ("scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale", "scale"),
        ),
        mistake(
            "root_c",
            "This is 1/√C. It must be 1/√D, where D = C/H is the size of one head.",
            ("self.n_embd // self.n_head", "self.n_embd"),
        ),
        mistake(
            "root_h",
            "This is 1/√H. It must be 1/√D, where D = C/H is the size of one head.",
            ("self.n_embd // self.n_head", "self.n_head"),
        ),
        mistake("no_root", "This is 1/D. It must be 1/√D.", (ROOT, "1 / (self.n_embd // self.n_head)")),
        mistake(
            "inverse",
            "This is √D. It must be 1/√D: the scores are multiplied by it.",
            (ROOT, "math.sqrt(self.n_embd // self.n_head)"),
        ),
        mistake(
            "float64",
            "The scale is a NumPy float64, which makes float32 scores float64. Use math.sqrt, not np.sqrt.",
            (ROOT, "1 / np.sqrt(self.n_embd // self.n_head)"),
        ),
        mistake(
            "always",
            "scale_attn_weights is not used. If it is False, the factor is 1.",
            (" if self.scale_attn_weights else 1.0", ""),
        ),
        mistake("zero", "If scale_attn_weights is False, the factor is 1, not 0.", ("else 1.0", "else 0.0")),
        mistake(
            "no_layer",
            "scale_attn_by_inverse_layer_idx is not used. If it is True, the factor is divided by layer + 1.",
            ("scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale", "scale"),
        ),
        mistake(
            "always_layer",
            "The factor is always divided by layer + 1. It is only if scale_attn_by_inverse_layer_idx is True.",
            (" if self.scale_attn_by_inverse_layer_idx else scale", ""),
        ),
        mistake(
            "layer_from_0",
            "The factor is divided by layer. It must be layer + 1, because layers count from 0.",
            ("(layer + 1)", "layer"),
        ),
        mistake(
            "times_layer",
            "The factor is multiplied by layer + 1. It must be divided by it.",
            ("scale / (layer", "scale * (layer"),
        ),
        mistake(
            "layer_needs_scale",
            "scale_attn_by_inverse_layer_idx does nothing if scale_attn_weights is False. The two settings are"
            " independent.",
            (
                "if self.scale_attn_by_inverse_layer_idx",
                "if self.scale_attn_by_inverse_layer_idx and self.scale_attn_weights",
            ),
        ),
    ],
    "attention": [
        mistake("no_mask", "The mask is not used: each position sees the whole text.", (MASKED, "pass")),
        mistake(
            "square_mask",
            "The mask is used only if T = S. With a cache, it must be used, too.",
            ("where=~mask", "where=~mask & (q.shape[-2] == k.shape[-2])"),
        ),
        mistake(
            "mask_inverted",
            "The mask is used inverted. It is True where a query may look, and the other scores must be -inf.",
            ("where=~mask", "where=mask"),
        ),
        mistake(
            "own_mask",
            "The mask is a causal one made here. The argument `mask` must be used.",
            (
                "where=~mask",
                "where=~(np.arange(k.shape[-2]) <= np.arange(k.shape[-2] - q.shape[-2], k.shape[-2])[:, None])",
            ),
        ),
        mistake(
            "own_mask_top_left",
            "The mask is np.tril, made here. The argument `mask` must be used.",
            ("where=~mask", "where=~np.tril(np.ones(scores.shape[-2:], bool))"),
        ),
        mistake(
            "zero",
            "Masked scores are set to 0. exp(0) is 1, so a masked key still gets weight. Set them to -inf.",
            ("-math.inf", "0"),
        ),
        mistake(
            "mask_times_large",
            "-1e9 is added where the mask is True. There, a query may look: add it where the mask is False.",
            (MASKED, "scores = scores + mask * -1e9"),
        ),
        mistake("plus_infinity", "Masked scores are set to +inf. They must be -inf.", ("-math.inf", "math.inf")),
        mistake(
            "minus_10000",
            "Masked scores are set to -1e4, which is not small enough beside large scores. Set them to -inf.",
            ("-math.inf", "-1e4"),
        ),
        mistake(
            "minus_10",
            "Masked scores are set to -10, so a masked key still gets weight. Set them to -inf.",
            ("-math.inf", "-10.0"),
        ),
        mistake(
            "minus_100",
            "Masked scores are set to -100, which is not small enough beside large scores. Set them to -inf.",
            ("-math.inf", "-100.0"),
        ),
        mistake(
            "subtract_10000",
            "1e4 is subtracted from masked scores, which is not enough beside large scores. Set them to -inf.",
            (MASKED, "scores -= 1e4 * ~mask"),
        ),
        mistake(
            "added",
            "The boolean mask is added to the scores. Set the scores to -inf where it is False.",
            (MASKED, "scores = scores + mask"),
        ),
        mistake(
            "after_softmax",
            "The mask is applied after softmax, so the weights of a row do not sum to 1. Mask the scores.",
            ("pattern @ v", "(softmax(" + SCORES + ") * mask) @ v"),
        ),
        mistake("no_scale", "The scores are not multiplied by scale.", ("(q * scale)", "q")),
        mistake(
            "divided", "The scores are divided by scale. They must be multiplied by it.", ("(q * scale)", "(q / scale)")
        ),
        mistake("scale_twice", "The scores are multiplied by scale twice.", ("(q * scale)", "(q * scale * scale)")),
        mistake(
            "root_d",
            "The scores are divided by √D, and `scale` is not used. The argument `scale` must be used.",
            ("(q * scale)", "(q / math.sqrt(q.shape[-1]))"),
        ),
        mistake(
            "root_d_too",
            "The scores are multiplied by scale and also divided by √D. `scale` already contains 1/√D.",
            ("(q * scale)", "(q * scale / math.sqrt(q.shape[-1]))"),
        ),
        mistake(
            "root_scale",
            "The scores are divided by √scale. They must be multiplied by scale.",
            ("(q * scale)", "(q / math.sqrt(scale))"),
        ),
        mistake(
            "scale_after_softmax",
            "The weights are multiplied by scale after softmax. The scores must be, before it.",
            ("(q * scale)", "q"),
            ("pattern @ v", "(pattern * scale) @ v"),
        ),
        mistake(
            "kq", "This is k qᵀ. It must be q kᵀ: a row for each query.", (SCORES, "(k * scale) @ q.swapaxes(-1, -2)")
        ),
        mistake(
            "softmax_over_queries",
            "softmax is over the queries. It must be over the keys, the last axis.",
            (SOFTMAX, f"{SOFTMAX.replace('scores))', 'scores).swapaxes(-1, -2))')}.swapaxes(-1, -2)"),
        ),
        mistake("softmax_twice", "softmax is applied twice.", (SOFTMAX, f"softmax({SOFTMAX})")),
        mistake("no_softmax", "softmax is missing.", (SOFTMAX, 'hook("attn.scores", scores)')),
        mistake(
            "no_softmax_zero",
            "softmax is missing, and masked scores are set to 0. They must be -inf before softmax.",
            ("-math.inf", "0"),
            (SOFTMAX, 'hook("attn.scores", scores)'),
        ),
        mistake(
            "softmax_first",
            "The mask is applied to the weights, after softmax, as -inf. It must be applied to the scores.",
            (MASKED, "scores = softmax(scores)\n" + MASKED),
            (SOFTMAX, 'hook("attn.scores", scores)'),
        ),
        mistake(
            "pattern_transposed",
            "The pattern is transposed in the product with v.",
            ("pattern @ v", "pattern.swapaxes(-1, -2) @ v"),
        ),
        mistake("k_for_v", "The weighted average is of k. It must be of v.", ("pattern @ v", "pattern @ k")),
        mistake("v_for_k", "The scores are q vᵀ. They must be q kᵀ.", ("k.swapaxes", "v.swapaxes")),
        mistake("q_for_k", "The scores are q qᵀ. They must be q kᵀ.", ("k.swapaxes", "q.swapaxes")),
        mistake("k_and_v", "k and v are exchanged.", ("k.swapaxes", "v.swapaxes"), ("pattern @ v", "pattern @ k")),
    ],
    "split_heads": [
        mistake(
            "reshaped",
            "The array is reshaped to (3, B, H, T, D) without a transpose. The shape is right, but positions are"
            " mixed.",
            (SPLIT, "qkv.reshape(3, B, n_head, T, -1)"),
        ),
        mistake(
            "heads_reshaped",
            "q, k and v are right, but each is reshaped to (B, H, T, D) without a transpose: positions are mixed.",
            (SPLIT, "qkv.reshape(B, T, 3, -1).transpose(2, 0, 1, 3).reshape(3, B, n_head, T, -1)"),
        ),
        mistake(
            "heads_first",
            "The columns are split into heads first, and then into q, k and v. The first C columns must be q.",
            (SPLIT, "qkv.reshape(B, T, n_head, 3, -1).transpose(3, 0, 2, 1, 4)"),
        ),
        mistake(
            "heads_last",
            "A head gets every H-th column. Head 0 must have the first D columns, head 1 the next D.",
            (SPLIT, "qkv.reshape(B, T, 3, -1, n_head).transpose(2, 0, 4, 1, 3)"),
        ),
        mistake(
            "qkv_last",
            "q gets every third column. It must have the first C columns.",
            (SPLIT, "qkv.reshape(B, T, n_head, -1, 3).transpose(4, 0, 2, 1, 3)"),
        ),
        mistake("kqv", "The order is k, q, v. It must be q, k, v.", (SPLIT, SPLIT + "[[1, 0, 2]]")),
        mistake("qvk", "The order is q, v, k. It must be q, k, v.", (SPLIT, SPLIT + "[[0, 2, 1]]")),
        mistake("vkq", "The order is v, k, q. It must be q, k, v.", (SPLIT, SPLIT + "[::-1]")),
        mistake("kvq", "The order is k, v, q. It must be q, k, v.", (SPLIT, SPLIT + "[[1, 2, 0]]")),
        mistake("vqk", "The order is v, q, k. It must be q, k, v.", (SPLIT, SPLIT + "[[2, 0, 1]]")),
        mistake("heads_reversed", "The heads are in reverse order.", (SPLIT, SPLIT + "[:, :, ::-1]")),
        mistake(
            "positions_first",
            "Positions come before heads, (3, B, T, H, D). It must be (3, B, H, T, D).",
            ("transpose(2, 0, 3, 1, 4)", "transpose(2, 0, 1, 3, 4)"),
        ),
        mistake(
            "batch_first",
            "The batch comes first, (B, 3, H, T, D). It must be (3, B, H, T, D).",
            ("transpose(2, 0, 3, 1, 4)", "transpose(0, 2, 3, 1, 4)"),
        ),
        mistake(
            "channels_first",
            "D comes before T, (3, B, H, D, T). It must be (3, B, H, T, D).",
            ("transpose(2, 0, 3, 1, 4)", "transpose(2, 0, 3, 4, 1)"),
        ),
        mistake(
            "not_transposed",
            "The axes are not moved, (B, T, 3, H, D). It must be (3, B, H, T, D).",
            (".transpose(2, 0, 3, 1, 4)", ""),
        ),
    ],
    "merge_heads": [
        mistake(
            "not_swapped",
            "z is reshaped without swapaxes. The shape is right, but a position gets the numbers of other positions.",
            (".swapaxes(1, 2)", ""),
        ),
        mistake(
            "channels_first",
            "A position's numbers are in the order (D, H). They must be in the order (H, D): head 0's D numbers"
            " come first.",
            (MERGE, "z.transpose(0, 2, 3, 1).reshape(B, T, H * D)"),
        ),
        mistake(
            "wrong_axes",
            "T and D are swapped. H and T must be: z.swapaxes(1, 2).",
            ("swapaxes(1, 2)", "swapaxes(2, 3)"),
        ),
        mistake(
            "heads_reversed",
            "The heads are in reverse order.",
            (MERGE, "z[:, ::-1].swapaxes(1, 2).reshape(B, T, H * D)"),
        ),
        mistake("unchanged", "z itself came out. Its heads must stand side by side: (B, T, C).", (MERGE, "z")),
        mistake("sum", "The heads are added. They must stand side by side.", (MERGE, "z.sum(axis=1)")),
        mistake("mean", "This is the mean of the heads. They must stand side by side.", (MERGE, "z.mean(axis=1)")),
        mistake(
            "not_reshaped", "H and D are still two axes. They must be joined: (B, T, C).", (".reshape(B, T, H * D)", "")
        ),
    ],
    "mlp": [
        mistake("no_activation", "The activation is missing.", ("activation(pre)", "pre")),
        mistake(
            "bias_after_activation",
            "The bias of mlp.c_fc is added after the activation. It must be added before it.",
            ('w["mlp.c_fc.bias"]', "0"),
            ("activation(pre)", 'activation(pre) + w["mlp.c_fc.bias"]'),
        ),
        mistake(
            "activation_last",
            "The activation comes after the second linear layer. It must be between the two.",
            ("activation(pre)", "pre"),
            ("return linear(post", "return activation(linear(post"),
            ('w["mlp.c_proj.bias"])', 'w["mlp.c_proj.bias"]))'),
        ),
        mistake(
            "activation_too",
            "The activation comes after both linear layers. It must be between the two only.",
            ("return linear(post", "return activation(linear(post"),
            ('w["mlp.c_proj.bias"])', 'w["mlp.c_proj.bias"]))'),
        ),
        mistake(
            "activation_first",
            "The activation is applied to x, before the first linear layer. It must be between the two.",
            ("linear(x,", "linear(activation(x),"),
            ("activation(pre)", "pre"),
        ),
        mistake(
            "always_gelu",
            "The activation is always gelu. The argument `activation` must be used.",
            ("activation(pre)", "gelu(pre)"),
        ),
        mistake(
            "always_relu",
            "The activation is always ReLU. The argument `activation` must be used.",
            ("activation(pre)", "relu(pre)"),
        ),
        mistake(
            "exact_gelu",
            "The activation is always the exact GELU. The argument `activation` must be used.",
            ("activation(pre)", "gelu_exact(pre)"),
        ),
        mistake("no_c_fc_bias", "The bias of mlp.c_fc is not added.", ('w["mlp.c_fc.bias"]', "0")),
        mistake("no_c_proj_bias", "The bias of mlp.c_proj is not added.", ('w["mlp.c_proj.bias"]', "0")),
        mistake(
            "no_c_proj",
            "The second linear layer, mlp.c_proj, is missing.",
            ('linear(post, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])', "post"),
        ),
        mistake(
            "residual",
            "x is added to the result. The residual connection belongs to `block`.",
            ("return linear(post", "return x + linear(post"),
        ),
        mistake(
            "activation_twice", "The activation is applied twice.", ("activation(pre)", "activation(activation(pre))")
        ),
        mistake(
            "gated",
            "x₁ · f(x₁) is computed, as in a gated MLP. GPT-2 has f(x W₁ + b₁) only.",
            ("activation(pre)", "pre * activation(pre)"),
        ),
    ],
}
