"""Mistakes in part 5: the functions of `train/step.py`."""

from __future__ import annotations

from ..source import Mistake, mistake

MISTAKES: dict[str, list[Mistake]] = {
    "adamw": [
        mistake(
            "no_correction",
            "m and v are not corrected for the start at 0: divide them by 1 - beta**step.",
            ("lr / (1 - beta1**step) * m", "lr * m"),
            ("v / (1 - beta2**step)", "v"),
        ),
    ],
}
