"""Mistakes in part 1: `logits` and `cross_entropy`."""

from __future__ import annotations

from ..source import Mistake, mistake

HEAD = "(x.reshape(-1, x.shape[-1]) @ head.T).reshape(*x.shape[:-1], -1)"
LOSSES = "(log_normalizer - x[np.arange(len(targets)), targets])"
LOSS = f"{LOSSES}.mean()"
MEAN_OF_ROWS = """\
rows = np.nonzero(counted)[0] if counted.ndim > 1 else np.zeros(len(losses), int)
return np.mean([losses[rows == row].mean() for row in set(rows.tolist())])"""

MISTAKES: dict[str, list[Mistake]] = {
    "logits": [
        mistake(
            "softmaxed",
            "This is softmax of the logits. The logits are the scores before it.",
            (HEAD, f"softmax({HEAD})"),
        ),
        mistake(
            "log_softmax",
            "This is the logarithm of softmax. The logits are the scores before it.",
            (HEAD, f"np.log(softmax({HEAD}))"),
        ),
        mistake(
            "head_ignored",
            "lm_head.weight is not used. Where a model has one, it is the head: use output_head(weights).",
            ("output_head(weights)", 'weights["wte.weight"]'),
        ),
        mistake(
            "scaled",
            "The scores are divided by √C. GPT-2 does not do this.",
            (HEAD, HEAD + " / math.sqrt(x.shape[-1])"),
        ),
        mistake(
            "last_only",
            "Only the last position has logits. Every position must have them.",
            ("return (x.", "x = x[..., -1:, :]\nreturn (x."),
        ),
        mistake(
            "flat",
            "The result lost the axes of x: it must be reshaped to (..., V).",
            (".reshape(*x.shape[:-1], -1)", ""),
        ),
        mistake(
            "position_head",
            "x is multiplied with another x. It must be multiplied with the head.",
            ("@ head.T", "@ x.reshape(-1, x.shape[-1]).T"),
        ),
        mistake(
            "normalized_head",
            "The rows of the head are divided by their length, as for a cosine. GPT-2 does not do this.",
            ("@ head.T", "@ (head / np.linalg.norm(head, axis=-1, keepdims=True)).T"),
        ),
    ],
    "cross_entropy": [
        mistake("sum", "This is the sum over targets. It must be the mean.", (LOSS, LOSS.replace(".mean()", ".sum()"))),
        mistake(
            "ignored_in_n",
            "The sum is divided by all targets. Targets of -1 do not count in N.",
            (LOSS, LOSS.replace(".mean()", ".sum() / counted.size")),
        ),
        mistake(
            "last_token",
            "A target of -1 is counted as the last token, as NumPy counts from the end. It must be ignored: it is -1"
            " here, not PyTorch's ignore_index of -100.",
            (
                "targets = np.asarray(targets)",
                "targets = np.asarray(targets)\ntargets = targets + logits.shape[-1] * (targets < 0)",
            ),
        ),
        mistake(
            "last_token_of_first",
            "Targets of -1 are counted as the token 0. They must be ignored.",
            ("counted = targets != -1", "targets = np.maximum(targets, 0)\ncounted = targets == targets"),
        ),
        mistake("sign", "The sign is wrong: the loss is minus the mean of the log-probabilities.", (LOSS, "-" + LOSS)),
        mistake("log_2", "The unit is bits, log₂. It must be nats, ln.", (LOSS, LOSS + " / math.log(2)")),
        mistake("log_10", "The logarithm is log₁₀. It must be ln.", (LOSS, LOSS + " / math.log(10)")),
        mistake("perplexity", "This is the perplexity, exp(loss). It must be the loss.", (LOSS, f"np.exp({LOSS})")),
        mistake(
            "no_log",
            "This is 1 - the mean probability of the targets. It must be the mean of -ln p.",
            (LOSS, "1 - np.exp(x[np.arange(len(targets)), targets] - log_normalizer).mean()"),
        ),
        mistake(
            "mean_probability",
            "This is -ln of the mean probability. It must be the mean of -ln p.",
            (LOSS, "-np.log(np.exp(x[np.arange(len(targets)), targets] - log_normalizer).mean())"),
        ),
        mistake(
            "no_normalizer",
            "softmax is missing: this is minus the mean of the targets' logits.",
            ("    x = x - x.max(axis=-1, keepdims=True)", "    pass"),
            ("log_normalizer = np.log(np.exp(x).sum(axis=-1))", "log_normalizer = 0"),
        ),
        mistake(
            "no_maximum",
            "The maximum is not subtracted. Large logits then overflow.",
            ("x = x - x.max(axis=-1, keepdims=True)", "pass"),
        ),
        mistake(
            "log_of_softmax",
            "This is ln(softmax(x)). Where softmax is 0, the result is inf. Write the logarithm as x - ln Σ exp(x).",
            (LOSS, "-np.log(softmax(x)[np.arange(len(targets)), targets]).mean()"),
        ),
        *(
            mistake(
                f"log_of_softmax_plus_{eps}",
                f"{eps} is added inside the logarithm. Write it as x - ln Σ exp(x), which needs no such number.",
                (LOSS, f"-np.log(softmax(x)[np.arange(len(targets)), targets] + {eps}).mean()"),
            )
            for eps in ("1e-5", "1e-6", "1e-7", "1e-8", "1e-9", "1e-10", "1e-12", "1e-15")
        ),
        *(
            mistake(
                f"clipped_at_{eps}",
                f"Probabilities below {eps} are set to it. Write the logarithm as x - ln Σ exp(x), without a limit.",
                (LOSS, f"-np.log(np.maximum(softmax(x)[np.arange(len(targets)), targets], {eps})).mean()"),
            )
            for eps in ("1e-5", "1e-6", "1e-7", "1e-8", "1e-9", "1e-10", "1e-12")
        ),
        mistake(
            "log_2_normalizer",
            "The logarithm of the sum is log₂. It must be ln, np.log.",
            ("np.log(np.exp(x).sum(axis=-1))", "np.log2(np.exp(x).sum(axis=-1))"),
        ),
        mistake(
            "log_10_normalizer",
            "The logarithm of the sum is log₁₀. It must be ln, np.log.",
            ("np.log(np.exp(x).sum(axis=-1))", "np.log10(np.exp(x).sum(axis=-1))"),
        ),
        mistake(
            "divided_by_rows",
            "The sum is divided by the number of rows, len(logits). It must be divided by the number of targets.",
            (LOSS, LOSS.replace(".mean()", ".sum() / len(logits)")),
        ),
        mistake(
            "softmax_twice", "softmax is applied twice.", ("x = x - x.max(axis=-1, keepdims=True)", "x = softmax(x)")
        ),
        mistake(
            "shifted",
            "The targets are shifted by one. They are the next tokens already: row t predicts targets[t].",
            ("targets = np.asarray(targets)", "targets = np.asarray(targets)[..., 1:]\nlogits = logits[..., :-1, :]"),
        ),
        mistake(
            "mean_of_rows",
            "This is the mean of each row's mean. It must be the mean over all targets.",
            (f"return {LOSS}", f"losses = {LOSSES}\n{MEAN_OF_ROWS}"),
        ),
        mistake(
            "per_token",
            "The loss of each target is returned. It must be their mean.",
            (LOSS, LOSSES),
        ),
        mistake(
            "over_v", "The mean is over the vocabulary, too: the loss is divided by V.", (LOSS, LOSS + " / x.shape[-1]")
        ),
        mistake(
            "all_columns",
            "x[:, targets] picks a matrix. It must be one number per row: x[np.arange(N), targets].",
            ("x[np.arange(len(targets)), targets]", "x[:, targets]"),
        ),
    ],
}
