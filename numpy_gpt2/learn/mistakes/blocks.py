"""Mistakes in part 1: `block` and `hidden_states`."""

from __future__ import annotations

from ..source import Mistake, mistake

LN_1 = 'layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], eps)'
LN_2 = 'layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], eps)'
LN_F = 'layer_norm(x, weights["ln_f.weight"], weights["ln_f.bias"], config.layer_norm_epsilon)'
ATTENTION_SUM = 'x + hook("attn_out", attn_out)'
MLP_SUM = 'x + hook("mlp_out", mlp_out)'
C_PROJ = 'linear(merge_heads(z), w["attn.c_proj.weight"], w["attn.c_proj.bias"])'
MASK = "causal_mask(x.shape[1], k.shape[2])"
UPDATE = "k, v = cache.update(layer, k, v)"
POSITIONS = "[start : start + T]"
SINUSOIDS = """\
angles = np.arange(start, start + T)[:, None] * 10000.0 ** (-(np.arange(C) // 2 * 2) / C)
pos_embed = np.where(np.arange(C) % 2, np.cos(angles), np.sin(angles)).astype(embed.dtype)"""

MISTAKES: dict[str, list[Mistake]] = {
    "block": [
        mistake(
            "no_attention_residual",
            "The output of attention replaces x. It must be added to x.",
            (ATTENTION_SUM, 'hook("attn_out", attn_out)'),
        ),
        mistake(
            "no_mlp_residual",
            "The output of the MLP replaces x. It must be added to x.",
            (MLP_SUM, 'hook("mlp_out", mlp_out)'),
        ),
        mistake(
            "attention_to_normalized",
            "The output of attention is added to layer_norm(x). It must be added to x.",
            (ATTENTION_SUM, 'normalized + hook("attn_out", attn_out)'),
        ),
        mistake(
            "mlp_to_normalized",
            "The output of the MLP is added to layer_norm(x). It must be added to x.",
            (MLP_SUM, 'normalized + hook("mlp_out", mlp_out)'),
        ),
        mistake(
            "mlp_to_input",
            "The output of the MLP is added to the block's input. It must be added to the sum after attention.",
            ('x = hook("resid_mid"', 'before, x = x, hook("resid_mid"'),
            (MLP_SUM, 'before + hook("mlp_out", mlp_out)'),
        ),
        mistake("no_ln_1", "ln_1 is missing: attention must get layer_norm(x).", (LN_1, "x")),
        mistake("no_ln_2", "ln_2 is missing: the MLP must get layer_norm(x).", (LN_2, "x")),
        mistake(
            "ln_1_twice",
            "ln_1 is used in both places. The MLP's layer norm is ln_2.",
            ('w["ln_2.weight"], w["ln_2.bias"]', 'w["ln_1.weight"], w["ln_1.bias"]'),
        ),
        mistake(
            "norms_exchanged",
            "ln_1 and ln_2 are exchanged.",
            ('w["ln_2.weight"], w["ln_2.bias"]', 'w["ln_1.weight"], w["ln_1.bias"]'),
            ('w["ln_1.weight"], w["ln_1.bias"]', 'w["ln_2.weight"], w["ln_2.bias"]'),
        ),
        mistake(
            "post_norm",
            "Layer norm comes after each sum, as in Vaswani et al. 2017. In GPT-2 it comes before attention and the"
            " MLP.",
            (LN_1, "x"),
            (ATTENTION_SUM, f"{LN_1.replace('(x,', f'({ATTENTION_SUM},')}"),
            (LN_2, "x"),
            (MLP_SUM, LN_2.replace("(x,", f"({MLP_SUM},")),
        ),
        mistake(
            "parallel",
            "The MLP gets the block's input, as in GPT-J. It must get the sum after attention.",
            ('x = hook("resid_mid"', 'before, x = x, hook("resid_mid"'),
            (LN_2, LN_2.replace("(x,", "(before,")),
        ),
        mistake(
            "parallel_ln_1",
            "Attention and the MLP get the same layer_norm(x). The MLP must get ln_2 of the sum after attention.",
            (LN_2, "normalized"),
        ),
        mistake("no_c_proj", "attn.c_proj is missing after the heads are merged.", (C_PROJ, "merge_heads(z)")),
        mistake("no_c_attn_bias", "The bias of attn.c_attn is not added.", ('w["attn.c_attn.bias"]', "0")),
        mistake("no_c_proj_bias", "The bias of attn.c_proj is not added.", ('w["attn.c_proj.bias"]', "0")),
        mistake("kqv", "q and k are exchanged.", ("q, k, v = split_heads", "k, q, v = split_heads")),
        mistake("qvk", "k and v are exchanged.", ("q, k, v = split_heads", "q, v, k = split_heads")),
        mistake("vkq", "q and v are exchanged.", ("q, k, v = split_heads", "v, k, q = split_heads")),
        mistake(
            "scale_root_c",
            "The scale of attention is 1/√C. It must be config.attention_scale(layer).",
            ("config.attention_scale(layer)", "config.n_embd**-0.5"),
        ),
        mistake(
            "scale_root_d",
            "The scale of attention is always 1/√D. It must be config.attention_scale(layer).",
            ("config.attention_scale(layer)", "(config.n_embd // config.n_head) ** -0.5"),
        ),
        mistake(
            "scale_root_h",
            "The scale of attention is 1/√H. It must be config.attention_scale(layer).",
            ("config.attention_scale(layer)", "config.n_head**-0.5"),
        ),
        mistake(
            "scale_1",
            "The scale of attention is 1. It must be config.attention_scale(layer).",
            ("config.attention_scale(layer)", "1.0"),
        ),
        mistake(
            "merged_by_reshape",
            "The heads are merged by reshape without a transpose: use merge_heads.",
            ("merge_heads(z)", "z.reshape(x.shape)"),
        ),
        mistake(
            "no_mask",
            "There is no mask: each position sees the whole text.",
            (MASK, "np.ones((x.shape[1], k.shape[2]), bool)"),
        ),
        mistake(
            "no_mask_with_cache",
            "With a cache, there is no mask. Several new positions need one, too.",
            (MASK, f"{MASK} if cache is None else np.ones((x.shape[1], k.shape[2]), bool)"),
        ),
        mistake(
            "mask_top_left",
            "With a cache, the diagonal of the mask begins at the top left: the new positions do not see all of the"
            " past.",
            (MASK, "np.tril(np.ones((x.shape[1], k.shape[2]), bool))"),
        ),
        mistake("mask_inverted", "The mask is inverted.", (MASK, "~" + MASK)),
        mistake(
            "mask_without_cache",
            "The mask is (T, T). With a cache there are S keys: causal_mask(T, S).",
            (MASK, "causal_mask(x.shape[1], x.shape[1])"),
        ),
        mistake(
            "no_cache",
            "The new positions do not see the old ones. cache.update(layer, k, v) returns all keys and values so far.",
            (UPDATE, "pass"),
        ),
        mistake(
            "cache_layer_0",
            "The cache is always updated in layer 0. Each layer has its own keys and values.",
            (UPDATE, "k, v = cache.update(0, k, v)"),
        ),
        mistake(
            "cache_exchanged",
            "k and v are exchanged in cache.update.",
            (UPDATE, "v, k = cache.update(layer, v, k)\nk, v = v, k"),
        ),
        mistake(
            "cache_advanced",
            "block advances cache.length. `hidden_states` does it, once, after the last layer.",
            (UPDATE, UPDATE + "\ncache.length += x.shape[1]"),
        ),
        mistake(
            "always_gelu",
            "The activation is always gelu. It must be ACTIVATIONS[config.activation_function].",
            ("ACTIVATIONS[config.activation_function]", "gelu"),
        ),
        mistake(
            "exact_gelu",
            "The activation is the exact GELU. It must be ACTIVATIONS[config.activation_function].",
            ("ACTIVATIONS[config.activation_function]", "gelu_exact"),
        ),
        mistake(
            "always_relu",
            "The activation is always ReLU. It must be ACTIVATIONS[config.activation_function].",
            ("ACTIVATIONS[config.activation_function]", "relu"),
        ),
        mistake(
            "eps_fixed",
            "eps is always 1e-5. It must be config.layer_norm_epsilon.",
            ("eps = config.layer_norm_epsilon", "eps = 1e-5"),
        ),
        mistake(
            "eps_fixed_1",
            "The eps of ln_1 is 1e-5. It must be config.layer_norm_epsilon.",
            ('w["ln_1.bias"], eps', 'w["ln_1.bias"], 1e-5'),
        ),
        mistake(
            "eps_fixed_2",
            "The eps of ln_2 is 1e-5. It must be config.layer_norm_epsilon.",
            ('w["ln_2.bias"], eps', 'w["ln_2.bias"], 1e-5'),
        ),
        mistake(
            "ln_2_of_ln_1",
            "ln_2 gets the result of ln_1. It must get the sum after attention.",
            (LN_2, LN_2.replace("(x,", "(normalized,")),
        ),
        mistake(
            "ln_1_swapped",
            "weight and bias of ln_1 are exchanged.",
            ('w["ln_1.weight"], w["ln_1.bias"]', 'w["ln_1.bias"], w["ln_1.weight"]'),
        ),
        mistake(
            "ln_2_swapped",
            "weight and bias of ln_2 are exchanged.",
            ('w["ln_2.weight"], w["ln_2.bias"]', 'w["ln_2.bias"], w["ln_2.weight"]'),
        ),
        mistake("no_mlp", "The MLP is missing.", (MLP_SUM, "x")),
        mistake("no_attention", "Attention is missing.", (ATTENTION_SUM, "x")),
        mistake(
            "mlp_first",
            "The MLP comes before attention.",
            ('x = hook("resid_pre", x)', f"x = x + mlp({LN_2}, w, ACTIVATIONS[config.activation_function])"),
            (MLP_SUM, "x"),
        ),
    ],
    "hidden_states": [
        mistake(
            "one_position_less",
            "A text of n_positions tokens raises ValueError. Only a longer one must: start + T > n_positions.",
            ("start + T > config", "start + T >= config"),
        ),
        mistake("no_positions", "The position embeddings are missing.", ("(embed + pos_embed)", "embed")),
        mistake("no_tokens", "The token embeddings are missing.", ("(embed + pos_embed)", "(0 * embed + pos_embed)")),
        mistake(
            "positions_from_1",
            "Positions count from 1. They must count from 0.",
            (POSITIONS, "[start + 1 : start + T + 1]"),
        ),
        mistake(
            "positions_without_cache",
            "With a cache, positions start at 0 again. They must start at cache.length.",
            (POSITIONS, "[:T]"),
        ),
        mistake(
            "positions_by_token",
            "wpe is indexed by token ids. It must be indexed by positions: start to start + T.",
            (POSITIONS, "[tokens]"),
        ),
        mistake(
            "last_weights",
            "All blocks use the weights of the last block.",
            ('f"h.{layer}.{name}"', 'f"h.{config.n_layer - 1}.{name}"'),
        ),
        mistake(
            "blocks_unused",
            "The results of the blocks are not used: x must become the result of block.",
            ("x = block(", "_ = block("),
        ),
        mistake(
            "batch_kept",
            "For tokens (T,), the result must be (T, C), without an axis for the batch.",
            ("x.reshape(*tokens.shape, C)", "x"),
        ),
        mistake("same_position", "Every token gets the position of the first one.", (POSITIONS, "[[start] * T]")),
        mistake(
            "product",
            "The two embeddings are multiplied. They must be added.",
            ("(embed + pos_embed)", "(embed * pos_embed)"),
        ),
        mistake(
            "scaled",
            "The token embedding is multiplied by √C, as in Vaswani et al. 2017. GPT-2 does not do this.",
            ("(embed + pos_embed)", "(embed * C**0.5 + pos_embed)"),
        ),
        mistake(
            "sinusoids",
            "The positions are sinusoids, as in Vaswani et al. 2017. GPT-2's are learned: wpe.",
            ("x = (embed + pos_embed)", f"{SINUSOIDS}\nx = (embed + pos_embed)"),
        ),
        mistake("no_ln_f", "The last layer norm, ln_f, is missing.", (LN_F, "x")),
        mistake(
            "ln_f_in_loop",
            "ln_f is applied after each block. It must be applied once, after the last one.",
            (LN_F, "x"),
            ('within(f"h.{layer}.", hook))', f'within(f"h.{{layer}}.", hook))\nx = {LN_F}'),
        ),
        mistake(
            "ln_f_first",
            "ln_f is applied before the first block. It must be applied after the last one.",
            ("    for layer in range", f"    x = {LN_F}\nfor layer in range"),
            ('hook("ln_f", ' + LN_F + ")", "x"),
        ),
        mistake(
            "ln_f_eps",
            "The eps of ln_f is 1e-5. It must be config.layer_norm_epsilon.",
            ("config.layer_norm_epsilon", "1e-5"),
        ),
        mistake("same_weights", "All blocks use the weights of block 0.", ('f"h.{layer}.{name}"', 'f"h.0.{name}"')),
        mistake("one_block_less", "The last block is missing.", ("range(config.n_layer)", "range(config.n_layer - 1)")),
        mistake(
            "first_block_missing", "The first block is missing.", ("range(config.n_layer)", "range(1, config.n_layer)")
        ),
        mistake(
            "one_block",
            "Only the last block's result counts: each block gets the embeddings. It must get the result of the"
            " block before it.",
            ("    for layer in range", "    first = x\nfor layer in range"),
            ("block(x, w", "block(first, w"),
        ),
        mistake(
            "reversed", "The blocks are in reverse order.", ("range(config.n_layer)", "reversed(range(config.n_layer))")
        ),
        mistake(
            "sum_of_blocks",
            "The result of each block is added to x. A block already adds to x itself.",
            ("x = block(", "x = x + block("),
        ),
        mistake(
            "layer_0",
            "block always gets layer 0. It must get the number of the layer.",
            ("config, layer, cache", "config, 0, cache"),
        ),
        mistake(
            "layer_from_1",
            "Layers count from 1 in the call of block. They must count from 0.",
            ("config, layer, cache", "config, layer + 1, cache"),
        ),
        mistake(
            "cache_ignored",
            "The cache is not used. Positions start at cache.length, block gets the cache, and its length grows by T.",
            ("start = 0 if cache is None else cache.length", "start = 0"),
            ("layer, cache, within", "layer, None, within"),
            ("cache.length += T", "pass"),
        ),
        mistake("no_cache", "The cache is not given to block.", ("layer, cache, within", "layer, None, within")),
        mistake(
            "not_advanced",
            "cache.length is not advanced. It must grow by T after the last block.",
            ("cache.length += T", "pass"),
        ),
        mistake(
            "advanced_per_layer",
            "cache.length grows in each layer. It must grow once, after the last one.",
            (
                'within(f"h.{layer}.", hook))',
                'within(f"h.{layer}.", hook))\ncache.length += T * (cache is not None)'.replace(
                    "cache.length += T * (cache is not None)", "if cache is not None:\n    cache.length += T"
                ),
            ),
            ("cache.length += T", "pass"),
        ),
        mistake(
            "advanced_by_1", "cache.length grows by 1. It must grow by T.", ("cache.length += T", "cache.length += 1")
        ),
        mistake(
            "length_is_t",
            "cache.length becomes T. T must be added to it.",
            ("cache.length += T", "cache.length = T"),
        ),
        mistake(
            "advanced_first",
            "cache.length is advanced before the blocks. They store new keys at the old length.",
            ("    for layer in range", "    if cache is not None:\n        cache.length += T\nfor layer in range"),
            ("cache.length += T", "pass"),
        ),
    ],
}
