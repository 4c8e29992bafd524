"""Mistakes in part 4: `attention_backward`."""

from __future__ import annotations

from ..source import Mistake, mistake

PATTERN = 'pattern = trace["attn.pattern"]'
DV = 'dropout("attn.pattern", pattern).swapaxes(-1, -2) @ dz'
DPATTERN = 'dropout("attn.pattern", dz @ v.swapaxes(-1, -2))'
SOFTMAX = "softmax_backward(dpattern, pattern)"
DQ = "dscores @ k"
DK = "dscores.swapaxes(-1, -2) @ q"
SCORES = "q @ k.swapaxes(-1, -2)"
CAUSAL = "np.arange(k.shape[-2]) <= np.arange(k.shape[-2] - q.shape[-2], k.shape[-2])[:, None]"

MISTAKES: dict[str, list[Mistake]] = {
    "attention_backward": [
        mistake("no_scale", "scale is missing in dq and dk.", (" * scale", "")),
        mistake("scale_twice", "scale is in dq and dk twice.", (" * scale", " * scale * scale")),
        mistake("divided", "dq and dk are divided by scale. They must be multiplied by it.", (" * scale", " / scale")),
        mistake(
            "root_d",
            "dq and dk are divided by √D, and `scale` is not used. The argument `scale` must be used.",
            (" * scale", " / math.sqrt(q.shape[-1])"),
        ),
        mistake(
            "root_d_too",
            "dq and dk are multiplied by scale and also divided by √D. `scale` already contains 1/√D.",
            (" * scale", " * scale / math.sqrt(q.shape[-1])"),
        ),
        mistake(
            "scale_of_dq_only",
            "scale is missing in dk. It belongs to dq and dk.",
            (" * scale", ""),
            (DQ, f"({DQ}) * scale"),
        ),
        mistake(
            "scale_of_dk_only",
            "scale is missing in dq. It belongs to dq and dk.",
            (" * scale", ""),
            (DK, f"({DK}) * scale"),
        ),
        mistake(
            "scale_twice_in_dk",
            "scale is in dk twice. q must be without it, if dscores has it.",
            (DK, f"({DK}) * scale"),
        ),
        mistake(
            "scale_twice_in_dq",
            "scale is in dq twice. k must be without it, if dscores has it.",
            (DQ, f"({DQ}) * scale"),
        ),
        mistake(
            "scale_on_dv",
            "dv is multiplied by scale. Only dq and dk are, because only the scores contain it.",
            ("@ q, dv", "@ q, dv * scale"),
        ),
        mistake(
            "scale_on_dv_only",
            "dv is multiplied by scale, and dq and dk are not. It must be the other way round.",
            (" * scale", ""),
            ("@ q, dv", "@ q, dv * scale"),
        ),
        mistake(
            "scale_on_dz",
            "dz is multiplied by scale, too. Only the scores contain it: dq and dk have it once, dv has not.",
            (PATTERN, f"dz = dz * scale\n{PATTERN}"),
        ),
        mistake("no_softmax", "The gradient of softmax is missing: dscores is not dpattern.", (SOFTMAX, "dpattern")),
        mistake(
            "diagonal",
            "Of softmax's gradient, only the diagonal is there: pattern (1 - pattern) dpattern.",
            (SOFTMAX, "pattern * (1 - pattern) * dpattern"),
        ),
        mistake(
            "no_sum",
            "Of softmax's gradient, the sum is missing: this is pattern * dpattern.",
            (SOFTMAX, "pattern * dpattern"),
        ),
        mistake(
            "sum_of_dpattern",
            "In softmax's gradient, the sum is that of dpattern. It must be that of dpattern * pattern.",
            (SOFTMAX, "pattern * (dpattern - dpattern.sum(axis=-1, keepdims=True))"),
        ),
        mistake(
            "mean_in_softmax",
            "In softmax's gradient, the mean of dpattern * pattern is subtracted. It must be the sum.",
            (SOFTMAX, "pattern * (dpattern - (dpattern * pattern).mean(axis=-1, keepdims=True))"),
        ),
        mistake(
            "sum_without_pattern",
            "In softmax's gradient, the sum is not multiplied by the pattern: pattern * dpattern minus the sum.",
            (SOFTMAX, "pattern * dpattern - np.vecdot(dpattern, pattern)[..., None]"),
        ),
        mistake(
            "minus_infinity",
            "The gradients of masked scores are -inf, so dq and dk are nan. They are 0, and need no mask.",
            (SOFTMAX, f"np.where(pattern == 0, -math.inf, {SOFTMAX})"),
        ),
        mistake(
            "no_pattern_in_softmax",
            "In softmax's gradient, the outer factor, the pattern, is missing.",
            (SOFTMAX, "dpattern - np.vecdot(dpattern, pattern)[..., None]"),
        ),
        mistake(
            "softmax",
            "softmax is applied to dpattern. It must be softmax_backward(dpattern, pattern).",
            (SOFTMAX, "softmax(dpattern)"),
        ),
        mistake(
            "softmax_of_pattern",
            "softmax_backward gets softmax(pattern). The pattern is the result of softmax already.",
            (SOFTMAX, "softmax_backward(dpattern, softmax(pattern))"),
        ),
        mistake(
            "softmax_arguments",
            "dpattern and the pattern are exchanged in the call of softmax_backward.",
            (SOFTMAX, "softmax_backward(pattern, dpattern)"),
        ),
        mistake(
            "softmax_over_queries",
            "The gradient of softmax is over queries. It must be over keys, the last axis.",
            (SOFTMAX, "softmax_backward(dpattern.swapaxes(-1, -2), pattern.swapaxes(-1, -2)).swapaxes(-1, -2)"),
        ),
        mistake(
            "softmax_twice",
            "The gradient of softmax is taken twice.",
            (SOFTMAX, f"softmax_backward({SOFTMAX}, pattern)"),
        ),
        mistake(
            "dv_not_transposed",
            "dv is pattern dz. It must be patternᵀ dz: a key's value gets gradients from all queries.",
            (".swapaxes(-1, -2) @ dz", " @ dz"),
        ),
        mistake(
            "dv_from_dscores",
            "dv is dscoresᵀ dz. It must be patternᵀ dz.",
            ("@ q, dv", "@ q, dscores.swapaxes(-1, -2) @ dz"),
        ),
        mistake(
            "dv_from_dpattern",
            "dv is dpatternᵀ dz. It must be patternᵀ dz.",
            ("@ q, dv", "@ q, dpattern.swapaxes(-1, -2) @ dz"),
        ),
        mistake(
            "dv_from_scores",
            "dv is made with the scores. It must be patternᵀ dz, with the weights after softmax.",
            (DV, f"({SCORES} * scale).swapaxes(-1, -2) @ dz"),
        ),
        mistake("dv_is_dz", "dv is dz. It must be patternᵀ dz.", ("@ q, dv", "@ q, dz")),
        mistake(
            "dv_from_v",
            "dv is patternᵀ v. It must be patternᵀ dz.",
            (".swapaxes(-1, -2) @ dz", ".swapaxes(-1, -2) @ v"),
        ),
        mistake(
            "dpattern_not_transposed",
            "dpattern is dz v. It must be dz vᵀ, with the pattern's shape.",
            (DPATTERN, 'dropout("attn.pattern", dz @ v)'),
        ),
        mistake(
            "dpattern_from_k",
            "dpattern is dz kᵀ. It must be dz vᵀ: z is pattern v.",
            (DPATTERN, 'dropout("attn.pattern", dz @ k.swapaxes(-1, -2))'),
        ),
        mistake(
            "dpattern_reversed",
            "dpattern is v dzᵀ. It must be dz vᵀ: a row for each query.",
            (DPATTERN, "v @ dz.swapaxes(-1, -2)"),
        ),
        mistake(
            "dpattern_from_z",
            "dpattern is z vᵀ. It must be dz vᵀ.",
            (DPATTERN, 'dropout("attn.pattern", trace["attn.z"] @ v.swapaxes(-1, -2))'),
        ),
        mistake("dq_from_q", "dq is dscores q. It must be dscores k.", (DQ, "dscores @ q")),
        mistake("dq_from_v", "dq is dscores v. It must be dscores k.", (DQ, "dscores @ v")),
        mistake("dq_transposed", "dq is dscoresᵀ k. It must be dscores k.", (DQ, "dscores.swapaxes(-1, -2) @ k")),
        mistake("dk_not_transposed", "dk is dscores q. It must be dscoresᵀ q.", (DK, "dscores @ q")),
        mistake("dk_from_k", "dk is dscoresᵀ k. It must be dscoresᵀ q.", (DK, "dscores.swapaxes(-1, -2) @ k")),
        mistake("dk_from_dz", "dk is dscoresᵀ dz. It must be dscoresᵀ q.", (DK, "dscores.swapaxes(-1, -2) @ dz")),
        mistake(
            "dq_from_dpattern",
            "dq is made with dpattern. It must be dscores k: the gradient goes through softmax first.",
            (DQ, "dpattern * scale @ k"),
        ),
        mistake(
            "dk_from_dpattern",
            "dk is made with dpattern. It must be dscoresᵀ q: the gradient goes through softmax first.",
            (DK, "(dpattern * scale).swapaxes(-1, -2) @ q"),
        ),
        mistake(
            "dk_from_pattern",
            "dk is made with the pattern. It must be dscoresᵀ q.",
            (DK, "(pattern * scale).swapaxes(-1, -2) @ q"),
        ),
        mistake("kqv", "The order is dk, dq, dv. It must be dq, dk, dv.", (f"{DQ}, {DK}, dv", f"{DK}, {DQ}, dv")),
        mistake("qvk", "The order is dq, dv, dk. It must be dq, dk, dv.", (f"{DQ}, {DK}, dv", f"{DQ}, dv, {DK}")),
        mistake("vkq", "The order is dv, dk, dq. It must be dq, dk, dv.", (f"{DQ}, {DK}, dv", f"dv, {DK}, {DQ}")),
        mistake("vqk", "The order is dv, dq, dk. It must be dq, dk, dv.", (f"{DQ}, {DK}, dv", f"dv, {DQ}, {DK}")),
        mistake("kvq", "The order is dk, dv, dq. It must be dq, dk, dv.", (f"{DQ}, {DK}, dv", f"{DK}, dv, {DQ}")),
        mistake(
            "pattern_without_mask",
            "The pattern is computed again without a mask. The trace has the pattern that was used.",
            (PATTERN, f"pattern = softmax({SCORES} * scale)"),
        ),
        mistake(
            "causal_pattern",
            "The pattern is computed again with a causal mask. The trace has the pattern that was used, with any mask.",
            (PATTERN, f"pattern = softmax(np.where({CAUSAL}, {SCORES} * scale, -math.inf))"),
        ),
        mistake(
            "pattern_without_scale",
            "The pattern is computed again without scale. The trace has the pattern that was used.",
            (PATTERN, f"pattern = softmax(np.where({CAUSAL}, {SCORES}, -math.inf))"),
        ),
        mistake(
            "pattern_top_left",
            "The pattern is computed again with np.tril, which is wrong for T < S. The trace has the pattern.",
            (
                PATTERN,
                f"pattern = softmax(np.where(np.tril(np.ones(({SCORES}).shape, bool)), {SCORES} * scale, -math.inf))",
            ),
        ),
        mistake(
            "z_for_pattern",
            'trace["attn.z"] is taken for the pattern. It must be trace["attn.pattern"].',
            (PATTERN, 'pattern = trace["attn.z"]'),
        ),
        mistake(
            "first_text",
            "Only the first text of the batch is computed, for all texts.",
            (PATTERN, f"dz, q, k, v = (x * 0 + x[:1] for x in (dz, q, k, v))\n{PATTERN}[:1]"),
        ),
        mistake(
            "heads_summed",
            "The gradients are summed over heads. Each head has its own.",
            (f"{DQ}, {DK}, dv", f"*(x * 0 + x.sum(axis=1, keepdims=True) for x in ({DQ}, {DK}, dv)),"),
        ),
        mistake(
            "in_place",
            "The pattern in the trace is changed in place. Write dscores = pattern * ..., not pattern *= ...",
            (
                f"dscores = {SOFTMAX}",
                "pattern *= dpattern - np.vecdot(dpattern, pattern)[..., None]\ndscores = pattern",
            ),
        ),
        mistake(
            "scale_in_place",
            "q is multiplied by scale in place, so the caller's array changes.",
            (PATTERN, f"q *= scale\n{PATTERN}"),
            (" * scale", ""),
            (DQ, f"({DQ}) * scale"),
        ),
    ],
}
