"""Mistakes in part 1, in the functions before `block`."""

from __future__ import annotations

from ..source import Mistake, mistake

VARIANCE = "(centered * centered).mean(axis=-1, keepdims=True)"
CENTERED = "x - x.mean(axis=-1, keepdims=True)"
MEAN_AND_VARIANCE = "centered = {0}; {0}"
GELU = "0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))"
MASKED = "np.copyto(scores, -math.inf, where=~mask)"
SPLIT = "qkv.reshape(B, T, 3, n_head, -1).transpose(2, 0, 3, 1, 4)"
MASK = "np.arange(S) <= np.arange(S - T, S)[:, None]"
SCALE = "1 / math.sqrt(self.n_embd // self.n_head)"


def over(axes: str) -> tuple[tuple[str, str], ...]:
    """Layer norm with the mean and the variance over other axes."""
    return (CENTERED, f"x - x.mean({axes})"), (VARIANCE, f"(centered * centered).mean({axes})")


def softmax_over(axes: str) -> tuple[tuple[str, str], ...]:
    """Softmax over other axes."""
    return ("x.max(axis=-1, keepdims=True)", f"x.max({axes})"), ("y.sum(axis=-1, keepdims=True)", f"y.sum({axes})")


MISTAKES: dict[str, list[Mistake]] = {
    "layer_norm": [
        mistake(
            "ddof",
            "The variance is divided by C - 1. GPT-2 divides it by C, as np.var does by default.",
            (VARIANCE, "x.var(axis=-1, keepdims=True, ddof=1)"),
        ),
        mistake(
            "eps_outside",
            "eps is added to the standard deviation. It must be added to the variance, inside the root.",
            ("np.sqrt(variance + eps)", "(np.sqrt(variance) + eps)"),
        ),
        mistake("no_eps", "eps is missing.", ("variance + eps", "variance")),
        mistake(
            "eps_squared",
            "The square of eps is added to the variance. It must be eps itself.",
            ("variance + eps", "variance + eps**2"),
        ),
        mistake("eps_fixed", "eps is always 1e-5. It must be the argument eps.", ("variance + eps", "variance + 1e-5")),
        mistake(
            "variance_for_deviation",
            "x is divided by the variance. It must be divided by its root, the standard deviation.",
            ("np.sqrt(variance + eps)", "(variance + eps)"),
        ),
        mistake(
            "root_twice",
            "The root is taken twice: of the variance, and again of the standard deviation.",
            ("np.sqrt(variance + eps)", "np.sqrt(np.sqrt(variance) + eps)"),
        ),
        mistake("not_divided", "x is not divided by the standard deviation.", (" / np.sqrt(variance + eps)", "")),
        mistake(
            "multiplied",
            "x is multiplied by the standard deviation. It must be divided by it.",
            ("centered / np.sqrt", "centered * np.sqrt"),
        ),
        mistake("not_centered", "The mean is not subtracted from x before the division.", ("centered / np", "x / np")),
        mistake(
            "mean_square",
            "The variance is the mean of x². It must be the mean of (x - mean)².",
            ("(centered * centered)", "(x * x)"),
        ),
        mistake(
            "absolute_deviation",
            "The mean of |x - mean| is used for the standard deviation. The variance is the mean of squares.",
            ("np.sqrt(variance + eps)", "(np.abs(centered).mean(axis=-1, keepdims=True) + eps)"),
        ),
        mistake(
            "sum_of_squares",
            "The variance is the sum of squares. It must be their mean.",
            (VARIANCE, "(centered * centered).sum(axis=-1, keepdims=True)"),
        ),
        mistake("no_weight", "The result is not multiplied by weight.", (" * weight", "")),
        mistake("no_bias", "bias is not added.", (" + bias", "")),
        mistake("swapped", "weight and bias are exchanged.", ("* weight + bias", "* bias + weight")),
        mistake(
            "bias_first",
            "bias is added before the multiplication by weight. It must be added after it.",
            (
                "centered / np.sqrt(variance + eps) * weight + bias",
                "(centered / np.sqrt(variance + eps) + bias) * weight",
            ),
        ),
        mistake(
            "weight_plus_1",
            "The result is multiplied by 1 + weight. It must be multiplied by weight.",
            (" * weight", " * (1 + weight)"),
        ),
        mistake(
            "whole_array",
            "The mean and the variance are those of the whole array. Each position has its own, over the last axis.",
            *over(""),
        ),
        mistake(
            "over_positions",
            "The mean and the variance are over positions, axis -2. They must be over channels, axis -1.",
            *over("axis=-2, keepdims=True"),
        ),
        mistake(
            "batch_norm",
            "The mean and the variance are over axis 0, as in batch norm. They must be over channels, axis -1.",
            *over("axis=0, keepdims=True"),
        ),
        mistake(
            "batch_and_positions",
            "The mean and the variance are over all positions of the batch. They must be over channels, axis -1.",
            *over("axis=tuple(range(x.ndim - 1)), keepdims=True"),
        ),
        mistake(
            "mean_keepdims", "The mean lost its last axis: keepdims=True is missing.", (CENTERED, "x - x.mean(axis=-1)")
        ),
        mistake(
            "last_mean_keepdims",
            "The mean that is subtracted lost its last axis: keepdims=True is missing.",
            ("centered / np", "(x - x.mean(axis=-1)) / np"),
        ),
        mistake(
            "variance_keepdims",
            "The variance lost its last axis: keepdims=True is missing.",
            (VARIANCE, "(centered * centered).mean(axis=-1)"),
        ),
        mistake(
            "in_place",
            "The mean is subtracted from x in place, so the caller's array changes. Write x = x - ..., not x -= ...",
            ("centered = " + CENTERED, "x -= x.mean(axis=-1, keepdims=True)\ncentered = x"),
        ),
    ],
    "gelu": [
        mistake(
            "exact",
            "This is the exact GELU, with erf. GPT-2 was trained with the tanh approximation.",
            (GELU, "gelu_exact(x)"),
        ),
        mistake(
            "sigmoid",
            "This is x σ(1.702 x), another approximation. GPT-2's uses tanh.",
            (GELU, "x / (1 + np.exp(-1.702 * x))"),
        ),
        mistake("silu", "This is SiLU, x σ(x). GPT-2 has GELU.", (GELU, "x / (1 + np.exp(-x))")),
        mistake("relu", "This is ReLU, max(x, 0). GPT-2 has GELU.", (GELU, "np.maximum(x, 0)")),
        mistake("no_half", "The factor 1/2 is missing.", ("0.5 * x * (1", "x * (1")),
        mistake("no_x", "The outer factor x is missing.", ("0.5 * x * (1", "0.5 * (1")),
        mistake("no_1", "The 1 in 1 + tanh is missing.", ("(1 + np.tanh", "(np.tanh")),
        mistake("minus", "It must be 1 + tanh(…). This is 1 - tanh(…).", ("(1 + np.tanh", "(1 - np.tanh")),
        mistake("no_cube", "The term with x³ is missing.", (" + 0.044715 * x * x * x", "")),
        mistake("square", "x² stands where x³ must be.", ("x * x * x)", "x * x)")),
        mistake(
            "cube_of_all",
            "The whole sum is cubed. Only x is: x + 0.044715 x³.",
            ("(x + 0.044715 * x * x * x)", "(x + 0.044715 * x) ** 3"),
        ),
        mistake(
            "cube_of_both",
            "0.044715 is cubed with x. Only x is: 0.044715 x³.",
            ("0.044715 * x * x * x", "(0.044715 * x) ** 3"),
        ),
        mistake("minus_cube", "The term with x³ is subtracted. It must be added.", ("(x + 0.04", "(x - 0.04")),
        mistake("constant_10", "The constant is 0.44715. It must be 0.044715.", ("0.044715", "0.44715")),
        mistake("constant_01", "The constant is 0.0044715. It must be 0.044715.", ("0.044715", "0.0044715")),
        mistake("constant_digit", "The constant is 0.04715. It must be 0.044715.", ("0.044715", "0.04715")),
        mistake("constant_digits", "The constant is 0.044175. It must be 0.044715.", ("0.044715", "0.044175")),
        mistake("constant_rounded", "The constant is 0.0447. It must be 0.044715.", ("0.044715", "0.0447")),
        mistake("no_root_2_pi", "The factor √(2/π) is missing.", ("math.sqrt(2 / math.pi) * ", "")),
        mistake(
            "no_root", "The factor is 2/π. It must be its root, √(2/π).", ("math.sqrt(2 / math.pi)", "2 / math.pi")
        ),
        mistake(
            "root_of_2",
            "The factor is √2/π. The root must cover π, too: √(2/π).",
            ("math.sqrt(2 / math.pi)", "math.sqrt(2) / math.pi"),
        ),
        mistake(
            "root_of_pi",
            "The factor is 2/√π. The root must cover the 2, too: √(2/π).",
            ("math.sqrt(2 / math.pi)", "2 / math.sqrt(math.pi)"),
        ),
        mistake(
            "root_inverse",
            "The factor is √(π/2). It must be √(2/π).",
            ("math.sqrt(2 / math.pi)", "math.sqrt(math.pi / 2)"),
        ),
        mistake(
            "root_times_pi",
            "The factor is √(2π). It must be √(2/π).",
            ("math.sqrt(2 / math.pi)", "math.sqrt(2 * math.pi)"),
        ),
        mistake(
            "root_half",
            "The factor is 1/√2, from the exact GELU. It must be √(2/π).",
            ("math.sqrt(2 / math.pi)", "math.sqrt(1 / 2)"),
        ),
        mistake(
            "root_rounded",
            "The factor is 0.8, which is √(2/π) rounded. Use math.sqrt(2 / math.pi).",
            ("math.sqrt(2 / math.pi)", "0.8"),
        ),
        mistake(
            "root_rounded_4",
            "The factor is 0.7979, which is √(2/π) rounded. Use math.sqrt(2 / math.pi).",
            ("math.sqrt(2 / math.pi)", "0.7979"),
        ),
        mistake(
            "factor_on_x",
            "√(2/π) multiplies x only. It must multiply the sum: √(2/π) (x + …).",
            ("* (x + 0.044715 * x * x * x)", "* x + 0.044715 * x * x * x"),
        ),
        mistake(
            "outside_tanh",
            "√(2/π) is outside tanh. It must be inside.",
            ("np.tanh(math.sqrt(2 / math.pi) * (x", "math.sqrt(2 / math.pi) * np.tanh((x"),
        ),
        mistake(
            "float64",
            "The result is float64 for float32 input: np.sqrt(2 / np.pi) is a float64 scalar. Use math.sqrt.",
            ("math.sqrt(2 / math.pi)", "np.sqrt(2 / np.pi)"),
        ),
        mistake(
            "in_place",
            "x is multiplied in place, so the caller's array changes. Write x = x * ..., not x *= ...",
            ("return " + GELU, f"x *= {GELU.replace('0.5 * x', '0.5')}\nreturn x"),
        ),
    ],
    "softmax": [
        mistake(
            "axis_0", "The sum is over axis 0. It must be over the last axis.", *softmax_over("axis=0, keepdims=True")
        ),
        mistake(
            "axis_2", "The sum is over axis -2. It must be over the last axis.", *softmax_over("axis=-2, keepdims=True")
        ),
        mistake(
            "axis_1",
            "The sum is over axis 1. It must be over the last axis.",
            *softmax_over("axis=min(1, x.ndim - 1), keepdims=True"),
        ),
        mistake("whole_array", "The sum is over the whole array. Each row must sum to 1.", *softmax_over("")),
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
            "minimum",
            "The minimum is subtracted. Large scores still overflow. Subtract the maximum.",
            ("x.max(", "np.where(np.isinf(x), 0, x).min("),
        ),
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
        mistake(
            "in_place",
            "The maximum is subtracted from x in place, so the caller's array changes.",
            ("y = x - x.max(axis=-1, keepdims=True)", "y = x\ny -= x.max(axis=-1, keepdims=True)"),
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
