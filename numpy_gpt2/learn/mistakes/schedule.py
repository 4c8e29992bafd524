"""Mistakes in part 5: the learning rate."""

from __future__ import annotations

from ..source import Mistake, mistake

RISING = "options.lr * (step + 1) / warmup"
IS_WARMUP = "step < min(warmup, last)"
PROGRESS = "(step - warmup) / (last - warmup) if warmup < last else 1.0"
FACTOR = "0.5 * (1 + math.cos(math.pi * progress))"
FALLING = "options.min_lr + remaining * (options.lr - options.min_lr)"

MISTAKES: dict[str, list[Mistake]] = {
    "learning_rate": [
        mistake(
            "from_0",
            "The first step has the rate 0, so it does nothing. It must be lr / warmup: step counts from 0.",
            (RISING, "options.lr * step / warmup"),
        ),
        mistake(
            "warmup_plus_1",
            "The warm-up is divided by warmup + 1. Its last step must have the rate lr.",
            (RISING, "options.lr * (step + 1) / (warmup + 1)"),
        ),
        mistake(
            "from_0_to_lr",
            "The warm-up goes from 0 to lr. It must go from lr / warmup to lr: step counts from 0.",
            (RISING, "options.lr * step / max(1, warmup - 1)"),
        ),
        mistake(
            "no_warmup",
            "There is no warm-up: the cosine begins at step 0.",
            (IS_WARMUP, "False"),
            (PROGRESS, "step / last if last else 1.0"),
        ),
        mistake(
            "constant_warmup",
            "The rate is lr during the warm-up. It must rise.",
            (RISING, "options.lr"),
        ),
        mistake(
            "warmup_from_min_lr",
            "The warm-up begins at min_lr. It must begin at lr / warmup.",
            (RISING, "options.min_lr + (options.lr - options.min_lr) * (step + 1) / warmup"),
        ),
        mistake(
            "warmup_one_more",
            "The warm-up has one step too many. It ends when `warmup` steps are done.",
            (IS_WARMUP, "step <= min(warmup, last)"),
            (RISING, "options.lr * (step + 1) / (warmup + 1)"),
        ),
        mistake(
            "above_lr",
            "Step `warmup` is still in the warm-up, so its rate is above lr. Write step < warmup.",
            (IS_WARMUP, "step <= warmup and step < last"),
            (RISING, "options.lr * (step + 1) / max(1, warmup)"),
        ),
        mistake(
            "cosine_from_0",
            "The cosine counts from step 0. It must begin at the end of the warm-up: step - warmup.",
            (PROGRESS, "step / last if last else 1.0"),
        ),
        mistake(
            "cosine_over_all",
            "The cosine is as long as the whole run. It must end at the last step: divide by last - warmup.",
            (PROGRESS, "(step - warmup) / last if warmup < last else 1.0"),
        ),
        mistake(
            "max_steps",
            "The rate does not reach min_lr. The last step is max_steps - 1, because step counts from 0.",
            (PROGRESS, "(step - warmup) / (options.max_steps - warmup) if warmup < last else 1.0"),
        ),
        mistake(
            "max_steps_everywhere",
            "The last step is taken for max_steps. It is max_steps - 1, because step counts from 0.",
            ("options.max_steps - 1", "options.max_steps"),
        ),
        mistake(
            "next_step",
            "The cosine is one step ahead: its first step must have the rate lr.",
            (PROGRESS, "(step + 1 - warmup) / (options.max_steps - warmup) if warmup < last else 1.0"),
        ),
        mistake(
            "floor",
            "min_lr is a lower limit only: the cosine goes to 0. It must go from lr to min_lr.",
            (FALLING, "max(options.min_lr, remaining * options.lr)"),
        ),
        mistake(
            "no_min_lr",
            "The cosine goes to 0. It must go to min_lr.",
            (FALLING, "remaining * options.lr"),
        ),
        mistake(
            "min_lr_only_at_the_end",
            "The cosine goes to 0, and only the last step has min_lr. The cosine must go from lr to min_lr.",
            (FALLING, "remaining * options.lr if step < last else options.min_lr"),
        ),
        mistake(
            "min_lr_added",
            "min_lr is added to the whole cosine, so the rate is above lr. The factor of the cosine is lr - min_lr.",
            (FALLING, "options.min_lr + remaining * options.lr"),
        ),
        mistake(
            "min_lr_not_added",
            "The factor of the cosine is lr - min_lr, but min_lr is not added.",
            (FALLING, "remaining * (options.lr - options.min_lr)"),
        ),
        mistake(
            "linear",
            "The rate falls along a line. It must fall along a cosine.",
            (FACTOR, "(1 - progress)"),
        ),
        mistake(
            "no_decay",
            "The rate stays at lr after the warm-up. It must fall to min_lr.",
            (FACTOR, "1.0"),
        ),
        mistake(
            "only_warmup",
            "The rate stays at lr after the warm-up, and in the last step, too. It must fall to min_lr.",
            (IS_WARMUP, "step < warmup"),
            (FALLING, "options.lr"),
        ),
        mistake(
            "not_halved",
            "1 + cos goes from 2 to 0. It must be halved.",
            (FACTOR, "(1 + math.cos(math.pi * progress))"),
        ),
        mistake(
            "no_1_plus",
            "The cosine goes from 1 to -1. It must be (1 + cos) / 2, from 1 to 0.",
            (FACTOR, "math.cos(math.pi * progress)"),
        ),
        mistake(
            "half_cosine",
            "The cosine goes from 0.5 to -0.5. It must be (1 + cos) / 2, from 1 to 0.",
            (FACTOR, "0.5 * math.cos(math.pi * progress)"),
        ),
        mistake(
            "quarter",
            "This is a quarter of a cosine, cos(π/2 · progress). It must be half of one: (1 + cos(π · progress)) / 2.",
            (FACTOR, "math.cos(math.pi / 2 * progress)"),
        ),
        mistake(
            "rising_cosine",
            "The cosine rises from min_lr to lr. It must fall: 1 + cos, not 1 - cos.",
            (FACTOR, FACTOR.replace("1 +", "1 -")),
        ),
        mistake(
            "full_period",
            "The cosine goes down and up again: the angle must go to π, not to 2π.",
            (FACTOR, FACTOR.replace("math.pi", "2 * math.pi")),
        ),
        mistake("no_pi", "The angle goes to 1. It must go to π.", (FACTOR, FACTOR.replace("math.pi * ", ""))),
        mistake("sine", "This is a sine. It must be a cosine.", (FACTOR, FACTOR.replace("math.cos", "math.sin"))),
        mistake(
            "degrees",
            "The angle is in degrees. math.cos takes radians: it must go to π.",
            (FACTOR, FACTOR.replace("math.pi", "180")),
        ),
        mistake(
            "factor",
            "This is a factor of lr. It must be the rate itself.",
            (RISING, "(step + 1) / warmup"),
            (FALLING, "(options.min_lr + remaining * (options.lr - options.min_lr)) / options.lr"),
        ),
        mistake(
            "short_run",
            "With a warm-up longer than the run, the last step must have the rate min_lr.",
            (IS_WARMUP, "step < warmup"),
        ),
        mistake(
            "last_is_lr",
            "If the last step follows the warm-up, it has the rate lr. The last step must have the rate min_lr.",
            (PROGRESS, "(step - warmup) / max(1, last - warmup)"),
        ),
        mistake(
            "warmup_cut",
            "With a warm-up longer than the run, the warm-up is shortened. Its line must stay the same.",
            (
                "warmup, last = options.warmup, options.max_steps - 1",
                "last = options.max_steps - 1\nwarmup = min(options.warmup, last)",
            ),
        ),
        mistake(
            "step_from_1",
            "step is taken to count from 1. It counts from 0.",
            (
                "warmup, last = options.warmup, options.max_steps - 1",
                "warmup, last, step = options.warmup, options.max_steps - 1, step - 1",
            ),
        ),
    ],
}
