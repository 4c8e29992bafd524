"""Part 4: the functions of `backward.py`, in its order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..exercise import Exercise, Loss, Probe


def layer_norm_loss(layer_norm: Callable[..., Any], dy: Any, x: Any, weight: Any, bias: Any, eps: float) -> Loss:
    """What `layer_norm_backward` differentiates."""
    arrays = {"dx": x, "dweight": weight, "dbias": bias}
    return Loss(lambda: (dy * layer_norm(x, weight, bias, eps)).sum(), arrays)


def sums_to_0(dx: np.ndarray) -> bool:
    """Whether each position's gradient sums to 0."""
    return bool(np.allclose(dx.sum(axis=-1), 0))


EXERCISES: list[Exercise] = [
    Exercise(
        "layer_norm_backward",
        "backward",
        (
            "A constant that is added to x changes nothing. So each position's dx sums to 0, whatever dy is.",
            "Compute n and 1/deviation again, then dn = dy * weight. Two means over channels are subtracted from dn.",
            "dn.mean",
        ),
        [Probe(lambda n: (n.normal(n.B, n.T, n.C), n.normal(n.B, n.T, n.C), n.normal(n.C), n.normal(n.C), 0.1))],
        outputs=("dx", "dweight", "dbias"),
        invariants=(("each position's dx must sum to 0", sums_to_0),),
        forward="layer_norm",
        loss=layer_norm_loss,
    ),
]
