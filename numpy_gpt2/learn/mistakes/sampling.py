"""Mistakes in part 2: how logits become probabilities."""

from __future__ import annotations

from ..source import Mistake, mistake

PENALIZED = "np.where(z > 0, z / penalty, z * penalty)"
PUT = f"np.put_along_axis(logits, text, {PENALIZED}, axis=-1)"
PENALTY_OF_ALL = "np.where(logits > 0, logits / penalty, logits * penalty)"
PER_OCCURRENCE = """\
for row, ids in zip(logits.reshape(-1, logits.shape[-1]), text.reshape(-1, text.shape[-1])):
    for i in ids:
        row[i] = row[i] / penalty if row[i] > 0 else row[i] * penalty"""
DIVIDED = "logits /= max(temperature, float(np.finfo(logits.dtype).tiny))"
MINUS_MAX = "logits - logits.max(axis=-1, keepdims=True)"
GREEDY = "return np.asarray(np.arange(logits.shape[-1]) == logits.argmax(axis=-1, keepdims=True), logits.dtype)"
IF_TOP_K = "if top_k:\n        logits = keep_top_k(logits, top_k)"
IF_TOP_P = "if top_p is not None and top_p < 1:\n        logits = keep_top_p(logits, top_p)"
IF_MIN_P = "if min_p is not None:\n        logits = keep_min_p(logits, min_p)"
THEN_TOP_K = "\nif top_k:\n    logits = keep_top_k(logits, top_k)"
THEN_TOP_P = "\nif top_p is not None and top_p < 1:\n    logits = keep_top_p(logits, top_p)"
THEN_MIN_P = "\nif min_p is not None:\n    logits = keep_min_p(logits, min_p)"
RESULT = "return softmax(logits)"

