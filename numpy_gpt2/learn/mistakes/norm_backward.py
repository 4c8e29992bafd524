"""Mistakes in part 4: `layer_norm_backward`."""

from __future__ import annotations

from ..source import Mistake, mistake

CENTERED = "n = x - x.mean(axis=-1, keepdims=True)"
VARIANCE = "np.vecdot(n, n)[..., None] / x.shape[-1]"
NORMALIZED = "n *= inverse_deviation"
MEAN = "dn.mean(axis=-1, keepdims=True)"
PROJECTION = "(np.vecdot(dn, n)[..., None] / x.shape[-1])"
DX = f"(dn - {MEAN} - n * {PROJECTION}) * inverse_deviation"
DWEIGHT = "(dy * n).sum(axis=positions)"
DBIAS = "dy.sum(axis=positions)"


def means_over(axes: str) -> tuple[tuple[str, str], ...]:
    """Layer norm's gradient with the two means of dn over other axes."""
    return (MEAN, f"dn.mean({axes})"), (PROJECTION, f"(dn * n).mean({axes})")


MISTAKES: dict[str, list[Mistake]] = {
    "layer_norm_backward": [
        mistake(
            "no_mean",
            "The mean of dn is not subtracted. It is there because the mean of x depends on every x of the position.",
            (f" - {MEAN}", ""),
        ),
        mistake(
            "no_projection",
            "n * mean(dn * n) is not subtracted. It is there because the deviation depends on every x of the position.",
            (f" - n * {PROJECTION}", ""),
        ),
        mistake(
            "constants",
            "The mean and the deviation are treated as constants. They depend on x, so two means are subtracted from"
            " dn.",
            (DX, "dn * inverse_deviation"),
        ),
        mistake("no_dn", "dn itself is missing in dx: only the two means are there.", (f"dn - {MEAN}", f"-{MEAN}")),
        mistake("plus_mean", "The mean of dn is added. It must be subtracted.", (f"dn - {MEAN}", f"dn + {MEAN}")),
        mistake(
            "plus_projection",
            "n * mean(dn * n) is added. It must be subtracted.",
            (f" - n * {PROJECTION}", f" + n * {PROJECTION}"),
        ),
        mistake(
            "projection_without_n",
            "mean(dn * n) is subtracted without the factor n.",
            (f"n * {PROJECTION}", PROJECTION),
        ),
        mistake(
            "mean_of_dn_times_n",
            "n * mean(dn) is subtracted. It must be n * mean(dn * n).",
            (PROJECTION, "dn.mean(axis=-1, keepdims=True) * 1"),
        ),
        mistake(
            "projection_on_x",
            "The second mean is x * mean(dn * x). It must be with n, the normalized x.",
            (f"n * {PROJECTION}", "x * (dn * x).mean(axis=-1, keepdims=True)"),
        ),
        mistake(
            "projection_on_centered",
            "The second mean is with x - mean for n. It must be with n, which is also divided by the deviation.",
            (f"n * {PROJECTION}", f"n * {PROJECTION} / inverse_deviation**2"),
        ),
        mistake(
            "half_centered",
            "One n in n * mean(dn * n) is x - mean. Both must be divided by the deviation.",
            (f"n * {PROJECTION}", f"n * {PROJECTION} / inverse_deviation"),
        ),
        mistake(
            "cubed_deviation",
            "n * mean(dn * n) is divided by the deviation three times. With n for x - mean, once is enough.",
            (f"n * {PROJECTION}", f"n * {PROJECTION} * inverse_deviation**2"),
        ),
        mistake(
            "sums",
            "The two means of dn are sums. They must be divided by C.",
            (MEAN, "dn.sum(axis=-1, keepdims=True)"),
            (PROJECTION, "(dn * n).sum(axis=-1, keepdims=True)"),
        ),
        mistake(
            "sum_of_dn",
            "The first mean is the sum of dn. It must be divided by C.",
            (MEAN, "dn.sum(axis=-1, keepdims=True)"),
        ),
        mistake(
            "sum_of_products",
            "The second mean is the sum of dn * n. It must be divided by C.",
            (PROJECTION, "(dn * n).sum(axis=-1, keepdims=True)"),
        ),
        mistake(
            "times_c",
            "dx is C times too large. In C * dn - sum(dn) - n * sum(dn * n), all must be divided by C.",
            (f"{DX}", f"{DX} * x.shape[-1]"),
        ),
        mistake(
            "over_positions",
            "The two means of dn are over positions, axis -2. They must be over channels, axis -1.",
            *means_over("axis=-2, keepdims=True"),
        ),
        mistake(
            "over_batch",
            "The two means of dn are over axis 0. They must be over channels, axis -1.",
            *means_over("axis=0, keepdims=True"),
        ),
        mistake(
            "over_all",
            "The two means of dn are over the whole array. Each position has its own, over channels.",
            *means_over(""),
        ),
        mistake(
            "mean_of_dy",
            "The means are those of dy. They must be those of dn = dy * weight.",
            (MEAN, "dy.mean(axis=-1, keepdims=True)"),
            (PROJECTION, "(dy * n).mean(axis=-1, keepdims=True)"),
        ),
        mistake(
            "first_mean_of_dy",
            "The first mean is that of dy. It must be that of dn = dy * weight.",
            (MEAN, "dy.mean(axis=-1, keepdims=True)"),
        ),
        mistake(
            "second_mean_of_dy",
            "The second mean is that of dy * n. It must be that of dn * n, where dn = dy * weight.",
            (PROJECTION, "(dy * n).mean(axis=-1, keepdims=True)"),
        ),
        mistake(
            "projection_on_y",
            "The second mean is with layer norm's result. It must be with n, before weight and bias.",
            (f"n * {PROJECTION}", "(y := n * weight + bias) * (dn * y).mean(axis=-1, keepdims=True)"),
        ),
        mistake(
            "residual",
            "dy is added to dx. The direct path around layer norm belongs to `block_backward`.",
            (DX, f"dy + {DX}"),
        ),
        mistake("no_weight", "weight is missing in dx: dn is dy * weight.", ("dn = dy * weight", "dn = dy")),
        mistake(
            "divided_by_weight",
            "dy is divided by weight. It must be multiplied: dn = dy * weight.",
            ("dn = dy * weight", "dn = dy / weight"),
        ),
        mistake(
            "weight_last",
            "weight multiplies dx at the end. It must multiply dy first, because the means are those of dy * weight.",
            ("dn = dy * weight", "dn = dy"),
            (DX, f"{DX} * weight"),
        ),
        mistake(
            "no_deviation",
            "dx is not divided by the deviation.",
            (f"{PROJECTION}) * inverse_deviation", PROJECTION + ")"),
        ),
        mistake(
            "times_deviation",
            "dx is multiplied by the deviation. It must be divided by it.",
            (f"{PROJECTION}) * inverse_deviation", f"{PROJECTION}) / inverse_deviation"),
        ),
        mistake(
            "divided_by_variance",
            "dx is divided by the variance. It must be divided by its root, the deviation.",
            (f"{PROJECTION}) * inverse_deviation", f"{PROJECTION}) * inverse_deviation**2"),
        ),
        mistake(
            "variance_for_deviation",
            "n and dx are divided by the variance. Both must be divided by its root, the deviation.",
            (f"np.sqrt({VARIANCE} + eps)", f"({VARIANCE} + eps)"),
        ),
        mistake(
            "not_normalized",
            "n is x - mean everywhere. It must be divided by the deviation, too.",
            (NORMALIZED, "pass"),
        ),
        mistake(
            "dweight_not_normalized",
            "dweight is the sum of dy * (x - mean). It must be of dy * n, where n is also divided by the deviation.",
            (DWEIGHT, "(dy * n / inverse_deviation).sum(axis=positions)"),
        ),
        mistake(
            "dweight_from_x",
            "dweight is the sum of dy * x. It must be of dy * n, the normalized x.",
            (DWEIGHT, "(dy * x).sum(axis=positions)"),
        ),
        mistake(
            "dweight_from_y",
            "dweight is the sum of dy * y, with layer norm's result. It must be of dy * n, without weight and bias.",
            (DWEIGHT, "(dy * (n * weight + bias)).sum(axis=positions)"),
        ),
        mistake(
            "dweight_with_weight",
            "dweight contains the factor weight. It is the sum of dy * n.",
            (DWEIGHT, "(dn * n).sum(axis=positions)"),
        ),
        mistake(
            "dweight_is_dbias",
            "dweight is the sum of dy. It must be of dy * n; dbias is the sum of dy.",
            (DWEIGHT, DBIAS),
        ),
        mistake(
            "dbias_with_weight",
            "dbias is the sum of dy * weight. It must be the sum of dy.",
            (DBIAS, "dn.sum(axis=positions)"),
        ),
        mistake(
            "dbias_with_n",
            "dbias is the sum of dy * n, which is dweight. It must be the sum of dy.",
            (f"{DWEIGHT}, {DBIAS}", f"{DWEIGHT}, {DWEIGHT}"),
        ),
        mistake(
            "exchanged",
            "dweight and dbias are exchanged. The order is that of layer_norm's arguments: dx, dweight, dbias.",
            (f"{DWEIGHT}, {DBIAS}", f"{DBIAS}, {DWEIGHT}"),
        ),
        mistake(
            "means",
            "dweight and dbias are means over positions. They must be sums.",
            (DWEIGHT, "(dy * n).mean(axis=positions)"),
            (DBIAS, "dy.mean(axis=positions)"),
        ),
        mistake(
            "dweight_mean",
            "dweight is a mean over positions. It must be a sum.",
            (DWEIGHT, "(dy * n).mean(axis=positions)"),
        ),
        mistake("dbias_mean", "dbias is a mean over positions. It must be a sum.", (DBIAS, "dy.mean(axis=positions)")),
        mistake(
            "means_over_batch",
            "dweight and dbias are divided by the batch size. They are sums over all positions.",
            (DWEIGHT, f"{DWEIGHT} / x.shape[0]"),
            (DBIAS, f"{DBIAS} / x.shape[0]"),
        ),
        mistake(
            "sum_over_batch",
            "dweight and dbias are summed over axis 0 only. All axes but the last must be summed.",
            ("tuple(range(x.ndim - 1))", "0"),
        ),
        mistake(
            "sum_over_positions",
            "dweight and dbias are summed over axis -2 only. All axes but the last must be summed.",
            ("tuple(range(x.ndim - 1))", "-2"),
        ),
        mistake(
            "sum_over_channels",
            "dweight and dbias are summed over channels. They must be summed over positions: weight has C numbers.",
            ("tuple(range(x.ndim - 1))", "-1"),
        ),
        mistake(
            "not_summed",
            "dweight and dbias are not summed over positions.",
            (f"{DWEIGHT}, {DBIAS}", "dy * n, dy"),
        ),
        mistake(
            "ddof",
            "The variance is divided by C - 1. It must be divided by C, as in layer_norm.",
            (VARIANCE, "x.var(axis=-1, keepdims=True, ddof=1)"),
        ),
        mistake("no_eps", "eps is missing.", (" + eps", "")),
        mistake("eps_fixed", "eps is always 1e-5. It must be the argument eps.", (" + eps", " + 1e-5")),
        mistake(
            "eps_outside",
            "eps is added to the deviation. It must be added to the variance, inside the root.",
            (f"np.sqrt({VARIANCE} + eps)", f"(np.sqrt({VARIANCE}) + eps)"),
        ),
        mistake("not_centered", "The mean is not subtracted from x in n.", (CENTERED, "n = x.copy()")),
        mistake(
            "statistics_of_all",
            "The mean and the deviation are those of the whole array. Each position has its own.",
            (CENTERED, "n = x - x.mean()"),
            (VARIANCE, "(n * n).mean()"),
        ),
        mistake(
            "arguments",
            "dy and x are exchanged: dy is the first argument.",
            (CENTERED, f"dy, x = x, dy\n{CENTERED}"),
        ),
        mistake(
            "keepdims",
            "The two means of dn lost their last axis: keepdims=True is missing.",
            *means_over("axis=-1"),
        ),
        mistake(
            "statistics_keepdims",
            "The mean and the variance of x lost their last axis: keepdims=True is missing.",
            (CENTERED, "n = x - x.mean(axis=-1)"),
            (VARIANCE, "(n * n).mean(axis=-1)"),
        ),
    ],
}
