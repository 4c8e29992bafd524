"""Mistakes in part 4: `gelu_backward`, `softmax_backward` and `linear_backward`."""

from __future__ import annotations

from ..source import Mistake, mistake

ROOT = "math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * 0.044715"
T = "np.tanh(x * (a + b * x * x))"
SLOPE = "(a + 3 * b * x * x)"
GELU = f"dy * 0.5 * (1 + t + x * (1 - t * t) * {SLOPE})"


SOFTMAX = "y * (dy - np.vecdot(dy, y)[..., None])"
SUM = "np.vecdot(dy, y)[..., None]"
DW = "x.reshape(-1, x.shape[-1]).T @ dy"


def constant(wrong: str) -> tuple[str, str]:
    """GELU's gradient with another number for √(2/π)."""
    return ROOT, f"{wrong}, {wrong} * 0.044715"


MISTAKES: dict[str, list[Mistake]] = {
    "gelu_backward": [
        mistake(
            "no_dy", "The slope of gelu is returned. It must be multiplied by dy: the chain rule.", ("dy * 0.5", "0.5")
        ),
        mistake(
            "forward",
            "This is dy * gelu(x). It must be dy times the derivative of gelu.",
            (GELU, "dy * gelu(x)"),
        ),
        mistake("of_dy", "This is gelu(dy). It must be dy times the derivative of gelu at x.", (GELU, "gelu(dy)")),
        mistake(
            "arguments",
            "dy and x are exchanged: dy is the first argument.",
            ("a, b =", "dy, x = x, dy\na, b ="),
        ),
        mistake(
            "exact",
            "This is the gradient of the exact GELU, with erf. It must be that of the tanh approximation.",
            (GELU, "gelu_exact_backward(dy, x)"),
        ),
        mistake(
            "sigmoid",
            "This is the gradient of x σ(1.702 x), another approximation. GPT-2's uses tanh.",
            (GELU, "(s := 1 / (1 + np.exp(-1.702 * x))) * dy * (1 + 1.702 * x * (1 - s))"),
        ),
        mistake(
            "silu",
            "This is the gradient of SiLU, x σ(x). GPT-2 has GELU.",
            (GELU, "(s := 1 / (1 + np.exp(-x))) * dy * (1 + x * (1 - s))"),
        ),
        mistake("relu", "This is the gradient of ReLU. GPT-2 has GELU.", (GELU, "relu_backward(dy, x)")),
        mistake(
            "first_term_only",
            "Only the first term of the product rule is there, dy (1 + t)/2. The slope of t is missing.",
            (f" + x * (1 - t * t) * {SLOPE}", ""),
        ),
        mistake(
            "second_term_only",
            "Only the second term of the product rule is there. The first one, dy (1 + t)/2, is missing.",
            ("(1 + t + x *", "(x *"),
        ),
        mistake("no_1", "The 1 in 1 + t is missing.", ("(1 + t + x", "(t + x")),
        mistake("no_t", "The t in 1 + t is missing.", ("(1 + t + x", "(1 + x")),
        mistake("minus_t", "The first term is 1 - t. It must be 1 + t.", ("(1 + t + x", "(1 - t + x")),
        mistake("minus", "The two terms are subtracted. They must be added.", ("(1 + t + x", "(1 + t - x")),
        mistake("no_half", "The factor 1/2 is missing.", ("dy * 0.5 *", "dy *")),
        mistake(
            "dy_of_first_only",
            "dy multiplies only the first term of the product rule. It belongs to both.",
            (GELU, f"dy * 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * {SLOPE}"),
        ),
        mistake(
            "dy_of_second_only",
            "dy multiplies only the second term of the product rule. It belongs to both.",
            (GELU, f"0.5 * (1 + t) + dy * 0.5 * x * (1 - t * t) * {SLOPE}"),
        ),
        mistake(
            "half_of_first",
            "The factor 1/2 is missing in the second term. It belongs to both.",
            ("+ x * (1", "+ 2 * x * (1"),
        ),
        mistake(
            "half_of_second",
            "The factor 1/2 is missing in the first term. It belongs to both.",
            ("(1 + t + x", "(2 * (1 + t) + x"),
        ),
        mistake(
            "no_x", "The factor x is missing in the second term: x times the slope of t.", ("x * (1 - t", "(1 - t")
        ),
        mistake("t_not_squared", "The slope of tanh is 1 - t². This is 1 - t.", ("(1 - t * t)", "(1 - t)")),
        mistake("plus_square", "The slope of tanh is 1 - t². This is 1 + t².", ("(1 - t * t)", "(1 + t * t)")),
        mistake(
            "sigmoid_slope",
            "The slope of tanh is 1 - t². t (1 - t) is that of the sigmoid.",
            ("(1 - t * t)", "t * (1 - t)"),
        ),
        mistake("no_slope", "The slope of tanh, 1 - t², is missing.", (" * (1 - t * t)", "")),
        mistake(
            "slope_of_x",
            "The slope of tanh is 1 - tanh(x)². It must be taken at the whole argument: 1 - t².",
            ("(1 - t * t)", "(1 - np.tanh(x) ** 2)"),
        ),
        mistake(
            "no_inner",
            "The slope of what is inside tanh is missing: √(2/π) (1 + 3 · 0.044715 x²).",
            (f" * {SLOPE}", ""),
        ),
        mistake("inner_without_cube", "The slope of 0.044715 x³ is missing.", (f"{SLOPE}", "a")),
        mistake("inner_without_1", "The slope of x inside tanh, 1, is missing.", (f"{SLOPE}", "(3 * b * x * x)")),
        mistake("no_3", "The slope of x³ is 3 x². The 3 is missing.", ("3 * b", "b")),
        mistake("slope_2", "The slope of x³ is 3 x². This is 2 x².", ("3 * b", "2 * b")),
        mistake("slope_x", "The slope of x³ is 3 x². This is 3 x.", (SLOPE, "(a + 3 * b * x)")),
        mistake("slope_cube", "The slope of x³ is 3 x². This is 3 x³.", (SLOPE, "(a + 3 * b * x * x * x)")),
        mistake(
            "minus_cube", "The slope of 0.044715 x³ is subtracted. It must be added.", (SLOPE, "(a - 3 * b * x * x)")
        ),
        mistake(
            "inner_without_root",
            "√(2/π) is missing in the slope of what is inside tanh.",
            (f"{SLOPE}", "(1 + 3 * 0.044715 * x * x)"),
        ),
        mistake(
            "inner_half_root",
            "√(2/π) multiplies only the 1 in the slope of what is inside tanh. It belongs to both terms.",
            (f"{SLOPE}", "(a + 3 * 0.044715 * x * x)"),
        ),
        mistake("t_without_cube", "The term with x³ is missing in t.", (T, "np.tanh(a * x)")),
        mistake("t_square", "In t, x² stands where x³ must be.", (T, "np.tanh(a * x + b * x * x)")),
        mistake("t_without_root", "√(2/π) is missing in t.", (T, "np.tanh(x + 0.044715 * x * x * x)")),
        mistake("constant_10", "The constant is 0.44715. It must be 0.044715.", ("0.044715", "0.44715")),
        mistake("constant_digit", "The constant is 0.04715. It must be 0.044715.", ("0.044715", "0.04715")),
        mistake("constant_rounded", "The constant is 0.0447. It must be 0.044715.", ("0.044715", "0.0447")),
        mistake("no_root", "The factor is 2/π. It must be its root, √(2/π).", constant("(2 / math.pi)")),
        mistake("root_inverse", "The factor is √(π/2). It must be √(2/π).", constant("math.sqrt(math.pi / 2)")),
        mistake(
            "root_of_2", "The factor is √2/π. The root must cover π, too: √(2/π).", constant("math.sqrt(2) / math.pi")
        ),
        mistake(
            "root_of_pi",
            "The factor is 2/√π. The root must cover the 2, too: √(2/π).",
            constant("2 / math.sqrt(math.pi)"),
        ),
        mistake("root_rounded", "√(2/π) is rounded to 0.8. Use math.sqrt(2 / math.pi).", constant("0.8")),
        mistake("root_rounded_4", "√(2/π) is rounded to 0.7979. Use math.sqrt(2 / math.pi).", constant("0.7979")),
        mistake(
            "exponential",
            "The result is nan for large x, where exp overflows: inf / inf. Use np.tanh.",
            (T, "(np.exp(u := x * (a + b * x * x)) - np.exp(-u)) / (np.exp(u) + np.exp(-u))"),
        ),
        mistake(
            "in_place",
            "dy is multiplied in place, so the caller's array changes.",
            (f"return {GELU}", f"dy *= {GELU.removeprefix('dy * ')}\nreturn dy"),
        ),
    ],
    "softmax_backward": [
        mistake(
            "diagonal",
            "Only the diagonal is there, y (1 - y) dy, as for a sigmoid. Each y depends on all x of its row.",
            (SOFTMAX, "y * (1 - y) * dy"),
        ),
        mistake(
            "no_sum", "This is y * dy. The sum of dy * y over the row must be subtracted from dy.", (f" - {SUM}", "")
        ),
        mistake(
            "off_diagonal",
            "Only the terms with i ≠ j are there. The term with i = j is missing: y (1 - y) dy.",
            (f"dy - {SUM}", f"dy * y - {SUM}"),
        ),
        mistake("no_y", "The outer factor y is missing: dx = y * (dy - sum).", (SOFTMAX, f"dy - {SUM}")),
        mistake(
            "sum_without_y",
            "This is y * dy minus the sum of dy * y. The sum must be multiplied by y, too.",
            (SOFTMAX, f"y * dy - {SUM}"),
        ),
        mistake("y_twice", "The outer factor is y². It must be y.", (SOFTMAX, f"y * {SOFTMAX}")),
        mistake("plus", "The sum of dy * y is added. It must be subtracted.", (f"dy - {SUM}", f"dy + {SUM}")),
        mistake("sign", "The sign is wrong: dx is y * (dy - sum).", (SOFTMAX, f"-{SOFTMAX}")),
        mistake(
            "sum_of_dy",
            "The sum is that of dy. It must be that of dy * y.",
            (SUM, "dy.sum(axis=-1, keepdims=True)"),
        ),
        mistake(
            "mean",
            "The mean of dy * y is subtracted. It must be the sum over the row.",
            (SUM, "(dy * y).mean(axis=-1, keepdims=True)"),
        ),
        mistake(
            "mean_of_dy",
            "The mean of dy is subtracted. It must be the sum of dy * y.",
            (SUM, "dy.mean(axis=-1, keepdims=True)"),
        ),
        mistake(
            "sum_of_squares",
            "The sum is that of y². It must be that of dy * y.",
            (SUM, "np.vecdot(y, y)[..., None]"),
        ),
        mistake("not_summed", "dy * y is subtracted without a sum over the row.", (SUM, "dy * y"), same_as="diagonal"),
        mistake("y_for_sum", "y is subtracted. It must be the sum of dy * y over the row.", (SUM, "y")),
        mistake(
            "axis_2",
            "The sum is over axis -2. It must be over the last axis, as in softmax.",
            (SUM, "(dy * y).sum(axis=max(-2, -y.ndim), keepdims=True)"),
        ),
        mistake(
            "axis_0",
            "The sum is over axis 0. It must be over the last axis, as in softmax.",
            (SUM, "(dy * y).sum(axis=0, keepdims=True)"),
        ),
        mistake(
            "axis_1",
            "The sum is over axis 1. It must be over the last axis, as in softmax.",
            (SUM, "(dy * y).sum(axis=min(1, y.ndim - 1), keepdims=True)"),
        ),
        mistake("whole_array", "The sum is over the whole array. Each row has its own.", (SUM, "(dy * y).sum()")),
        mistake("keepdims", "The sum lost its last axis: keepdims=True is missing.", (SUM, "np.vecdot(dy, y)")),
        mistake(
            "log_softmax",
            "This is the gradient of log-softmax, dy - y * sum(dy).",
            (SOFTMAX, "dy - y * dy.sum(axis=-1, keepdims=True)"),
        ),
        mistake(
            "cross_entropy", "This is y - dy, which is for cross-entropy and softmax together.", (SOFTMAX, "y - dy")
        ),
        mistake(
            "softmax_again",
            "softmax is applied to y. y is the result of softmax already.",
            (SOFTMAX, "(p := softmax(y)) * (dy - np.vecdot(dy, p)[..., None])"),
        ),
        mistake(
            "arguments",
            "dy and y are exchanged: dy is the first argument.",
            (SOFTMAX, "dy * (y - np.vecdot(dy, y)[..., None])"),
        ),
        mistake("no_dy", "dy is not used: this is y (1 - y).", (SOFTMAX, "y * (1 - y)")),
        mistake(
            "in_place",
            "dy is changed in place, so the caller's array changes.",
            (f"return {SOFTMAX}", f"dy -= {SUM}\ndy *= y\nreturn dy"),
        ),
    ],
    "linear_backward": [
        mistake(
            "dx_not_transposed",
            "dx is dy W. It must be dy Wᵀ: dx[i] is the sum over j of dy[j] W[i, j].",
            ("dy @ weight.T", "dy @ weight"),
        ),
        mistake(
            "dw_transposed",
            "dW is dyᵀ x. It must be xᵀ dy, with the shape of W.",
            (DW, "dy.T @ x.reshape(-1, x.shape[-1])"),
        ),
        mistake(
            "dw_not_transposed",
            "dW is x dy. It must be xᵀ dy.",
            (DW, "x.reshape(-1, x.shape[-1]) @ dy"),
        ),
        mistake(
            "dx_reversed", "dx is W dy. It must be dy Wᵀ: positions come first.", ("(dy @ weight.T)", "(weight @ dy)")
        ),
        mistake(
            "dw_mean",
            "dW is a mean over positions. It must be a sum.",
            (").T @ dy", ").T @ dy / len(dy)"),
        ),
        mistake("db_mean", "db is a mean over positions. It must be a sum.", ("dy.sum(axis=0)", "dy.mean(axis=0)")),
        mistake(
            "means",
            "dW and db are means over positions. They must be sums.",
            (").T @ dy, dy.sum(axis=0)", ").T @ dy / len(dy), dy.mean(axis=0)"),
        ),
        mistake(
            "means_over_batch",
            "dW and db are divided by the batch size. They must be sums.",
            (").T @ dy, dy.sum(axis=0)", ").T @ dy / x.shape[0], dy.sum(axis=0) / x.shape[0]"),
        ),
        mistake(
            "db_over_batch",
            "db is summed over axis 0 only. All axes but the last must be summed.",
            ("dy.sum(axis=0)", "dy.reshape(*x.shape[:-1], -1).sum(axis=0)"),
        ),
        mistake(
            "db_over_n",
            "db is summed over the last axis. It must be summed over positions: b has N numbers.",
            ("dy.sum(axis=0)", "dy.sum(axis=-1)"),
        ),
        mistake(
            "db_of_all", "db is one number, the sum of all dy. Each b has its own sum.", ("dy.sum(axis=0)", "dy.sum()")
        ),
        mistake(
            "db_not_summed",
            "db is dy. It must be the sum over positions, with the shape of b.",
            ("dy.sum(axis=0)", "dy.reshape(*x.shape[:-1], -1)"),
        ),
        mistake(
            "db_times_bias",
            "db contains the factor bias. It is the sum of dy.",
            ("dy.sum(axis=0)", "bias * dy.sum(axis=0)"),
        ),
        mistake(
            "dw_last_text",
            "dW is that of the last text of the batch only. It must be summed over all.",
            (
                DW,
                "x[-1].reshape(-1, x.shape[-1]).T @ dy[-x[-1].size // x.shape[-1] :]",
            ),
        ),
        mistake(
            "dw_per_text",
            "dW has one matrix for each text of the batch. It must be their sum.",
            (
                DW,
                "np.atleast_2d(x).swapaxes(-1, -2) @ np.atleast_2d(dy.reshape(*x.shape[:-1], -1))",
            ),
        ),
        mistake(
            "dw_from_dx",
            "dW is dxᵀ dy. It must be xᵀ dy.",
            ("x.reshape(-1, x.shape[-1]).T", "dx.reshape(-1, x.shape[-1]).T"),
        ),
        mistake("dw_of_weight", "dW contains the factor W. It is xᵀ dy.", (").T @ dy", ").T @ dy * weight")),
        mistake("dx_plus_bias", "dx contains bias. It is dy Wᵀ only.", ("(dy @ weight.T)", "((dy - bias) @ weight.T)")),
        mistake(
            "dx_times_x", "dx contains the factor x. It is dy Wᵀ only.", (".reshape(x.shape)", ".reshape(x.shape) * x")
        ),
        mistake("dx_flat", "dx lost the axes of x: it must be reshaped to x.shape.", (".reshape(x.shape)", "")),
        mistake(
            "order",
            "The order is dW, db, dx. It must be that of linear's arguments: dx, dW, db.",
            (
                "return dx, x.reshape(-1, x.shape[-1]).T @ dy, dy.sum(axis=0)",
                "return x.reshape(-1, x.shape[-1]).T @ dy, dy.sum(axis=0), dx",
            ),
        ),
        mistake(
            "exchanged",
            "dx and dW are exchanged. The order is that of linear's arguments: dx, dW, db.",
            (
                "return dx, x.reshape(-1, x.shape[-1]).T @ dy,",
                "return x.reshape(-1, x.shape[-1]).T @ dy, dx,",
            ),
        ),
        mistake(
            "arguments",
            "dy and x are exchanged: dy is the first argument.",
            ("dy = dy.reshape", "dy, x = x, dy\ndy = dy.reshape"),
        ),
    ],
}
