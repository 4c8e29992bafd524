"""Mistakes in part 4: `logits_backward` and `cross_entropy_backward`."""

from __future__ import annotations

from ..source import Mistake, mistake

DX = "dy @ output_head(weights)"
DE = "dy.T @ x.reshape(-1, x.shape[-1])"

SOFTMAX = "dx = softmax(logits)"
TARGET = "dx[(*np.nonzero(counted), targets[counted])] -= 1"
IGNORED = "dx[~counted] = 0"
SCALED = "dx *= dy / np.count_nonzero(counted)"
MASK = "counted = targets != -1"

MISTAKES: dict[str, list[Mistake]] = {
    "logits_backward": [
        mistake("dx_transposed", "dx is dy Eᵀ. It must be dy E.", (DX, f"{DX}.T")),
        mistake(
            "de_transposed",
            "dE is xᵀ dy. It must be dyᵀ x, with the shape of E, (V, C).",
            (DE, "x.reshape(-1, x.shape[-1]).T @ dy"),
        ),
        mistake("de_not_transposed", "dE is dy x. It must be dyᵀ x.", (DE, "dy @ x.reshape(-1, x.shape[-1])")),
        mistake(
            "head_ignored",
            "lm_head.weight is not used. Where a model has one, it is the head: use output_head(weights).",
            ("output_head(weights)", 'weights["wte.weight"]'),
        ),
        mistake("de_mean", "dE is a mean over positions. It must be a sum.", (DE, f"{DE} / len(dy)")),
        mistake("de_mean_over_batch", "dE is divided by the batch size. It must be a sum.", (DE, f"{DE} / x.shape[0]")),
        mistake(
            "de_last_text",
            "dE is that of the last text of the batch only. It must be summed over all.",
            (DE, "dy[-x[-1].size // x.shape[-1] :].T @ x[-1].reshape(-1, x.shape[-1])"),
        ),
        mistake(
            "de_per_text",
            "dE has one matrix for each text of the batch. It must be their sum.",
            (DE, "np.atleast_2d(dy.reshape(*x.shape[:-1], -1)).swapaxes(-1, -2) @ np.atleast_2d(x)"),
        ),
        mistake("de_times_e", "dE contains the factor E. It is dyᵀ x.", (DE, f"{DE} * output_head(weights)")),
        mistake(
            "de_from_dx",
            "dE is dyᵀ dx. It must be dyᵀ x.",
            (DE, f"dy.T @ ({DX})"),
        ),
        mistake(
            "scaled",
            "dx is divided by √C. There is no such factor in logits.",
            (DX, f"{DX} / math.sqrt(x.shape[-1])"),
        ),
        mistake(
            "softmaxed",
            "dx is made with softmax of dy. dy is the gradient of the logits already.",
            (DX, "softmax(dy) @ output_head(weights)"),
        ),
        mistake(
            "last_only",
            "Only the last position counts. Every position has logits.",
            (
                "dy = dy.reshape",
                "if x.ndim > 1:\n    dy = dy * (np.arange(x.shape[-2]) == x.shape[-2] - 1)[:, None]\ndy = dy.reshape",
            ),
        ),
        mistake("dx_flat", "dx lost the axes of x: it must be reshaped to x.shape.", (".reshape(x.shape)", "")),
        mistake(
            "exchanged",
            "dx and dE are exchanged. The order is that of logits' arguments: dx, dE.",
            (f"({DX}).reshape(x.shape), {DE}", f"{DE}, ({DX}).reshape(x.shape)"),
        ),
        mistake(
            "arguments",
            "dy and x are exchanged: dy is the first argument.",
            ("dy = dy.reshape", "dy, x = x, dy\ndy = dy.reshape"),
        ),
    ],
    "cross_entropy_backward": [
        mistake(
            "no_n", "dx is not divided by N: the loss is a mean over the targets.", (" / np.count_nonzero(counted)", "")
        ),
        mistake(
            "ignored_in_n",
            "dx is divided by the number of all targets. Targets of -1 do not count in N.",
            ("np.count_nonzero(counted)", "targets.size"),
        ),
        mistake(
            "batch_size",
            "dx is divided by the batch size. It must be divided by N, the number of targets that are not -1.",
            ("np.count_nonzero(counted)", "len(targets)"),
        ),
        mistake(
            "length",
            "dx is divided by the number of positions. It must be divided by N, the number of targets that are not -1.",
            ("np.count_nonzero(counted)", "targets.shape[-1]"),
        ),
        mistake(
            "n_and_v",
            "dx is divided by N and by V. It must be divided by N only.",
            ("np.count_nonzero(counted)", "(np.count_nonzero(counted) * dx.shape[-1])"),
        ),
        mistake(
            "times_n",
            "dx is multiplied by N. It must be divided by N.",
            ("dy / np.count", "dy * np.count"),
        ),
        mistake(
            "n_twice",
            "dx is divided by N twice.",
            ("np.count_nonzero(counted)", "np.count_nonzero(counted) ** 2"),
        ),
        mistake(
            "target_not_divided",
            "softmax is divided by N, and the 1 at the target is not. Both must be.",
            ("])] -= 1", "])] -= np.count_nonzero(counted)"),
        ),
        mistake(
            "target_not_scaled",
            "softmax is multiplied by dy/N, and the 1 at the target is not. Both must be.",
            ("])] -= 1", "])] -= np.count_nonzero(counted) / dy"),
        ),
        mistake(
            "softmax_not_scaled",
            "The 1 at the target is multiplied by dy/N, and softmax is not. Both must be.",
            (TARGET, "dx *= np.count_nonzero(counted) / dy\n" + TARGET),
        ),
        mistake(
            "n_of_rows",
            "dx is divided by the number of targets in its own text. It must be divided by N, that of all texts.",
            ("np.count_nonzero(counted)", "counted.sum(axis=-1, keepdims=True)[..., None]"),
        ),
        mistake("no_dy", "dx is not multiplied by dy.", ("dx *= dy / np", "dx *= 1 / np")),
        mistake(
            "divided_by_dy", "dx is divided by dy. It must be multiplied by it.", ("dx *= dy / np", "dx *= 1 / dy / np")
        ),
        mistake(
            "ignored_rows",
            "Rows whose target is -1 are softmax. They must be 0: these targets are ignored.",
            (IGNORED, "pass"),
        ),
        mistake(
            "last_token",
            "A target of -1 is taken for the last token. It must be ignored: dx is 0 there.",
            (MASK, "counted = targets == targets"),
        ),
        mistake(
            "last_token_with_n",
            "Rows whose target is -1 count as the last token, but not in N. They must be 0.",
            (TARGET, "dx[(*np.indices(targets.shape), targets)] -= 1"),
            (IGNORED, "pass"),
        ),
        mistake(
            "first_token",
            "A target of -1 is counted as the token 0. It must be ignored: dx is 0 there.",
            (MASK, "targets = np.maximum(targets, 0)\ncounted = targets == targets"),
        ),
        mistake(
            "token_0_ignored",
            "Targets of 0 are ignored, too. Only -1 is.",
            (MASK, "counted = targets > 0"),
        ),
        mistake(
            "no_softmax", "softmax is missing: this is logits minus 1 at the target.", (SOFTMAX, "dx = logits.copy()")
        ),
        mistake("no_target", "The 1 at the target is not subtracted: this is softmax only.", (TARGET, "pass")),
        mistake("plus_target", "1 is added at the target. It must be subtracted.", ("])] -= 1", "])] += 1")),
        mistake(
            "sign",
            "The sign is wrong: dx is softmax minus 1 at the target. This is 1 at the target minus softmax.",
            (SCALED, f"{SCALED}\ndx = -dx"),
        ),
        mistake(
            "target_only",
            "dx is 0 at all tokens but the target. The other logits are in the sum of exp, so they have gradients.",
            (IGNORED, f"{IGNORED}\ndx = np.where(np.arange(dx.shape[-1]) == targets[..., None], dx, 0)"),
        ),
        mistake(
            "others_only",
            "dx is 0 at the target. It must be softmax - 1 there.",
            ("])] -= 1", "])] = 0"),
        ),
        mistake(
            "minus_1_at_target",
            "dx is -1/N at the target. It must be softmax - 1 there, divided by N.",
            ("])] -= 1", "])] = -1"),
        ),
        mistake(
            "of_probabilities",
            "This is the gradient with respect to the probabilities, -1/p. It must be that of the logits, p - 1.",
            (SOFTMAX, "p = softmax(logits)\ndx = np.zeros_like(p)"),
            (TARGET, "index = (*np.nonzero(counted), targets[counted])\ndx[index] = -1 / p[index]"),
        ),
        mistake(
            "softmax_twice",
            "softmax is applied twice.",
            (SOFTMAX, "dx = softmax(softmax(logits))"),
        ),
        mistake(
            "softmax_backward_too",
            "The gradient of softmax is applied to softmax minus 1. This difference already contains it.",
            (IGNORED, f"{IGNORED}\ndx = softmax_backward(dx, softmax(logits))"),
        ),
        mistake(
            "squared_error",
            "This is the gradient of a squared error. Cross-entropy's is softmax minus 1 at the target.",
            (IGNORED, f"{IGNORED}\ndx = 2 * softmax_backward(dx, softmax(logits))"),
        ),
        mistake(
            "sigmoid",
            "Each logit has its own sigmoid. softmax is over the whole row.",
            (SOFTMAX, "dx = 0.5 + 0.5 * np.tanh(logits / 2)"),
        ),
        mistake(
            "log_softmax",
            "1 is subtracted from the logarithm of softmax. It must be softmax itself.",
            (
                SOFTMAX,
                "dx = logits - logits.max(axis=-1, keepdims=True)\n"
                "dx -= np.log(np.exp(dx).sum(axis=-1, keepdims=True))",
            ),
        ),
        mistake(
            "over_positions",
            "softmax is over positions, axis -2. It must be over tokens, the last axis.",
            (SOFTMAX, "dx = softmax(logits.swapaxes(-1, -2)).swapaxes(-1, -2)"),
        ),
        mistake(
            "over_axis_0",
            "softmax is over axis 0. It must be over tokens, the last axis.",
            (SOFTMAX, "dx = softmax(logits.swapaxes(-1, 0)).swapaxes(-1, 0)"),
        ),
        mistake(
            "overflow",
            "The maximum is not subtracted in softmax. Large logits then overflow, and the result is nan.",
            (SOFTMAX, "dx = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)"),
        ),
        mistake(
            "shifted",
            "The targets are shifted by one. They are the next tokens already: row t predicts targets[t].",
            (MASK, "targets = np.concatenate([targets[..., 1:], targets[..., :1] * 0 - 1], axis=-1)\n" + MASK),
        ),
        mistake(
            "all_columns",
            "dx[:, targets] -= 1 changes whole columns. It must be one entry of each row: dx[np.arange(N), targets].",
            (TARGET, "dx[..., targets[counted]] -= 1"),
        ),
        mistake(
            "bits",
            "The unit is bits: dx is divided by ln 2. It must be nats.",
            (SCALED, SCALED.replace("np.count", "math.log(2) / np.count")),
        ),
        mistake(
            "float64",
            "The result is float64 for float32 logits: np.eye is float64. Give it a dtype, or subtract 1 in place.",
            (SCALED, f"{SCALED}\ndx = dx + np.zeros(dx.shape)"),
        ),
        mistake(
            "in_place",
            "1 is subtracted from the logits in place, so the caller's array changes.",
            (SOFTMAX, "dx = logits\ndx[...] = softmax(logits)"),
        ),
    ],
}
