"""Part 5: the functions of `train/step.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Exercise, Inputs, Probe


def run_adamw(
    adamw: Callable[..., Any], weights: Any, m: Any, v: Any, gradients: Any, settings: dict[str, float]
) -> Any:
    """How `adamw` is checked: three steps, and the three arrays after them."""
    for step, gradient in enumerate(gradients, start=1):
        adamw(weights, gradient, m, v, step=step, **settings)
    return weights, m, v


def adamw_probe(n: Inputs) -> tuple[Any, ...]:
    """Three gradients, one entry of which is tiny, and settings that are far from the usual ones."""
    gradients = [n.normal(n.N) for _ in range(3)]
    for gradient in gradients:
        gradient[1] = 1e-8
    settings = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.5}
    return n.normal(n.N), 0 * n.normal(n.N), 0 * n.normal(n.N), gradients, settings


EXERCISES: list[Exercise] = [
    Exercise(
        "adamw",
        "train.step",
        (
            "In the first step without weight decay, each weight moves by lr, whatever the size of its gradient is.",
            "Change the arrays in place: m += ..., v += ..., weights -= .... Nothing is returned.",
            "np.sqrt",
        ),
        [Probe(adamw_probe)],
        run=run_adamw,
        outputs=("weights", "m", "v"),
        may_change=("weights", "m", "v"),
    ),
]
