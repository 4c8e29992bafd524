"""Mistakes in part 5: AdamW."""

from __future__ import annotations

from ..source import Mistake, mistake

M = "m += (1 - beta1) * (gradient - m)"
V = "v += (1 - beta2) * (gradient * gradient - v)"
DECAY = "weights *= 1 - lr * weight_decay"
STEP = "weights -= lr / (1 - beta1**step) * m / (np.sqrt(v / (1 - beta2**step)) + 1e-8)"
CORRECTED_V = "v / (1 - beta2**step)"
DENOMINATOR = f"(np.sqrt({CORRECTED_V}) + 1e-8)"

MISTAKES: dict[str, list[Mistake]] = {
    "adamw": [
        mistake(
            "no_correction",
            "m and v are not corrected for the start at 0: divide them by 1 - beta**step.",
            ("lr / (1 - beta1**step) * m", "lr * m"),
            (CORRECTED_V, "v"),
        ),
        mistake(
            "no_correction_of_m",
            "m is not corrected for the start at 0: divide it by 1 - beta1**step.",
            ("lr / (1 - beta1**step) * m", "lr * m"),
        ),
        mistake(
            "no_correction_of_v",
            "v is not corrected for the start at 0: divide it by 1 - beta2**step.",
            (CORRECTED_V, "v"),
        ),
        mistake(
            "corrected_by_product",
            "The correction is 1 - beta * step. It must be 1 - beta**step, a power.",
            ("beta1**step", "beta1 * step"),
            ("beta2**step", "beta2 * step"),
        ),
        mistake(
            "correction_of_step_1",
            "m and v are always corrected as in step 1. It must be 1 - beta**step.",
            ("beta1**step", "beta1"),
            ("beta2**step", "beta2"),
        ),
        mistake(
            "step_from_0",
            "The correction has beta**(step - 1), which divides by 0 in step 1. `step` counts from 1 already.",
            ("beta1**step", "beta1 ** (step - 1)"),
            ("beta2**step", "beta2 ** (step - 1)"),
        ),
        mistake(
            "step_from_2",
            "The correction has beta**(step + 1). `step` counts from 1 already.",
            ("beta1**step", "beta1 ** (step + 1)"),
            ("beta2**step", "beta2 ** (step + 1)"),
        ),
        mistake(
            "multiplied_correction",
            "m and v are multiplied by 1 - beta**step. They must be divided by it.",
            ("lr / (1 - beta1**step) * m", "lr * (1 - beta1**step) * m"),
            (CORRECTED_V, "v * (1 - beta2**step)"),
        ),
        mistake(
            "same_correction",
            "v is corrected with beta1. It must be corrected with beta2.",
            ("beta2**step", "beta1**step"),
        ),
        mistake(
            "corrected_in_place",
            "The corrected m and v are stored. The next step needs m and v as they are without the correction.",
            (STEP, "m /= 1 - beta1**step\nv /= 1 - beta2**step\nweights -= lr * m / (np.sqrt(v) + 1e-8)"),
        ),
        mistake(
            "l2",
            "Weight decay is added to the gradient, as in Adam with L2. It must be apart: w -= lr * weight_decay * w.",
            (M, f"gradient = gradient + weight_decay * weights\n{M}"),
            (DECAY, "pass"),
        ),
        mistake(
            "l2_in_place",
            "Weight decay is added to the gradient, and the caller's gradient is changed. It must change the weights"
            " only: w -= lr * weight_decay * w.",
            (M, f"gradient += weight_decay * weights\n{M}"),
            (DECAY, "pass"),
        ),
        mistake(
            "l2_and_decay",
            "Weight decay is added to the gradient, too. It must change the weights only.",
            (M, f"gradient = gradient + weight_decay * weights\n{M}"),
        ),
        mistake(
            "decay_in_m",
            "Weight decay is divided by √v, too. It must be outside the fraction.",
            (DECAY, "pass"),
            (STEP, f"weights -= lr * (m / (1 - beta1**step) + weight_decay * weights) / {DENOMINATOR}"),
        ),
        mistake(
            "decay_after",
            "Weight decay is applied to the new weights. It must be applied to the weights before the step.",
            ("weights -= lr / (1", "weights -= (1 - lr * weight_decay) * lr / (1"),
        ),
        mistake(
            "decay_without_lr",
            "Weight decay is not multiplied by lr.",
            (DECAY, "weights *= 1 - weight_decay"),
        ),
        mistake("no_decay", "There is no weight decay.", (DECAY, "pass")),
        mistake(
            "growth",
            "Weight decay makes the weights larger. It must make them smaller.",
            (DECAY, DECAY.replace("1 -", "1 +")),
        ),
        mistake(
            "constant_decay",
            "lr * weight_decay is subtracted from each weight. It must be multiplied by the weight.",
            (DECAY, "weights -= lr * weight_decay"),
        ),
        mistake(
            "decay_twice",
            "Weight decay is applied twice.",
            (DECAY, "weights *= (1 - lr * weight_decay) ** 2"),
        ),
        mistake(
            "ascent",
            "The weights move along the gradient. They must move against it: subtract.",
            (STEP, STEP.replace("-=", "+=")),
        ),
        mistake(
            "no_step",
            "The weights only decay. lr * m̂ / (√v̂ + 1e-8) is not subtracted.",
            (STEP, "pass"),
        ),
        mistake(
            "gradient_for_m",
            "The gradient is divided by 1 - beta1**step. It must be m that is divided.",
            (STEP, STEP.replace("* m /", "* gradient /")),
        ),
        mistake(
            "rmsprop",
            "The numerator is the gradient, as in RMSprop. It must be the corrected m.",
            (STEP, f"weights -= lr * gradient / {DENOMINATOR}"),
        ),
        mistake(
            "momentum",
            "There is no division by √v̂: this is gradient descent with momentum.",
            (STEP, "weights -= lr / (1 - beta1**step) * m"),
        ),
        mistake(
            "descent",
            "This is plain gradient descent with weight decay. The step is m̂ / (√v̂ + 1e-8).",
            (STEP, "weights -= lr * gradient"),
        ),
        mistake(
            "sign",
            "The step is lr times the sign of m. It must be m̂ / (√v̂ + 1e-8).",
            (STEP, "weights -= lr * np.sign(m)"),
        ),
        mistake(
            "no_root",
            "The denominator has v̂. It must have its root.",
            (f"np.sqrt({CORRECTED_V})", CORRECTED_V),
        ),
        mistake(
            "eps_inside",
            "1e-8 is added to v̂, inside the root. It must be added to the root.",
            (DENOMINATOR, f"np.sqrt({CORRECTED_V} + 1e-8)"),
        ),
        mistake(
            "eps_squared_inside",
            "The denominator is √(v̂ + 1e-16). 1e-8 must be added to the root.",
            (DENOMINATOR, f"np.sqrt({CORRECTED_V} + 1e-16)"),
        ),
        mistake(
            "eps_scaled",
            "1e-8 is added to √v, before the correction. It must be added to √v̂, after it.",
            (DENOMINATOR, "((np.sqrt(v) + 1e-8) / (1 - beta2**step) ** 0.5)"),
        ),
        mistake(
            "no_eps",
            "1e-8 is not added to √v̂. A gradient of 0 then gives 0/0.",
            (DENOMINATOR, f"np.sqrt({CORRECTED_V})"),
        ),
        mistake(
            "maximum_eps",
            "The denominator is the larger one of √v̂ and 1e-8. It must be their sum.",
            (DENOMINATOR, f"np.maximum(np.sqrt({CORRECTED_V}), 1e-8)"),
        ),
        mistake("eps_1e-5", "The number that is added to √v̂ is 1e-5. It must be 1e-8.", ("1e-8", "1e-5")),
        mistake("eps_1e-6", "The number that is added to √v̂ is 1e-6. It must be 1e-8.", ("1e-8", "1e-6")),
        mistake("eps_1e-7", "The number that is added to √v̂ is 1e-7. It must be 1e-8.", ("1e-8", "1e-7")),
        mistake("eps_1e-9", "The number that is added to √v̂ is 1e-9. It must be 1e-8.", ("1e-8", "1e-9")),
        mistake("eps_1e-10", "The number that is added to √v̂ is 1e-10. It must be 1e-8.", ("1e-8", "1e-10")),
        mistake("eps_1e-12", "The number that is added to √v̂ is 1e-12. It must be 1e-8.", ("1e-8", "1e-12")),
        mistake(
            "sum_m",
            "m is beta1 * m + gradient. The gradient must be multiplied by 1 - beta1.",
            (M, "m += (beta1 - 1) * m + gradient"),
        ),
        mistake(
            "sum_v",
            "v is beta2 * v + gradient². The square must be multiplied by 1 - beta2.",
            (V, "v += (beta2 - 1) * v + gradient * gradient"),
        ),
        mistake(
            "m_not_decayed",
            "The old m is not multiplied by beta1.",
            (M, "m += (1 - beta1) * gradient"),
        ),
        mistake(
            "v_not_decayed",
            "The old v is not multiplied by beta2.",
            (V, "v += (1 - beta2) * gradient * gradient"),
        ),
        mistake(
            "m_added",
            "m grows: `m += beta1 * m + ...` adds to the old m. Write m[:] = beta1 * m + ...",
            (M, "m += beta1 * m + (1 - beta1) * gradient"),
        ),
        mistake(
            "v_added",
            "v grows: `v += beta2 * v + ...` adds to the old v. Write v[:] = beta2 * v + ...",
            (V, "v += beta2 * v + (1 - beta2) * gradient * gradient"),
        ),
        mistake(
            "betas_exchanged",
            "beta1 and beta2 are exchanged: beta1 belongs to m, beta2 to v.",
            (M, M.replace("beta1", "beta2")),
            (V, V.replace("beta2", "beta1")),
            ("beta1**step", "beta2**step"),
            ("beta2**step", "beta1**step"),
        ),
        mistake(
            "beta1_for_v",
            "v is updated with beta1. It must be beta2.",
            (V, V.replace("beta2", "beta1")),
        ),
        mistake(
            "beta2_for_m",
            "m is updated with beta2. It must be beta1.",
            (M, M.replace("beta1", "beta2")),
        ),
        mistake(
            "one_minus_beta",
            "m and v keep the part 1 - beta, and take beta of the gradient. It must be the other way round.",
            (M, "m += beta1 * (gradient - m)"),
            (V, "v += beta2 * (gradient * gradient - v)"),
        ),
        mistake(
            "not_squared",
            "v is the mean of the gradient. It must be the mean of its square.",
            (V, V.replace("gradient * gradient", "gradient")),
        ),
        mistake(
            "absolute",
            "v is the mean of the gradient's absolute value. It must be the mean of its square.",
            (V, V.replace("gradient * gradient", "abs(gradient)")),
        ),
        mistake(
            "square_of_m",
            "v is the mean of m². It must be the mean of the squared gradient.",
            (V, V.replace("gradient * gradient", "m * m")),
        ),
        mistake(
            "centered_v",
            "v is the mean of (gradient - m)². It must be the mean of the squared gradient.",
            (V, V.replace("gradient * gradient", "(gradient - m) ** 2")),
        ),
        mistake(
            "old_moments",
            "The weights are changed before m and v. m and v must get the gradient first.",
            (M, f"{DECAY}\n{STEP}\n{M}"),
            (DECAY, "pass"),
            (STEP, "pass"),
        ),
        mistake(
            "weights_not_changed",
            "The caller's weights do not change: weights = weights - ... makes a new array. Write weights -= ...",
            (DECAY, f"weights = weights.copy()\n{DECAY}"),
        ),
        mistake(
            "moments_not_changed",
            "The caller's m and v do not change: m = ... makes a new array. Write m += ... or m[:] = ...",
            (M, f"m, v = m.copy(), v.copy()\n{M}"),
        ),
        mistake(
            "m_not_changed",
            "The caller's m does not change: m = ... makes a new array. Write m += ... or m[:] = ...",
            (M, f"m = m.copy()\n{M}"),
        ),
        mistake(
            "v_not_changed",
            "The caller's v does not change: v = ... makes a new array. Write v += ... or v[:] = ...",
            (V, f"v = v.copy()\n{V}"),
        ),
        mistake(
            "nothing_changed",
            "The caller's weights, m and v do not change. They must be changed in place: m += ..., not m = ...",
            (M, f"weights, m, v = weights.copy(), m.copy(), v.copy()\n{M}"),
        ),
        mistake(
            "nesterov",
            "The numerator is Nesterov's, as in NAdam. It must be the corrected m.",
            (STEP, STEP.replace("* m /", "* (beta1 * m + (1 - beta1) * gradient) /")),
        ),
        mistake(
            "no_lr",
            "The fraction is not multiplied by lr.",
            (STEP, STEP.replace("lr / (1", "1 / (1")),
        ),
        mistake(
            "clipped",
            "The gradient is divided by its length. Clipping happens before this function.",
            (M, f"gradient = gradient / max(1.0, float(np.linalg.norm(gradient)))\n{M}"),
        ),
    ],
}
