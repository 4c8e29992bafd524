"""Mistakes in part 2: which logits stay."""

from __future__ import annotations

from ..source import Mistake, mistake

TOP_K = "np.where(logits < kth_largest, -math.inf, logits)"
KTH = "np.partition(logits, -k, axis=-1)[..., -k, None]"
BY_INDEX = """\
kept = np.full_like(logits, -math.inf)
np.put_along_axis(kept, {order}, np.take_along_axis(logits, {order}, -1), -1)
return kept"""
DESCENDING = 'np.argsort(-logits, axis=-1, kind="stable")[..., :k]'
ASCENDING = 'np.argsort(logits, axis=-1, kind="stable")[..., -k:]'
CANDIDATES = "np.flatnonzero(row >= (1 - p) / V)"
ALL_CANDIDATES = (CANDIDATES, "np.arange(len(row))")
KEEP = "keep[order[before < p]] = True"
TOP_P = "np.where(kept, logits, -math.inf)"
ROWS = "softmax(logits).reshape(-1, V), kept.reshape(-1, V)"
MIN_P = "logits.max(axis=-1, keepdims=True) + math.log(p)"
KEPT_BY_MIN_P = f"np.where(logits < {MIN_P}, -math.inf, logits)"
FINITE = "The other logits are {0}. They must be -inf, whose probability is exactly 0."


def finite(old: str) -> list[Mistake]:
    """Other numbers than −∞ for the logits that do not stay. `old` is the expression with -math.inf."""
    return [
        mistake("zero", FINITE.format("0, and exp(0) is 1"), (old, old.replace("-math.inf", "0.0"))),
        mistake("minus_large", FINITE.format("-1e9"), (old, old.replace("-math.inf", "-1e9"))),
        mistake("minus_1e10", FINITE.format("-1e10"), (old, old.replace("-math.inf", "-1e10"))),
        mistake("minus_10000", FINITE.format("-10,000"), (old, old.replace("-math.inf", "-1e4"))),
        mistake(
            "minimum",
            FINITE.format("the smallest number of the dtype"),
            (old, old.replace("-math.inf", "np.finfo(logits.dtype).min")),
        ),
        mistake(
            "plus_infinity",
            "The other logits are +inf. They must be -inf.",
            (old, old.replace("-math.inf", "math.inf")),
        ),
        mistake("nan", "The other logits are nan. They must be -inf.", (old, old.replace("-math.inf", "math.nan"))),
        mistake(
            "probabilities",
            "These are probabilities, the softmax of what stays. The result must be logits.",
            (f"return {old}", f"return softmax({old})"),
        ),
    ]


