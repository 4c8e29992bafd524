"""Mistakes in part 4: `hidden_states_backward` and `forward_backward`."""

from __future__ import annotations

from ..source import Mistake, mistake

LN_F = 'dx, dw["ln_f.weight"], dw["ln_f.bias"]'
LAST = 'last = {}, trace[f"h.{config.n_layer - 1}.resid_post"]'
LOOP = "    for layer in reversed"
WPE = "dx.sum(axis=0)"
WTE = 'np.add.at(dw["wte.weight"], tokens.reshape(-1), dx.reshape(-1, C))'
STORED = "prefix + name: gradient"

LOGITS = 'logits_backward(dy, trace.pop("ln_f"), weights)'
TIED = 'dw["wte.weight"] += dhead'
UNTIED = 'dw["lm_head.weight"] = dhead'

MISTAKES: dict[str, list[Mistake]] = {
    "hidden_states_backward": [
        mistake(
            "overwritten",
            "dw[tokens] += dx keeps only the last place of a token that occurs several times. np.add.at adds them all.",
            (WTE, 'dw["wte.weight"][tokens.reshape(-1)] += dx.reshape(-1, C)'),
        ),
        mistake(
            "assigned",
            "dw[tokens] = dx keeps only the last place of a token that occurs several times. np.add.at adds them all.",
            (WTE, 'dw["wte.weight"][tokens.reshape(-1)] = dx.reshape(-1, C)'),
            same_as="overwritten",
        ),
        mistake(
            "first_place",
            "Only the first place of a token that occurs several times counts. Its row is the sum over all places.",
            (WTE, 'dw["wte.weight"][tokens.reshape(-1)[::-1]] = dx.reshape(-1, C)[::-1]'),
        ),
        mistake(
            "overwritten_in_text",
            "In each text, only the last place of a token that occurs several times counts. np.add.at adds them all.",
            (
                WTE,
                'for ids, rows in zip(tokens.reshape(-1, T), dx, strict=True):\n    dw["wte.weight"][ids] += rows',
            ),
        ),
        mistake(
            "mean_of_places",
            "A token's row is the mean over its places. It must be their sum.",
            (
                WTE,
                f"{WTE}\nplaces = np.bincount(tokens.ravel(), minlength=config.vocab_size)[:, None]"
                '\ndw["wte.weight"] /= np.maximum(places, 1)',
            ),
        ),
        mistake("no_wte", "The gradient of wte is 0.", (WTE, "pass")),
        mistake("no_wpe", "The gradient of wpe is 0.", (WPE, "0")),
        mistake(
            "wpe_first_text",
            "The gradient of wpe is that of the first text. All texts use the same positions: it must be the sum.",
            (WPE, "dx[0]"),
        ),
        mistake(
            "wpe_last_text",
            "The gradient of wpe is that of the last text. All texts use the same positions: it must be the sum.",
            (WPE, "dx[-1]"),
        ),
        mistake(
            "wpe_mean", "The gradient of wpe is a mean over the batch. It must be a sum.", (WPE, "dx.mean(axis=0)")
        ),
        mistake(
            "wpe_over_positions",
            "The gradient of wpe is summed over positions. It must be summed over the batch: each position has a row.",
            (WPE, "dx.sum(axis=1)"),
        ),
        mistake(
            "wpe_of_all",
            "All rows of wpe's gradient are the sum over all positions. Each position has its own row.",
            (WPE, "dx.sum(axis=(0, 1))"),
        ),
        mistake(
            "wpe_from_1",
            "Positions count from 1 in wpe's gradient. They must count from 0.",
            ("[:T] =", "[1 : T + 1] ="),
        ),
        mistake(
            "wpe_at_end", "wpe's gradient is in the last T rows. It must be in the first T.", ("[:T] =", "[-T:] =")
        ),
        mistake(
            "wpe_short",
            "wpe's gradient has T rows. It must have the shape of wpe, with 0 in the rows that were not used.",
            ('dw["wpe.weight"][:T] =', 'dw["wpe.weight"] ='),
        ),
        mistake(
            "wpe_of_tokens",
            "wpe's gradient is added in the rows of the token ids. It must be in the rows of the positions.",
            (
                'dw["wpe.weight"][:T] = dx.sum(axis=0)',
                'np.add.at(dw["wpe.weight"], tokens.reshape(-1), dx.reshape(-1, C))',
            ),
        ),
        mistake(
            "wte_of_positions",
            "wte's gradient is added in the rows of the positions. It must be in the rows of the token ids.",
            (WTE, 'dw["wte.weight"][:T] = dx.sum(axis=0)'),
        ),
        mistake(
            "tokens_transposed",
            "The tokens are in the order (T, B), and dx in the order (B, T).",
            (WTE, WTE.replace("tokens", "tokens.T")),
        ),
        mistake(
            "embedding_scaled",
            "wte's gradient is multiplied by √C, as in Vaswani et al. 2017. GPT-2 does not do this.",
            (WTE, WTE.replace("C))", "C) * C**0.5)")),
        ),
        mistake(
            "divided_by_tokens",
            "The gradients of wte and wpe are divided by the number of tokens. They are sums.",
            (WPE, "dx.sum(axis=0) / tokens.size"),
            (WTE, WTE.replace("C))", "C) / tokens.size)")),
        ),
        mistake(
            "no_ln_f",
            "The gradient does not go through ln_f: the last block gets dy.",
            (LOOP, "    dx = dy.reshape(-1, T, C)\nfor layer in reversed"),
        ),
        mistake(
            "result_of_ln_f",
            "layer_norm_backward gets the result of ln_f. It must get its input, the last block's resid_post.",
            (LAST, 'last = {}, trace["ln_f"].reshape(-1, T, C)'),
        ),
        mistake(
            "resid_mid_for_ln_f",
            "ln_f's gradient is taken at resid_mid of the last block. Its input is resid_post.",
            (LAST, LAST.replace("post", "mid")),
        ),
        mistake(
            "first_block_for_ln_f",
            "ln_f's gradient is taken after block 0. Its input is the result of the last block.",
            (LAST, 'last = {}, trace["h.0.resid_post"]'),
        ),
        mistake(
            "ln_f_eps",
            "The eps of ln_f is 1e-5. It must be config.layer_norm_epsilon.",
            ("config.layer_norm_epsilon", "1e-5"),
        ),
        mistake(
            "ln_f_exchanged",
            "The gradients of ln_f's weight and bias are exchanged.",
            (LN_F, 'dx, dw["ln_f.bias"], dw["ln_f.weight"]'),
        ),
        mistake(
            "ln_f_twice",
            "The gradient goes through ln_f again after each block. It goes through it once, before the last block.",
            (
                "dw |= {prefix",
                "eps = config.layer_norm_epsilon\n"
                'dx, _, _ = layer_norm_backward(dx, last, weights["ln_f.weight"], weights["ln_f.bias"], eps)\n'
                "dw |= {prefix",
            ),
        ),
        mistake(
            "order",
            "The blocks come in the order of the forward pass. The gradient goes from the last block to the first.",
            ("reversed(range(config.n_layer))", "range(config.n_layer)"),
        ),
        mistake(
            "layer_0", "block_backward always gets layer 0.", ("config, layer, block_trace", "config, 0, block_trace")
        ),
        mistake(
            "layer_from_1",
            "Layers count from 1 in the call of block_backward. They must count from 0.",
            ("config, layer, block_trace", "config, layer + 1, block_trace"),
        ),
        mistake(
            "layer_reversed",
            "Layers count from the last one in the call of block_backward. They must count from the first.",
            ("config, layer, block_trace", "config, config.n_layer - 1 - layer, block_trace"),
        ),
        mistake(
            "same_weights",
            "All blocks get the weights of block 0.",
            ("weights[prefix + name]", 'weights["h.0." + name]'),
        ),
        mistake(
            "same_trace",
            "All blocks get the trace of the same block, h.0.",
            ("name.removeprefix(prefix): trace.pop(name)", "name[4:]: trace[name]"),
            ("if name.startswith(prefix)", 'if name.startswith("h.0.")'),
        ),
        mistake(
            "same_dy",
            "Each block gets the gradient of the last layer norm. It must get that of the block after it.",
            (LOOP, "    first = dx\nfor layer in reversed"),
            ("block_backward(dx,", "block_backward(first,"),
        ),
        mistake(
            "not_passed_on",
            "The gradient after a block is not passed on: all blocks and the embeddings get that of ln_f.",
            ("dx, block_dw =", "_, block_dw ="),
        ),
        mistake(
            "sum_of_blocks",
            "Each block's dx is added to dx. It must replace it: block_backward adds the direct path itself.",
            ("dx, block_dw =", "dblock, block_dw ="),
            ("dw |= {prefix", "dx = dx + dblock\ndw |= {prefix"),
        ),
        mistake(
            "names_reversed",
            "The gradients of block l have the names of block L - 1 - l.",
            (STORED, 'f"h.{config.n_layer - 1 - layer}." + name: gradient'),
        ),
        mistake(
            "float64",
            "wte's gradient is float64 for float32 weights: np.zeros needs a dtype. np.zeros_like has it.",
            ('np.zeros_like(weights["wte.weight"])', 'np.zeros(weights["wte.weight"].shape)'),
        ),
    ],
    "forward_backward": [
        mistake(
            "only_head",
            "The gradient of a tied wte is only that of the head. That of the embedding must be added.",
            ("+= dhead", "= dhead"),
        ),
        mistake(
            "only_embedding",
            "The gradient of a tied wte is only that of the embedding. That of the head must be added.",
            (TIED, "pass"),
        ),
        mistake(
            "mean",
            "The gradient of a tied wte is the mean of its two parts. It must be their sum.",
            (TIED, 'dw["wte.weight"] = (dw["wte.weight"] + dhead) / 2'),
        ),
        mistake(
            "minus",
            "The head's part of a tied wte's gradient is subtracted. It must be added.",
            ("+= dhead", "-= dhead"),
        ),
        mistake(
            "head_twice",
            "The head's part of a tied wte's gradient is added twice.",
            ("+= dhead", "+= 2 * dhead"),
        ),
        mistake(
            "embedding_twice",
            "The embedding's part of a tied wte's gradient is counted twice.",
            (TIED, 'dw["wte.weight"] = 2 * dw["wte.weight"] + dhead'),
        ),
        mistake(
            "only_tokens",
            "The head's part of a tied wte's gradient is added only in the rows of the text's tokens. All rows get it.",
            (TIED, 'dw["wte.weight"][np.unique(tokens)] += dhead[np.unique(tokens)]'),
        ),
        mistake(
            "head_for_tokens",
            "In the rows of the text's tokens, the head's part of a tied wte's gradient is missing.",
            (
                TIED,
                'dw["wte.weight"] = np.where(np.isin(np.arange(len(dhead)), tokens)[:, None], dw["wte.weight"], dhead)',
            ),
        ),
        mistake(
            "always_tied",
            "If there is an lm_head.weight, the head's gradient is also added to wte's. wte is not the head there.",
            (UNTIED, f"{UNTIED}\n{TIED}"),
        ),
        mistake(
            "untied_exchanged",
            "The gradients of wte and lm_head are exchanged.",
            (UNTIED, 'dw["lm_head.weight"], dw["wte.weight"] = dw["wte.weight"], dhead'),
        ),
        mistake(
            "untied_sum",
            "lm_head's gradient contains that of the embedding. It is the head's only.",
            (UNTIED, 'dw["lm_head.weight"] = dw["wte.weight"] + dhead'),
        ),
        mistake(
            "untied_zero",
            "lm_head's gradient is 0, and wte has that of the head. If there is an lm_head.weight, it is the head.",
            (UNTIED, f'dw["lm_head.weight"] = np.zeros_like(dhead)\n{TIED}'),
        ),
        mistake(
            "untied_transposed",
            "lm_head's gradient is transposed. It must have the shape of lm_head, (V, C).",
            (UNTIED, f"{UNTIED}.T"),
        ),
        mistake(
            "not_normalized",
            "logits_backward gets the result of the last block. It must get that of the last layer norm, ln_f.",
            ('trace.pop("ln_f")', 'trace[f"h.{config.n_layer - 1}.resid_post"]'),
        ),
        mistake(
            "wte_for_head",
            "dx is made with wte, though there is an lm_head.weight.",
            (LOGITS, f"{LOGITS}\ndx = (dy @ weights['wte.weight']).reshape(dx.shape)"),
        ),
        mistake(
            "divided",
            "dy is divided by the number of tokens. cross_entropy_backward does this already.",
            ("logits_backward(dy,", "logits_backward(dy / tokens.size,"),
        ),
        mistake(
            "divided_by_batch",
            "dy is divided by the batch size. cross_entropy_backward divides it already.",
            ("logits_backward(dy,", "logits_backward(dy / tokens[..., 0].size,"),
        ),
        mistake(
            "head_divided",
            "The head's gradient is divided by the number of tokens. It is a sum over positions.",
            (LOGITS, f"{LOGITS}\ndhead = dhead / tokens.size"),
        ),
        mistake(
            "no_embedding_scale",
            "The gradients of the blocks and embeddings are divided by √C. There is no such factor.",
            ("hidden_states_backward(dx,", "hidden_states_backward(dx / math.sqrt(config.n_embd),"),
        ),
        mistake(
            "softmaxed",
            "dy goes through softmax. It is the gradient of the logits already.",
            ("logits_backward(dy,", "logits_backward(softmax(dy),"),
        ),
    ],
}
