"""Part 5: the functions of `train/step.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...train.config import TrainConfig
from ..exercise import Exercise, Inputs, Probe

Arguments = tuple[Any, ...]


def run_learning_rate(learning_rate: Callable[..., Any], options: TrainConfig) -> list[Any]:
    """How `learning_rate` is checked: at every step of a run."""
    return [learning_rate(step, options) for step in range(options.max_steps)]


def schedule_probe(max_steps: int, warmup: int, min_lr: float = 0.02) -> Callable[[Inputs], Arguments]:
    """The arguments of `run_learning_rate`."""
    return lambda n: (TrainConfig(lr=0.3, min_lr=min_lr, warmup=warmup, max_steps=max_steps),)


def run_adamw(
    adamw: Callable[..., Any], weights: Any, m: Any, v: Any, gradient: Any, first: int, settings: dict[str, float]
) -> Any:
    """How `adamw` is checked: the three arrays after some steps, which count from `first`, with a gradient for each."""
    for step, g in enumerate(gradient, start=first):
        adamw(weights, g, m, v, step=step, **settings)
    return weights, m, v


def adamw_probe(n_steps: int, first: int = 1, weight_decay: float = 0.5) -> Callable[[Inputs], Arguments]:
    """Gradients with two entries that are tiny and 0, and settings that are far from the usual ones."""

    def make(n: Inputs) -> Arguments:
        gradients = [n.normal(n.N) for _ in range(n_steps)]
        for gradient in gradients:
            gradient[1], gradient[2] = 1e-8, 0
        settings = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "weight_decay": weight_decay}
        m, v = (0 if first == 1 else 0.1) * n.normal(n.N), (0 if first == 1 else 0.1) * n.normal(n.N) ** 2
        return n.normal(n.N), m, v, gradients, first, settings

    return make


EXERCISES: list[Exercise] = [
    Exercise(
        "learning_rate",
        "train.step",
        (
            "With lr = 1, min_lr = 0, warmup = 4 and 8 steps: 0.25, 0.5, 0.75, 1, 1, 0.75, 0.25, 0. Compute yours.",
            "Step 0 has lr / warmup, not 0. Then, progress goes from 0 at step `warmup` to 1 at the last step, and"
            " 0.5 * (1 + math.cos(math.pi * progress)) goes from 1 to 0.",
            "math.cos",
        ),
        [
            Probe(schedule_probe(14, 5), "a warm-up of 5 of 14 steps"),
            Probe(schedule_probe(9, 0), "no warm-up"),
            Probe(schedule_probe(7, 6), "a warm-up of all steps but the last"),
            Probe(schedule_probe(6, 9), "a warm-up that is longer than the run"),
            Probe(schedule_probe(1, 0), "a run of one step"),
            Probe(schedule_probe(10, 3, min_lr=0.0), "min_lr = 0"),
        ],
        run=run_learning_rate,
    ),
    Exercise(
        "adamw",
        "train.step",
        (
            "In the first step without weight decay, each weight moves by lr, whatever the size of its gradient is.",
            "Change the arrays in place: m += ..., v += ..., weights -= .... Nothing is returned.",
            "np.sqrt",
        ),
        [
            Probe(adamw_probe(3), "three steps"),
            Probe(adamw_probe(1), "the first step"),
            Probe(adamw_probe(3, weight_decay=0.0), "three steps without weight decay"),
            Probe(adamw_probe(2, first=7), "steps 7 and 8, with m and v from the steps before"),
        ],
        run=run_adamw,
        outputs=("weights", "m", "v"),
        may_change=("weights", "m", "v"),
    ),
]
