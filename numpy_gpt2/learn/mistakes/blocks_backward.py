"""Mistakes in part 4: `block_backward`."""

from __future__ import annotations

from ..source import Mistake, mistake

MLP_SUM = "dy = dx + dy"
RESULT = 'dropout("resid_pre", dx + dy)'
X = 'x = dropout("resid_pre", trace["resid_pre"])'
ACTIVATION = "ACTIVATIONS[config.activation_function]"
LN_1 = 'w["ln_1.weight"], w["ln_1.bias"]'
LN_2 = 'w["ln_2.weight"], w["ln_2.bias"]'
MERGED = 'merge_heads(trace["attn.z"])'
DZ = "merge_heads_backward(dmerged, config.n_head)"
QKV = 'trace["attn.q"], trace["attn.k"], trace["attn.v"]'
SCALE = "config.attention_scale(layer)"
SPLIT = "split_heads_backward(dq, dk, dv)"
KEEP_DY = (MLP_SUM, f"dresid_post = dy\n{MLP_SUM}")

MISTAKES: dict[str, list[Mistake]] = {
    "block_backward": [
        mistake(
            "no_mlp_residual",
            "dy does not go around the MLP. x + mlp(...) passes dy to x unchanged, too.",
            (MLP_SUM, "dy = dx"),
        ),
        mistake(
            "no_attention_residual",
            "The gradient at resid_mid does not go around attention. x + attention(...) passes it to x unchanged, too.",
            (RESULT, 'dropout("resid_pre", dx)'),
        ),
        mistake(
            "no_mlp_gradient",
            "The gradient through the MLP is not added to dy.",
            (MLP_SUM, "pass"),
        ),
        mistake(
            "no_attention_gradient",
            "The gradient through attention is not added to dx.",
            (RESULT, 'dropout("resid_pre", dy)'),
        ),
        mistake(
            "block_dy_at_end",
            "The direct path around attention begins with the block's dy. It must begin at resid_mid, after the MLP's"
            " gradient was added.",
            KEEP_DY,
            (RESULT, 'dropout("resid_pre", dx + dresid_post)'),
        ),
        mistake(
            "block_dy_to_attention",
            "Attention gets the block's dy. It must get dy plus the MLP's gradient.",
            KEEP_DY,
            ('dropout("attn_out", dy)', 'dropout("attn_out", dresid_post)'),
        ),
        mistake(
            "parallel",
            "Attention gets only the gradient through the MLP. It must get dy, too.",
            ('dropout("attn_out", dy)', 'dropout("attn_out", dx)'),
        ),
        mistake(
            "mlp_residual_twice",
            "dy is added twice around the MLP.",
            (MLP_SUM, "dy = dx + 2 * dy"),
        ),
        mistake(
            "attention_residual_twice",
            "The gradient at resid_mid is added twice around attention.",
            (RESULT, 'dropout("resid_pre", dx + 2 * dy)'),
        ),
        mistake(
            "mlp_residual_before_ln_2",
            "dy is added before ln_2's gradient. The direct path does not go through ln_2: add dy after it.",
            ('dnormalized, trace["resid_mid"]', 'dnormalized + dy, trace["resid_mid"]'),
            (MLP_SUM, "dy = dx"),
        ),
        mistake(
            "attention_residual_before_ln_1",
            "dy is added before ln_1's gradient. The direct path does not go through ln_1: add dy after it.",
            ("layer_norm_backward(dnormalized, x", "layer_norm_backward(dnormalized + dy, x"),
            (RESULT, 'dropout("resid_pre", dx)'),
        ),
        mistake(
            "no_ln_2",
            "The gradient through the MLP does not go through ln_2. layer_norm_backward's dx must be added.",
            (MLP_SUM, "dy = dnormalized + dy"),
        ),
        mistake(
            "no_ln_1",
            "The gradient through attention does not go through ln_1. layer_norm_backward's dx must be added.",
            (RESULT, 'dropout("resid_pre", dnormalized + dy)'),
        ),
        mistake(
            "result_of_ln_2",
            "layer_norm_backward gets the result of ln_2. It must get its input, resid_mid.",
            ('trace["resid_mid"]', 'trace["ln_2"]'),
        ),
        mistake(
            "result_of_ln_1",
            "layer_norm_backward gets the result of ln_1. It must get its input, resid_pre.",
            (X, 'x = trace["ln_1"]'),
        ),
        mistake(
            "resid_pre_for_ln_2",
            "ln_2's gradient is taken at resid_pre. ln_2's input is resid_mid.",
            ('trace["resid_mid"]', 'trace["resid_pre"]'),
        ),
        mistake(
            "resid_post_for_ln_2",
            "ln_2's gradient is taken at resid_post. ln_2's input is resid_mid.",
            ('trace["resid_mid"]', 'trace["resid_post"]'),
        ),
        mistake(
            "resid_mid_for_ln_1",
            "ln_1's gradient is taken at resid_mid. ln_1's input is resid_pre.",
            (X, 'x = trace["resid_mid"]'),
        ),
        mistake(
            "mlp_of_resid_mid",
            "The MLP's gradient is taken at resid_mid. Its input is the result of ln_2.",
            ('trace["ln_2"]', 'trace["resid_mid"] * 1'),
        ),
        mistake(
            "mlp_of_ln_1",
            "The MLP's gradient is taken at the result of ln_1. Its input is the result of ln_2.",
            ('trace["ln_2"]', 'trace["ln_1"] * 1'),
        ),
        mistake(
            "mlp_of_resid_pre",
            "The MLP's gradient is taken at resid_pre. Its input is the result of ln_2.",
            ('trace["ln_2"]', '1 * trace["resid_pre"]'),
        ),
        mistake(
            "c_attn_of_resid_pre",
            "c_attn's gradient is taken at resid_pre. Its input is the result of ln_1.",
            ('trace["ln_1"]', '1 * trace["resid_pre"]'),
        ),
        mistake(
            "c_attn_of_ln_2",
            "c_attn's gradient is taken at the result of ln_2. Its input is the result of ln_1.",
            ('trace["ln_1"]', '1 * trace["ln_2"]'),
        ),
        mistake(
            "mlp_pre_for_post",
            "mlp.c_proj's gradient is taken at mlp.pre. Its input is mlp.post, the activation's result.",
            (f"{ACTIVATION}, trace)", f'{ACTIVATION}, trace | {{"mlp.post": trace["mlp.pre"]}})'),
        ),
        mistake(
            "mlp_post_for_pre",
            "The activation's gradient is taken at mlp.post. It must be taken at mlp.pre, its input.",
            (f"{ACTIVATION}, trace)", f'{ACTIVATION}, trace | {{"mlp.pre": trace["mlp.post"]}})'),
        ),
        mistake(
            "no_activation",
            "The gradient of the activation is missing in the MLP.",
            (f"{ACTIVATION}, trace)", f'{ACTIVATION}, trace | {{"mlp.pre": 0 * trace["mlp.pre"] + 50}})'),
        ),
        mistake(
            "always_gelu",
            "The activation's gradient is always gelu's. The config says which it is.",
            (ACTIVATION, "gelu"),
        ),
        mistake(
            "exact_gelu",
            "The activation's gradient is always that of the exact GELU. The config says which it is.",
            (ACTIVATION, "gelu_exact"),
        ),
        mistake(
            "always_relu",
            "The activation's gradient is always ReLU's. The config says which it is.",
            (ACTIVATION, "relu"),
        ),
        mistake(
            "z_reshaped",
            "c_proj's gradient is taken at z, reshaped without a transpose. Its input is merge_heads(z).",
            (MERGED, 'trace["attn.z"].reshape(dy.shape)'),
        ),
        mistake(
            "v_for_z",
            "c_proj's gradient is taken at the merged v. Its input is merge_heads(z).",
            (MERGED, 'merge_heads(trace["attn.v"] * 1)'),
        ),
        mistake(
            "dz_reshaped",
            "dz is reshaped to (B, H, T, D) without a transpose, so positions are mixed: use merge_heads_backward.",
            (DZ, 'dmerged.reshape(trace["attn.z"].shape)'),
        ),
        mistake(
            "no_c_proj",
            "The gradient does not go through attn.c_proj: dz is made from dy.",
            (DZ, DZ.replace("dmerged", "dy")),
        ),
        mistake(
            "c_proj_transposed",
            "dz is made with c_proj's weight. It must be made with its transpose.",
            (DZ, DZ.replace("dmerged", 'dropout("attn_out", dy) @ w["attn.c_proj.weight"]')),
        ),
        mistake(
            "split_reshaped",
            "dq, dk and dv are reshaped to (B, T, C) without a transpose, so positions are mixed.",
            (SPLIT, "np.concatenate([d.reshape(dy.shape) for d in (dq, dk, dv)], axis=-1)"),
        ),
        mistake(
            "heads_first",
            "The columns are in the order (H, 3, D). The first C columns must be q's: (3, H, D).",
            (SPLIT, "np.stack([dq, dk, dv]).transpose(1, 3, 2, 0, 4).reshape(*dy.shape[:2], -1)"),
        ),
        mistake(
            "qkv_last",
            "The columns are in the order (H, D, 3). The first C columns must be q's: (3, H, D).",
            (SPLIT, "np.stack([dq, dk, dv]).transpose(1, 3, 2, 4, 0).reshape(*dy.shape[:2], -1)"),
        ),
        mistake("kqv", "dq and dk are exchanged in c_attn's columns.", (SPLIT, "split_heads_backward(dk, dq, dv)")),
        mistake("qvk", "dk and dv are exchanged in c_attn's columns.", (SPLIT, "split_heads_backward(dq, dv, dk)")),
        mistake("vkq", "dq and dv are exchanged in c_attn's columns.", (SPLIT, "split_heads_backward(dv, dk, dq)")),
        mistake(
            "vqk",
            "The order in c_attn's columns is v, q, k. It must be q, k, v.",
            (SPLIT, "split_heads_backward(dv, dq, dk)"),
        ),
        mistake(
            "kvq",
            "The order in c_attn's columns is k, v, q. It must be q, k, v.",
            (SPLIT, "split_heads_backward(dk, dv, dq)"),
        ),
        mistake(
            "q_and_k",
            "q and k of the trace are exchanged.",
            (QKV, 'trace["attn.k"], trace["attn.q"], trace["attn.v"]'),
        ),
        mistake(
            "k_and_v",
            "k and v of the trace are exchanged.",
            (QKV, 'trace["attn.q"], trace["attn.v"], trace["attn.k"]'),
        ),
        mistake("scale_1", "The scale of attention is 1. It must be config.attention_scale(layer).", (SCALE, "1.0")),
        mistake(
            "scale_root_d",
            "The scale of attention is always 1/√D. It must be config.attention_scale(layer).",
            (SCALE, "(config.n_embd // config.n_head) ** -0.5"),
        ),
        mistake(
            "scale_root_c",
            "The scale of attention is 1/√C. It must be config.attention_scale(layer).",
            (SCALE, "config.n_embd**-0.5"),
        ),
        mistake(
            "scale_layer_0",
            "The scale of attention is that of layer 0. It must be config.attention_scale(layer).",
            (SCALE, "config.attention_scale(0)"),
        ),
        mistake(
            "eps_fixed",
            "eps is always 1e-5. It must be config.layer_norm_epsilon.",
            ("config.layer_norm_epsilon", "1e-5"),
        ),
        mistake("ln_1_twice", "ln_1's weight is used in both places. The MLP's layer norm is ln_2.", (LN_2, LN_1)),
        mistake("ln_2_twice", "ln_2's weight is used in both places. Attention's layer norm is ln_1.", (LN_1, LN_2)),
        mistake("norms_exchanged", "The weights of ln_1 and ln_2 are exchanged.", (LN_1, LN_2), (LN_2, LN_1)),
        mistake(
            "norm_gradients_exchanged",
            "The gradients of ln_1 and ln_2 are exchanged in the dict.",
            ('dw["ln_1.weight"], dw["ln_1.bias"]', 'dw["ln_2.weight"], dw["ln_2.bias"]'),
            ('dw["ln_2.weight"], dw["ln_2.bias"]', 'dw["ln_1.weight"], dw["ln_1.bias"]'),
        ),
        mistake(
            "weight_and_bias",
            "The gradients of weight and bias are exchanged in ln_1 and ln_2.",
            ('dw["ln_1.weight"], dw["ln_1.bias"]', 'dw["ln_1.bias"], dw["ln_1.weight"]'),
            ('dw["ln_2.weight"], dw["ln_2.bias"]', 'dw["ln_2.bias"], dw["ln_2.weight"]'),
        ),
        mistake(
            "divided_by_batch",
            "The gradients of the weights are divided by the batch size. They are sums.",
            ("dw | mlp_dw", "{name: gradient / len(dy) for name, gradient in (dw | mlp_dw).items()}"),
        ),
        mistake(
            "in_place",
            "The MLP's gradient is added to dy in place, so the caller's array changes. Write dy = dx + dy.",
            (MLP_SUM, "dy += dx"),
        ),
    ],
}
