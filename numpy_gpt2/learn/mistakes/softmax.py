"""Mistakes in part 1: `softmax`, `linear` and `causal_mask`."""

from __future__ import annotations

from ..source import Mistake, mistake

MASK = "np.arange(S) <= np.arange(S - T, S)[:, None]"


def softmax_over(name: str, sentence: str, axes: str) -> list[Mistake]:
    """Softmax over other axes; and the same without the maximum, and with the maximum of the whole array."""
    start, total = "x - x.max(axis=-1, keepdims=True)", ("y.sum(axis=-1, keepdims=True)", f"y.sum({axes})")
    return [
        mistake(name, sentence, (start, f"x - x.max({axes})"), total),
        mistake(
            f"{name}_no_maximum",
            f"{sentence} Also, the maximum is not subtracted, so large scores overflow.",
            (start, "x.copy()"),
            total,
        ),
        *([mistake(f"{name}_maximum_of_all", sentence, (start, "x - x.max()"), total)] if axes else []),
    ]


MISTAKES: dict[str, list[Mistake]] = {
    "softmax": [
        *softmax_over("axis_0", "The sum is over axis 0. It must be over the last axis.", "axis=0, keepdims=True"),
        *softmax_over(
            "axis_1",
            "The sum is over axis 1. It must be over the last axis, -1.",
            "axis=min(1, x.ndim - 1), keepdims=True",
        ),
        *softmax_over(
            "axis_2", "The sum is over axis -2. It must be over the last axis, -1.", "axis=-2, keepdims=True"
        ),
        *softmax_over("whole_array", "The sum is over the whole array. Each row must sum to 1.", ""),
        mistake(
            "no_maximum",
            "The maximum is not subtracted. Scores above 709 (88 in float32) then overflow, and the result is nan.",
            ("x - x.max(axis=-1, keepdims=True)", "x.copy()"),
        ),
        mistake(
            "maximum_of_all",
            "The maximum of the whole array is subtracted. Rows that are 700 below it become 0/0. Use each row's"
            " maximum.",
            ("x.max(axis=-1, keepdims=True)", "x.max()"),
        ),
        mistake(
            "mean_subtracted",
            "The mean is subtracted. Large scores can still overflow. Subtract the maximum.",
            ("x.max(", "x.mean("),
        ),
        mistake(
            "divided_by_maximum",
            "x is divided by its maximum, which changes the result. Subtract the maximum.",
            ("x - x.max(", "x / x.max("),
        ),
        *(
            mistake(
                f"plus_{eps}",
                f"{eps} is added to the sum. Nothing must be added: the sum is 1 or more.",
                ("y.sum(axis=-1, keepdims=True)", f"y.sum(axis=-1, keepdims=True) + {eps}"),
            )
            for eps in ("1e-5", "1e-6")
        ),
        mistake(
            "minimum",
            "The minimum is subtracted. Large scores still overflow. Subtract the maximum.",
            ("x.max(", "x.min("),
        ),
        mistake(
            "row_maximum_whole_sum",
            "The sum is over the whole array, though the maximum is that of each row. Each row must sum to 1.",
            ("y.sum(axis=-1, keepdims=True)", "y.sum()"),
        ),
        mistake("unchanged", "x itself came out. It must be exp(x), divided by its sum.", ("return y", "return x")),
        mistake("not_divided", "exp(x) is not divided by its sum.", ("y /= y.sum(axis=-1, keepdims=True)", "pass")),
        mistake(
            "no_exp",
            "exp is missing: scores are divided by their sum.",
            ("y = x - x.max(axis=-1, keepdims=True)", "y = x.copy()"),
            ("np.exp(y, out=y)", "pass"),
        ),
        mistake("base_2", "This is 2 to the power of x. It must be exp(x).", ("np.exp(y", "np.exp2(y")),
        mistake("mean", "exp(x) is divided by its mean. It must be divided by its sum.", ("y.sum(", "y.mean(")),
        mistake("log", "This is the logarithm of softmax.", ("return y", "return np.log(y)")),
        mistake(
            "sigmoid",
            "This is the sigmoid of each score. The scores of a row must compete.",
            ("return y", "return 1 / (1 + np.exp(-x))"),
        ),
        mistake(
            "sign",
            "This is softmax of -x.",
            ("y = x - x.max(axis=-1, keepdims=True)", "y = x.min(axis=-1, keepdims=True) - x"),
        ),
        mistake(
            "by_norm",
            "exp(x) is divided by the root of the sum of its squares. It must be divided by its sum.",
            ("y /= y.sum(axis=-1, keepdims=True)", "y /= np.sqrt((y * y).sum(axis=-1, keepdims=True))"),
        ),
        mistake(
            "maximum_keepdims",
            "The maximum lost its last axis: keepdims=True is missing.",
            ("x.max(axis=-1, keepdims=True)", "x.max(axis=-1)"),
        ),
        mistake(
            "sum_keepdims",
            "The sum lost its last axis: keepdims=True is missing.",
            ("y.sum(axis=-1, keepdims=True)", "y.sum(axis=-1)"),
        ),
    ],
    "linear": [
        mistake(
            "transposed",
            "weight is transposed. GPT-2 stores it as (in, out), so it is x @ weight. Only PyTorch's nn.Linear has"
            " (out, in).",
            ("@ weight", "@ weight.T"),
        ),
        mistake("no_bias", "bias is not added.", ("y += bias", "pass")),
        mistake("bias_twice", "bias is added twice.", ("y += bias", "y += 2 * bias")),
        mistake("minus_bias", "bias is subtracted. It must be added.", ("y += bias", "y -= bias")),
        mistake("times_bias", "The product is multiplied by bias. bias must be added.", ("y += bias", "y *= bias")),
        mistake(
            "bias_first",
            "bias is added to x, before the product. It must be added after it.",
            ("x.reshape(-1, x.shape[-1]) @ weight", "(x + bias).reshape(-1, x.shape[-1]) @ weight"),
            ("y += bias", "pass"),
        ),
        mistake(
            "scaled",
            "The product is divided by √C. A linear layer has no such factor.",
            ("y += bias", "y /= math.sqrt(x.shape[-1])\ny += bias"),
        ),
        mistake(
            "flat",
            "The result lost the axes of x: it must be reshaped to (..., N).",
            ("y.reshape(*x.shape[:-1], -1)", "y"),
        ),
    ],
    "causal_mask": [
        mistake("inverted", "The mask is inverted: it must be True where a query may look.", ("<=", ">")),
        mistake("itself_hidden", "A position cannot see itself. It must: use <=, not <.", ("<=", "<")),
        mistake("inverted_itself", "The mask is inverted, and a position does not see itself.", ("<=", ">=")),
        mistake(
            "minus_larger",
            "These are numbers to be added to the scores: 0, and -1e10 for the future. The mask must be boolean.",
            (MASK, f"np.where({MASK}, 0.0, -1e10)"),
        ),
        mistake("next_seen", "A position sees one key of the future.", (MASK, MASK + " + 1")),
        mistake(
            "top_left",
            "The diagonal begins at the top left. With S > T, the first query is at position S - T, so its row"
            " begins with more Trues.",
            ("np.arange(S - T, S)", "np.arange(T)"),
        ),
        mistake(
            "top_left_inverted",
            "The mask is inverted, and its diagonal begins at the top left. Query i is at position S - T + i.",
            (MASK, "np.arange(S) > np.arange(T)[:, None]"),
        ),
        mistake(
            "top_left_itself_hidden",
            "A position cannot see itself, and the diagonal begins at the top left. Query i is at position S - T + i.",
            (MASK, "np.arange(S) < np.arange(T)[:, None]"),
        ),
        mistake(
            "wrong_direction",
            "The diagonal is moved to the wrong side. Query i is at position S - T + i.",
            ("S - T, S)", "T - S, 2 * T - S)"),
        ),
        mistake("all", "Every query sees every key.", (MASK, "np.ones((T, S), bool)")),
        mistake("only_itself", "A position sees itself only. It must see all earlier ones, too.", ("<=", "==")),
        mistake(
            "only_old",
            "Every query sees the S - T keys before the new positions only.",
            (MASK, "np.broadcast_to(np.arange(S) < S - T, (T, S))"),
        ),
        mistake(
            "transposed",
            "The mask is transposed, (S, T). It must be (T, S): a row for each query.",
            (MASK, f"({MASK}).T"),
        ),
        mistake(
            "minus_infinity",
            "These are numbers that are added to scores: 0 or -inf. Here, the mask must be boolean: True where a"
            " query may look.",
            (MASK, f"np.where({MASK}, 0.0, -np.inf)"),
        ),
        mistake(
            "minus_infinity_top_left",
            "These are numbers that are added to scores: 0 or -inf, with the diagonal at the top left. Here, the mask"
            " must be boolean, and query i is at position S - T + i.",
            (MASK, "np.triu(np.full((T, S), -np.inf), k=1)"),
        ),
        mistake(
            "minus_large",
            "These are numbers that are added to scores: 0 or -1e9. Here, the mask must be boolean: True where a"
            " query may look.",
            (MASK, f"np.where({MASK}, 0.0, -1e9)"),
        ),
        mistake(
            "minus_10000",
            "These are numbers that are added to scores: 0 or -1e4. Here, the mask must be boolean: True where a"
            " query may look.",
            (MASK, f"np.where({MASK}, 0.0, -1e4)"),
        ),
        mistake(
            "ones",
            "The mask consists of the numbers 0 and 1. It must be boolean: add .astype(bool).",
            (MASK, f"({MASK}).astype(float)"),
        ),
        mistake(
            "integers",
            "The mask consists of the integers 0 and 1. It must be boolean: add .astype(bool).",
            (MASK, f"({MASK}).astype(int)"),
        ),
        mistake(
            "ones_top_left",
            "This is np.tril(np.ones((T, S))): numbers, and with its diagonal at the top left. It must be boolean,"
            " and query i is at position S - T + i.",
            (MASK, "np.tril(np.ones((T, S)))"),
        ),
    ],
}