MISTAKES: dict[str, list[Mistake]] = {
    "penalize_repetition": [
        mistake(
            "always_divided",
            "Every logit is divided by the penalty. If z is negative, this makes the token more probable: multiply.",
            (PENALIZED, "z / penalty"),
        ),
        mistake(
            "always_multiplied",
            "Every logit is multiplied by the penalty. If z is positive, it must be divided.",
            (PENALIZED, "z * penalty"),
        ),
        mistake(
            "inverted",
            "Positive logits are multiplied and negative ones are divided. It must be the other way round.",
            ("z > 0", "z < 0"),
        ),
        mistake(
            "only_positive",
            "Negative logits do not change. They must be multiplied by the penalty.",
            ("z * penalty", "z"),
        ),
        mistake(
            "only_negative",
            "Positive logits do not change. They must be divided by the penalty.",
            ("z / penalty", "z"),
        ),
        mistake(
            "per_occurrence",
            "A token is penalized once for each occurrence. It must be penalized once.",
            (PUT, PER_OCCURRENCE),
        ),
        mistake(
            "subtracted",
            "The penalty is subtracted. The logit must be divided or multiplied by it.",
            (PENALIZED, "z - penalty"),
        ),
        mistake(
            "subtracted_per_occurrence",
            "The penalty is subtracted for each occurrence. The logit must be divided or multiplied by it, once.",
            (
                PUT,
                "for row, ids in zip(logits.reshape(-1, logits.shape[-1]), text.reshape(-1, text.shape[-1])):\n"
                "    np.subtract.at(row, ids, penalty)",
            ),
        ),
        mistake(
            "of_probability",
            "ln(penalty) is subtracted: the probability is divided. The logit must be divided or multiplied.",
            (PENALIZED, "z - math.log(penalty)"),
        ),
        mistake(
            "all_tokens",
            "All tokens are penalized. Only those that are in the text must be.",
            (PUT, f"logits = {PENALTY_OF_ALL}"),
        ),
        mistake(
            "absent_tokens",
            "The tokens that are not in the text are penalized. It must be those that are.",
            ("logits = logits.copy()", f"logits = {PENALTY_OF_ALL}"),
            (PENALIZED, "z"),
        ),
        mistake(
            "last_token",
            "Only the last token of the text is penalized. All of its tokens must be.",
            ("    z = np", "    text = text[..., -1:]\nz = np"),
        ),
        mistake(
            "first_row",
            "The text of row 0 is used for all rows. Each row has its own text.",
            ("z = np", "text = np.broadcast_to(text.reshape(-1, text.shape[-1])[0], text.shape)\nz = np"),
        ),
        mistake(
            "all_rows",
            "A token that is in one row's text is penalized in all rows. Each row has its own text.",
            ("z = np", "text = np.broadcast_to(text.reshape(-1), (*text.shape[:-1], text.size))\nz = np"),
        ),
        mistake(
            "in_place",
            "The caller's logits are changed. Work on a copy: logits = logits.copy().",
            ("logits.copy()", "logits"),
        ),
        mistake(
            "only_penalized",
            "Only the logits of the text's tokens came out. The result must have all V logits.",
            ("return logits", f"return {PENALIZED.replace('z > 0', 'z > 0.0')}"),
        ),
        mistake(
            "others_removed",
            "All other logits are 0. They must stay as they are.",
            ("logits.copy()", "np.zeros_like(logits)"),
        ),
        mistake(
            "others_infinite",
            "All other logits are -inf. They must stay as they are.",
            ("logits.copy()", "np.full_like(logits, -math.inf)"),
        ),
    ],
    "probabilities": [
        mistake(
            "multiplied",
            "The logits are multiplied by the temperature. They must be divided by it.",
            (DIVIDED, "logits = logits * temperature"),
        ),
        mistake(
            "temperature_twice",
            "The logits are divided by the temperature twice.",
            (DIVIDED, "logits /= temperature**2"),
        ),
        mistake("no_temperature", "The temperature has no effect: divide the logits by it.", (DIVIDED, "pass")),
        mistake(
            "root",
            "The logits are divided by the root of the temperature. They must be divided by the temperature.",
            (DIVIDED, "logits /= math.sqrt(temperature)"),
        ),
        mistake(
            "after_softmax",
            "The probabilities are divided by the temperature. The logits must be.",
            (DIVIDED, "pass"),
            (RESULT, "return softmax(logits) / temperature"),
        ),
        mistake(
            "after_top_p",
            "The nucleus is chosen before the division by the temperature. It must be chosen after it.",
            (DIVIDED, "pass"),
            (IF_MIN_P, f"logits = ({MINUS_MAX}) / temperature{THEN_MIN_P}"),
        ),
        mistake(
            "after_all_cuts",
            "The nucleus and min-p are chosen before the division by the temperature. They must be chosen after it.",
            (DIVIDED, "pass"),
            (RESULT, f"return softmax(({MINUS_MAX}) / temperature)"),
        ),
        mistake(
            "min_p_before_temperature",
            "min-p is applied before the division by the temperature. It must be the last cut.",
            (DIVIDED, f"pass{THEN_MIN_P}\nlogits = logits / temperature"),
            (IF_MIN_P, "pass"),
        ),
        mistake(
            "min_p_before_top_p",
            "min-p is applied before the nucleus. It must be the last cut.",
            (IF_TOP_P, f"pass{THEN_MIN_P}{THEN_TOP_P}"),
            (IF_MIN_P, "pass"),
        ),
        mistake(
            "top_p_before_top_k",
            "The nucleus is chosen before top-k. It must be chosen from the k tokens that are left.",
            (IF_TOP_K, "pass"),
            (IF_TOP_P, f"pass{THEN_TOP_P}{THEN_TOP_K}"),
        ),
        mistake("no_top_k", "top_k has no effect.", (IF_TOP_K, "pass")),
        mistake("no_top_p", "top_p has no effect.", (IF_TOP_P, "pass")),
        mistake("no_min_p", "min_p has no effect.", (IF_MIN_P, "pass")),
        mistake(
            "not_normalized",
            "The tokens that stay keep their old probabilities, so a row sums to less than 1. softmax must come last.",
            (IF_TOP_K, f"before = softmax(logits / temperature)\n{IF_TOP_K.replace(' ' * 8, ' ' * 4)}"),
            (RESULT, "return np.where(np.isneginf(logits), 0.0, before)"),
        ),
        mistake("logits", "These are logits. The result must be probabilities: softmax.", (RESULT, "return logits")),
        mistake(
            "log",
            "These are the logarithms of the probabilities.",
            (RESULT, "return np.log(softmax(logits))"),
        ),
        mistake("softmax_twice", "softmax is applied twice.", (RESULT, "return softmax(softmax(logits))")),
        mistake(
            "no_softmax",
            "exp is missing: the result must be softmax of the logits.",
            (RESULT, "return np.where(np.isneginf(logits), 0.0, logits)"),
        ),
        mistake(
            "not_divided_by_sum",
            "exp(x) is not divided by its sum. Each row must sum to 1.",
            (RESULT, "return np.exp(logits)"),
        ),
        mistake(
            "zero_divides",
            "At temperature 0, the logits are divided by 0. The largest logit must get probability 1.",
            ("if temperature == 0", "if temperature is None"),
            (DIVIDED, "logits /= temperature"),
        ),
        mistake(
            "zero_is_one",
            "At temperature 0, the logits are not divided. The largest logit must get probability 1.",
            ("    if temperature == 0:\n        " + GREEDY, "    temperature = temperature or 1.0"),
        ),
        mistake(
            "zero_with_ties",
            "At temperature 0, tied logits share the probability. The first one must get all of it.",
            (
                GREEDY,
                "largest = logits == logits.max(axis=-1, keepdims=True)\n"
                "return largest / largest.sum(axis=-1, keepdims=True)",
            ),
        ),
        mistake(
            "zero_not_normalized",
            "At temperature 0, each of the tied logits gets probability 1. The first one must get it.",
            (GREEDY, "return (logits == logits.max(axis=-1, keepdims=True)).astype(logits.dtype)"),
        ),
        mistake(
            "zero_last",
            "At temperature 0, the last of tied logits gets probability 1. The first one must get it.",
            (
                GREEDY,
                "last = logits.shape[-1] - 1 - logits[..., ::-1].argmax(axis=-1, keepdims=True)\n"
                "return np.asarray(np.arange(logits.shape[-1]) == last, logits.dtype)",
            ),
        ),
        mistake(
            "zero_of_batch",
            "At temperature 0, only one logit of the whole batch gets probability 1. Each row must have one.",
            (GREEDY, "return (np.arange(logits.size) == logits.argmax()).reshape(logits.shape).astype(logits.dtype)"),
        ),
        mistake(
            "zero_gives_id",
            "At temperature 0, the id of the largest logit came out. The result must be V probabilities.",
            (GREEDY, "return logits.argmax(axis=-1)"),
        ),
        mistake(
            "zero_is_bool",
            "At temperature 0, the result is True and False. It must be numbers: .astype(logits.dtype).",
            (GREEDY, "return np.arange(logits.shape[-1]) == logits.argmax(axis=-1, keepdims=True)"),
        ),
        mistake(
            "clamped",
            "A small temperature is raised to 0.00001. Only 0 is an exception.",
            (DIVIDED, "logits /= max(temperature, 1e-5)"),
        ),
        mistake(
            "plus_epsilon",
            "A small number is added to the temperature. Only 0 is an exception.",
            (DIVIDED, "logits /= temperature + 1e-8"),
        ),
        mistake(
            "power",
            "Probabilities are raised to the power of 1/temperature, so a small temperature makes all of them 0. Divide"
            " the logits.",
            (
                DIVIDED,
                "weight = softmax(logits) ** (1 / temperature)\nlogits = np.log(weight / weight.sum(-1)[..., None])",
            ),
        ),
        mistake(
            "in_place",
            "The caller's logits are changed. Write logits = logits / temperature, not logits /= temperature.",
            (IF_TOP_K, f"logits /= temperature\n{IF_TOP_K.replace(' ' * 8, ' ' * 4)}"),
            (DIVIDED, "pass"),
        ),
        mistake(
            "in_place_after_top_k",
            "The caller's logits are changed. Write logits = logits / temperature, not logits /= temperature.",
            (MINUS_MAX, "logits"),
        ),
        mistake(
            "top_p_to_min_p",
            "top_p is used as min-p. It must be keep_top_p(logits, top_p).",
            ("keep_top_p(logits, top_p)", "keep_min_p(logits, top_p)"),
        ),
    ],
}