MISTAKES: dict[str, list[Mistake]] = {
    "keep_top_k": [
        mistake("k_plus_1", "One logit too many stays.", (KTH, "np.sort(logits, axis=-1)[..., -k - 1, None]")),
        mistake("k_minus_1", "The k-th largest logit is gone. It must stay.", (TOP_K, TOP_K.replace("<", "<="))),
        mistake(
            "k_minus_1_clamped",
            "The k-th largest logit is gone. It must stay, also if k is V or more: drop only those < the k-th.",
            ("if k >= logits.shape[-1]:\n        return logits", "k = min(k, logits.shape[-1])"),
            (TOP_K, TOP_K.replace("<", "<=")),
        ),
        mistake(
            "index_k_minus_1",
            "The threshold is element -k + 1 of the sorted logits. The k-th largest is element -k.",
            (KTH, "np.sort(logits, axis=-1)[..., -k + 1, None]"),
        ),
        mistake(
            "index_k",
            "The threshold is element k of the logits in rising order. The k-th largest is element -k.",
            (KTH, "np.sort(logits, axis=-1)[..., k, None]"),
        ),
        mistake(
            "smallest",
            "The k smallest logits stay. It must be the k largest.",
            (TOP_K, "np.where(logits > np.sort(logits, axis=-1)[..., k - 1, None], -math.inf, logits)"),
        ),
        mistake(
            "inverted",
            "The k largest logits are gone, and the others stay. It must be the other way round.",
            (TOP_K, "np.where(logits >= kth_largest, -math.inf, logits)"),
        ),
        mistake(
            "ties_first",
            "Of logits that equal the k-th, only the first ones stay. All of them must: compare with the k-th largest.",
            (f"return {TOP_K}", BY_INDEX.format(order=DESCENDING)),
        ),
        mistake(
            "ties_last",
            "Of logits that equal the k-th, only the last ones stay. All of them must: compare with the k-th largest.",
            (f"return {TOP_K}", BY_INDEX.format(order=ASCENDING)),
        ),
        mistake(
            "whole_array",
            "The k largest logits of the whole batch stay. Each row must keep k.",
            (KTH, "np.sort(logits, axis=None)[-k]"),
        ),
        mistake(
            "first_row",
            "The threshold of row 0 is used for all rows.",
            (KTH, "np.sort(logits.reshape(-1, logits.shape[-1])[0])[-k]"),
        ),
        mistake(
            "axis_0",
            "The sort is along axis 0. It must be along the last axis, the vocabulary.",
            (KTH, "np.sort(logits, axis=0)[-k]"),
        ),
        mistake(
            "keepdims",
            "The threshold lost its last axis: it needs [..., None] to be compared with each row.",
            (KTH, KTH.replace(", None]", "]")),
        ),
        mistake(
            "k_above_v",
            "k may be larger than V. Then all logits stay.",
            ("k >= logits.shape[-1]", "k == logits.shape[-1]"),
        ),
        mistake(
            "k_above_v_sort",
            "k may be larger than V. Then all logits stay.",
            ("k >= logits.shape[-1]", "k == logits.shape[-1]"),
            (KTH, "np.sort(logits, axis=-1)[..., -k, None]"),
        ),
        mistake(
            "k_is_v",
            "With k = V, all logits must stay.",
            ("return logits\n    ", "return np.full_like(logits, -math.inf)\n"),
        ),
        mistake(
            "only_largest",
            "Only the k largest logits came out, in rising order. The result must have all V, most of them -inf.",
            (f"return {TOP_K}", "return np.sort(logits, axis=-1)[..., -k:]"),
        ),
        mistake(
            "only_largest_falling",
            "Only the k largest logits came out. The result must have all V, most of them -inf.",
            (f"return {TOP_K}", "return np.sort(logits, axis=-1)[..., : -k - 1 : -1]"),
        ),
        mistake(
            "indices",
            "These are the ids of the k largest logits. The result must be the V logits, most of them -inf.",
            (f"return {TOP_K}", f"return {DESCENDING}"),
        ),
        mistake(
            "mask",
            "This is a mask, True where a logit stays. The result must be the logits, with -inf for the others.",
            (f"return {TOP_K}", "return logits >= kth_largest"),
        ),
        *finite(TOP_K),
    ],
    "keep_top_p": [
        mistake(
            "crossing_dropped",
            "The token that crosses p is dropped, so the sum does not reach p. It must stay.",
            (KEEP, "keep[order[before + row[order] <= p]] = True"),
        ),
        mistake(
            "crossing_dropped_strict",
            "The token with which the sum reaches p is dropped. It must stay.",
            (KEEP, "keep[order[before + row[order] < p]] = True"),
        ),
        mistake(
            "crossing_dropped_but_first",
            "The token that crosses p is dropped, except if it is the first. It must always stay.",
            (KEEP, "keep[order[(before + row[order] <= p) | (before == 0)]] = True"),
        ),
        mistake(
            "crossing_dropped_strict_but_first",
            "The token with which the sum reaches p is dropped, except if it is the first. It must always stay.",
            (KEEP, "keep[order[(before + row[order] < p) | (before == 0)]] = True"),
        ),
        mistake(
            "exactly_p",
            "One token too many stays when the sum is exactly p: a token stays if those before it sum to LESS than p.",
            (KEEP, KEEP.replace("<", "<=")),
        ),
        mistake(
            "one_more",
            "One token too many stays: the sum before it has reached p already.",
            (KEEP, "keep[order[np.append(0.0, before[:-1]) < p]] = True"),
            ALL_CANDIDATES,
        ),
        mistake(
            "ties",
            "Tokens as probable as the last one of the nucleus stay, too. The nucleus has the fewest tokens that reach"
            " p.",
            (KEEP, "keep[row >= row[order[before < p]].min()] = True"),
        ),
        mistake(
            "rising",
            "The tokens are sorted by rising probability. The most probable one must come first.",
            ("-row[candidates]", "row[candidates]"),
            ALL_CANDIDATES,
        ),
        mistake(
            "not_sorted",
            "The tokens are summed in the order of their ids. They must be sorted by falling probability.",
            ("candidates[np.argsort(-row[candidates])]", "candidates"),
            ALL_CANDIDATES,
        ),
        mistake(
            "not_put_back",
            "The mask is in the order of the sorted tokens. It must be put back: keep[order[...]] = True.",
            (KEEP, "keep[np.flatnonzero(before < p)] = True"),
        ),
        mistake(
            "put_back_inverse",
            "The mask is put back in the wrong direction, as mask[order]. Write keep[order] = mask.",
            (KEEP, "keep[:] = (before < p)[order]"),
            ALL_CANDIDATES,
        ),
        mistake(
            "sorted_logits",
            "The result is in sorted order. Each token must stay in its own place.",
            (f"return {TOP_P}", f"return -np.sort(-{TOP_P}, axis=-1)"),
        ),
        mistake(
            "no_softmax",
            "The logits are summed. Probabilities must be summed: softmax(logits).",
            ("softmax(logits)", "logits"),
            ALL_CANDIDATES,
        ),
        mistake(
            "threshold",
            "Each token with a probability of p or more stays. Sums of probabilities must be compared with p.",
            (KEEP, "keep[row >= p] = True"),
        ),
        mistake(
            "below_threshold",
            "Each token with a probability below p stays. Sums of probabilities must be compared with p.",
            (KEEP, "keep[row < p] = True"),
        ),
        mistake(
            "min_p",
            "Tokens with p times the largest probability stay, as in min-p. Here, sums must be compared with p.",
            (KEEP, "keep[row >= p * row.max()] = True"),
        ),
        mistake(
            "one_minus_p",
            "The tokens reach 1 - p. They must reach p.",
            (KEEP, "keep[order[before < 1 - p]] = True"),
        ),
        mistake(
            "inverted",
            "The nucleus is gone, and the other tokens stay. It must be the other way round.",
            (TOP_P, "np.where(kept, -math.inf, logits)"),
        ),
        mistake(
            "whole_array",
            "One nucleus is chosen from all rows together. Each row has its own.",
            (ROWS, "softmax(logits).reshape(1, -1), kept.reshape(1, -1)"),
            ALL_CANDIDATES,
        ),
        mistake(
            "whole_array_normalized",
            "One nucleus is chosen from all rows together, by one softmax over all of them. Each row has its own.",
            (ROWS, "softmax(logits.reshape(1, -1)), kept.reshape(1, -1)"),
            ALL_CANDIDATES,
        ),
        mistake(
            "sum_goes_on",
            "The sum goes on from row to row, because np.cumsum without axis=-1 flattens its array.",
            (KEEP, "keep[order[before + sum(k.any() for k in kept.reshape(-1, V)[:-1]) < p]] = True"),
        ),
        mistake(
            "first_row",
            "The nucleus of row 0 is used for all rows.",
            (TOP_P, "np.where(kept.reshape(-1, V)[0], logits, -math.inf)"),
        ),
        mistake(
            "probabilities_kept",
            "These are the probabilities of the nucleus, and 0 for the others. The result must be logits.",
            (TOP_P, "np.where(kept, softmax(logits), 0.0)"),
        ),
        mistake(
            "mask",
            "This is a mask, True where a token stays. The result must be the logits, with -inf for the others.",
            (f"return {TOP_P}", "return kept"),
        ),
        *finite(TOP_P),
    ],
    "keep_min_p": [
        mistake(
            "absolute",
            "The threshold is p itself. It must be p times the largest probability of the row.",
            (f"logits < {MIN_P}", "softmax(logits) < p"),
        ),
        mistake(
            "logits_times_p",
            "The threshold is p times the largest logit. For logits, ln p must be added: max z + ln p.",
            ("+ math.log(p)", "* p"),
        ),
        mistake("plus_p", "p is added to the largest logit. ln p must be added.", ("math.log(p)", "p")),
        mistake("minus_p", "p is subtracted from the largest logit. ln p must be added.", ("+ math.log(p)", "- p")),
        mistake(
            "minus_ln", "ln p is subtracted. It must be added: it is negative.", ("+ math.log(p)", "- math.log(p)")
        ),
        mistake("log_2", "The logarithm is log₂. It must be ln, math.log.", ("math.log(p)", "math.log2(p)")),
        mistake("log_10", "The logarithm is log₁₀. It must be ln, math.log.", ("math.log(p)", "math.log10(p)")),
        mistake("one_minus_p", "The factor is 1 - p. It must be p.", ("math.log(p)", "math.log(max(1 - p, 1e-9))")),
        mistake(
            "strict",
            "A token with exactly p times the largest probability is gone. It must stay: with p = 1, the largest does.",
            (f"logits < {MIN_P}", f"logits <= {MIN_P}"),
        ),
        mistake(
            "inverted",
            "The probable tokens are gone, and the others stay. It must be the other way round.",
            (f"logits < {MIN_P}", f"logits >= {MIN_P}"),
        ),
        mistake(
            "whole_array",
            "The largest logit of the whole batch is used. Each row has its own.",
            ("logits.max(axis=-1, keepdims=True)", "logits.max()"),
        ),
        mistake(
            "whole_array_probability",
            "The largest probability of the whole batch is used. Each row has its own.",
            (f"logits < {MIN_P}", "softmax(logits) < p * softmax(logits).max()"),
        ),
        mistake(
            "axis_0",
            "The maximum is along axis 0. It must be along the last axis, the vocabulary.",
            ("axis=-1", "axis=0"),
        ),
        mistake("keepdims", "The maximum lost its last axis: keepdims=True is missing.", (", keepdims=True", "")),
        mistake(
            "of_minimum",
            "The threshold is relative to the smallest logit. It must be relative to the largest one.",
            ("logits.max(", "logits.min("),
        ),
        mistake(
            "top_p",
            "Tokens stay until their sum reaches p, as in the nucleus. Here, each is compared with the largest one.",
            (f"return {KEPT_BY_MIN_P}", "return keep_top_p(logits, p)"),
        ),
        mistake(
            "mask",
            "This is a mask, True where a token stays. The result must be the logits, with -inf for the others.",
            (f"return {KEPT_BY_MIN_P}", f"return logits >= {MIN_P}"),
        ),
        *finite(KEPT_BY_MIN_P),
    ],
}
