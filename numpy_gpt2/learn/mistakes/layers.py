"""Mistakes in part 1: `layer_norm` and `gelu`."""

from __future__ import annotations

from ..source import Mistake, mistake

VARIANCE = "(centered * centered).mean(axis=-1, keepdims=True)"
CENTERED = "x - x.mean(axis=-1, keepdims=True)"
GELU = "0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))"


def over(axes: str) -> tuple[tuple[str, str], ...]:
    """Layer norm with the mean and the variance over other axes."""
    return (CENTERED, f"x - x.mean({axes})"), (VARIANCE, f"(centered * centered).mean({axes})")


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
            "no_brackets",
            "Only the mean is divided by the root: brackets are missing around x - mean.",
            ("centered / np.sqrt(variance + eps) * weight", "x - (x - centered) / np.sqrt(variance + eps) * weight"),
        ),
        mistake(
            "eps_times_weight",
            "eps * weight is added: brackets are missing around variance + eps.",
            ("np.sqrt(variance + eps) * weight", "np.sqrt(variance) + eps * weight"),
        ),
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
            "not_centered_eps_outside",
            "The mean is not subtracted, and eps is added to the standard deviation. It belongs inside the root.",
            ("centered / np.sqrt(variance + eps)", "x / (np.sqrt(variance) + eps)"),
        ),
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
            "channels_and_positions",
            "The mean and the variance are over channels and positions. Each position has its own, over the last axis.",
            *over("axis=tuple(range(-min(2, x.ndim), 0)), keepdims=True"),
        ),
        mistake(
            "axis_1",
            "The mean and the variance are over axis 1, the positions of a batch. They must be over the last axis.",
            *over("axis=1, keepdims=True"),
        ),
        mistake(
            "rms_norm",
            "The mean is not subtracted at all, as in RMS norm. It must be subtracted, in the variance, too.",
            (CENTERED, "x"),
        ),
        mistake(
            "eps_last",
            "eps is added after the division. It must be added to the variance, inside the root.",
            ("centered / np.sqrt(variance + eps)", "(centered / np.sqrt(variance) + eps)"),
        ),
        mistake(
            "only_mean_divided",
            "Only the mean is divided by the standard deviation. x - mean needs brackets: (x - mean) / deviation.",
            ("centered / np.sqrt(variance + eps)", "(x - x.mean(axis=-1, keepdims=True) / np.sqrt(variance + eps))"),
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
            "tanh_of_root",
            "tanh is closed too early: tanh(√(2/π)) is a number. The sum must be inside tanh, too.",
            ("np.tanh(math.sqrt(2 / math.pi) *", "np.tanh(math.sqrt(2 / math.pi)) *"),
            ("* x * x * x)))", "* x * x * x))"),
        ),
        mistake(
            "brackets_of_1",
            "x/2 is multiplied by 1 only, not by 1 + tanh(…): brackets are missing.",
            ("x * (1 + np", "x * 1 + (np"),
        ),
        mistake(
            "x_inside",
            "x multiplies tanh(…) only. It must multiply 1 + tanh(…).",
            ("0.5 * x * (1 + np", "0.5 * (1 + x * np"),
        ),
        mistake(
            "brackets_of_x",
            "This is (x + 0.044715) x³. It must be x + 0.044715 x³.",
            ("(x + 0.044715 * x * x * x)", "((x + 0.044715) * x * x * x)"),
        ),
        mistake("tan", "This is tan, the tangent. It must be tanh.", ("np.tanh", "np.tan")),
        mistake(
            "outside_tanh",
            "√(2/π) is outside tanh. It must be inside.",
            ("np.tanh(math.sqrt(2 / math.pi) * (x", "math.sqrt(2 / math.pi) * np.tanh((x"),
        ),
    ],
}
